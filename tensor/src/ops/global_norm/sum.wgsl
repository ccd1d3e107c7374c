// out[block] = Σ x² (SQUARE) or Σ x over 4096 neighbouring elements of one tensor; one workgroup a block.
// A template: see ops/slots.rs. 16 additions in each invocation, then a tree over the 256: rounding errors stay below
// 24 units of the last place per pass, and the order is the same every time.

struct Params {
    bounds: array<u32, 9>,
    counts: array<u32, 8>,
    offsets: array<u32, 8>,
    first_block: u32,
}

@group(0) @binding(0) var<storage, read_write> out: array<f32>;
// for each slot
@group(0) @binding(SLOT + 1) var<storage, read> x_SLOT: array<f32>;
// end
var<immediate> params: Params;

override SQUARE: bool;

var<workgroup> sums: array<f32, 256>;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let block = group.y * groups.x + group.x;
    var in_range = false;
    var sum = 0.0;
    // for each slot
    if (block >= params.bounds[SLOT] && block < params.bounds[SLOT + 1]) {
        in_range = true;
        let first = (block - params.bounds[SLOT]) * 4096u + local;
        for (var step = 0u; step < 16u; step += 1u) {
            let j = first + step * 256u;
            if (j < params.counts[SLOT]) {
                let x = x_SLOT[params.offsets[SLOT] + j];
                sum += select(x, x * x, SQUARE);
            }
        }
    }
    // end
    sums[local] = sum;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half /= 2u) {
        if (local < half) {
            sums[local] += sums[local + half];
        }
        workgroupBarrier();
    }
    if (local == 0u && in_range) {
        out[params.first_block + block] = sums[0];
    }
}
