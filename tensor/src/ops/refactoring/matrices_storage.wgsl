// The two matrices of a pair that a kernel changes in place: in storage, of whatever rank. Put after such a kernel; the
// other way is matrices_workgroup.wgsl.

@group(0) @binding(1) var<storage, read_write> matrices_0: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> matrices_1: array<vec2<f32>>;

var<private> start: u32;

fn take_matrices(local: u32, n: u32, work: u32) {
    start = work;
}

fn give_matrices_back(local: u32, n: u32, work: u32) {}

fn element(which: u32, at: u32) -> vec2<f32> {
    if (which == 0u) {
        return matrices_0[start + at];
    }
    return matrices_1[start + at];
}

fn set_element(which: u32, at: u32, value: vec2<f32>) {
    if (which == 0u) {
        matrices_0[start + at] = value;
    } else {
        matrices_1[start + at] = value;
    }
}

// Until here for all invocations of the workgroup before any of them goes on.
fn meet() {
    storageBarrier();
    workgroupBarrier();
}
