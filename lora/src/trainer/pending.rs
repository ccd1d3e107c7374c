//! Losses that are still on the device. Reading one waits for the GPU, so they are gathered and read together.

use std::time::Instant;

use tensor::Tensor;

use super::observer::StepReport;
use crate::error::Result;

/// A step whose loss has not been read.
pub(super) struct PendingStep {
    /// Steps done, this one included.
    pub step: u64,
    /// Scalar.
    pub loss: Tensor,
    /// Scalar.
    pub gradient_norm: Tensor,
    pub learning_rate: f32,
    pub tokens: usize,
}

/// The steps that wait to be reported.
pub(super) struct PendingSteps {
    steps: Vec<PendingStep>,
    since: Instant,
    /// Whether a step was ever pushed.
    begun: bool,
}

impl PendingSteps {
    pub fn new() -> Self {
        PendingSteps { steps: Vec::new(), since: Instant::now(), begun: false }
    }

    pub fn push(&mut self, step: PendingStep) {
        self.steps.push(step);
        self.begun = true;
    }

    /// Whether the next step is the first one.
    pub fn is_first(&self) -> bool {
        !self.begun
    }

    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Starts the clock again: what happened since the last report was no training.
    pub fn restart_clock(&mut self) {
        self.since = Instant::now();
    }

    /// Reads everything that waits.
    ///
    /// # Errors
    /// The device's own errors.
    pub fn read(&mut self) -> Result<Vec<StepReport>> {
        let steps = std::mem::take(&mut self.steps);
        if steps.is_empty() {
            return Ok(Vec::new());
        }
        let scalars = steps.iter().flat_map(|step| [&step.loss, &step.gradient_norm]);
        let mut values = read_scalars(scalars)?.into_iter();
        let seconds = self.since.elapsed().as_secs_f64() / steps.len() as f64;
        self.restart_clock();
        let report = |PendingStep { step, learning_rate, tokens, .. }| {
            // One value was read for each scalar, in this order.
            let mut next = || values.next().unwrap_or(f32::NAN);
            let (loss, gradient_norm) = (next(), next());
            StepReport { step, loss, learning_rate, gradient_norm, tokens, seconds }
        };
        Ok(steps.into_iter().map(report).collect())
    }
}

/// Reads scalars of one device in one transfer.
pub(super) fn read_scalars<'t>(scalars: impl IntoIterator<Item = &'t Tensor>) -> Result<Vec<f32>> {
    let flat: Vec<Tensor> = scalars.into_iter().map(|scalar| scalar.reshape(&[1])).collect::<tensor::Result<_>>()?;
    if flat.is_empty() {
        return Ok(Vec::new());
    }
    Ok(Tensor::concat(&flat.iter().collect::<Vec<_>>(), 0)?.to_vec::<f32>()?)
}
