//! Learning-rate schedules, as functions of the step alone: nothing to save, nothing to restore.

/// How the learning rate goes down after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decay {
    /// It stays.
    Constant,
    /// In a straight line to 0 at the last step.
    Linear,
    /// Along half a cosine to `floor` (a fraction of the peak) at the last step.
    Cosine {
        /// Fraction of the peak rate at which the curve ends.
        floor: f32,
    },
}

/// A peak learning rate with linear warm-up and a [`Decay`].
///
/// With `s` the step (from 0), `w` the warm-up steps and `T` all steps, the rate is the peak times
/// - `s / w` for `s < w`, then
/// - constant: 1; linear: `(T − s) / (T − w)`; cosine: `floor + (1 − floor)·(1 + cos(π·p))/2` with
///   `p = (s − w) / (T − w)`.
///
/// These are the definitions of `get_constant_schedule_with_warmup`, `get_linear_schedule_with_warmup`,
/// `get_cosine_schedule_with_warmup` and (for a floor) `get_cosine_with_min_lr_schedule_with_warmup` in Hugging Face
/// transformers. Past `T` the rate stays where it ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The highest learning rate.
    pub peak: f32,
    /// Steps of the linear warm-up; 0 for none.
    pub warmup_steps: u64,
    /// Steps of the whole run, warm-up included. Of no meaning for [`Decay::Constant`].
    pub total_steps: u64,
    /// What follows the warm-up.
    pub decay: Decay,
}

impl Schedule {
    /// The same rate at every step, without warm-up.
    pub fn constant(learning_rate: f32) -> Self {
        Schedule { peak: learning_rate, warmup_steps: 0, total_steps: 0, decay: Decay::Constant }
    }

    /// The learning rate of step `step`, the first being 0.
    pub fn at(&self, step: u64) -> f32 {
        (f64::from(self.peak) * self.multiplier(step)) as f32
    }

    /// The fraction of the peak rate at step `step`.
    pub fn multiplier(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return step as f64 / self.warmup_steps as f64;
        }
        let decay_steps = self.total_steps.saturating_sub(self.warmup_steps).max(1);
        let progress = ((step - self.warmup_steps) as f64 / decay_steps as f64).min(1.0);
        match self.decay {
            Decay::Constant => 1.0,
            Decay::Linear => 1.0 - progress,
            Decay::Cosine { floor } => {
                let floor = f64::from(floor);
                floor + (1.0 - floor) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn multipliers(decay: Decay, warmup_steps: u64, steps: &[u64]) -> Vec<f64> {
        let schedule = Schedule { peak: 1.0, warmup_steps, total_steps: 10, decay };
        steps.iter().map(|&step| schedule.multiplier(step)).collect()
    }

    #[test]
    fn values_are_those_of_the_definitions() {
        assert_eq!(multipliers(Decay::Constant, 4, &[0, 1, 3, 4, 5, 90]), [0.0, 0.25, 0.75, 1.0, 1.0, 1.0]);
        assert_eq!(multipliers(Decay::Linear, 2, &[0, 1, 2, 6, 10, 11]), [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]);
        let cosine = multipliers(Decay::Cosine { floor: 0.0 }, 2, &[1, 2, 4, 6, 10]);
        let expected = [0.5, 1.0, 0.853_553_390_593, 0.5, 0.0];
        assert!(cosine.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{cosine:?}");
        let floored = multipliers(Decay::Cosine { floor: 0.1 }, 0, &[0, 5, 10, 50]);
        assert!(floored.iter().zip([1.0, 0.55, 0.1, 0.1]).all(|(a, b)| (a - b).abs() < 1e-8), "{floored:?}");
    }

    #[test]
    fn the_peak_scales_the_multiplier() {
        let schedule = Schedule { peak: 2e-4, warmup_steps: 4, total_steps: 12, decay: Decay::Linear };
        assert_eq!(schedule.at(1), 5e-5);
        assert_eq!(schedule.at(4), 2e-4);
        assert_eq!(schedule.at(8), 1e-4);
        assert_eq!(Schedule::constant(0.3).at(7), 0.3);
    }

    #[test]
    fn a_warm_up_as_long_as_the_run_or_longer_is_no_error() {
        assert_eq!(multipliers(Decay::Linear, 10, &[9, 10]), [0.9, 1.0]);
        assert_eq!(multipliers(Decay::Linear, 20, &[10, 19]), [0.5, 0.95]);
    }
}
