//! What a forward pass needs to know besides its input, and what the engine needs to know of a model.

use autograd::{Tape, Var};
use tensor::{Device, RandomKey, Tensor, TensorError};

use crate::adapter_set::AdapterSet;
use crate::batch::Batch;
use crate::error::Result;
use crate::linear::RoundedFactors;
use crate::stack::AdapterStack;
use crate::targets::ModuleShape;

/// A model as training, evaluation and restoration see it: linear modules with names, and a loss.
pub trait Model {
    /// Every linear module and embedding that can carry an adapter.
    fn modules(&self) -> Vec<ModuleShape>;

    /// The mean loss over the batch's valid labels: a scalar.
    ///
    /// # Errors
    /// Batches that do not suit the model, or the device's own errors.
    fn loss(&self, forward: &Forward, batch: &Batch) -> Result<Var>;

    /// The device the weights are on.
    fn device(&self) -> &Device;

    /// Paths of the modules that can be trained as a whole (`modules_to_save` of PEFT), such as a classifier's head or a
    /// norm. Linear layers of this crate can be if [`Model::saved_module`] tells their values.
    fn savable_modules(&self) -> Vec<String> {
        Vec::new()
    }

    /// Names (`weight`, `bias`) and frozen values of a module's parameters; none where there is no such module. Told also
    /// of linear modules that carry adapters, for what starts from their weights.
    fn saved_module(&self, module: &str) -> Vec<(String, Tensor)> {
        let _ = module;
        Vec::new()
    }

    /// Parameters that are another one of the model under a second name, such as the head of a language model that is its
    /// embedding: the second name of each, and the first. Where the whole model is trained, one tensor is trained for both.
    fn tied_parameters(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}

/// The circumstances of one forward pass: where it is recorded, which adapters apply, whether it trains.
#[derive(Clone)]
pub struct Forward {
    /// What records the operations; an inference tape records nothing.
    pub tape: Tape,
    /// The adapters; `None` for the base model alone.
    pub adapters: Option<AdapterSet>,
    /// Several adapters at once, each for its part of the batch, in place of the factors in `adapters`.
    pub stack: Option<AdapterStack>,
    /// Where dropout gets its masks; `None` in evaluation, which drops nothing.
    pub dropout: Option<DropoutSource>,
    /// What its layers in mixed precision share; empty in a new pass.
    pub rounded: RoundedFactors,
}

impl Forward {
    /// A pass that trains: recorded, and with dropout.
    pub fn training(tape: &Tape, adapters: &AdapterSet, dropout: DropoutSource) -> Self {
        let tape = tape.clone();
        Forward { tape, adapters: Some(adapters.clone()), dropout: Some(dropout), ..Forward::evaluation(None) }
    }

    /// A pass that only computes: nothing is recorded, nothing is dropped.
    pub fn evaluation(adapters: Option<&AdapterSet>) -> Self {
        let rounded = RoundedFactors::default();
        Forward { tape: Tape::inference(), adapters: adapters.cloned(), stack: None, dropout: None, rounded }
    }

    /// A pass that only computes, for several adapters at once: the input is a batch for each, one after another, as
    /// [`crate::HostBatch::repeated`] makes them.
    pub fn stacked(stack: &AdapterStack) -> Self {
        Forward { stack: Some(stack.clone()), ..Forward::evaluation(Some(stack.first())) }
    }

    /// A parameter of the model by its full name (`<module>.weight`): the trained copy where its module is trained as a
    /// whole, else `base` as a constant. Layers that are no [`crate::Linear`] ask for their parameters here.
    pub fn parameter(&self, name: &str, base: &Tensor) -> Var {
        match self.adapters.as_ref().and_then(|set| set.whole_entry(name)) {
            Some((name, trained)) => self.tape.leaf(name, trained),
            None => Var::constant(base.clone()),
        }
    }

    /// A trainable tensor of a set as a leaf.
    pub(crate) fn leaf(&self, set: &AdapterSet, name: &str) -> tensor::Result<Var> {
        // A set holds all tensors of each of its adapters; one could only be missing because it was removed by hand.
        let tensor = set.parameters().get(name).ok_or_else(|| TensorError::InvalidArgument {
            operation: "adapter",
            message: format!("the parameter `{name}` is gone from the adapter set"),
        })?;
        Ok(self.tape.leaf(name, tensor))
    }

    /// Activation checkpointing, see [`Tape::checkpoint`]: `segment` runs under the same circumstances, but on the tape
    /// that it is given, and once more in the backward pass.
    ///
    /// # Errors
    /// What `segment` returns.
    pub fn checkpoint<F>(&self, inputs: &[&Var], segment: F) -> tensor::Result<Var>
    where
        F: Fn(&Forward, &[Var]) -> tensor::Result<Var> + 'static,
    {
        // The tape keeps the segment, so the segment must not hold the tape: neither would ever be freed.
        let (adapters, stack, dropout) = (self.adapters.clone(), self.stack.clone(), self.dropout);
        self.tape.checkpoint(inputs, move |tape, inputs| {
            // What a segment rounds is gone with it, as its activations are.
            let rounded = RoundedFactors::default();
            let (tape, adapters, stack) = (tape.clone(), adapters.clone(), stack.clone());
            let forward = Forward { tape, adapters, stack, dropout, rounded };
            segment(&forward, inputs)
        })
    }
}

/// Where the dropout masks of one pass come from: the run's seed and the number of the pass. A mask is a function of
/// these, the place's name and the element's index, so that recomputation drops the same elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropoutSource {
    /// The run's seed.
    pub seed: u64,
    /// Number of the forward pass in the run; each micro-batch has its own.
    pub step: u64,
}

impl DropoutSource {
    /// The key of the mask at one place of the model.
    pub fn key(&self, place: &str) -> RandomKey {
        RandomKey::named(self.seed, place, self.step)
    }
}
