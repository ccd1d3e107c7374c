//! Losses that leap: told to the person who watches, and no more.

use std::collections::VecDeque;

use lora::StepReport;

/// Losses that a new one is compared with.
const WINDOW: usize = 32;

/// Standard deviations above the mean from which on a loss is a spike. Half of the window's mean is asked for as well, since
/// a loss that hardly moves has a small deviation.
const DEVIATIONS: f64 = 6.0;

/// Remembers recent losses.
#[derive(Default)]
pub struct Spikes {
    recent: VecDeque<f64>,
}

impl Spikes {
    /// Notes a step's loss; says so if it is a spike among those before it.
    pub fn note(&mut self, report: &StepReport) -> Option<String> {
        let loss = f64::from(report.loss);
        if !loss.is_finite() {
            return None;
        }
        let (count, full) = (self.recent.len().max(1) as f64, self.recent.len() == WINDOW);
        let mean = self.recent.iter().sum::<f64>() / count;
        let deviation = (self.recent.iter().map(|before| (before - mean).powi(2)).sum::<f64>() / count).sqrt();
        let spike = full && loss > mean + DEVIATIONS * deviation && loss > 1.5 * mean;
        self.recent.push_back(loss);
        if full {
            self.recent.pop_front();
        }
        spike.then(|| {
            format!(
                "warning: step {}: the loss leapt to {loss:.4}; the {WINDOW} steps before it had {mean:.4} ± {deviation:.4} \
                 (gradient norm {:.3})",
                report.step, report.gradient_norm
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(step: u64, loss: f32) -> StepReport {
        StepReport { step, loss, learning_rate: 0.1, gradient_norm: 2.5, tokens: 1, seconds: 0.1 }
    }

    /// Losses between 2.0 and 2.2.
    fn calm(step: u64) -> f32 {
        2.0 + 0.2 * (step * 7 % 10) as f32 / 9.0
    }

    #[test]
    fn a_leap_is_told_once_and_noise_is_not() {
        let mut spikes = Spikes::default();
        assert!((0..100).all(|step| spikes.note(&report(step, calm(step))).is_none()));
        let told = spikes.note(&report(100, 4.0)).expect("a spike");
        assert!(
            told.starts_with("warning: step 100: the loss leapt to 4.0000; the 32 steps before it had 2.1"),
            "{told}"
        );
        assert!(told.ends_with("(gradient norm 2.500)"), "{told}");
        assert_eq!(spikes.note(&report(101, f32::NAN)), None, "told elsewhere");
        assert!((102..200).all(|step| spikes.note(&report(step, calm(step))).is_none()));
    }

    #[test]
    fn the_beginning_and_constant_losses_are_no_spikes() {
        let mut spikes = Spikes::default();
        assert!((0..31).all(|step| spikes.note(&report(step, 8.0 / (step + 1) as f32)).is_none()));
        let mut spikes = Spikes::default();
        assert!((0..40).all(|step| spikes.note(&report(step, 1.0)).is_none()));
        assert_eq!(spikes.note(&report(40, 1.2)), None, "no more than a fifth above");
    }
}
