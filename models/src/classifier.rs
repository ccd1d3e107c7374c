//! What classifiers of whole sequences have in common.

use lora::{Batch, Forward};
use tensor::Tensor;

/// A model whose head gives each sequence as many numbers as there are labels: a logit for each class, or the one number
/// that a regression predicts.
pub trait SequenceClassifier {
    /// The head's outputs, f32 `[batch, labels]`. The labels of the batch are not looked at.
    ///
    /// # Errors
    /// Batches that do not suit the model, a model without such a head, or the device's own errors.
    fn class_logits(&self, forward: &Forward, batch: &Batch) -> lora::Result<Tensor>;

    /// Number of outputs for each sequence; 0 for a model without such a head.
    fn labels(&self) -> usize;
}
