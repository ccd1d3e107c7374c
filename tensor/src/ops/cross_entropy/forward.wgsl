// losses[r] = ln Σ exp(x[r, :]) − x[r, label], log_sum_exp[r] = ln Σ exp(x[r, :]); one workgroup a row.
// Every invocation walks its columns once with a running maximum and a sum relative to it, so the row is read once;
// the 256 pairs are then combined in a fixed tree. Results are stored as bits, since WGSL has no NaN literal.

struct Params {
    rows: u32,
    columns: u32,
    offset: u32,
    row_stride: u32,
    label_offset: u32,
    ignore: i32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> labels: array<i32>;
@group(0) @binding(2) var<storage, read_write> losses: array<u32>;
@group(0) @binding(3) var<storage, read_write> log_sum_exp: array<u32>;
var<immediate> params: Params;

const NOT_A_NUMBER = 0x7fc00000u;
const LEAST = -3.4028234e38;

var<workgroup> maxima: array<f32, 256>;
var<workgroup> sums: array<f32, 256>;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let row = linear_id(0u, group, groups, 1u);
    if (row >= params.rows) {
        return;
    }
    let start = params.offset + row * params.row_stride;
    var largest = LEAST;
    var sum = 0.0;
    for (var column = local; column < params.columns; column += 256u) {
        let value = x[start + column];
        if (value > largest) {
            sum = sum * exp(largest - value) + 1.0;
            largest = value;
        } else {
            sum += exp(value - largest);
        }
    }
    maxima[local] = largest;
    sums[local] = sum;
    workgroupBarrier();
    for (var half_way = 128u; half_way > 0u; half_way /= 2u) {
        if (local < half_way) {
            let other = maxima[local + half_way];
            let larger = select(largest, other, other > largest);
            sum = sum * exp(largest - larger) + sums[local + half_way] * exp(other - larger);
            largest = larger;
            maxima[local] = largest;
            sums[local] = sum;
        }
        workgroupBarrier();
    }
    if (local == 0u) {
        finish(row, start, largest, sum);
    }
}

fn finish(row: u32, start: u32, largest: f32, sum: f32) {
    let logarithm = log(sum);
    // A row that holds +∞ has no softmax.
    let undefined = is_nan(sum) || bitcast<u32>(largest) == 0x7f800000u;
    log_sum_exp[row] = select(bitcast<u32>(largest + logarithm), NOT_A_NUMBER, undefined);
    let label = labels[params.label_offset + row];
    if (label == params.ignore) {
        losses[row] = 0u;
    } else if (undefined || label < 0 || u32(label) >= params.columns) {
        losses[row] = NOT_A_NUMBER;
    } else {
        // The difference first: it is exact where the label has nearly all of the probability.
        losses[row] = bitcast<u32>((largest - x[start + u32(label)]) + logarithm);
    }
}
