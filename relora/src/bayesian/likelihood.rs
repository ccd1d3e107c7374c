//! The posterior density of a Gaussian process's hyperparameters, with its gradient.

use faer::Mat;

use super::cholesky::Cholesky;
use super::gaussian_process::{Hyperparameters, JITTER};
use super::kernel::matern;

/// Median of the prior of a length-scale, as a fraction of the cube's edge.
pub(super) const PRIOR_MEDIAN: f64 = 0.5;
/// Standard deviation of the logarithm of a length-scale under its prior.
const PRIOR_DEVIATION: f64 = 1.0;

/// Observations whose hyperparameters are sought, in logarithms: the length-scales, then the noise.
pub(super) struct Likelihood<'d> {
    pub inputs: &'d [Vec<f64>],
    /// Standardised.
    pub targets: &'d [f64],
}

/// The covariance of the observations.
pub(super) fn covariance(inputs: &[Vec<f64>], hyperparameters: &Hyperparameters) -> Mat<f64> {
    Mat::from_fn(inputs.len(), inputs.len(), |i, j| {
        if i == j {
            1.0 + hyperparameters.noise + JITTER
        } else {
            matern(&inputs[i], &inputs[j], &hyperparameters.length_scales).0
        }
    })
}

/// ln p(y) = −½·yᵀK⁻¹y − ½·ln det K − n/2·ln 2π (Rasmussen and Williams, eq. 2.30), where `weights` is K⁻¹·y.
pub(super) fn log_marginal_likelihood(factor: &Cholesky, targets: &[f64], weights: &[f64]) -> f64 {
    let fit: f64 = targets.iter().zip(weights).map(|(y, weight)| y * weight).sum();
    -0.5 * (fit + factor.log_determinant() + targets.len() as f64 * std::f64::consts::TAU.ln())
}

impl Likelihood<'_> {
    /// −ln p(y | θ) − ln p(θ) with its gradient (eq. 5.9), up to a constant. The prior's density is that of ln ℓ, so
    /// its mode is the median. +∞ where the covariance cannot be factorised.
    pub fn negative_log_posterior(&self, logarithms: &[f64], gradient: &mut [f64]) -> f64 {
        let hyperparameters = Hyperparameters::from_logarithms(logarithms);
        let Some(factor) = Cholesky::new(covariance(self.inputs, &hyperparameters)) else {
            gradient.fill(f64::NAN);
            return f64::INFINITY;
        };
        let weights = factor.solve(self.targets);
        let inverse = factor.inverse();
        gradient.fill(0.0);
        let scales = &hyperparameters.length_scales;
        // −½·tr((wwᵀ − K⁻¹)·∂K); both sides of the diagonal are the same.
        for i in 0..self.inputs.len() {
            let outer = |j: usize| weights[i] * weights[j] - inverse[(i, j)];
            for j in 0..i {
                let (_, slope) = matern(&self.inputs[i], &self.inputs[j], scales);
                for (d, scale) in scales.iter().enumerate() {
                    let distance = (self.inputs[i][d] - self.inputs[j][d]) / scale;
                    gradient[d] -= outer(j) * slope * distance * distance;
                }
            }
            gradient[scales.len()] -= 0.5 * outer(i) * hyperparameters.noise;
        }
        let mut value = -log_marginal_likelihood(&factor, self.targets, &weights);
        for (scale, slope) in logarithms[..scales.len()].iter().zip(gradient) {
            let deviation = (scale - PRIOR_MEDIAN.ln()) / PRIOR_DEVIATION;
            value += 0.5 * deviation * deviation;
            *slope += deviation / PRIOR_DEVIATION;
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_is_the_derivative() {
        let inputs: Vec<Vec<f64>> =
            (0..7).map(|i| vec![(i as f64 * 0.37).fract(), (i as f64 * 0.61 + 0.2).fract()]).collect();
        let targets: Vec<f64> = inputs.iter().map(|x| (5.0 * x[0]).sin() - x[1]).collect();
        let likelihood = Likelihood { inputs: &inputs, targets: &targets };
        for at in [[-0.7, 0.1, -3.0], [-2.0, -1.0, -9.0]] {
            let mut gradient = [0.0; 3];
            likelihood.negative_log_posterior(&at, &mut gradient);
            for i in 0..3 {
                let moved = |by: f64| {
                    let point: [f64; 3] = std::array::from_fn(|j| if i == j { at[j] + by } else { at[j] });
                    likelihood.negative_log_posterior(&point, &mut [0.0; 3])
                };
                let numeric = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                assert!((numeric - gradient[i]).abs() < 1e-6 * (1.0 + numeric.abs()), "{i}: {numeric} {gradient:?}");
            }
        }
    }
}
