// Numbers of about 48 bits as unevaluated sums of two f32: `x` the value to f32, `y` what is missing. After Dekker
// (1971) and Knuth. The exactness of these sums must survive compilers that rearrange f32 arithmetic: `hold` makes an
// intermediate result opaque by an exclusive or with a zero that is only known at run time. Products of halves of 12
// bits are exact, so it does not matter whether they are fused with a sum.

fn hold(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) ^ params.zero);
}

// a + b for |a| ≥ |b|.
fn fast_sum(a: f32, b: f32) -> vec2<f32> {
    let s = hold(a + b);
    return vec2<f32>(s, b - hold(s - a));
}

fn exact_sum(a: f32, b: f32) -> vec2<f32> {
    let s = hold(a + b);
    let v = hold(s - a);
    return vec2<f32>(s, hold(a - hold(s - v)) + hold(b - v));
}

fn exact_product(a: f32, b: f32) -> vec2<f32> {
    let p = hold(a * b);
    let a_high = bitcast<f32>(bitcast<u32>(a) & 0xfffff000u);
    let b_high = bitcast<f32>(bitcast<u32>(b) & 0xfffff000u);
    let a_low = a - a_high;
    let b_low = b - b_high;
    return vec2<f32>(p, ((a_high * b_high - p) + a_high * b_low + a_low * b_high) + a_low * b_low);
}

fn add(a: vec2<f32>, b: vec2<f32>) -> vec2<f32> {
    let s = exact_sum(a.x, b.x);
    return fast_sum(s.x, s.y + (a.y + b.y));
}

fn multiply(a: vec2<f32>, b: vec2<f32>) -> vec2<f32> {
    let p = exact_product(a.x, b.x);
    return fast_sum(p.x, p.y + (a.x * b.y + a.y * b.x));
}

// a·x + b·y.
fn sum_of_products(a: vec2<f32>, x: vec2<f32>, b: vec2<f32>, y: vec2<f32>) -> vec2<f32> {
    let ax = exact_product(a.x, x.x);
    let by = exact_product(b.x, y.x);
    let s = exact_sum(ax.x, by.x);
    return fast_sum(s.x, s.y + (ax.y + by.y) + (a.x * x.y + a.y * x.x) + (b.x * y.y + b.y * y.x));
}

fn square_root(a: vec2<f32>) -> vec2<f32> {
    if (a.x <= 0.0) {
        return vec2<f32>();
    }
    let root = sqrt(a.x);
    let rest = add(a, -exact_product(root, root));
    return fast_sum(root, rest.x * (0.5 / root));
}

fn reciprocal(a: vec2<f32>) -> vec2<f32> {
    let r = 1.0 / a.x;
    let rest = add(vec2<f32>(1.0, 0.0), -multiply(a, vec2<f32>(r, 0.0)));
    return fast_sum(r, r * rest.x);
}
