//! Expected improvement below the best value so far, and its logarithm, which does not underflow.
//!
//! For a normal prediction (μ, σ) and the lowest value y*, with z = (y* − μ)/σ:
//! EI = E\[max(y* − f, 0)\] = (y* − μ)·Φ(z) + σ·φ(z) = σ·h(z), h(z) = φ(z) + z·Φ(z) (Jones, Schonlau and Welch 1998).
//! For z far below 0 the two terms cancel. With Mills' ratio M(a) = Φ(−a)/φ(a), h(−a) = φ(a)·(1 − a·M(a)), as Ament et
//! al. ("Unexpected Improvements to Expected Improvement", 2023) use it; here the asymptotic series of M takes over
//! where 1 − a·M cancels too.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_PI_2};

/// ln √(2π).
const LOG_ROOT_TAU: f64 = 0.918_938_533_204_672_8;
/// Below −1, h is computed through Mills' ratio.
const TAIL: f64 = -1.0;
/// From here on the series of Mills' ratio is exact to 10⁻¹¹.
const SERIES: f64 = 20.0;

/// E\[max(best − f, 0)\] for f normal with this mean and standard deviation; `max(best − mean, 0)` at deviation 0.
pub fn expected_improvement(mean: f64, deviation: f64, best: f64) -> f64 {
    let gain = best - mean;
    if deviation <= 0.0 {
        return gain.max(0.0);
    }
    // h(z) = z + h(−z) keeps the sum at or above the gain itself.
    gain.max(0.0) + deviation * log_h(-(gain / deviation).abs()).exp()
}

/// The natural logarithm of [`expected_improvement`], finite where that underflows; −∞ where it is 0.
pub fn log_expected_improvement(mean: f64, deviation: f64, best: f64) -> f64 {
    let gain = best - mean;
    if deviation <= 0.0 {
        return gain.max(0.0).ln();
    }
    let z = gain / deviation;
    if z > 0.0 { expected_improvement(mean, deviation, best).ln() } else { deviation.ln() + log_h(z) }
}

/// Φ(z)/h(z) and φ(z)/h(z): d ln EI = (−Φ·dμ + φ·dσ)/(σ·h).
pub(super) fn slopes(z: f64) -> (f64, f64) {
    if z > TAIL {
        let (density, cumulative) = (density(z), cumulative(z));
        let h = density + z * cumulative;
        (cumulative / h, density / h)
    } else {
        let (mills, remainder) = tail(-z);
        (mills / remainder, 1.0 / remainder)
    }
}

/// ln h(z).
fn log_h(z: f64) -> f64 {
    if z > TAIL { (density(z) + z * cumulative(z)).ln() } else { -0.5 * z * z - LOG_ROOT_TAU + tail(-z).1.ln() }
}

/// Mills' ratio M(a) and 1 − a·M(a), for a ≥ 1.
fn tail(a: f64) -> (f64, f64) {
    if a < SERIES {
        let mills = FRAC_PI_2.sqrt() * (0.5 * a * a).exp() * libm::erfc(a * FRAC_1_SQRT_2);
        return (mills, 1.0 - a * mills);
    }
    // 1 − a·M = Σ (−1)ᵏ⁺¹·(2k − 1)!!/a²ᵏ from k = 1, by Horner's rule.
    let inverse = 1.0 / (a * a);
    let sum = [13.0, 11.0, 9.0, 7.0, 5.0, 3.0].into_iter().fold(1.0, |sum, odd| 1.0 - odd * inverse * sum);
    let remainder = inverse * sum;
    ((1.0 - remainder) / a, remainder)
}

fn density(z: f64) -> f64 {
    (-0.5 * z * z - LOG_ROOT_TAU).exp()
}

fn cumulative(z: f64) -> f64 {
    0.5 * libm::erfc(-z * FRAC_1_SQRT_2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ways_of_computing_h_meet() {
        for seam in [TAIL, -SERIES] {
            let (below, above) = (log_h(seam.next_down()), log_h(seam.next_up()));
            assert!((below - above).abs() < 1e-10 * below.abs().max(1.0), "{seam}: {below} {above}");
            let (below, above) = (slopes(seam.next_down()), slopes(seam.next_up()));
            assert!((below.0 / above.0 - 1.0).abs() < 1e-9 && (below.1 / above.1 - 1.0).abs() < 1e-9, "{seam}");
        }
    }

    #[test]
    fn slopes_are_the_derivatives_of_the_logarithm() {
        for z in [-300.0, -25.0, -12.0, -3.0, -0.4, 0.0, 0.7, 4.0] {
            let (mean, deviation) = (0.3, 0.8);
            let best = mean + z * deviation;
            let at = |mean: f64, deviation: f64| log_expected_improvement(mean, deviation, best);
            let h = 1e-6;
            let numeric_mean = (at(mean + h, deviation) - at(mean - h, deviation)) / (2.0 * h);
            let numeric_deviation = (at(mean, deviation + h) - at(mean, deviation - h)) / (2.0 * h);
            let (by_mean, by_deviation) = slopes(z);
            assert!((numeric_mean + by_mean / deviation).abs() < 1e-4 * (1.0 + by_mean), "{z}");
            assert!((numeric_deviation - by_deviation / deviation).abs() < 1e-4 * (1.0 + by_deviation), "{z}");
        }
    }
}
