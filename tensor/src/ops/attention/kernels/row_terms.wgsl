// For every query of every head: (log_sum_exp, Σ upstream·output), side by side as the backward kernels read them.
// Sixteen invocations a row, so that rows are read in whole lines.

struct Params {
    // Element offset, then strides of batch, sequence and head; elements of a head lie side by side.
    upstream: vec4<u32>,
    output_offset: u32,
    log_sum_exp_offset: u32,
    rows: u32,
    queries: u32,
    heads: u32,
    head_dim: u32,
}

@group(0) @binding(0) var<storage, read> upstream: array<f32>;
@group(0) @binding(1) var<storage, read> output: array<f32>;
@group(0) @binding(2) var<storage, read> log_sum_exp: array<f32>;
@group(0) @binding(3) var<storage, read_write> row_terms: array<vec2<f32>>;
var<immediate> params: Params;

var<workgroup> partial: array<f32, 256>;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let row = linear_id(local, group, groups, 256u) / 16u;
    let lane = local % 16u;
    var sum = 0.0;
    if (row < params.rows) {
        // Rows are counted as [batch, heads, queries]; the operands are [batch, queries, heads, head_dim].
        let query = row % params.queries;
        let head = row / params.queries % params.heads;
        let batch = row / params.queries / params.heads;
        let a = params.upstream.x + batch * params.upstream.y + query * params.upstream.z + head * params.upstream.w;
        let b = params.output_offset + ((batch * params.queries + query) * params.heads + head) * params.head_dim;
        for (var i = lane; i < params.head_dim; i += 16u) {
            sum += upstream[a + i] * output[b + i];
        }
    }
    partial[local] = sum;
    workgroupBarrier();
    if (lane == 0u && row < params.rows) {
        for (var i = 1u; i < 16u; i += 1u) {
            sum += partial[local + i];
        }
        row_terms[row] = vec2<f32>(log_sum_exp[params.log_sum_exp_offset + row], sum);
    }
}
