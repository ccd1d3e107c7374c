//! Plain Rust. The formulas are written so that the kernel can repeat them: own polynomials instead of library calls.

use rayon::prelude::*;

use super::philox::{PhiloxKey, SPAN, words};
use super::{Distribution, RandomKey};
use crate::cpu::{CHUNK, PARALLEL_THRESHOLD, cpu};
use crate::shape::Shape;
use crate::tensor::Tensor;

pub(super) fn random(shape: Shape, distribution: Distribution, key: RandomKey) -> Tensor {
    let mut out = cpu().scratch::<f32>(shape.elements());
    let key = PhiloxKey::from(&key);
    match distribution {
        Distribution::Uniform { low, width, largest } => fill(&mut out, &key, |words| {
            words.map(|word| {
                let value = low + unit(word) * width;
                if value > largest { largest } else { value }
            })
        }),
        Distribution::Normal { mean, deviation } => fill(&mut out, &key, |words| {
            let mut values = [0.0; SPAN];
            for (values, words) in values.chunks_exact_mut(2).zip(words.chunks_exact(2)) {
                let [first, second] = normal_pair(words[0], words[1]);
                values[0] = mean + deviation * first;
                values[1] = mean + deviation * second;
            }
            values
        }),
    }
    Tensor::from_cpu_vec(shape, out)
}

fn fill(out: &mut [f32], key: &PhiloxKey, convert: impl Fn(&[u32; SPAN]) -> [f32; SPAN] + Sync) {
    const { assert!(CHUNK.is_multiple_of(SPAN)) };
    let task = |(index, out): (usize, &mut [f32])| {
        for (span, out) in out.chunks_mut(SPAN).enumerate() {
            let first = index * CHUNK + span * SPAN;
            out.copy_from_slice(&convert(&words(key, (first / 4) as u32))[..out.len()]);
        }
    };
    if out.len() < PARALLEL_THRESHOLD {
        out.chunks_mut(CHUNK).enumerate().for_each(task);
    } else {
        out.par_chunks_mut(CHUNK).enumerate().for_each(task);
    }
}

/// A number in [0, 1) from the word's upper 24 bits, exactly.
#[inline(always)]
fn unit(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// Two independent standard normal numbers: √(−2 ln u)·cos 2πv and √(−2 ln u)·sin 2πv, u in (0, 1], v in [0, 1).
#[inline(always)]
fn normal_pair(radius_word: u32, angle_word: u32) -> [f32; 2] {
    let radius = (-2.0 * logarithm_of_unit((radius_word >> 8) + 1)).max(0.0).sqrt();
    let [cosine, sine] = circle(angle_word >> 8);
    [radius * cosine, radius * sine]
}

/// ln(n / 2²⁴) for n in 1..=2²⁴: n = m·2ᵉ with m in [√½, √2), then ln m by a polynomial in m − 1.
/// Coefficients: Cephes, logf (S. Moshier).
#[inline(always)]
fn logarithm_of_unit(n: u32) -> f32 {
    let bits = (n as f32).to_bits() as i32;
    let exponent = (bits - 0x3f35_04f3) >> 23;
    let m = f32::from_bits((bits - (exponent << 23)) as u32) - 1.0;
    let e = (exponent - 24) as f32;
    let z = m * m;
    let mut p = 7.037_683_6e-2;
    p = p * m - 1.151_461e-1;
    p = p * m + 1.167_699_9e-1;
    p = p * m - 1.242_014_1e-1;
    p = p * m + 1.424_932_3e-1;
    p = p * m - 1.666_805_8e-1;
    p = p * m + 2.000_071_5e-1;
    p = p * m - 2.499_999_4e-1;
    p = p * m + 3.333_333e-1;
    // ln 2 in two parts, so that its product with e keeps its digits.
    let tail = p * m * z - 2.121_944_4e-4 * e - 0.5 * z;
    0.693_359_4 * e + (m + tail)
}

/// (cos, sin) of 2π·n / 2²⁴ for n below 2²⁴. The quadrant and the rest, at most an eighth of the circle, are found in
/// integers, without error. Coefficients: Cephes, sinf and cosf (S. Moshier).
#[inline(always)]
fn circle(n: u32) -> [f32; 2] {
    const EIGHTH: u32 = 1 << 21;
    let shifted = n + EIGHTH;
    let rest = (shifted & (2 * EIGHTH - 1)) as i32 - EIGHTH as i32;
    let x = rest as f32 * (std::f32::consts::TAU / 16_777_216.0);
    let z = x * x;
    let sine = ((-1.951_529_6e-4 * z + 8.332_161e-3) * z - 1.666_665_5e-1) * z * x + x;
    let cosine = ((2.443_315_7e-5 * z - 1.388_731_6e-3) * z + 4.166_664_6e-2) * z * z - 0.5 * z + 1.0;
    let quadrant = shifted >> 22;
    let [c, s] = if quadrant & 1 == 0 { [cosine, sine] } else { [-sine, cosine] };
    if quadrant & 2 == 0 { [c, s] } else { [-c, -s] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_polynomials_are_accurate() {
        for n in (1..=1 << 24).step_by(997).chain([1, 2, 3, 1 << 24, (1 << 24) - 1, (1 << 24) - 2]) {
            let want = (f64::from(n) / 16_777_216.0).ln();
            let got = f64::from(logarithm_of_unit(n));
            assert!((got - want).abs() <= 4e-7 * want.abs(), "ln({n}/2^24) = {got}, not {want}");
            let angle = std::f64::consts::TAU * f64::from(n - 1) / 16_777_216.0;
            let [cosine, sine] = circle(n - 1).map(f64::from);
            assert!((cosine - angle.cos()).abs() < 2e-7 && (sine - angle.sin()).abs() < 2e-7, "circle({})", n - 1);
        }
    }
}
