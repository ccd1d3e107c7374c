//! One training step as `finetune` does it, for timing: forward, backward, method, optimizer.

use autograd::{AdamW, AdamWConfig, Optimizer, Tape};
use lora::{AdapterSet, DropoutSource, Forward, GradientTransform, HostBatch, Model};
use tensor::Tensor;

use crate::failure::Outcome;
use crate::loading::lora_failure;

/// A model in training with AdamW at a constant learning rate.
pub struct TrainingStep<'a> {
    model: &'a dyn Model,
    adapters: AdapterSet,
    optimizer: AdamW,
    transform: Box<dyn GradientTransform>,
    keep_activations: bool,
    seed: u64,
    done: u64,
}

impl<'a> TrainingStep<'a> {
    pub fn new(
        model: &'a dyn Model,
        adapters: AdapterSet,
        mut transform: Box<dyn GradientTransform>,
        seed: u64,
    ) -> Outcome<Self> {
        let mut optimizer = AdamW::new(AdamWConfig { weight_decay: 0.0, ..AdamWConfig::default() });
        transform.prepare(&adapters, &mut optimizer).map_err(lora_failure)?;
        Ok(TrainingStep { model, adapters, optimizer, transform, keep_activations: false, seed, done: 0 })
    }

    /// Whether it keeps what the backward pass would otherwise compute again.
    pub fn keeping_activations(self, on: bool) -> Self {
        TrainingStep { keep_activations: on, ..self }
    }

    /// One step; returns its loss, still on the device.
    pub fn run(&mut self, batch: &HostBatch) -> Outcome<Tensor> {
        let tape = Tape::new().keeping_activations(self.keep_activations);
        let batch = batch.to_device(self.model.device()).map_err(lora_failure)?;
        let dropout = DropoutSource { seed: self.seed, step: self.done };
        let (loss, mut gradients) = {
            let forward = Forward::training(&tape, &self.adapters, dropout);
            let loss = self.model.loss(&forward, &batch).map_err(lora_failure)?;
            let gradients = tape.backward(&loss)?;
            (loss.into_tensor(), gradients)
        };
        drop(tape);
        self.transform.apply(&mut self.adapters, &mut gradients, self.done).map_err(lora_failure)?;
        self.optimizer.step(self.adapters.parameters_mut(), &gradients, 1e-4)?;
        self.transform.after_update(&mut self.adapters, &mut self.optimizer, self.done).map_err(lora_failure)?;
        self.done += 1;
        Ok(loss)
    }
}
