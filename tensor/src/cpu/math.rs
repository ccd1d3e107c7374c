//! Elementary functions in f32 that the compiler can vectorise: no branches, no library calls.
//! Errors are stated in units of the last place against f64, and tested.

#[inline(always)]
pub(crate) fn fused(a: f32, b: f32, c: f32) -> f32 {
    // Without the instruction `mul_add` is a slow library call.
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) { a.mul_add(b, c) } else { a * b + c }
}

/// eˣ, within 2 ulp; overflows to infinity, underflows through the subnormals to 0, NaN stays NaN.
///
/// Range reduction x = n·ln 2 + r with |r| ≤ ln 2 / 2, Taylor's series of eʳ to r⁷, then scaling by 2ⁿ in two halves.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // 1.5·2²³: adding it rounds to an integer, which then stands in the low bits. A cast to i32 would saturate, and
    // the compiler does not vectorise that. For a NaN the bits are of no use, but the product is NaN all the same.
    const ROUND: f32 = 12_582_912.0;
    let bounded = x.clamp(-105.0, 89.0);
    let shifted = fused(bounded, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 in two parts: the first has few bits, so that n times it is exact.
    let r = fused(n, -0.693_359_4, bounded);
    let r = fused(n, 2.121_944_4e-4, r);
    let mut p = 1.0 / 5040.0;
    p = fused(p, r, 1.0 / 720.0);
    p = fused(p, r, 1.0 / 120.0);
    p = fused(p, r, 1.0 / 24.0);
    p = fused(p, r, 1.0 / 6.0);
    p = fused(p, r, 0.5);
    p = fused(p, r, 1.0);
    p = fused(p, r, 1.0);
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    let power = |e: i32| f32::from_bits(((e + 127) << 23) as u32);
    p * power(half) * power(n - half)
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// tanh x: an odd polynomial near 0, where the exponential form would lose its digits, else 1 − 2 / (e²ˣ + 1).
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let a = x.abs();
    let z = x * x;
    // Coefficients: Cephes, tanhf (S. Moshier), for |x| < 0.625.
    let mut p = -5.704_988_7e-3;
    p = fused(p, z, 2.063_909e-2);
    p = fused(p, z, -5.373_971e-2);
    p = fused(p, z, 1.333_144_2e-1);
    p = fused(p, z, -3.333_328e-1);
    let near = fused(p * z, x, x);
    let far = (1.0 - 2.0 / (exp(2.0 * a) + 1.0)).copysign(x);
    if a < 0.625 { near } else { far }
}

/// erf x, absolute error below 2e-7: Abramowitz and Stegun 7.1.28 is too coarse, so a Taylor-like odd polynomial
/// serves |x| < 1 and 1 − e^(−x²)·q(1/x-like variable) the rest (7.1.26's form with more terms would lose digits
/// near 0).
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let a = x.abs();
    let z = x * x;
    // Maclaurin series of erf to x¹⁷: 2/√π · Σ (−1)ⁿ x²ⁿ⁺¹ / (n! (2n+1)); below 1 the first omitted term is < 2e-7.
    let mut p = 1.0 / 685_440.0;
    p = fused(p, z, -1.0 / 75_600.0);
    p = fused(p, z, 1.0 / 9_360.0);
    p = fused(p, z, -1.0 / 1_320.0);
    p = fused(p, z, 1.0 / 216.0);
    p = fused(p, z, -1.0 / 42.0);
    p = fused(p, z, 0.1);
    p = fused(p, z, -1.0 / 3.0);
    let near = std::f32::consts::FRAC_2_SQRT_PI * fused(p * z, x, x);
    // Rational fit in t = 1 / (1 + a/2) (Numerical Recipes' erfcc, relative error of erfc below 1.2e-7).
    let t = 1.0 / fused(a, 0.5, 1.0);
    let mut q = 0.170_872_77;
    q = fused(q, t, -0.822_152_23);
    q = fused(q, t, 1.488_515_9);
    q = fused(q, t, -1.135_204);
    q = fused(q, t, 0.278_868_07);
    q = fused(q, t, -0.186_288_06);
    q = fused(q, t, 0.096_784_18);
    q = fused(q, t, 0.374_091_96);
    q = fused(q, t, 1.000_023_7);
    let far = (1.0 - t * exp(fused(q, t, -z - 1.265_512_2))).copysign(x);
    if a < 0.9 { near } else { far }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> impl Iterator<Item = f32> {
        (-4000..4000).map(|i| i as f32 * 0.011).chain((-60..60).map(|i| 10f32.powf(i as f32 * 0.5 - 15.0)))
    }

    #[test]
    fn exp_is_within_two_ulp() {
        for x in samples() {
            let want = f64::from(x).exp();
            let ulp = f64::from(f32::EPSILON) * want.max(f64::from(f32::MIN_POSITIVE));
            let got = f64::from(exp(x));
            assert!((got - want).abs() <= 2.0 * ulp || (want > 3.4e38 && got.is_infinite()), "exp({x}) = {got}");
        }
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_and_sigmoid_are_accurate() {
        for x in samples() {
            let wide = f64::from(x);
            assert!((f64::from(tanh(x)) - wide.tanh()).abs() <= 3e-7 * wide.tanh().abs() + 1e-38, "tanh({x})");
            let want = 1.0 / (1.0 + (-wide).exp());
            assert!((f64::from(sigmoid(x)) - want).abs() <= 4e-7 * want + 1e-38, "sigmoid({x})");
        }
        assert!(tanh(f32::NAN).is_nan() && tanh(f32::INFINITY) == 1.0 && tanh(f32::NEG_INFINITY) == -1.0);
    }

    #[test]
    fn erf_agrees_with_its_series() {
        // erf by Simpson's rule on 2/√π·e^(−t²), in f64.
        let reference = |x: f64| {
            let (steps, mut sum) = (2000, 0.0);
            let h = x / f64::from(steps);
            for i in 0..=steps {
                let weight = if i == 0 || i == steps { 1.0 } else { f64::from(2 + 2 * (i % 2)) };
                sum += weight * (-(f64::from(i) * h).powi(2)).exp();
            }
            std::f64::consts::FRAC_2_SQRT_PI * sum * h / 3.0
        };
        for i in -600..600 {
            let x = i as f32 * 0.0091;
            assert!((f64::from(erf(x)) - reference(f64::from(x))).abs() < 2e-7, "erf({x}) = {}", erf(x));
        }
        assert!(erf(f32::NAN).is_nan() && erf(f32::INFINITY) == 1.0 && erf(f32::NEG_INFINITY) == -1.0);
    }
}
