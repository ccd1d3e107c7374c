// M = L_Aᵀ·L_B, one invocation an element: column c of M is row c of `product`.

@group(0) @binding(0) var<storage, read> table: array<u32>;
@group(0) @binding(1) var<storage, read> left: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> right: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> product: array<vec2<f32>>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let n = of_pair(id.y, RANK);
    if (id.x >= n * n) {
        return;
    }
    let work = of_pair(id.y, WORK);
    let i = id.x % n;
    let c = id.x / n;
    var sum = vec2<f32>();
    // Both columns are zero above their diagonal.
    for (var k = max(i, c); k < n; k += 1u) {
        sum = add(sum, multiply(left[work + i * n + k], right[work + c * n + k]));
    }
    product[work + id.x] = sum;
}
