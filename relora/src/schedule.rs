//! Stage 2's two schedules: how strongly fine-tuning is held at its start, and its learning rate.

use std::f64::consts::PI;

use autograd::{Decay, Schedule};
use lora::{AdapterSet, LoraError, Result};
use tensor::Tensor;

use crate::dense::{all_factors, from_tensors, sum_of_squares};

/// 1/λ_hi as a share of the start's root mean square, as the published method's simulation found it: how far a coordinate
/// may go in the strong phase.
pub const TRUST_RADIUS: f64 = 0.2;

/// Share of a run that is warm-up, and the share of the peak rate that it ends with.
const WARM_UP: f64 = 0.03;
const FLOOR: f32 = 0.1;

/// How the strength goes from high to low.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relaxation {
    /// At once, after the strong phase.
    Step,
    /// Along half a cosine from the end of the strong phase to the end of the run.
    Cosine,
}

/// How much data there is beside what is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataAmount {
    /// At least two examples for each of the adapter's parameters.
    Ample,
    /// Between the two others.
    Moderate,
    /// Fewer examples than half the adapter's parameters.
    Little,
}

impl DataAmount {
    /// The amount that a number of training examples (of labels, where each token has one) is for so many parameters.
    pub fn of(examples: u64, parameters: u64) -> Self {
        if examples >= parameters.saturating_mul(2) {
            DataAmount::Ample
        } else if examples.saturating_mul(2) < parameters {
            DataAmount::Little
        } else {
            DataAmount::Moderate
        }
    }

    /// λ_lo/λ_hi.
    pub fn low_share(self) -> f64 {
        match self {
            DataAmount::Ample => 0.0,
            DataAmount::Moderate => 0.1,
            DataAmount::Little => 1.0 / 3.0,
        }
    }

    /// The share of a run that the strong phase lasts. A long one delays readiness where data would have done.
    pub fn strong_share(self) -> f64 {
        match self {
            DataAmount::Ample => 0.02,
            DataAmount::Moderate => 0.05,
            DataAmount::Little => 0.1,
        }
    }
}

/// λ_t of the pull towards the start: `high` for the first `strong_steps`, then relaxed to `low`. Never increasing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RegularisationSchedule {
    high: f64,
    low: f64,
    strong_steps: u64,
    total_steps: u64,
    relaxation: Relaxation,
}

impl RegularisationSchedule {
    /// A schedule over a run of `total_steps`.
    ///
    /// # Errors
    /// [`LoraError::Setting`] unless 0 ≤ low ≤ high, both finite: a strength that grows was worse than none.
    pub fn new(high: f64, low: f64, strong_steps: u64, total_steps: u64, relaxation: Relaxation) -> Result<Self> {
        if !(0.0 <= low && low <= high && high.is_finite()) {
            return Err(LoraError::Setting {
                setting: "regularisation",
                message: format!("the strength must go from high to low and be finite, not from {high} to {low}"),
            });
        }
        Ok(RegularisationSchedule { high, low, strong_steps, total_steps, relaxation })
    }

    /// No pull at all.
    pub fn none() -> Self {
        RegularisationSchedule { high: 0.0, low: 0.0, strong_steps: 0, total_steps: 0, relaxation: Relaxation::Step }
    }

    /// In two phases, by the amount of data. Whoever tunes tries the low shares of all three [`DataAmount`]s.
    ///
    /// # Errors
    /// As [`RegularisationSchedule::new`].
    pub fn two_phases(high: f64, amount: DataAmount, total_steps: u64) -> Result<Self> {
        let strong_steps = (amount.strong_share() * total_steps as f64).ceil() as u64;
        Self::new(high, amount.low_share() * high, strong_steps, total_steps, Relaxation::Step)
    }

    /// From high to nothing along a cosine over the whole run: what to use without tuning.
    ///
    /// # Errors
    /// As [`RegularisationSchedule::new`].
    pub fn untuned(high: f64, total_steps: u64) -> Result<Self> {
        Self::new(high, 0.0, 0, total_steps, Relaxation::Cosine)
    }

    /// The strength at a step, the first being 0; past the end what it was there.
    pub fn at(&self, step: u64) -> f64 {
        let Some(since) = step.checked_sub(self.strong_steps) else {
            return self.high;
        };
        match self.relaxation {
            Relaxation::Step => self.low,
            Relaxation::Cosine => {
                let length = self.total_steps.saturating_sub(self.strong_steps).max(1);
                let progress = (since as f64 / length as f64).min(1.0);
                self.low + (self.high - self.low) * 0.5 * (1.0 + (PI * progress).cos())
            }
        }
    }

    /// Everything it consists of as words, for a checkpoint.
    pub(crate) fn words(&self) -> Vec<u32> {
        let cosine = u64::from(self.relaxation == Relaxation::Cosine);
        let numbers = [self.high.to_bits(), self.low.to_bits(), self.strong_steps, self.total_steps, cosine];
        numbers.iter().flat_map(|&number| [number as u32, (number >> 32) as u32]).collect()
    }
}

/// λ_hi = 1/(ρ·rms(θ₀)) for a trust radius ρ such as [`TRUST_RADIUS`], the root mean square being over all factors: with
/// Adam's steps of about the learning rate η the pull balances them at a distance of 1/λ, so that ρ knows no units.
///
/// # Errors
/// [`LoraError::Setting`] for a radius that is not positive or factors that are all zero, [`LoraError::NotFinite`], or the
/// device's own errors.
pub fn strong_regularisation(start: &AdapterSet, radius: f64) -> Result<f64> {
    if !(radius.is_finite() && radius > 0.0) {
        let message = format!("the trust radius must be positive, is {radius}");
        return Err(LoraError::Setting { setting: "regularisation", message });
    }
    let factors: Vec<&Tensor> = all_factors(start)?.iter().flat_map(|factors| [factors.a, factors.b]).collect();
    let squares: f64 = from_tensors(&factors)?.iter().map(|factor| sum_of_squares(factor.as_ref())).sum();
    let count: usize = factors.iter().map(|factor| factor.elements()).sum();
    let rms = (squares / count.max(1) as f64).sqrt();
    if !rms.is_finite() {
        let message = "the start of fine-tuning is not finite".into();
        return Err(LoraError::NotFinite { tensor: "adapters".into(), message });
    }
    if rms == 0.0 {
        return Err(LoraError::Setting {
            setting: "regularisation",
            message: "the start is zero in all factors and could not learn; fill its idle directions first".into(),
        });
    }
    Ok(1.0 / (radius * rms))
}

/// The learning rate of fine-tuning: 3 % warm-up, then half a cosine to 10 % of the peak.
pub fn fine_tuning_rate(peak: f32, total_steps: u64) -> Schedule {
    let warmup_steps = (WARM_UP * total_steps as f64).ceil() as u64;
    Schedule { peak, warmup_steps, total_steps, decay: Decay::Cosine { floor: FLOOR } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_as_stated_and_nothing_increases() {
        let schedules = [
            RegularisationSchedule::new(8.0, 2.0, 10, 100, Relaxation::Step).unwrap(),
            RegularisationSchedule::new(8.0, 2.0, 10, 100, Relaxation::Cosine).unwrap(),
            RegularisationSchedule::new(8.0, 8.0, 0, 100, Relaxation::Cosine).unwrap(),
            RegularisationSchedule::new(8.0, 1.0, 200, 100, Relaxation::Cosine).unwrap(),
            RegularisationSchedule::two_phases(8.0, DataAmount::Little, 100).unwrap(),
            RegularisationSchedule::untuned(8.0, 100).unwrap(),
        ];
        for schedule in schedules {
            assert_eq!(schedule.at(0), 8.0);
            assert!((0..400).all(|step| schedule.at(step + 1) <= schedule.at(step)), "{schedule:?}");
            assert!((0..400).all(|step| schedule.at(step) >= schedule.low));
        }
        let [step, cosine, ..] = schedules;
        assert_eq!([9, 10, 500].map(|at| step.at(at)), [8.0, 2.0, 2.0]);
        assert_eq!([9, 10, 100, 500].map(|at| cosine.at(at)), [8.0, 8.0, 2.0, 2.0]);
        assert!((cosine.at(55) - 5.0).abs() < 1e-12, "half way");
        assert_eq!(schedules[4].at(10), 8.0 / 3.0);
        assert_eq!(schedules[5].at(100), 0.0);
        assert_eq!(RegularisationSchedule::none().at(0), 0.0);
        for (high, low) in [(1.0, 2.0), (-1.0, -2.0), (f64::INFINITY, 1.0), (f64::NAN, 0.0), (1.0, f64::NAN)] {
            assert!(RegularisationSchedule::new(high, low, 0, 1, Relaxation::Step).is_err(), "{high} {low}");
        }
    }

    #[test]
    fn data_and_rates_are_as_stated() {
        assert_eq!(
            [200, 199, 50, 49].map(|examples| DataAmount::of(examples, 100)),
            [DataAmount::Ample, DataAmount::Moderate, DataAmount::Moderate, DataAmount::Little]
        );
        let rate = fine_tuning_rate(1e-3, 200);
        assert_eq!((rate.warmup_steps, rate.at(0), rate.at(6)), (6, 0.0, 1e-3));
        assert!((rate.at(200) - 1e-4).abs() < 1e-9);
    }
}
