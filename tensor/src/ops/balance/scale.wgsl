// Scales the factors of several slots and their moments (equations in mod.rs). A template: see ops/slots.rs.

override LARGEST_EXPONENT: i32;

struct Params {
    first: u32,
    // Bit `slot`: there is a first moment; bit `16 + slot`: a second one.
    moments: u32,
}

const BLOCK: u32 = 4096u;

@group(0) @binding(0) var<storage, read> table: array<u32>;
@group(0) @binding(1) var<storage, read> records: array<vec2<f32>>;
// for each slot
@group(0) @binding(3 * SLOT + 2) var<storage, read_write> factor_SLOT: array<f32>;
@group(0) @binding(3 * SLOT + 3) var<storage, read_write> first_moment_SLOT: array<f32>;
@group(0) @binding(3 * SLOT + 4) var<storage, read_write> second_moment_SLOT: array<f32>;
// end
var<immediate> params: Params;

var<workgroup> shared_root: f32;

// The squared norm of a factor as a sum in f32 times 4^exponent.
fn squared_norm(line: u32) -> vec2<f32> {
    let first = table[2u * line + 1u];
    let last = table[2u * line + 3u];
    var exponent = -127.0;
    for (var record = first; record < last; record += 1u) {
        exponent = max(exponent, records[record].x);
    }
    var sum = 0.0;
    for (var record = first; record < last; record += 1u) {
        // Far smaller blocks vanish, as they should.
        sum += records[record].y * exp2(2.0 * max(records[record].x - exponent, -60.0));
    }
    return vec2<f32>(sum, exponent);
}

// √s for the pair of this factor; 1 where it is not defined.
fn root_of_ratio(line: u32) -> f32 {
    let a = squared_norm(line & ~1u);
    let b = squared_norm(line | 1u);
    if (min(a.y, b.y) < -126.0 || max(a.y, b.y) > 126.0 || !(a.x > 0.0) || !(b.x > 0.0)) {
        return 1.0;
    }
    let limit = f32(LARGEST_EXPONENT);
    let shift = clamp(b.y - a.y, -2.0 * limit, 2.0 * limit);
    // Shifts are whole numbers, powers of two exact: half of one in each factor.
    let half = floor(0.5 * shift);
    let root = sqrt(sqrt(b.x / a.x) * exp2(shift - 2.0 * half)) * exp2(half);
    return clamp(root, exp2(-0.5 * limit), exp2(0.5 * limit));
}

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let number = table[2u * params.first + 1u] + group.y * groups.x + group.x;
    let slot = slot_of(number, params.first, 2u, 1u);
    if (slot == SLOTS) {
        return;
    }
    let line = params.first + slot;
    if (local == 0u) {
        shared_root = root_of_ratio(line);
    }
    workgroupBarrier();
    // A grows by √s, B shrinks by it.
    let root = select(shared_root, 1.0 / shared_root, (line & 1u) == 1u);
    let start = (number - table[2u * line + 1u]) * BLOCK;
    let end = min(start + BLOCK, table[2u * line]);
    for (var index = start + local; index < end; index += 256u) {
        // for each slot
        if (slot == SLOTu) {
            factor_SLOT[index] *= root;
            if ((params.moments >> SLOTu & 1u) == 1u) {
                first_moment_SLOT[index] /= root;
            }
            if ((params.moments >> (16u + SLOTu) & 1u) == 1u) {
                second_moment_SLOT[index] /= root * root;
            }
        }
        // end
    }
}
