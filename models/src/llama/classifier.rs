//! LLaMA with a head for whole sequences in place of the language-modelling head.

use std::path::Path;

use autograd::Var;
use lora::{AdapterSet, Batch, Forward, Linear, Model, ModuleShape};
use tensor::{DType, Device, RandomKey, Tensor};

use super::config::LlamaConfig;
use super::model::{EMBEDDING, HEAD, Llama};
use crate::architecture::ModelConfig;
use crate::checkpoint::Checkpoint;
use crate::classifier::{SequenceClassifier, check_labels, classification_loss};
use crate::error::{ModelError, Result};
use crate::weights::{CheckpointWeights, WeightSource, WeightType};

const SCORE: &str = "score";

/// A LLaMA model whose head `score` reads the last token of each sequence: several labels are classes, one is a number
/// to predict. As `LlamaForSequenceClassification` of the reference implementation.
pub struct LlamaClassifier {
    /// The model; its head is `score`.
    model: Llama,
    fresh: bool,
}

impl LlamaClassifier {
    /// Reads `config.json` and the weights of a checkpoint directory, that of a classifier or of a language model, whose
    /// head is left out. Where there is no `score`, it is made new: weights from N(0, `initializer_range`²) by seed and
    /// name, in f32.
    ///
    /// # Errors
    /// Files that cannot be read or do not belong together, each named; [`ModelError::InvalidArgument`] for no labels, or
    /// when the checkpoint's head has another number of them.
    pub fn from_directory(
        directory: &Path,
        labels: usize,
        seed: u64,
        device: &Device,
        weight_type: WeightType,
    ) -> Result<Self> {
        if labels == 0 {
            let message = "a classifier needs at least one label".into();
            return Err(ModelError::InvalidArgument { operation: "llama", message });
        }
        let config = ModelConfig::read(directory)?.into_llama(directory)?;
        let checkpoint = Checkpoint::open(directory)?;
        let mut source = CheckpointWeights::new(&checkpoint, device, weight_type);
        let classifier = Self::build(config, labels, seed, device, &mut source)?;
        let head = format!("{HEAD}.weight");
        source.finish(|name| name == head || name.ends_with(".rotary_emb.inv_freq"))?;
        device.trim_pool()?;
        Ok(classifier)
    }

    fn build(
        config: LlamaConfig,
        labels: usize,
        seed: u64,
        device: &Device,
        source: &mut dyn WeightSource,
    ) -> Result<Self> {
        let shape = [config.vocab_size, config.hidden_size];
        let embedding = match config.tie_word_embeddings {
            true => source.tied(EMBEDDING, &format!("{HEAD}.weight"), &shape)?,
            false => source.matrix(EMBEDDING, &shape)?,
        };
        let (name, shape) = (format!("{SCORE}.weight"), [labels, config.hidden_size]);
        let stored = source.stored_shape(&name);
        let weight = match &stored {
            Some(stored) => {
                check_labels(SCORE, stored, labels)?;
                source.matrix(&name, &shape)?
            }
            None => {
                let key = RandomKey::named(seed, &name, 0);
                Tensor::random_normal(device, &shape, 0.0, config.initializer_range, key)?
            }
        };
        let score = Linear::new(SCORE, weight, None)?;
        Ok(LlamaClassifier {
            model: Llama::assemble(config, device, source, embedding, score)?,
            fresh: stored.is_none(),
        })
    }

    /// See [`Llama::with_checkpointed_activations`].
    #[must_use]
    pub fn with_checkpointed_activations(self, on: bool) -> Self {
        LlamaClassifier { model: self.model.with_checkpointed_activations(on), ..self }
    }

    /// The configuration.
    pub fn config(&self) -> &LlamaConfig {
        self.model.config()
    }

    /// Whether the checkpoint held no head, so that it was made new.
    pub fn is_head_fresh(&self) -> bool {
        self.fresh
    }

    /// Every linear module, in the order of computation; the last is the head `score`.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.model.linears()
    }

    /// The model with adapters folded into the weights they adapt. Other weights are shared.
    ///
    /// # Errors
    /// As [`AdapterSet::merge`].
    pub fn merged(&self, adapters: &AdapterSet) -> Result<Self> {
        Ok(LlamaClassifier { model: self.model.merged(adapters)?, fresh: self.fresh })
    }

    /// The head's outputs, f32 `[batch, labels]`, for token ids u32 `[batch, sequence]`. `key_mask`, u32 of the same
    /// shape, is 0 for padding, on either side; the last token that is none is read.
    ///
    /// # Errors
    /// As [`Llama::logits`].
    pub fn logits(&self, forward: &Forward, ids: &Tensor, key_mask: Option<&Tensor>) -> Result<Var> {
        let hidden = self.model.hidden(forward, ids, key_mask)?;
        let (batch, sequence, width) = (hidden.shape()[0], hidden.shape()[1], hidden.shape()[2]);
        let last = match key_mask {
            Some(mask) => last_token(mask)?,
            None => Tensor::full(ids.device(), &[batch], DType::U32, sequence as f32 - 1.0)?,
        };
        let places = last.reshape(&[batch, 1, 1])?.broadcast_to(&[batch, 1, width])?;
        let read = hidden.gather(1, &places)?.squeeze(1)?;
        Ok(self.model.head().forward(forward, &read)?)
    }
}

/// The position of the last 1 in each row of a mask u32 `[batch, sequence]`; 0 in a row without any.
fn last_token(mask: &Tensor) -> Result<Tensor> {
    let positions: Vec<f32> = (0..mask.shape()[1]).map(|position| position as f32).collect();
    let positions = Tensor::from_vec(mask.device(), &[positions.len()], positions)?;
    // Whatever is not 0 is a token; positions count from 0, so the first token needs no more than the padding's 0.
    let tokens = mask.cast(DType::F32)?;
    let tokens = Tensor::zeros(mask.device(), &[], DType::F32)?.less(&tokens)?;
    Ok(tokens.mul(&positions)?.argmax(1)?)
}

impl Model for LlamaClassifier {
    fn modules(&self) -> Vec<ModuleShape> {
        self.model.modules()
    }

    fn loss(&self, forward: &Forward, batch: &Batch) -> lora::Result<Var> {
        batch.check_vocabulary(self.config().vocab_size)?;
        classification_loss(self.labels(), batch, || self.logits(forward, &batch.ids, batch.key_mask.as_ref()))
    }

    fn device(&self) -> &Device {
        self.model.device()
    }

    fn savable_modules(&self) -> Vec<String> {
        self.model.savable_modules()
    }

    fn saved_module(&self, module: &str) -> Vec<(String, Tensor)> {
        self.model.saved_module(module)
    }
}

impl SequenceClassifier for LlamaClassifier {
    fn class_logits(&self, forward: &Forward, batch: &Batch) -> lora::Result<Tensor> {
        batch.check_vocabulary(self.config().vocab_size)?;
        Ok(self.logits(forward, &batch.ids, batch.key_mask.as_ref())?.into_tensor())
    }

    fn labels(&self) -> usize {
        self.model.head().weight().shape()[0]
    }
}
