// The loss of each row of logits x, and its gradient scale·(softmax(x) − onehot(label)) in f16, divided by a power of two of the
// row's; one workgroup a row.
//
// No element of the gradient is larger than the label's, scale·(p[label] − 1): it is the sum of the others, which is how it is
// computed, and decides the power of two before any other is known. So the row is read twice in all; the second time backwards,
// so that what was read last is still in cache.

struct Params {
    rows: u32,
    columns: u32,
    // Vectors in a row, and before the first row.
    vectors: u32,
    offset: u32,
    label_offset: u32,
    ignore: i32,
    // Bounds of the exponents.
    lowest: i32,
    highest: i32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> labels: array<i32>;
@group(0) @binding(2) var<storage, read_write> losses: array<u32>;
@group(0) @binding(3) var<storage, read_write> values: array<Halves>;
@group(0) @binding(4) var<storage, read_write> scales: array<f32>;
var<immediate> params: Params;

const NOT_A_NUMBER = 0x7fc00000u;
const LEAST = -3.4028234e38;

// Vectors of a row that a workgroup reads at once.
const BLOCK = 8u * THREADS;
alias Block = array<vec4<f32>, 8>;

var<workgroup> maxima: array<f32, THREADS>;
var<workgroup> sums: array<f32, THREADS>;

// What a row's gradient is made of.
struct Row {
    // Its first vector in x, and in the results.
    x: u32,
    out: u32,
    // The label's vector, and which of its elements is the label's.
    label_vector: u32,
    is_label: vec4<bool>,
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let number = linear_id(0u, group, groups, 1u);
    if (number >= params.rows) {
        return;
    }
    let label = labels[params.label_offset + number];
    let start = number * params.vectors;
    if (label == params.ignore) {
        for (var i = local; i < params.vectors; i += THREADS) {
            values[start + i] = halves(vec4<f32>());
        }
        if (local == 0u) {
            losses[number] = 0u;
            scales[number] = power_of_two(params.lowest);
        }
        return;
    }
    let is_column = label >= 0 && u32(label) < params.columns;
    let column = select(0u, u32(label), is_column);
    let row = Row(params.offset + start, start, column / 4u, vec4<u32>(column % 4u) == vec4<u32>(0u, 1u, 2u, 3u));

    // No constant may hold the bits of -inf.
    var least_of_all = 0xff800000u;
    let nothing = bitcast<f32>(least_of_all);
    var largest = LEAST;
    var sum = 0.0;
    let blocks = (params.vectors + BLOCK - 1u) / BLOCK;
    for (var block = 0u; block < blocks; block += 1u) {
        let others = others_at(row, block * BLOCK + local, nothing);
        let top = max(largest, largest_of(others));
        sum = sum * exp(largest - top) + sum_of(others, top);
        largest = top;
    }
    maxima[local] = largest;
    sums[local] = sum;
    workgroupBarrier();
    for (var half_way = THREADS / 2u; half_way > 0u; half_way /= 2u) {
        if (local < half_way) {
            let other = maxima[local + half_way];
            let larger = max(largest, other);
            sum = sum * exp(largest - larger) + sums[local + half_way] * exp(other - larger);
            largest = larger;
            maxima[local] = largest;
            sums[local] = sum;
        }
        workgroupBarrier();
    }

    let at_label = x[row.x + row.label_vector];
    let label_logit = dot(select(vec4<f32>(), at_label, row.is_label), vec4<f32>(1.0));
    let top = max(maxima[0], label_logit);
    let sum_of_others = sums[0] * exp(maxima[0] - top);
    let total = sum_of_others + exp(label_logit - top);
    // A row that holds +∞ has no softmax.
    let undefined = !is_column || is_nan(total) || bitcast<u32>(top) == 0x7f800000u;
    let label_gradient = -params.scale * (sum_of_others / total);
    let bits = select(bitcast<u32>(abs(label_gradient)), NOT_A_NUMBER, undefined);
    let exponent = clamp(i32(bits >> 23u) - 127, params.lowest, params.highest);
    if (local == 0u) {
        // The difference first: it is exact where the label has nearly all of the probability.
        losses[number] = select(bitcast<u32>((top - label_logit) + log(total)), NOT_A_NUMBER, undefined);
        scales[number] = power_of_two(exponent);
    }
    let factor = power_of_two(-exponent);
    let gradient = Gradient(top, params.scale / total, label_gradient, factor, undefined);
    for (var block = blocks; block > 0u; block -= 1u) {
        let first = (block - 1u) * BLOCK + local;
        let others = others_at(row, first, nothing);
        write(row, first, others[0], gradient);
        write(row, first + THREADS, others[1], gradient);
        write(row, first + 2u * THREADS, others[2], gradient);
        write(row, first + 3u * THREADS, others[3], gradient);
        write(row, first + 4u * THREADS, others[4], gradient);
        write(row, first + 5u * THREADS, others[5], gradient);
        write(row, first + 6u * THREADS, others[6], gradient);
        write(row, first + 7u * THREADS, others[7], gradient);
    }
}

struct Gradient {
    // What is subtracted from a logit before the exponential, and what this is multiplied by.
    top: f32,
    multiple: f32,
    at_label: f32,
    // Of what is written.
    factor: f32,
    undefined: bool,
}

fn write(row: Row, i: u32, others: vec4<f32>, gradient: Gradient) {
    if (i >= params.vectors) {
        return;
    }
    let of_others = exp(others - vec4<f32>(gradient.top)) * gradient.multiple;
    let is_label = row.is_label & vec4<bool>(i == row.label_vector);
    let all = select(of_others, vec4<f32>(gradient.at_label), is_label) * gradient.factor;
    let not_a_number = vec4<f32>(bitcast<f32>(NOT_A_NUMBER | params.rows));
    values[row.out + i] = halves(select(all, not_a_number, gradient.undefined));
}

// Logits but the label's, in whose place and behind the row's end is -∞, as given.
fn others_at(row: Row, first: u32, nothing: f32) -> Block {
    return Block(
        other_at(row, first, nothing),
        other_at(row, first + THREADS, nothing),
        other_at(row, first + 2u * THREADS, nothing),
        other_at(row, first + 3u * THREADS, nothing),
        other_at(row, first + 4u * THREADS, nothing),
        other_at(row, first + 5u * THREADS, nothing),
        other_at(row, first + 6u * THREADS, nothing),
        other_at(row, first + 7u * THREADS, nothing),
    );
}

fn other_at(row: Row, i: u32, nothing: f32) -> vec4<f32> {
    let vector = x[row.x + min(i, params.vectors - 1u)];
    let hidden = (row.is_label & vec4<bool>(i == row.label_vector)) | vec4<bool>(i >= params.vectors);
    return select(vector, vec4<f32>(nothing), hidden);
}

fn largest_of(x: Block) -> f32 {
    let all = max(max(max(x[0], x[1]), max(x[2], x[3])), max(max(x[4], x[5]), max(x[6], x[7])));
    return max(max(all.x, all.y), max(all.z, all.w));
}

// Σ exp(x − top).
fn sum_of(x: Block, top: f32) -> f32 {
    let t = vec4<f32>(top);
    let low = (exp(x[0] - t) + exp(x[1] - t)) + (exp(x[2] - t) + exp(x[3] - t));
    let high = (exp(x[4] - t) + exp(x[5] - t)) + (exp(x[6] - t) + exp(x[7] - t));
    let all = low + high;
    return (all.x + all.y) + (all.z + all.w);
}
