// (L_A·U)·w and (L_B·V)·w, whose products with their transposes are S̃⁻¹ and S̃; w² is the weight of a singular value
// (mod.rs). One invocation an element of both; column c of a frame lies together.

override FLOOR: f32;

@group(0) @binding(0) var<storage, read> table: array<u32>;
@group(0) @binding(1) var<storage, read> left: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> product: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> right: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read> values: array<f32>;
@group(0) @binding(5) var<storage, read_write> frames: array<f32>;
@group(0) @binding(6) var<storage, read_write> info: array<atomic<u32>>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let n = of_pair(id.y, RANK);
    if (id.x >= n * n) {
        return;
    }
    let work = of_pair(id.y, WORK);
    let row = of_pair(id.y, VALUES);
    let i = id.x % n;
    let c = id.x / n;
    // L_A·(U·Σ): row i of L_A ends at its diagonal.
    var sum = vec2<f32>();
    for (var k = 0u; k <= i; k += 1u) {
        sum = add(sum, multiply(left[work + k * n + i], product[work + c * n + k]));
    }
    let sigma = values[row + c];
    let clamped = max(sigma, FLOOR * values[row + n]);
    let weight = select(0.0, 1.0 / (clamped * sqrt(clamped)), clamped > 0.0);
    let a = sum.x * weight;
    let b = right[work + c * n + i].x * sigma * weight;
    frames[2u * work + id.x] = a;
    frames[2u * work + n * n + id.x] = b;
    atomicMax(&info[id.y * INFO + 2u], bitcast<u32>(a) & 0x7fffffffu);
    atomicMax(&info[id.y * INFO + 3u], bitcast<u32>(b) & 0x7fffffffu);
}
