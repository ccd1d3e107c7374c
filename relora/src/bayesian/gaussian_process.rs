//! Gaussian-process regression: zero mean on standardised targets, Matérn-5/2 covariance of unit variance with one
//! length-scale for each dimension, noise. Rasmussen and Williams, "Gaussian Processes for Machine Learning", chapter 2.

use std::cmp::Ordering;

use super::cholesky::Cholesky;
use super::error::{BayesianError, Result};
use super::kernel::matern;
use super::lbfgs;
use super::likelihood::{self, Likelihood, PRIOR_MEDIAN, covariance};

/// Added to the diagonal beside the noise.
pub(super) const JITTER: f64 = 1e-10;
/// The range of the learned noise.
const NOISE: (f64, f64) = (1e-8, 1e-1);
/// The range of learned length-scales; the prior rules well inside it.
const LENGTH_SCALES: (f64, f64) = (1e-2, 1e2);
/// Where the fit starts from: length-scale and noise.
const STARTS: [(f64, f64); 2] = [(PRIOR_MEDIAN, 1e-4), (0.15, 1e-2)];
const ITERATIONS: usize = 100;

/// What a Gaussian process is chosen by.
#[derive(Clone, Debug, PartialEq)]
pub struct Hyperparameters {
    /// ℓ of each dimension, in units of the inputs.
    pub length_scales: Vec<f64>,
    /// Variance of an observation's noise, as a fraction of the targets' variance.
    pub noise: f64,
}

impl Hyperparameters {
    pub(super) fn from_logarithms(logarithms: &[f64]) -> Self {
        let mut values: Vec<f64> = logarithms.iter().map(|x| x.exp()).collect();
        // The noise is the last of them, and there is always one.
        let noise = values.pop().unwrap_or(NOISE.0);
        Hyperparameters { length_scales: values, noise }
    }
}

/// What is expected of the function at a point, without the noise of an observation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// The mean.
    pub mean: f64,
    /// The variance, not negative.
    pub variance: f64,
}

impl Prediction {
    /// The standard deviation.
    pub fn deviation(&self) -> f64 {
        self.variance.sqrt()
    }
}

/// A Gaussian process that has seen observations. Their order does not matter.
#[derive(Clone, Debug)]
pub struct GaussianProcess {
    inputs: Vec<Vec<f64>>,
    /// Standardised, like everything inside.
    targets: Vec<f64>,
    hyperparameters: Hyperparameters,
    factor: Cholesky,
    /// K⁻¹·targets.
    weights: Vec<f64>,
    /// Targets are offset + scale × standardised.
    offset: f64,
    scale: f64,
}

impl GaussianProcess {
    /// The process with the most probable hyperparameters: the maximum of marginal likelihood times prior (log-normal
    /// with median 0.5 and σ = 1 on length-scales, noise within [1e-8, 1e-1]) by L-BFGS from two starts. Inputs should
    /// fill the unit cube, since the prior is about it.
    ///
    /// # Errors
    /// [`BayesianError::Setting`] for no observation, [`BayesianError::Dimensions`], [`BayesianError::NotFinite`], or
    /// [`BayesianError::NotPositiveDefinite`].
    pub fn fit(inputs: &[Vec<f64>], targets: &[f64]) -> Result<Self> {
        let data = Data::new(inputs, targets)?;
        let dimensions = data.inputs[0].len();
        let logarithms = |(low, high): (f64, f64)| (low.ln(), high.ln());
        let mut bounds = vec![logarithms(LENGTH_SCALES); dimensions];
        bounds.push(logarithms(NOISE));
        let likelihood = Likelihood { inputs: &data.inputs, targets: &data.targets };
        let fits = STARTS.map(|(length_scale, noise): (f64, f64)| {
            let mut start = vec![length_scale.ln(); dimensions];
            start.push(noise.ln());
            lbfgs::minimise(&start, &bounds, ITERATIONS, |point, gradient| {
                likelihood.negative_log_posterior(point, gradient)
            })
        });
        let [first, second] = fits;
        let best = if second.value < first.value { second } else { first };
        Self::new(data, Hyperparameters::from_logarithms(&best.point))
    }

    /// The process with given hyperparameters.
    ///
    /// # Errors
    /// As [`GaussianProcess::fit`], and [`BayesianError::Setting`] for hyperparameters out of range.
    pub fn with_hyperparameters(
        inputs: &[Vec<f64>],
        targets: &[f64],
        hyperparameters: Hyperparameters,
    ) -> Result<Self> {
        let data = Data::new(inputs, targets)?;
        let Hyperparameters { length_scales, noise } = &hyperparameters;
        let (expected, found) = (data.inputs[0].len(), length_scales.len());
        if expected != found {
            return Err(BayesianError::Dimensions { what: "the list of length-scales", expected, found });
        }
        let refused = length_scales.iter().any(|x| !x.is_finite() || *x <= 0.0) || !noise.is_finite() || *noise < 0.0;
        if refused {
            let message = "length-scales must be positive, and the noise not negative".into();
            return Err(BayesianError::Setting { setting: "hyperparameters", message });
        }
        Self::new(data, hyperparameters)
    }

    fn new(data: Data, hyperparameters: Hyperparameters) -> Result<Self> {
        let Data { inputs, targets, offset, scale } = data;
        let factor = Cholesky::new(covariance(&inputs, &hyperparameters))
            .ok_or(BayesianError::NotPositiveDefinite { observations: inputs.len() })?;
        let weights = factor.solve(&targets);
        Ok(GaussianProcess { inputs, targets, hyperparameters, factor, weights, offset, scale })
    }

    /// The hyperparameters in use.
    pub fn hyperparameters(&self) -> &Hyperparameters {
        &self.hyperparameters
    }

    /// The number of dimensions.
    pub fn dimensions(&self) -> usize {
        self.hyperparameters.length_scales.len()
    }

    /// ln p of the standardised targets, without the prior of the hyperparameters.
    pub fn log_marginal_likelihood(&self) -> f64 {
        likelihood::log_marginal_likelihood(&self.factor, &self.targets, &self.weights)
    }

    /// The standard deviation of an observation's noise, in the targets' unit.
    pub fn noise_deviation(&self) -> f64 {
        self.scale * self.hyperparameters.noise.sqrt()
    }

    /// The function at a point: mean kᵀK⁻¹y, variance 1 − kᵀK⁻¹k, in the targets' unit.
    ///
    /// # Errors
    /// [`BayesianError::Dimensions`].
    pub fn predict(&self, point: &[f64]) -> Result<Prediction> {
        let expected = self.dimensions();
        if point.len() != expected {
            return Err(BayesianError::Dimensions { what: "the point", expected, found: point.len() });
        }
        let Prediction { mean, variance } = self.standardised(point);
        Ok(Prediction { mean: self.offset + self.scale * mean, variance: self.scale * self.scale * variance })
    }

    fn covariances(&self, point: &[f64]) -> Vec<(f64, f64)> {
        self.inputs.iter().map(|input| matern(point, input, &self.hyperparameters.length_scales)).collect()
    }

    fn standardised(&self, point: &[f64]) -> Prediction {
        let covariances: Vec<f64> = self.covariances(point).into_iter().map(|(value, _)| value).collect();
        let explained: f64 = self.factor.half_solve(&covariances).iter().map(|x| x * x).sum();
        Prediction { mean: dot(&covariances, &self.weights), variance: (1.0 - explained).clamp(0.0, 1.0) }
    }

    /// Standardised mean and standard deviation with their gradients.
    pub(super) fn standardised_with_gradient(&self, point: &[f64]) -> (Prediction, Vec<f64>, Vec<f64>) {
        let prediction = self.standardised(point);
        let both = self.covariances(point);
        let solved = self.factor.solve(&both.iter().map(|&(value, _)| value).collect::<Vec<_>>());
        let (mut of_mean, mut of_deviation) = (vec![0.0; point.len()], vec![0.0; point.len()]);
        let deviation = prediction.deviation();
        for (row, input) in self.inputs.iter().enumerate() {
            for (d, scale) in self.hyperparameters.length_scales.iter().enumerate() {
                let slope = -both[row].1 * (point[d] - input[d]) / (scale * scale);
                of_mean[d] += slope * self.weights[row];
                of_deviation[d] -= slope * solved[row] / deviation;
            }
        }
        (prediction, of_mean, of_deviation)
    }

    /// A target as the process sees it.
    pub(super) fn to_standardised(&self, target: f64) -> f64 {
        (target - self.offset) / self.scale
    }

    /// What one standard deviation of the targets is.
    pub(super) fn scale(&self) -> f64 {
        self.scale
    }

    /// The process after an observation at `point` that is exactly what it expected: its variance falls there, and its
    /// mean stays everywhere ("kriging believer", Ginsbourger, Le Riche and Carraro 2010).
    pub(super) fn believing(&self, point: &[f64]) -> Result<Self> {
        let mean = self.standardised(point).mean;
        let (mut inputs, mut targets) = (self.inputs.clone(), self.targets.clone());
        inputs.push(point.to_vec());
        targets.push(mean);
        let data = Data { inputs, targets, offset: self.offset, scale: self.scale };
        Self::new(data, self.hyperparameters.clone())
    }
}

/// Observations, checked, in a canonical order, with standardised targets.
struct Data {
    inputs: Vec<Vec<f64>>,
    targets: Vec<f64>,
    offset: f64,
    scale: f64,
}

impl Data {
    fn new(inputs: &[Vec<f64>], targets: &[f64]) -> Result<Self> {
        if inputs.is_empty() || inputs.len() != targets.len() || inputs[0].is_empty() {
            let message = format!(
                "{} inputs and {} targets; needs at least one, as many of both, and a dimension",
                inputs.len(),
                targets.len()
            );
            return Err(BayesianError::Setting { setting: "observations", message });
        }
        let expected = inputs[0].len();
        if let Some(found) = inputs.iter().map(Vec::len).find(|&found| found != expected) {
            return Err(BayesianError::Dimensions { what: "an input", expected, found });
        }
        let coordinates = inputs.iter().enumerate().flat_map(|(index, x)| x.iter().map(move |&x| ("input", index, x)));
        let numbers = coordinates.chain(targets.iter().enumerate().map(|(index, &y)| ("target", index, y)));
        if let Some((what, index, value)) = numbers.into_iter().find(|(_, _, value)| !value.is_finite()) {
            return Err(BayesianError::NotFinite { what, index, value });
        }
        let mut order: Vec<usize> = (0..inputs.len()).collect();
        let compare = |a: &[f64], b: &[f64]| {
            a.iter().zip(b).map(|(a, b)| a.total_cmp(b)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
        };
        order.sort_by(|&a, &b| compare(&inputs[a], &inputs[b]).then(targets[a].total_cmp(&targets[b])));
        let targets: Vec<f64> = order.iter().map(|&row| targets[row]).collect();
        let count = targets.len() as f64;
        let offset = targets.iter().sum::<f64>() / count;
        let deviation = (targets.iter().map(|y| (y - offset).powi(2)).sum::<f64>() / count).sqrt();
        // Constant targets have no scale of their own, and rounding should not give them one.
        let largest = targets.iter().fold(0.0f64, |largest, y| largest.max(y.abs()));
        let scale = if deviation > 1e-13 * largest && deviation > f64::MIN_POSITIVE { deviation } else { 1.0 };
        Ok(Data {
            inputs: order.iter().map(|&row| inputs[row].clone()).collect(),
            targets: targets.iter().map(|y| (y - offset) / scale).collect(),
            offset,
            scale,
        })
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
