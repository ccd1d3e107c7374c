//! The loss of candidate adapters on every single validation example, over one frozen base.

use std::ops::Range;

use lora::{AdapterSet, AdapterStack, BatchSource, Forward, HostBatch, IGNORED, LabelKind, LoraError};
use models::Llama;
use relora::Objective;

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
    /// The old adapter's losses on the old base, where they are known.
    reference: Option<Vec<f64>>,
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
        Ok(ValidationLosses { loaded, source, order, batch, labels, reference: None })
    }

    /// With the losses of a model whose mean is what targets come from: what is measured is compared with them example by
    /// example.
    pub fn with_reference(self, reference: Option<&[f64]>) -> Self {
        let reference = reference.filter(|losses| losses.len() == self.labels.len()).map(<[f64]>::to_vec);
        ValidationLosses { reference, ..self }
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

    /// Whether the mean over all examples may be as low as a target, after the losses of the first ones: whether it is
    /// within two deviations of the mean, of the differences where there is a reference. The deviation is that of Student's t,
    /// since the standard error of few examples is itself uncertain.
    pub fn may_meet(&self, losses: &[f64], target: f64) -> bool {
        let (known, values): (f64, Vec<f64>) = match &self.reference {
            Some(reference) => {
                (self.mean(reference), losses.iter().zip(reference).map(|(loss, other)| loss - other).collect())
            }
            None => (0.0, losses.to_vec()),
        };
        let mean = self.mean(&values);
        let squares: f64 =
            values.iter().zip(&self.labels).map(|(value, &count)| (count as f64 * (value - mean)).powi(2)).sum();
        let labels = self.labels.iter().take(values.len()).sum::<usize>().max(1) as f64;
        let freedom = values.len().saturating_sub(1).max(3) as f64;
        let deviation = squares.sqrt() / labels * (freedom / (freedom - 2.0)).sqrt();
        known + mean - 2.0 * deviation <= target
    }
}

impl Objective for ValidationLosses<'_> {
    fn examples(&self) -> usize {
        self.labels.len()
    }

    /// Once the user has interrupted, an error.
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
            let host =
                host.sequences(examples.start.max(start) - start..examples.end.min(start + host.batch()) - start);
            let of_batch = match self.loaded {
                Loaded::Language(model) => of_tokens(model, candidates, &host)?,
                Loaded::Masked(_) => return Err(LoraError::other("masked language models are not restored")),
                Loaded::Classifier { model, .. } => candidates
                    .iter()
                    .map(|candidate| of_labels(&**model, candidate, &host))
                    .collect::<lora::Result<_>>()?,
            };
            for (of_batch, losses) in of_batch.iter().zip(&mut losses) {
                losses.extend_from_slice(of_batch);
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

/// Positions in one pass of several candidates: enough to keep a large device busy.
const POSITIONS: usize = 1 << 15;

/// For each candidate the mean over each sequence's labels. Candidates share passes of the base where they can.
fn of_tokens(model: &Llama, candidates: &[AdapterSet], host: &HostBatch) -> lora::Result<Vec<Vec<f64>>> {
    let together = (POSITIONS / (host.batch() * host.sequence()).max(1)).max(1);
    let mut losses = Vec::with_capacity(candidates.len());
    for candidates in candidates.chunks(together) {
        match AdapterStack::of(candidates)?.filter(|_| candidates.len() > 1) {
            Some(stack) => {
                let all = model.sequence_losses(&Forward::stacked(&stack), &host.repeated(stack.sets()))?;
                losses.extend(all.chunks_exact(host.batch()).map(<[f64]>::to_vec));
            }
            None => {
                for candidate in candidates {
                    losses.push(model.sequence_losses(&Forward::evaluation(Some(candidate)), host)?);
                }
            }
        }
    }
    Ok(losses)
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
