//! The loss of candidate adapters on every single validation example, over one frozen base.

use std::ops::Range;

use lora::{AdapterSet, BatchSource, Forward, HostBatch, IGNORED, LabelKind, LoraError};
use models::Llama;
use relora::Objective;
use tensor::cross_entropy;

use crate::classification::{self, Classifier};
use crate::interrupt;
use crate::loading::Loaded;
use crate::random::mix;

/// Validation examples in one order for every candidate: the batches of the source in a random order decided by the seed, so
/// that the first few are spread over the data.
pub struct ValidationLosses<'a> {
    loaded: &'a Loaded,
    source: &'a dyn BatchSource,
    /// Source batches in order of use.
    order: Vec<u64>,
    /// Examples of every batch but perhaps the last used.
    batch: usize,
    /// How many labels each example has.
    labels: Vec<usize>,
}

impl<'a> ValidationLosses<'a> {
    pub fn new(loaded: &'a Loaded, source: &'a dyn BatchSource, seed: u64) -> lora::Result<Self> {
        // Only the last batch of a source in its own order may be smaller; it stays last.
        let last = source.batches_per_epoch().saturating_sub(1);
        let mut order: Vec<u64> = (0..last).collect();
        order.sort_by_key(|&index| (mix(seed ^ mix(index)), index));
        order.push(last);
        let batch = source.batch(0)?.batch();
        let mut labels = Vec::new();
        for &index in &order {
            labels.extend(labels_of(&source.batch(index)?));
        }
        Ok(ValidationLosses { loaded, source, order, batch, labels })
    }

    /// Examples of a batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The mean over labels, as training's own evaluation has it, of the losses of all examples.
    pub fn mean(&self, losses: &[f64]) -> f64 {
        let sum: f64 = losses.iter().zip(&self.labels).map(|(loss, &count)| loss * count as f64).sum();
        sum / self.labels.iter().take(losses.len()).sum::<usize>().max(1) as f64
    }
}

impl Objective for ValidationLosses<'_> {
    fn examples(&self) -> usize {
        self.labels.len()
    }

    /// Batches that the range begins or ends in are computed whole. Once the user has interrupted, an error.
    fn losses(&mut self, candidates: &[AdapterSet], examples: Range<usize>) -> lora::Result<Vec<Vec<f64>>> {
        let end = examples.end.min(self.labels.len());
        let examples = examples.start.min(end)..end;
        let mut losses = vec![Vec::with_capacity(examples.len()); candidates.len()];
        let first = examples.start / self.batch;
        for position in first..examples.end.div_ceil(self.batch).max(first) {
            if interrupt::requested() {
                return Err(LoraError::other("interrupted"));
            }
            let host = self.source.batch(self.order[position])?;
            let start = position * self.batch;
            let wanted = examples.start.max(start) - start..examples.end.min(start + host.batch()) - start;
            for (candidate, losses) in candidates.iter().zip(&mut losses) {
                let of_batch = match self.loaded {
                    Loaded::Language(model) => of_tokens(model, candidate, &host)?,
                    Loaded::Masked(_) => return Err(LoraError::other("masked language models are not restored")),
                    Loaded::Classifier { model, .. } => of_labels(&**model, candidate, &host)?,
                };
                losses.extend_from_slice(&of_batch[wanted.clone()]);
            }
        }
        Ok(losses)
    }
}

/// How many labels each sequence has.
fn labels_of(host: &HostBatch) -> Vec<usize> {
    match host.kind() {
        LabelKind::Tokens => host
            .labels()
            .chunks_exact(host.sequence())
            .map(|labels| labels.iter().filter(|&&label| label != IGNORED).count())
            .collect(),
        LabelKind::Classes | LabelKind::Scores => vec![1; host.batch()],
    }
}

/// The mean over each sequence's labels; 0 for a sequence without any.
fn of_tokens(model: &Llama, adapters: &AdapterSet, host: &HostBatch) -> lora::Result<Vec<f64>> {
    let batch = host.to_device(lora::Model::device(model))?;
    batch.check_kind("a language model", &[LabelKind::Tokens])?;
    batch.check_vocabulary(model.config().vocab_size)?;
    let pass = Forward::evaluation(Some(adapters));
    let logits = model.logits(&pass, &batch.ids, batch.key_mask.as_ref())?.into_tensor();
    let (rows, vocabulary) = (host.batch() * host.sequence(), model.config().vocab_size);
    let losses = cross_entropy(&logits.reshape(&[rows, vocabulary])?, &batch.labels.reshape(&[rows])?, IGNORED)?.losses;
    let (losses, labels) = (losses.to_vec::<f32>()?, host.labels());
    let mean = |(losses, labels): (&[f32], &[i32])| {
        let count = labels.iter().filter(|&&label| label != IGNORED).count();
        losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / count.max(1) as f64
    };
    Ok(losses.chunks_exact(host.sequence()).zip(labels.chunks_exact(host.sequence())).map(mean).collect())
}

/// The cross-entropy of each sequence's class, or the squared error of its score.
fn of_labels(model: &dyn Classifier, adapters: &AdapterSet, host: &HostBatch) -> lora::Result<Vec<f64>> {
    let batch = host.to_device(model.device())?;
    let logits = model.class_logits(&Forward::evaluation(Some(adapters)), &batch)?;
    let width = logits.shape().last().copied().unwrap_or(1).max(1);
    let outputs = logits.to_vec::<f32>()?;
    let outputs = outputs.chunks_exact(width);
    Ok(match host.kind() {
        LabelKind::Scores => {
            outputs.zip(host.score_values()).map(|(y, &score)| f64::from(y[0] - score).powi(2)).collect()
        }
        _ => outputs.zip(host.labels()).map(|(output, &class)| classification::cross_entropy(output, class)).collect(),
    })
}
