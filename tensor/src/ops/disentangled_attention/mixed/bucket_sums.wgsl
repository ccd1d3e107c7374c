// The scores' gradient summed by bucket: for each query over the keys of a bucket (the first half of the results), for each key
// over the queries. The positions of a bucket are neighbours in the table, hence a range of keys or queries, added up in order.
//
// An invocation makes the sums of four neighbouring buckets. A workgroup has 16 rows and 64 buckets: keys that are neighbours
// read the same bytes along the diagonals of the gradient.

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

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let sequence = params.sequence;
    let quad = group.x * 16u + local % 16u;
    let own = group.y * 16u + local / 16u;
    if (4u * quad >= params.buckets || own >= sequence) {
        return;
    }
    let matrices = groups.z / 2u;
    let of_keys = group.z >= matrices;
    let matrix = group.z % matrices * sequence * sequence;
    // Element t of the table is the relative position query - key = t - (sequence - 1). With a query (a key), the first t is
    // that of the last key (of the first query), and the following ones go backwards along the row (down the column).
    let first = select(own, sequence - 1u - own, of_keys);
    let start = select(matrix + own * sequence + sequence - 1u, matrix + own, of_keys);
    let step = select(0xffffffffu, sequence, of_keys);
    var made = vec4<f32>();
    if (IDENTITY) {
        if (4u * quad + 3u >= first && 4u * quad < first + sequence) {
            for (var i = 0u; i < 4u; i += 1u) {
                let t = 4u * quad + i;
                if (t >= first && t < first + sequence) {
                    made[i] = element(start + (t - first) * step);
                }
            }
        }
    } else {
        for (var i = 0u; i < 4u; i += 1u) {
            let bucket = 4u * quad + i;
            let end = min(starts[bucket + 1u], first + sequence);
            var sum = 0.0;
            for (var t = max(starts[bucket], first); t < end; t += 1u) {
                sum += element(start + (t - first) * step);
            }
            made[i] = sum;
        }
    }
    let row = group.z * sequence + own;
    sums[row * (params.buckets / 4u) + quad] = halves(params.multiple * made);
}

fn element(place: u32) -> f32 {
    let pair = unpack2x16float(gradient[place / 2u]);
    return select(pair.x, pair.y, (place & 1u) == 1u);
}
