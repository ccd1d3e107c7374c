// Adds the parts of thin products in order, times alpha and a scale, to what there is or to nothing; leaves out what pads the
// rank. One invocation an element; z of the grid runs over the slots. A template: see ops/slots.rs.

struct Params {
    counts: array<u32, 6>,
    columns: array<u32, 6>,
    // Elements of a product's part.
    part: array<u32, 6>,
    // From the lowest bit: 15 for the number of parts, 1 where out holds what the sum is added to, 8 for how many columns more a
    // part has, 4 for the products whose parts lie together, 4 for this one's place among them.
    arrangement: array<u32, 6>,
    alpha: array<f32, 6>,
}

// for each slot
@group(0) @binding(3 * SLOT) var<storage, read> partial_sums_SLOT: array<f32>;
@group(0) @binding(3 * SLOT + 1) var<storage, read_write> out_SLOT: array<f32>;
@group(0) @binding(3 * SLOT + 2) var<storage, read> scale_SLOT: array<f32>;
// end
var<immediate> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let i = linear_id(local, group, groups, 256u);
    // for each slot
    if (group.z == SLOTu && i < params.counts[SLOT]) {
        let arrangement = params.arrangement[SLOT];
        let parts = arrangement & 0x7fffu;
        let part_columns = params.columns[SLOT] + ((arrangement >> 16u) & 0xffu);
        let step = params.part[SLOT] * ((arrangement >> 24u) & 0xfu);
        let place = params.part[SLOT] * (arrangement >> 28u) + i / params.columns[SLOT] * part_columns + i % params.columns[SLOT];
        var sum = 0.0;
        for (var part = 0u; part < parts; part += 4u) {
            // Asked for together, since memory is far away.
            let a = partial_sums_SLOT[min(part, parts - 1u) * step + place];
            let b = partial_sums_SLOT[min(part + 1u, parts - 1u) * step + place];
            let c = partial_sums_SLOT[min(part + 2u, parts - 1u) * step + place];
            let d = partial_sums_SLOT[min(part + 3u, parts - 1u) * step + place];
            sum += a;
            sum += select(0.0, b, part + 1u < parts);
            sum += select(0.0, c, part + 2u < parts);
            sum += select(0.0, d, part + 3u < parts);
        }
        sum = sum * params.alpha[SLOT] * scale_SLOT[0];
        if ((arrangement & 0x8000u) != 0u) {
            sum += out_SLOT[i];
        }
        out_SLOT[i] = sum;
    }
    // end
}
