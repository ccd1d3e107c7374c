//! What classifiers of whole sequences have in common, whatever their encoder.

use autograd::{Var, cross_entropy, mse_loss};
use lora::{Batch, Forward, IGNORED, LabelKind};
use tensor::Tensor;

use crate::error::{ModelError, Result};

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

/// The mean cross-entropy of the batch's classes or, with one label, the mean squared error of its scores. `logits` is
/// called once the labels are known to suit.
pub(crate) fn classification_loss(
    labels: usize,
    batch: &Batch,
    logits: impl FnOnce() -> Result<Var>,
) -> lora::Result<Var> {
    if labels == 1 {
        batch.check_kind("a regression", &[LabelKind::Scores])?;
        return Ok(mse_loss(&logits()?.squeeze(1)?, &Var::constant(batch.labels.clone()))?);
    }
    batch.check_kind("a classifier", &[LabelKind::Classes])?;
    batch.check_classes(labels)?;
    Ok(cross_entropy(&logits()?, &batch.labels, IGNORED, batch.valid)?)
}

/// Checks that a stored classifier, `[outputs, hidden]`, has as many outputs as are asked for.
pub(crate) fn check_labels(name: &str, stored: &[usize], labels: usize) -> Result<()> {
    match stored {
        [outputs, _] if *outputs != labels => Err(ModelError::InvalidArgument {
            operation: "labels",
            message: format!(
                "the checkpoint's `{name}` has {outputs} labels, {labels} were asked for; ask for as many, or start \
                 from a checkpoint without it"
            ),
        }),
        _ => Ok(()),
    }
}
