//! How much memory a run will take, known before its first step.

use tensor::Device;

use super::Trainer;
use crate::batch::{BatchSource, HostBatch};
use crate::error::Result;

/// What a run takes, in bytes. Activations are measured, on one sequence and on two; all else is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// What is there already: the model's weights and the parameters that are trained.
    pub model: u64,
    /// The optimizer's moments, gradients that micro-batches add to, and the best parameters so far.
    pub state: u64,
    /// The forward and backward pass of one sequence.
    pub first_sequence: u64,
    /// Of each further sequence in a batch.
    pub sequence: u64,
    /// Sequences in a batch of this run.
    pub batch: usize,
}

impl MemoryEstimate {
    /// The most that is in use at any time, with so many sequences in a batch.
    pub fn total(&self, batch: usize) -> u64 {
        let further = self.sequence.saturating_mul(batch.saturating_sub(1) as u64);
        self.model.saturating_add(self.state).saturating_add(self.first_sequence).saturating_add(further)
    }

    /// The largest batch that so many bytes are enough for; 0 when they are not enough for one sequence.
    pub fn largest_batch(&self, bytes: u64) -> usize {
        match bytes.checked_sub(self.total(1)) {
            None => 0,
            Some(left) => 1 + usize::try_from(left / self.sequence.max(1)).unwrap_or(usize::MAX - 1),
        }
    }
}

impl Trainer<'_> {
    /// Estimates the memory of the run that would begin now, by computing gradients of one and of two sequences of its first
    /// batch and forgetting them. Later batches of longer sequences take more.
    ///
    /// # Errors
    /// Errors of the data, the model and the device.
    pub fn estimate_memory(&self, training: &dyn BatchSource) -> Result<MemoryEstimate> {
        let device = self.model.device();
        let batch = training.batch(self.progress.step * self.options.gradient_accumulation)?;
        let sequences = (0..batch.batch()).map(|index| batch.sequences(index..index + 1));
        // The more labels, the more of the head is computed.
        let Some(sequence) = sequences.max_by_key(HostBatch::valid).filter(|sequence| sequence.valid() > 0) else {
            let (model, state) = (device.counters().bytes_in_use, 0);
            return Ok(MemoryEstimate { model, state, first_sequence: 0, sequence: 0, batch: batch.batch() });
        };
        let model = device.counters().bytes_in_use;
        let one = self.peak_of(device, &sequence)?;
        let two = self.peak_of(device, &sequence.repeated(2))?;
        device.trim_pool()?;
        let parameters: usize = self.adapters.parameters().iter().map(|(_, tensor)| tensor.elements()).sum();
        let copies = 3 + u64::from(self.options.gradient_accumulation > 1);
        Ok(MemoryEstimate {
            model,
            state: copies * 4 * parameters as u64,
            first_sequence: one.saturating_sub(model),
            sequence: two.saturating_sub(one),
            batch: batch.batch(),
        })
    }

    /// The most bytes in use while gradients of a batch are computed.
    fn peak_of(&self, device: &Device, batch: &HostBatch) -> Result<u64> {
        device.reset_peak();
        self.gradients(self.progress.step, std::slice::from_ref(batch))?;
        let peak = device.counters().peak_bytes;
        // What was computed is gone; the peak of the run is measured from here.
        device.reset_peak();
        Ok(peak)
    }
}
