//! Stage 0: the old adapter on the new base, before anything is searched or trained.

use std::time::Instant;

use lora::{AdapterSet, LoraError, Result};

use crate::candidates::mean;
use crate::objective::{Objective, SearchCost, available, measure};

/// A base that changed by less than this share of its weights' norm counts as unchanged.
pub const UNCHANGED: f64 = 1e-6;

/// What follows from the old adapter's losses on the new base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The old adapter meets the target: nothing is left to do.
    Ready,
    /// The base did not change: the old adapter is the point to start from.
    Unchanged,
    /// A better point to start from may exist.
    Search,
}

/// The outcome of [`gate`].
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    /// What follows.
    pub verdict: Verdict,
    /// The old adapter's mean loss on the new base.
    pub loss: f64,
    /// Its losses by example, which the search needs not measure again.
    pub losses: Vec<f64>,
    /// What it cost.
    pub cost: SearchCost,
}

/// Measures the old adapter on up to `examples` held-out examples with the new base. `relative_change` is ‖E‖/‖W‖ over
/// the adapted weights; `meets_target` decides from the adapter and its losses, and may measure more.
///
/// # Errors
/// [`LoraError::Setting`] for no examples, [`LoraError::NotFinite`] for a change that is NaN, or errors of the objective
/// and of the target.
pub fn gate(
    objective: &mut dyn Objective,
    old: &AdapterSet,
    relative_change: f64,
    examples: usize,
    meets_target: &mut dyn FnMut(&AdapterSet, &[f64]) -> Result<bool>,
) -> Result<Gate> {
    if relative_change.is_nan() {
        return Err(LoraError::NotFinite {
            tensor: "relative change of the base".into(),
            message: "a weight of one of the two bases is not finite".into(),
        });
    }
    let begin = Instant::now();
    let examples = available(objective, examples)?;
    let mut cost = SearchCost::default();
    let losses = measure(objective, std::slice::from_ref(old), 0..examples, &mut cost)?.swap_remove(0);
    let verdict = if meets_target(old, &losses)? {
        Verdict::Ready
    } else if relative_change < UNCHANGED {
        Verdict::Unchanged
    } else {
        Verdict::Search
    };
    cost.seconds = begin.elapsed().as_secs_f64();
    Ok(Gate { verdict, loss: mean(&losses), losses, cost })
}
