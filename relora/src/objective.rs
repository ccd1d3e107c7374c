//! The validation loss as the search sees it, and what looking at it costs.

use std::ops::Range;
use std::time::Instant;

use lora::{AdapterSet, LoraError, Result};

/// The loss of candidate adapters on held-out examples. Whoever writes it holds the model and the data; it must use no
/// dropout, give the examples in the same order to every candidate, and leave model and candidates as they were.
///
/// Several candidates are asked for at once, since they share the frozen base and can ride one pass.
pub trait Objective {
    /// The number of examples there are.
    fn examples(&self) -> usize;

    /// For each candidate, the mean loss of each example of the range.
    ///
    /// # Errors
    /// Errors of the model, the data and the device. A loss that is NaN or infinite is no error: the candidate is out.
    fn losses(&mut self, candidates: &[AdapterSet], examples: Range<usize>) -> Result<Vec<Vec<f64>>>;
}

/// What a search has cost. Everything counts, also what led nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SearchCost {
    /// Forward passes of one example through the model with one candidate.
    pub forward_passes: u64,
    /// Calls of [`Objective::losses`].
    pub calls: u64,
    /// Adapters that were made to be looked at, and the one that was chosen.
    pub fusions: u64,
    /// Seconds in [`Objective::losses`].
    pub loss_seconds: f64,
    /// Seconds in making adapters.
    pub fusion_seconds: f64,
    /// Seconds of everything, the search's own arithmetic included.
    pub seconds: f64,
}

impl SearchCost {
    /// Both costs together.
    #[must_use]
    pub fn plus(&self, other: &SearchCost) -> SearchCost {
        SearchCost {
            forward_passes: self.forward_passes + other.forward_passes,
            calls: self.calls + other.calls,
            fusions: self.fusions + other.fusions,
            loss_seconds: self.loss_seconds + other.loss_seconds,
            fusion_seconds: self.fusion_seconds + other.fusion_seconds,
            seconds: self.seconds + other.seconds,
        }
    }

    /// The cost in training steps of `batch` examples: a forward pass is a third of forward and backward.
    pub fn step_equivalents(&self, batch: usize) -> f64 {
        self.forward_passes as f64 / (3.0 * batch.max(1) as f64)
    }
}

/// Asks for losses, counts them, and checks their number.
pub(crate) fn measure(
    objective: &mut dyn Objective,
    candidates: &[AdapterSet],
    examples: Range<usize>,
    cost: &mut SearchCost,
) -> Result<Vec<Vec<f64>>> {
    let begin = Instant::now();
    let losses = objective.losses(candidates, examples.clone())?;
    cost.loss_seconds += begin.elapsed().as_secs_f64();
    cost.calls += 1;
    cost.forward_passes += (candidates.len() * examples.len()) as u64;
    if losses.len() != candidates.len() || losses.iter().any(|losses| losses.len() != examples.len()) {
        let found: Vec<usize> = losses.iter().map(Vec::len).collect();
        return Err(LoraError::Setting {
            setting: "objective",
            message: format!("{} candidates on {} examples gave losses {found:?}", candidates.len(), examples.len()),
        });
    }
    Ok(losses)
}

/// At most `wanted` examples of those there are.
pub(crate) fn available(objective: &dyn Objective, wanted: usize) -> Result<usize> {
    match objective.examples().min(wanted) {
        0 => Err(LoraError::Setting {
            setting: "validation data",
            message: "there is no example to compare adapters on; give at least a hundred held-out ones".into(),
        }),
        examples => Ok(examples),
    }
}
