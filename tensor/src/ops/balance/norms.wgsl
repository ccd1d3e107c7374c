// Squared norms of blocks of the factors in several slots. A template: see ops/slots.rs. Each block is scaled by a power
// of two so that its largest magnitude lies in [1, 2), since squares of 1e±20 leave the range of f32.

struct Params {
    // The first slot's line in the table.
    first: u32,
}

const BLOCK: u32 = 4096u;

// For each factor its elements and the number of its first block; the line after the last has the number of all.
@group(0) @binding(0) var<storage, read> table: array<u32>;
// For each block the exponent and the sum of squares of the scaled elements.
@group(0) @binding(1) var<storage, read_write> records: array<vec2<f32>>;
// for each slot
@group(0) @binding(SLOT + 2) var<storage, read_write> x_SLOT: array<f32>;
// end
var<immediate> params: Params;

var<workgroup> largest: atomic<u32>;
var<workgroup> sums: array<f32, 256>;

fn load(slot: u32, index: u32) -> f32 {
    switch (slot) {
        // for each slot
        case SLOTu: {
            return x_SLOT[index];
        }
        // end
        default: {
            return 0.0;
        }
    }
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
    let line = 2u * (params.first + slot);
    let start = (number - table[line + 1u]) * BLOCK;
    let end = min(start + BLOCK, table[line]);
    // Workgroup memory begins as anything.
    if (local == 0u) {
        atomicStore(&largest, 0u);
    }
    workgroupBarrier();
    var bits = 0u;
    for (var index = start + local; index < end; index += 256u) {
        bits = max(bits, bitcast<u32>(load(slot, index)) & 0x7fffffffu);
    }
    atomicMax(&largest, bits);
    workgroupBarrier();
    // 0 below the normal range, 255 for infinity and NaN.
    let exponent = i32(atomicLoad(&largest) >> 23u) - 127;
    let usable = exponent > -127 && exponent < 127;
    let scale = select(1.0, bitcast<f32>(u32(clamp(127 - exponent, 1, 254)) << 23u), usable);
    var sum = 0.0;
    for (var index = start + local; index < end; index += 256u) {
        let x = load(slot, index) * scale;
        sum += x * x;
    }
    sums[local] = sum;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half /= 2u) {
        if (local < half) {
            sums[local] += sums[local + half];
        }
        workgroupBarrier();
    }
    if (local == 0u) {
        records[number] = vec2<f32>(f32(exponent), sums[0]);
    }
}
