// The scores' gradient summed by bucket: for each query over the keys of a bucket (direction 0), for each key over the
// queries (direction 1). One invocation makes one sum: the positions of a bucket are neighbours in the table, hence a
// range of keys or queries, added up in order.

struct Params {
    count: u32,
    rows: u32,
    sequence: u32,
    buckets: u32,
    first_direction: u32,
}

// [heads, batch, sequence, sequence].
@group(0) @binding(0) var<storage, read> gradient: array<f32>;
@group(0) @binding(1) var<storage, read> starts: array<u32>;
// [directions, heads, batch * sequence, buckets].
@group(0) @binding(2) var<storage, read_write> sums: array<f32>;
var<immediate> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let id = linear_id(local, group, groups, 256u);
    if (id >= params.count) {
        return;
    }
    let bucket = id % params.buckets;
    let any_row = id / params.buckets;
    let direction = params.first_direction + any_row / params.rows;
    let row = any_row % params.rows;
    let sequence = params.sequence;
    let own = row % sequence;
    let matrix = row / sequence * sequence * sequence;
    let start = starts[bucket];
    let end = starts[bucket + 1u];
    var sum = 0.0;
    // Element t of the table is the relative position query - key = t - (sequence - 1).
    if (direction == 0u) {
        for (var t = max(start, own); t < min(end, own + sequence); t += 1u) {
            sum += gradient[matrix + own * sequence + (own + sequence - 1u - t)];
        }
    } else {
        let nearest = sequence - 1u - own;
        for (var t = max(start, nearest); t < min(end, nearest + sequence); t += 1u) {
            sum += gradient[matrix + (t - nearest) * sequence + own];
        }
    }
    sums[id] = sum;
}
