//! The loss of each sequence on its own, for comparing models on the same examples.

use autograd::Var;
use lora::{Forward, HostBatch, IGNORED, LabelKind, Model};
use tensor::{Tensor, cross_entropy};

use super::model::Llama;
use crate::loss::labelled_rows;

impl Llama {
    /// The mean cross-entropy over the labels of each sequence; 0 for a sequence without any. Waits for the device.
    ///
    /// # Errors
    /// As [`Model::loss`].
    pub fn sequence_losses(&self, forward: &Forward, host: &HostBatch) -> lora::Result<Vec<f64>> {
        let batch = host.to_device(self.device())?;
        batch.check_kind("a language model", &[LabelKind::Tokens])?;
        batch.check_vocabulary(self.config().vocab_size)?;
        let mut hidden = self.hidden(forward, &batch.ids, batch.key_mask.as_ref())?;
        let adapted = self.head_is_adapted(forward);
        if adapted {
            // With the axes that tell the parts of a stacked batch apart.
            hidden = self.head().forward(forward, &hidden)?;
        }
        let (rows, labels) = labelled_rows(&hidden, &batch)?;
        let count = labels.elements();
        let mut losses = Vec::with_capacity(count);
        for start in (0..count).step_by(self.loss_chunk_rows) {
            let end = count.min(start + self.loss_chunk_rows);
            let part = Var::constant(rows.tensor().slice(0, start, end)?);
            let logits = if adapted { part } else { self.head().forward(forward, &part)? };
            losses.push(cross_entropy(logits.tensor(), &labels.slice(0, start, end)?, IGNORED)?.losses);
        }
        let losses = Tensor::concat(&losses.iter().collect::<Vec<_>>(), 0)?.to_vec::<f32>()?;
        Ok(means(host, &losses, batch.labelled.is_some()))
    }
}

/// Means over sequences of losses at the positions that count, in their order, or, without `chosen`, at all positions.
fn means(host: &HostBatch, losses: &[f32], chosen: bool) -> Vec<f64> {
    let mut losses = losses.iter();
    let of_sequence = |labels: &[i32]| {
        let (mut sum, mut count) = (0.0, 0);
        for &label in labels {
            let counts = label != IGNORED;
            let loss = if counts || !chosen { losses.next() } else { None };
            if let (true, Some(&loss)) = (counts, loss) {
                sum += f64::from(loss);
                count += 1;
            }
        }
        sum / f64::from(count.max(1))
    };
    host.labels().chunks_exact(host.sequence()).map(of_sequence).collect()
}
