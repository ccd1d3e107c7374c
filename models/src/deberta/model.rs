//! The model: embedding, blocks and head; its logits and its loss.

use std::path::Path;
use std::sync::Arc;

use autograd::Var;
use lora::{AdapterSet, Batch, Embedding, Forward, LabelKind, Linear, Model, ModuleShape};
use tensor::{DType, Device, Tensor};

use super::config::DebertaConfig;
use super::head::{DECODER, Head, HeadSource};
use super::layer::{Layer, Surroundings, drop_out};
use super::norm::Norm;
use super::options::DebertaOptions;
use super::positions::{RELATIVE, RelativePositions};
use crate::architecture::ModelConfig;
use crate::checkpoint::Checkpoint;
use crate::classifier::{SequenceClassifier, classification_loss};
use crate::error::{ModelError, Result};
use crate::weights::{CheckpointWeights, RandomWeights, WeightSource};

const EMBEDDING_MODULE: &str = "deberta.embeddings.word_embeddings";
const EMBEDDING: &str = "deberta.embeddings.word_embeddings.weight";
const EMBEDDING_NORM: &str = "deberta.embeddings.LayerNorm";
const RELATIVE_NORM: &str = "deberta.encoder.LayerNorm";

/// Tensors that published checkpoints hold and no model of this configuration reads.
const NEVER_READ: [&str; 3] = [
    "deberta.embeddings.position_embeddings.weight",
    "deberta.embeddings.position_ids",
    "deberta.embeddings.word_embeddings._weight",
];

/// A DeBERTa-v2 or v3 model with frozen weights. Its linear modules have the names of Hugging Face checkpoints, such as
/// `deberta.encoder.layer.0.attention.self.query_proj`, `pooler.dense` and `classifier`, and carry whatever adapters a
/// [`Forward`] has for them. An adapter of `query_proj` or `key_proj` acts on content and positions alike.
pub struct Deberta {
    config: DebertaConfig,
    device: Device,
    embedding: Embedding,
    embedding_norm: Norm,
    positions: RelativePositions,
    layers: Vec<Arc<Layer>>,
    head: Head,
    checkpoint_activations: bool,
    fresh: Vec<String>,
    unused: Vec<String>,
}

impl Deberta {
    /// Reads `config.json` and the weights of a checkpoint directory.
    ///
    /// # Errors
    /// Files that cannot be read or do not belong together, each named; see [`ModelError`].
    pub fn from_directory(directory: &Path, options: &DebertaOptions, device: &Device) -> Result<Self> {
        let config = ModelConfig::read(directory)?.into_deberta(directory)?;
        Self::from_checkpoint(config, &Checkpoint::open(directory)?, options, device)
    }

    /// Takes the weights of an open checkpoint, tensor by tensor. A pooler or classifier that is not there is made new:
    /// see [`Deberta::fresh_modules`]. Tensors of other heads are left out: see [`Deberta::unused_tensors`].
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`], [`ModelError::TensorShape`], [`ModelError::TensorType`],
    /// [`ModelError::UnusedTensors`] when checkpoint and configuration do not belong together,
    /// [`ModelError::InvalidArgument`] when the checkpoint's classifier has another number of labels, or the device's own
    /// errors.
    pub fn from_checkpoint(
        config: DebertaConfig,
        checkpoint: &Checkpoint,
        options: &DebertaOptions,
        device: &Device,
    ) -> Result<Self> {
        let mut source = CheckpointWeights::new(checkpoint, device, options.weight_type);
        let mut model = Self::build(config, options, device, &mut source)?;
        model.unused = source.unused();
        source.finish(|name| NEVER_READ.contains(&name) || model.head.leaves_out(name))?;
        // Conversions leave their inputs in the pool.
        device.trim_pool()?;
        Ok(model)
    }

    /// A model with random weights: matrices from N(0, `initializer_range`²), norms one, biases zero. The same seed gives
    /// the same model on every device, up to a few units in the last place. [`crate::WeightType::Stored`] stands for bf16.
    ///
    /// # Errors
    /// The device's own errors.
    pub fn random(config: DebertaConfig, options: &DebertaOptions, device: &Device) -> Result<Self> {
        let deviation = config.initializer_range;
        let DebertaOptions { weight_type, seed, .. } = *options;
        let mut source = RandomWeights { device, weight_type, seed, deviation, from_bf16: false };
        let model = Self::build(config, options, device, &mut source)?;
        device.trim_pool()?;
        // All of it is new, as asked for.
        Ok(Deberta { fresh: Vec::new(), ..model })
    }

    fn build(
        config: DebertaConfig,
        options: &DebertaOptions,
        device: &Device,
        source: &mut dyn WeightSource,
    ) -> Result<Self> {
        let config = options.dropout.apply(config);
        config.check(Path::new("configuration"))?;
        let hidden = config.hidden_size;
        let embedding = source.matrix(EMBEDDING, &[config.vocab_size, hidden])?;
        let embedding_norm = Norm::new(&config, EMBEDDING_NORM, source)?;
        let relative = source.matrix(RELATIVE, &[2 * config.span(), hidden])?.cast(DType::F32)?;
        let relative_norm = match config.normalise_relative_embeddings {
            true => Some(Norm::new(&config, RELATIVE_NORM, source)?),
            false => None,
        };
        let layers: Result<Vec<_>> =
            (0..config.num_hidden_layers).map(|index| Ok(Arc::new(Layer::new(&config, index, source)?))).collect();
        let layers = layers?;
        let mut head_source = HeadSource { weights: source, device, seed: options.seed, fresh: Vec::new() };
        let head = Head::new(&config, options.head, &embedding, &mut head_source)?;
        Ok(Deberta {
            fresh: head_source.fresh,
            unused: Vec::new(),
            device: device.clone(),
            embedding: Embedding::new(EMBEDDING_MODULE, embedding)?,
            embedding_norm,
            positions: RelativePositions::new(relative, relative_norm),
            layers,
            head,
            checkpoint_activations: false,
            config,
        })
    }

    /// Computes each block but the last again in the backward pass instead of keeping its activations: less memory, about a
    /// third more time.
    #[must_use]
    pub fn with_checkpointed_activations(self, on: bool) -> Self {
        Deberta { checkpoint_activations: on, ..self }
    }

    /// The configuration, dropout overrides included.
    pub fn config(&self) -> &DebertaConfig {
        &self.config
    }

    /// The head's modules that the checkpoint did not hold and that were made new. Unless they are trained and saved with
    /// the adapters, the same seed is needed to get the same model again.
    pub fn fresh_modules(&self) -> &[String] {
        &self.fresh
    }

    /// Tensors of the checkpoint that this model has no use for: other heads, and absolute positions.
    pub fn unused_tensors(&self) -> &[String] {
        &self.unused
    }

    /// Every linear module, in the order of computation.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.layers.iter().flat_map(|layer| layer.linears()).chain(self.head.linears())
    }

    /// The linear module of this name.
    pub fn linear(&self, name: &str) -> Option<&Linear> {
        self.linears().find(|linear| linear.name() == name)
    }

    /// Every module that is neither linear nor the embedding, with its parameters.
    fn other_modules(&self) -> impl Iterator<Item = (&str, Vec<(String, Tensor)>)> {
        let norms = [&self.embedding_norm].into_iter().chain(self.layers.iter().flat_map(|layer| layer.norms()));
        let norms = norms.map(|norm| (norm.name(), norm.parameters()));
        norms.chain(self.positions.modules()).chain(self.head.other_modules())
    }

    /// The model with adapters folded into the weights they adapt, and with the modules that were trained as a whole.
    /// Other weights are shared.
    ///
    /// # Errors
    /// As [`AdapterSet::merge`].
    pub fn merged(&self, adapters: &AdapterSet) -> Result<Self> {
        let layers: Result<Vec<_>> = self.layers.iter().map(|layer| Ok(Arc::new(layer.merged(adapters)?))).collect();
        Ok(Deberta {
            config: self.config.clone(),
            device: self.device.clone(),
            embedding: self.embedding.merged(adapters)?,
            embedding_norm: self.embedding_norm.merged(adapters)?,
            positions: self.positions.merged(adapters)?,
            layers: layers?,
            head: self.head.merged(adapters)?,
            checkpoint_activations: self.checkpoint_activations,
            fresh: self.fresh.clone(),
            unused: self.unused.clone(),
        })
    }

    /// The head's outputs for token ids u32 `[batch, sequence]`: f32 `[batch, labels]` of a classifier or regression,
    /// `[batch, sequence, vocabulary]` of a masked language model. `key_mask`, u32 of the ids' shape, is 0 for padding. The
    /// ids must be below the vocabulary's size; see [`tensor::check_ids`].
    ///
    /// # Errors
    /// [`ModelError::InvalidArgument`] for ids of another shape, or the device's own errors.
    pub fn logits(&self, forward: &Forward, ids: &Tensor, key_mask: Option<&Tensor>) -> Result<Var> {
        Ok(match &self.head {
            Head::Sequence(head) => head.forward(forward, &self.first_hidden(forward, ids, key_mask)?)?,
            Head::Tokens(head) => head.forward(forward, &self.hidden(forward, ids, key_mask)?)?,
        })
    }

    /// The output of the last block, `[batch, sequence, hidden]`.
    ///
    /// # Errors
    /// As [`Deberta::logits`].
    pub fn hidden(&self, forward: &Forward, ids: &Tensor, key_mask: Option<&Tensor>) -> Result<Var> {
        let (x, relative, around) = self.before_last(forward, ids, key_mask)?;
        match self.layers.last() {
            Some(last) => Ok(last.forward(forward, &x, &relative, &around)?),
            None => Ok(x),
        }
    }

    /// The first position of [`Deberta::hidden`], `[batch, hidden]`; what does not lead there is not computed.
    fn first_hidden(&self, forward: &Forward, ids: &Tensor, key_mask: Option<&Tensor>) -> Result<Var> {
        let (x, relative, around) = self.before_last(forward, ids, key_mask)?;
        let hidden = match self.layers.last() {
            Some(last) => last.forward_first(forward, &x, &relative, &around)?,
            None => x,
        };
        Ok(hidden.select(1, 0)?)
    }

    /// What the last block gets: hidden states `[batch, sequence, hidden]`, the relative embeddings and the surroundings.
    fn before_last(
        &self,
        forward: &Forward,
        ids: &Tensor,
        key_mask: Option<&Tensor>,
    ) -> Result<(Var, Var, Surroundings)> {
        let (batch, sequence) = match ids.shape()[..] {
            [batch, sequence] if sequence > 0 => (batch, sequence),
            _ => {
                let message =
                    format!("token ids must be [batch, tokens] with at least one token, found {}", ids.shape());
                return Err(ModelError::InvalidArgument { operation: "deberta", message });
            }
        };
        let (buckets, relative) = self.positions.of(forward, &self.config, sequence)?;
        let around = Surroundings { buckets, key_mask: key_mask.cloned() };
        let mut x = self.embedding_norm.forward(forward, &self.embedding.forward(forward, ids)?)?;
        if let Some(mask) = key_mask {
            x = x.mul(&Var::constant(mask.cast(DType::F32)?.reshape(&[batch, sequence, 1])?))?;
        }
        let mut x = drop_out(forward, x, self.config.hidden_dropout_prob, "deberta.embeddings")?;
        // The backward pass begins with the last block: its activations would be computed again at once.
        for layer in &self.layers[..self.layers.len().saturating_sub(1)] {
            x = if self.checkpoint_activations {
                let (layer, around) = (layer.clone(), around.clone());
                forward.checkpoint(&[&x, &relative], move |forward, inputs| {
                    layer.forward(forward, &inputs[0], &inputs[1], &around)
                })?
            } else {
                layer.forward(forward, &x, &relative, &around)?
            };
        }
        Ok((x, relative, around))
    }
}

impl Model for Deberta {
    fn modules(&self) -> Vec<ModuleShape> {
        let blocks = self.layers.iter().flat_map(|layer| layer.linears()).map(Linear::shape);
        let mut modules: Vec<_> = blocks.chain(self.head.linears().into_iter().map(Linear::shape)).collect();
        if let (Head::Sequence(_), Some(last)) = (&self.head, modules.pop()) {
            modules.push(last.head());
            // That of a masked language model is its last matrix too, which would have to change with it.
            modules.push(self.embedding.shape());
        }
        modules
    }

    /// The mean cross-entropy of classes or of masked tokens, or the mean squared error of a regression's scores.
    fn loss(&self, forward: &Forward, batch: &Batch) -> lora::Result<Var> {
        batch.check_vocabulary(self.config.vocab_size)?;
        match &self.head {
            Head::Tokens(head) => {
                batch.check_kind("a masked language model", &[LabelKind::Tokens])?;
                let hidden = self.hidden(forward, &batch.ids, batch.key_mask.as_ref())?;
                Ok(head.loss(forward, &hidden, batch)?)
            }
            Head::Sequence(head) => {
                classification_loss(head.labels(), batch, || self.logits(forward, &batch.ids, batch.key_mask.as_ref()))
            }
        }
    }

    fn device(&self) -> &Device {
        &self.device
    }

    /// The embedding, norms, relative embeddings and the modules of the head. Adapters of a masked language model that
    /// train the embedding leave the head's last matrix as it was, as PEFT does; see [`Model::tied_parameters`].
    fn savable_modules(&self) -> Vec<String> {
        let head = self.head.linears().into_iter().map(|linear| linear.name().to_string());
        let others = self.other_modules().map(|(name, _)| name.to_string());
        [EMBEDDING_MODULE.to_string()].into_iter().chain(others).chain(head).collect()
    }

    fn saved_module(&self, module: &str) -> Vec<(String, Tensor)> {
        if module == EMBEDDING_MODULE {
            return self.embedding.parameters();
        }
        if let Some((_, parameters)) = self.other_modules().find(|(name, _)| *name == module) {
            return parameters;
        }
        self.linear(module).map(Linear::parameters).unwrap_or_default()
    }

    fn tied_parameters(&self) -> Vec<(String, String)> {
        match self.head {
            Head::Tokens(_) => vec![(DECODER.into(), EMBEDDING.into())],
            Head::Sequence(_) => Vec::new(),
        }
    }
}

impl SequenceClassifier for Deberta {
    fn class_logits(&self, forward: &Forward, batch: &Batch) -> lora::Result<Tensor> {
        batch.check_vocabulary(self.config.vocab_size)?;
        if self.labels() == 0 {
            let message = "a masked language model classifies no sequences; load it with a classifier";
            return Err(ModelError::InvalidArgument { operation: "deberta", message: message.into() }.into());
        }
        Ok(self.logits(forward, &batch.ids, batch.key_mask.as_ref())?.into_tensor())
    }

    fn labels(&self) -> usize {
        match &self.head {
            Head::Sequence(head) => head.labels(),
            Head::Tokens(_) => 0,
        }
    }
}
