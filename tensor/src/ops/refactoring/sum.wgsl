// Gram matrices from their partial sums: one invocation an element of both matrices of a pair. Chunks are scaled alike
// before they are added, in order.

@group(0) @binding(0) var<storage, read> table: array<u32>;
@group(0) @binding(1) var<storage, read> records: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> left: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> right: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read_write> info: array<u32>;

fn record_size() -> u32 {
    return params.tile * params.tile + 1u;
}

// The largest exponent of a factor's chunks: 128 where it is not finite, −127 where it is zero.
fn exponent_of(first: u32, count: u32) -> i32 {
    var exponent = -127.0;
    for (var record = first; record < first + count; record += 1u) {
        exponent = max(exponent, records[(record + 1u) * record_size() - 1u].x);
    }
    return i32(exponent);
}

fn total(first: u32, count: u32, tiles: u32, exponent: i32, i: u32, j: u32) -> vec2<f32> {
    let row = max(i, j);
    let column = min(i, j);
    let side = row / params.tile;
    let tile = side * (side + 1u) / 2u + column / params.tile;
    let element = (row % params.tile) * params.tile + column % params.tile;
    var sum = vec2<f32>();
    for (var record = first + tile; record < first + count; record += tiles) {
        let start = record * record_size();
        let own = i32(records[start + record_size() - 1u].x);
        sum = add(sum, records[start + element] * power_of_two(2 * (own - exponent)));
    }
    return sum;
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let pair = id.y;
    let n = of_pair(pair, RANK);
    if (id.x >= n * n) {
        return;
    }
    let side = (n + params.tile - 1u) / params.tile;
    let tiles = side * (side + 1u) / 2u;
    let a_exponent = exponent_of(of_pair(pair, A_RECORDS), of_pair(pair, A_COUNT));
    let b_exponent = exponent_of(of_pair(pair, B_RECORDS), of_pair(pair, B_COUNT));
    let i = id.x % n;
    let j = id.x / n;
    let at = of_pair(pair, WORK) + id.x;
    left[at] = total(of_pair(pair, A_RECORDS), of_pair(pair, A_COUNT), tiles, a_exponent, i, j);
    right[at] = total(of_pair(pair, B_RECORDS), of_pair(pair, B_COUNT), tiles, b_exponent, i, j);
    if (id.x == 0u) {
        info[pair * INFO] = u32(a_exponent + 1000);
        info[pair * INFO + 1u] = u32(b_exponent + 1000);
        info[pair * INFO + 2u] = 0u;
        info[pair * INFO + 3u] = 0u;
    }
}
