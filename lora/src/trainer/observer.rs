//! What a run tells those who watch it.

use std::path::PathBuf;

use serde::Serialize;

use crate::error::Result;

/// One optimizer step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StepReport {
    /// Steps done, this one included.
    pub step: u64,
    /// Mean training loss over the step's valid labels.
    pub loss: f32,
    /// The step's learning rate.
    pub learning_rate: f32,
    /// Global norm of the gradients before clipping.
    pub gradient_norm: f32,
    /// Labels that the loss is the mean of.
    pub tokens: usize,
    /// Seconds the step took. Where several steps are reported at once, their mean.
    pub seconds: f64,
}

impl StepReport {
    /// Whether loss and gradients were numbers.
    pub fn is_finite(&self) -> bool {
        self.loss.is_finite() && self.gradient_norm.is_finite()
    }
}

/// One pass over a data set without training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct EvaluationReport {
    /// Training steps done before it.
    pub step: u64,
    /// Mean loss over all valid labels.
    pub loss: f64,
    /// Number of valid labels.
    pub tokens: usize,
    /// Seconds it took.
    pub seconds: f64,
    /// Whether no earlier evaluation of the run had a lower loss.
    pub best: bool,
}

/// Files that were written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckpointReport {
    /// Training steps done before it.
    pub step: u64,
    /// Where it is.
    pub directory: PathBuf,
    /// A resumable checkpoint; otherwise the best adapter so far.
    pub resumable: bool,
}

/// Watches a run: progress bars, logs, requests to stop. Every method does nothing unless it is written.
pub trait Observer {
    /// A step's loss is known. Comes for every step, in order, possibly some steps late.
    ///
    /// # Errors
    /// Any error ends the run.
    fn on_step(&mut self, report: &StepReport) -> Result<()> {
        let _ = report;
        Ok(())
    }

    /// An evaluation is done.
    ///
    /// # Errors
    /// Any error ends the run.
    fn on_evaluation(&mut self, report: &EvaluationReport) -> Result<()> {
        let _ = report;
        Ok(())
    }

    /// A checkpoint is written.
    ///
    /// # Errors
    /// Any error ends the run.
    fn on_checkpoint(&mut self, report: &CheckpointReport) -> Result<()> {
        let _ = report;
        Ok(())
    }

    /// Something is wrong that does not end the run.
    ///
    /// # Errors
    /// Any error ends the run.
    fn on_warning(&mut self, message: &str) -> Result<()> {
        let _ = message;
        Ok(())
    }

    /// Asked after every step: true ends the run in good order, with a checkpoint where there is a directory for one.
    fn should_stop(&mut self) -> bool {
        false
    }
}
