// The scores' gradient summed by bucket: for each query over the keys of a bucket (the first half of the results), for each key
// over the queries. The positions of a bucket are neighbours in the table, hence a range of keys or queries, added up in order.
//
// An invocation makes the sums of four neighbouring buckets, a workgroup those of 16 rows and 64 buckets. Keys read the gradient
// along its diagonals: where each relative position has its own bucket, the part that a workgroup needs goes through workgroup
// memory, so that it is read row by row.

struct Params {
    sequence: u32,
    buckets: u32,
    multiple: f32,
}

// Pairs of f16, [heads, batch, sequence, sequence].
@group(0) @binding(0) var<storage, read> gradient: array<u32>;
@group(0) @binding(1) var<storage, read> starts: array<u32>;
// [2, heads, batch, sequence, buckets].
@group(0) @binding(2) var<storage, read_write> sums: array<Halves>;
var<immediate> params: Params;

// Element t of the table is t.
override IDENTITY: bool;

// Queries that 16 keys meet in 64 relative positions, 16 keys each, as pairs of f16; lines are one longer, against conflicts.
const LINES: u32 = 79u;
var<workgroup> part: array<u32, 711>;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let sequence = params.sequence;
    let quad = group.x * 16u + local % 16u;
    let own = group.y * 16u + local / 16u;
    let matrices = groups.z / 2u;
    let of_keys = group.z >= matrices;
    let matrix = group.z % matrices * sequence * sequence;
    var made = vec4<f32>();
    if (IDENTITY && of_keys) {
        // Element t of the table is the relative position query - key = t - (sequence - 1).
        let first_query = i32(64u * group.x + 16u * group.y) - i32(sequence - 1u);
        for (var i = local; i < LINES * 8u; i += 256u) {
            let query = first_query + i32(i / 8u);
            var pair = 0u;
            if (query >= 0 && query < i32(sequence)) {
                pair = gradient[(matrix + u32(query) * sequence + group.y * 16u) / 2u + i % 8u];
            }
            part[i / 8u * 9u + i % 8u] = pair;
        }
        workgroupBarrier();
        let key = local / 16u;
        for (var i = 0u; i < 4u; i += 1u) {
            let line = 4u * (local % 16u) + i + key;
            made[i] = half_of(part[line * 9u + key / 2u], key);
        }
    } else {
        made = sums_at(quad, own, matrix, of_keys);
    }
    if (4u * quad < params.buckets && own < sequence) {
        let row = group.z * sequence + own;
        sums[row * (params.buckets / 4u) + quad] = halves(params.multiple * made);
    }
}

// Of a quad of buckets, straight from memory.
fn sums_at(quad: u32, own: u32, matrix: u32, of_keys: bool) -> vec4<f32> {
    let sequence = params.sequence;
    // With a query (a key), the first t is that of the last key (of the first query), and the following ones go backwards along
    // the row (down the column).
    let first = select(own, sequence - 1u - own, of_keys);
    let start = select(matrix + own * sequence + sequence - 1u, matrix + own, of_keys);
    let step = select(0xffffffffu, sequence, of_keys);
    var made = vec4<f32>();
    for (var i = 0u; i < 4u; i += 1u) {
        let bucket = min(4u * quad + i, params.buckets - 1u);
        var here = bucket;
        var end = bucket + 1u;
        if (!IDENTITY) {
            here = starts[bucket];
            end = starts[bucket + 1u];
        }
        end = min(end, first + sequence);
        var sum = 0.0;
        for (var t = max(here, first); t < end; t += 1u) {
            sum += element(start + (t - first) * step);
        }
        made[i] = sum;
    }
    return made;
}

fn element(place: u32) -> f32 {
    return half_of(gradient[place / 2u], place);
}

fn half_of(word: u32, place: u32) -> f32 {
    let pair = unpack2x16float(word);
    return select(pair.x, pair.y, (place & 1u) == 1u);
}
