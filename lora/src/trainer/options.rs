//! The settings of a training run.

use std::path::PathBuf;

use autograd::Schedule;
use tensor::Device;

use super::guards::OnNonFinite;
use crate::batch::BatchSource;
use crate::error::{LoraError, Result};
use crate::peft_config::AdapterOrigin;

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// Optimizer steps.
    Steps(u64),
    /// Passes over the training data; the last step may reach into the next pass.
    Epochs(u64),
}

/// The settings of a training run.
#[derive(Clone, Debug)]
pub struct TrainingOptions {
    /// How long the run is.
    pub length: Length,
    /// Batches whose gradients are averaged, weighted by their valid labels, before a step.
    pub gradient_accumulation: u64,
    /// Global norm to which gradients are clipped.
    pub max_gradient_norm: Option<f32>,
    /// What becomes of a step whose loss or gradients are NaN or infinite.
    pub on_nonfinite: OnNonFinite,
    /// The learning rate.
    pub schedule: Schedule,
    /// Steps between evaluations; the end of the run has one in any case. `None`: only that.
    pub evaluate_every: Option<u64>,
    /// Steps between resumable checkpoints. `None`: none, unless the run is stopped.
    pub save_every: Option<u64>,
    /// Steps between reports of losses, each of which waits for the device. `None`: every step on the CPU, every 10th
    /// on a GPU; no step is left out, several are reported together.
    pub report_every: Option<u64>,
    /// Keep what the backward pass would otherwise compute again, see [`autograd::Tape::keeping_activations`].
    pub keep_activations: bool,
    /// Seed of dropout masks. The data source has its own.
    pub seed: u64,
    /// Where checkpoints go: `checkpoint-<steps>` (resumable, the last two) and `best` (the adapter with the lowest
    /// validation loss). A run that begins removes those of an earlier one. `None`: nothing is written.
    pub output: Option<PathBuf>,
    /// What the files say about the adapter's origin. A resumed run must have the same provenance.
    pub origin: AdapterOrigin,
}

impl TrainingOptions {
    /// A run of a given length and learning rate with the defaults: no accumulation, gradients clipped to norm 1,
    /// evaluation at the end, nothing written.
    pub fn new(length: Length, schedule: Schedule) -> Self {
        TrainingOptions {
            length,
            gradient_accumulation: 1,
            max_gradient_norm: Some(1.0),
            on_nonfinite: OnNonFinite::Stop,
            schedule,
            evaluate_every: None,
            save_every: None,
            report_every: None,
            keep_activations: false,
            seed: 0,
            output: None,
            origin: AdapterOrigin::default(),
        }
    }

    /// Steps of the whole run over a source of batches. Schedules that end need this number.
    pub fn steps(&self, source: &dyn BatchSource) -> u64 {
        match self.length {
            Length::Steps(steps) => steps,
            Length::Epochs(epochs) => (epochs * source.batches_per_epoch()).div_ceil(self.gradient_accumulation.max(1)),
        }
    }

    /// Checks every value's range.
    ///
    /// # Errors
    /// [`LoraError::Setting`] with the first that is wrong.
    pub fn validate(&self) -> Result<()> {
        let setting = |setting, message: &str| Err(LoraError::Setting { setting, message: message.into() });
        if self.gradient_accumulation == 0 {
            return setting("gradient_accumulation", "must be at least 1");
        }
        if self.max_gradient_norm.is_some_and(|norm| norm.is_nan() || norm <= 0.0) {
            return setting("max_gradient_norm", "must be positive, or absent");
        }
        if !(self.schedule.peak.is_finite() && self.schedule.peak >= 0.0) {
            return setting("learning_rate", "must be a finite number that is not negative");
        }
        if [self.evaluate_every, self.save_every, self.report_every].contains(&Some(0)) {
            return setting("evaluate_every/save_every/report_every", "must be at least 1, or absent");
        }
        if self.save_every.is_some() && self.output.is_none() {
            return setting("save_every", "needs an output directory");
        }
        Ok(())
    }

    pub(crate) fn report_interval(&self, device: &Device) -> u64 {
        self.report_every.unwrap_or(if device.is_cpu() { 1 } else { 10 })
    }
}
