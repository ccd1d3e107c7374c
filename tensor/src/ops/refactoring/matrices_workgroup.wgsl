// The two matrices of a pair that a kernel changes in place: in workgroup memory, up to rank SIDE. Put after such a
// kernel; the other way is matrices_storage.wgsl.

override SIDE: u32;

@group(0) @binding(1) var<storage, read_write> matrices_0: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> matrices_1: array<vec2<f32>>;

var<workgroup> kept: array<vec2<f32>, 2 * SIDE * SIDE>;

fn take_matrices(local: u32, n: u32, work: u32) {
    for (var at = local; at < n * n; at += WORKGROUP) {
        kept[at] = matrices_0[work + at];
        kept[SIDE * SIDE + at] = matrices_1[work + at];
    }
    meet();
}

fn give_matrices_back(local: u32, n: u32, work: u32) {
    for (var at = local; at < n * n; at += WORKGROUP) {
        matrices_0[work + at] = kept[at];
        matrices_1[work + at] = kept[SIDE * SIDE + at];
    }
}

fn element(which: u32, at: u32) -> vec2<f32> {
    return kept[which * SIDE * SIDE + at];
}

fn set_element(which: u32, at: u32, value: vec2<f32>) {
    kept[which * SIDE * SIDE + at] = value;
}

// Until here for all invocations of the workgroup before any of them goes on.
fn meet() {
    workgroupBarrier();
}
