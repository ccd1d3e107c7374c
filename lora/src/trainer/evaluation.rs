//! Loss over a data set, without training.

use std::time::Instant;

use super::pending::read_scalars;
use crate::adapter_set::AdapterSet;
use crate::batch::BatchSource;
use crate::error::{LoraError, Result};
use crate::forward::{Forward, Model};

/// The outcome of a pass over a data set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean loss over all valid labels; its exponential is the perplexity of a language model.
    pub loss: f64,
    /// Number of valid labels.
    pub tokens: usize,
    /// Seconds it took.
    pub seconds: f64,
}

/// Losses on the device at a time, before they are read and added up on the host.
const GATHERED: usize = 64;

/// The mean loss of a model over one epoch of a source, weighted by valid labels. `adapters: None` is the base model.
///
/// # Errors
/// [`LoraError::Setting`] when no label is valid, or errors of the data, the model and the device.
pub fn evaluate(model: &dyn Model, adapters: Option<&AdapterSet>, source: &dyn BatchSource) -> Result<Evaluation> {
    let start = Instant::now();
    let (mut sum, mut tokens) = (0.0f64, 0);
    let mut gathered = Vec::new();
    let batches = source.batches_per_epoch();
    for index in 0..batches {
        let host = source.batch(index)?;
        let valid = host.valid();
        if valid > 0 {
            let batch = host.to_device(model.device())?;
            let loss = model.loss(&Forward::evaluation(adapters), &batch)?.into_tensor();
            gathered.push((loss, valid));
            tokens += valid;
        }
        if gathered.len() == GATHERED || index + 1 == batches {
            let losses = read_scalars(gathered.iter().map(|(loss, _)| loss))?;
            sum += losses.iter().zip(&gathered).map(|(&loss, &(_, valid))| f64::from(loss) * valid as f64).sum::<f64>();
            gathered.clear();
        }
    }
    if tokens == 0 {
        let message = "no label of the evaluation data counts towards the loss".into();
        return Err(LoraError::Setting { setting: "data", message });
    }
    Ok(Evaluation { loss: sum / tokens as f64, tokens, seconds: start.elapsed().as_secs_f64() })
}
