//! Losses that are still on the device. Reading one waits for the GPU, so they are gathered and read together.

use std::time::Instant;

use tensor::Tensor;

use super::observer::StepReport;
use crate::error::{LoraError, Result};

/// A step whose loss has not been read.
pub(super) struct PendingStep {
    /// Steps done, this one included.
    pub step: u64,
    /// Scalar.
    pub loss: Tensor,
    /// Scalar.
    pub gradient_norm: Option<Tensor>,
    pub learning_rate: f32,
    pub tokens: usize,
}

/// The steps that wait to be reported.
pub(super) struct PendingSteps {
    steps: Vec<PendingStep>,
    since: Instant,
}

impl PendingSteps {
    pub fn new() -> Self {
        PendingSteps { steps: Vec::new(), since: Instant::now() }
    }

    pub fn push(&mut self, step: PendingStep) {
        self.steps.push(step);
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
    /// [`LoraError::NotFinite`] for the first loss that is NaN or infinite, or the device's own errors.
    pub fn read(&mut self) -> Result<Vec<StepReport>> {
        let steps = std::mem::take(&mut self.steps);
        if steps.is_empty() {
            return Ok(Vec::new());
        }
        let scalars = steps.iter().flat_map(|step| std::iter::once(&step.loss).chain(&step.gradient_norm));
        let mut values = read_scalars(scalars)?.into_iter();
        let seconds = self.since.elapsed().as_secs_f64() / steps.len() as f64;
        self.restart_clock();
        let mut reports = Vec::with_capacity(steps.len());
        for step in steps {
            // One value was read for each scalar, in this order.
            let loss = values.next().unwrap_or(f32::NAN);
            let gradient_norm = step.gradient_norm.is_some().then(|| values.next().unwrap_or(f32::NAN));
            if !loss.is_finite() {
                return Err(LoraError::NotFinite {
                    tensor: "loss".into(),
                    message: format!("{loss} at step {}; try a lower learning rate or a longer warm-up", step.step),
                });
            }
            let PendingStep { step, learning_rate, tokens, .. } = step;
            reports.push(StepReport { step, loss, learning_rate, gradient_norm, tokens, seconds });
        }
        Ok(reports)
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
