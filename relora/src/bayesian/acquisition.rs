//! Where expected improvement is largest.

use super::error::Result;
use super::expected_improvement::{log_expected_improvement, slopes};
use super::gaussian_process::GaussianProcess;
use super::lbfgs;
use super::random::Random;
use super::sobol::Sobol;

/// Candidates all over the cube.
const GLOBAL: usize = 512;
/// Candidates around the best observation, half of them near and half farther.
const LOCAL: usize = 128;
const LOCAL_DEVIATIONS: [f64; 2] = [0.03, 0.12];
/// Candidates that are refined.
const REFINED: usize = 2;
const ITERATIONS: usize = 50;
/// Points closer than this in the unit cube are the same point.
pub(super) const SAME: f64 = 1e-3;

/// A point of the unit cube and what it promises.
#[derive(Clone, Debug)]
pub(super) struct Promise {
    pub point: Vec<f64>,
    /// Expected improvement, in the targets' unit.
    pub improvement: f64,
}

/// What a maximisation looks at.
pub(super) struct Situation<'s> {
    pub process: &'s GaussianProcess,
    /// The lowest value observed, in the targets' unit.
    pub best: f64,
    /// Where it was observed, in the unit cube.
    pub incumbent: &'s [f64],
    /// Points that must not be proposed again.
    pub seen: &'s [Vec<f64>],
}

/// Whether two points of the unit cube count as one.
pub(super) fn same(a: &[f64], b: &[f64]) -> bool {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>() < SAME * SAME
}

impl Situation<'_> {
    /// The point with the largest expected improvement that was found; `None` when every candidate was seen before.
    pub fn maximise(&self, seed: u64, step: u64) -> Result<Option<Promise>> {
        let mut random = Random::new(seed, "acquisition", step);
        let dimensions = self.process.dimensions();
        let mut candidates: Vec<Vec<f64>> = Sobol::scrambled(dimensions, random.next()).take(GLOBAL).collect();
        for index in 0..LOCAL {
            let deviation = LOCAL_DEVIATIONS[index % LOCAL_DEVIATIONS.len()];
            let near = self.incumbent.iter().map(|x| (x + deviation * random.normal()).clamp(0.0, 1.0));
            candidates.push(near.collect());
        }
        let mut ranked: Vec<(f64, Vec<f64>)> = Vec::with_capacity(candidates.len());
        for point in candidates.into_iter().filter(|point| !self.was_seen(point)) {
            ranked.push((self.log_improvement(&point), point));
        }
        // NaN cannot come out, but must not come first.
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        let refined: Vec<_> = ranked.iter().take(REFINED).map(|(_, start)| self.refine(start)).collect();
        let found = refined.into_iter().filter(|(_, point)| !self.was_seen(point)).chain(ranked.into_iter().take(1));
        let best = found.reduce(|best, other| if other.0 > best.0 { other } else { best });
        Ok(best.map(|(log, point)| Promise { point, improvement: log.exp() * self.process.scale() }))
    }

    fn was_seen(&self, point: &[f64]) -> bool {
        self.seen.iter().any(|seen| same(seen, point))
    }

    /// In standardised units.
    fn log_improvement(&self, point: &[f64]) -> f64 {
        let (prediction, ..) = self.process.standardised_with_gradient(point);
        log_expected_improvement(prediction.mean, prediction.deviation(), self.process.to_standardised(self.best))
    }

    fn refine(&self, start: &[f64]) -> (f64, Vec<f64>) {
        let best = self.process.to_standardised(self.best);
        let bounds = vec![(0.0, 1.0); start.len()];
        let lowest = lbfgs::minimise(start, &bounds, ITERATIONS, |point, gradient| {
            let (prediction, of_mean, of_deviation) = self.process.standardised_with_gradient(point);
            let deviation = prediction.deviation();
            let (by_mean, by_deviation) = slopes((best - prediction.mean) / deviation);
            for (slope, (of_mean, of_deviation)) in gradient.iter_mut().zip(of_mean.iter().zip(&of_deviation)) {
                *slope = (by_mean * of_mean - by_deviation * of_deviation) / deviation;
            }
            -log_expected_improvement(prediction.mean, deviation, best)
        });
        (-lowest.value, lowest.point)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refinement_ends_where_the_improvement_is_flat_and_no_grid_beats_it() {
        let inputs = vec![vec![0.1, 0.2], vec![0.8, 0.3], vec![0.4, 0.9], vec![0.55, 0.5]];
        let targets = [1.0, 0.4, 0.9, 0.1];
        let process = GaussianProcess::fit(&inputs, &targets).unwrap();
        let situation = Situation { process: &process, best: 0.1, incumbent: &inputs[3], seen: &inputs };
        let promise = situation.maximise(1, 0).unwrap().unwrap();
        let found = situation.log_improvement(&promise.point);
        assert!((found.exp() * process.scale() - promise.improvement).abs() < 1e-12);
        for i in 0..=40 {
            for j in 0..=40 {
                let point = [i as f64 / 40.0, j as f64 / 40.0];
                assert!(situation.log_improvement(&point) <= found + 1e-9, "{point:?} beats {promise:?}");
            }
        }
    }

    #[test]
    fn seen_points_are_skipped() {
        let inputs = vec![vec![0.2], vec![0.9]];
        let process = GaussianProcess::fit(&inputs, &[0.0, 1.0]).unwrap();
        let grid: Vec<Vec<f64>> = (0..=2000).map(|i| vec![i as f64 / 2000.0]).collect();
        let situation = |seen| Situation { process: &process, best: 0.0, incumbent: &inputs[0], seen };
        assert!(situation(&grid).maximise(0, 0).unwrap().is_none(), "nothing is left");
        let first = situation(&inputs).maximise(0, 0).unwrap().unwrap();
        let seen = [inputs.clone(), vec![first.point.clone()]].concat();
        let second = situation(&seen).maximise(0, 0).unwrap().unwrap();
        assert!(!same(&first.point, &second.point));
    }
}
