//! The language model: embedding, blocks, norm, head; its logits and its loss.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use autograd::{Var, cross_entropy, linear_cross_entropy};
use lora::{AdapterSet, Batch, Embedding, Forward, IGNORED, LabelKind, Linear, Model, ModuleShape};
use tensor::{Device, Tensor};

use super::config::LlamaConfig;
use super::layer::{Layer, LayerCache, Positions};
use super::norm::Norm;
use super::rotary::RotaryTable;
use crate::architecture::ModelConfig;
use crate::checkpoint::Checkpoint;
use crate::error::{ModelError, Result};
use crate::loss::{chunk_rows, labelled_rows};
use crate::weights::{CheckpointWeights, RandomWeights, WeightSource, WeightType};

pub(super) const EMBEDDING_MODULE: &str = "model.embed_tokens";
pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";
const NORM: &str = "model.norm";
pub(super) const HEAD: &str = "lm_head";

/// A LLaMA model with frozen weights. Its linear modules have the names of Hugging Face checkpoints, such as
/// `model.layers.0.self_attn.q_proj` and `lm_head`, and carry whatever adapters a [`Forward`] has for them.
pub struct Llama {
    config: LlamaConfig,
    device: Device,
    embedding: Embedding,
    layers: Vec<Arc<Layer>>,
    norm: Norm,
    head: Linear,
    /// Grows to the longest sequence seen.
    rotary: Mutex<Option<RotaryTable>>,
    checkpoint_activations: bool,
    pub(super) loss_chunk_rows: usize,
}

/// The keys and values of the tokens that a model has read so far, for generation.
#[derive(Clone, Default)]
pub struct Cache {
    layers: Vec<LayerCache>,
    tokens: usize,
}

impl Cache {
    /// A cache that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of tokens read so far.
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}

impl Llama {
    /// Reads `config.json` and the weights of a checkpoint directory; every weight matrix is kept as `weight_type`.
    ///
    /// # Errors
    /// Files that cannot be read or do not belong together, each named; see [`ModelError`].
    pub fn from_directory(directory: &Path, device: &Device, weight_type: WeightType) -> Result<Self> {
        let config = ModelConfig::read(directory)?.into_llama(directory)?;
        Self::from_checkpoint(config, &Checkpoint::open(directory)?, device, weight_type)
    }

    /// Takes the weights of an open checkpoint, tensor by tensor.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`], [`ModelError::TensorShape`], [`ModelError::TensorType`],
    /// [`ModelError::UnusedTensors`] when checkpoint and configuration do not belong together, or the device's own
    /// errors.
    pub fn from_checkpoint(
        config: LlamaConfig,
        checkpoint: &Checkpoint,
        device: &Device,
        weight_type: WeightType,
    ) -> Result<Self> {
        let mut source = CheckpointWeights::new(checkpoint, device, weight_type);
        let model = Self::build(config, device, &mut source)?;
        // Early conversions stored a table that every reader computes anyway.
        source.finish(|name| name.ends_with(".rotary_emb.inv_freq"))?;
        // Conversions leave their inputs in the pool.
        device.trim_pool()?;
        Ok(model)
    }

    /// A model with random weights: matrices from N(0, `initializer_range`²), norms one, biases zero. The same seed gives the same model on every
    /// device, up to a few units in the last place. [`WeightType::Stored`] stands for bf16.
    ///
    /// # Errors
    /// The device's own errors.
    pub fn random(config: LlamaConfig, seed: u64, device: &Device, weight_type: WeightType) -> Result<Self> {
        Self::random_of(config, seed, device, weight_type, false)
    }

    /// As [`Llama::random`], but the matrices are of bf16's precision, as those of a file in bf16 are after they were loaded. How
    /// many bits a multiplication has to switch decides how much power it takes, and so how fast a GPU at its limit is.
    ///
    /// # Errors
    /// The device's own errors.
    pub fn random_from_bf16(config: LlamaConfig, seed: u64, device: &Device, weight_type: WeightType) -> Result<Self> {
        Self::random_of(config, seed, device, weight_type, true)
    }

    fn random_of(
        config: LlamaConfig,
        seed: u64,
        device: &Device,
        weight_type: WeightType,
        from_bf16: bool,
    ) -> Result<Self> {
        config.check(Path::new("configuration"))?;
        let deviation = config.initializer_range;
        let mut source = RandomWeights { device, weight_type, seed, deviation, from_bf16 };
        let model = Self::build(config, device, &mut source)?;
        device.trim_pool()?;
        Ok(model)
    }

    fn build(config: LlamaConfig, device: &Device, source: &mut dyn WeightSource) -> Result<Self> {
        let shape = [config.vocab_size, config.hidden_size];
        let head_name = format!("{HEAD}.weight");
        let (embedding, head) = if config.tie_word_embeddings {
            let embedding = source.tied(EMBEDDING, &head_name, &shape)?;
            (embedding.clone(), embedding)
        } else {
            (source.matrix(EMBEDDING, &shape)?, source.matrix(&head_name, &shape)?)
        };
        Self::assemble(config, device, source, embedding, Linear::new(HEAD, head, None)?)
    }

    /// Takes blocks and final norm from `source`; embedding and head are there already.
    pub(super) fn assemble(
        config: LlamaConfig,
        device: &Device,
        source: &mut dyn WeightSource,
        embedding: Tensor,
        head: Linear,
    ) -> Result<Self> {
        let layers: Result<Vec<_>> =
            (0..config.num_hidden_layers).map(|index| Ok(Arc::new(Layer::new(&config, index, source)?))).collect();
        Ok(Llama {
            device: device.clone(),
            embedding: Embedding::new(EMBEDDING_MODULE, embedding)?,
            layers: layers?,
            norm: Norm::new(NORM, config.hidden_size, config.rms_norm_eps, source)?,
            head,
            rotary: Mutex::new(None),
            checkpoint_activations: false,
            loss_chunk_rows: chunk_rows(config.vocab_size, device),
            config,
        })
    }

    /// Computes each block but the last again in the backward pass instead of keeping its activations: less memory, about a
    /// third more time.
    #[must_use]
    pub fn with_checkpointed_activations(self, on: bool) -> Self {
        Llama { checkpoint_activations: on, ..self }
    }

    /// How many positions the loss handles at once: the logits in memory are `[rows, vocabulary]`. By default about as
    /// many as take 128 MiB, or up to 1024 on a GPU, if these take 512 MiB at the most.
    #[must_use]
    pub fn with_loss_chunk_rows(self, rows: usize) -> Self {
        Llama { loss_chunk_rows: rows.max(1), ..self }
    }

    /// The configuration.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The head, which is the last linear module.
    pub(super) fn head(&self) -> &Linear {
        &self.head
    }

    /// Every linear module, in the order of computation; the last is the head.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.layers.iter().flat_map(|layer| layer.linears()).chain([&self.head])
    }

    /// The linear module of this name.
    pub fn linear(&self, name: &str) -> Option<&Linear> {
        self.linears().find(|linear| linear.name() == name)
    }

    /// Every norm, in the order of computation.
    fn norms(&self) -> impl Iterator<Item = &Norm> {
        self.layers.iter().flat_map(|layer| layer.norms()).chain([&self.norm])
    }

    /// The model with adapters folded into the weights they adapt, and with the modules that were trained as a whole. Other
    /// weights are shared. An embedding and a head that were one are two afterwards if one of them was trained alone.
    ///
    /// # Errors
    /// As [`AdapterSet::merge`].
    pub fn merged(&self, adapters: &AdapterSet) -> Result<Self> {
        let changes = |name: &str| {
            adapters.adapter(name).is_some() || adapters.whole_parameter(&format!("{name}.weight")).is_some()
        };
        let parted = !adapters.is_full() && (changes(HEAD) || changes(EMBEDDING_MODULE));
        let tied = self.config.tie_word_embeddings && !parted;
        let layers: Result<Vec<_>> = self.layers.iter().map(|layer| Ok(Arc::new(layer.merged(adapters)?))).collect();
        Ok(Llama {
            config: LlamaConfig { tie_word_embeddings: tied, ..self.config.clone() },
            device: self.device.clone(),
            embedding: self.embedding.merged(adapters)?,
            layers: layers?,
            norm: self.norm.merged(adapters)?,
            head: self.head.merged(adapters)?,
            rotary: Mutex::new(None),
            checkpoint_activations: self.checkpoint_activations,
            loss_chunk_rows: self.loss_chunk_rows,
        })
    }

    /// Logits f32 `[batch, sequence, vocabulary]` of token ids u32 `[batch, sequence]`; `key_mask`, u32 of the same
    /// shape, is 0 for padding. Positions count from the first column, padding included. The ids must be below the
    /// vocabulary's size; see [`tensor::check_ids`].
    ///
    /// # Errors
    /// [`ModelError::InvalidArgument`] for sequences longer than the model was made for, or the device's own errors.
    pub fn logits(&self, forward: &Forward, ids: &Tensor, key_mask: Option<&Tensor>) -> Result<Var> {
        Ok(self.head.forward(forward, &self.hidden(forward, ids, key_mask)?)?)
    }

    /// Reads more tokens of one sequence (or several of equal length) and returns the logits after the last,
    /// f32 `[batch, vocabulary]`. `ids`, u32 `[batch, tokens]`, follow those that `cache` has seen. Records nothing:
    /// for generation.
    ///
    /// # Errors
    /// As [`Llama::logits`].
    pub fn next_logits(&self, forward: &Forward, ids: &Tensor, cache: &mut Cache) -> Result<Tensor> {
        let (start, tokens) = (cache.tokens, sequence_length(ids)?);
        let positions = self.positions(start, tokens, None)?;
        cache.layers.resize_with(self.layers.len(), LayerCache::default);
        let mut x = self.embed(forward, ids)?;
        for (layer, cache) in self.layers.iter().zip(&mut cache.layers) {
            x = layer.forward(forward, &x, &positions, Some(cache))?;
        }
        cache.tokens += tokens;
        let last = Var::constant(x.tensor().select(1, tokens - 1)?.contiguous()?);
        Ok(self.head.forward(forward, &self.norm.forward(forward, &last)?)?.into_tensor())
    }

    /// The normed output of the last block, `[batch, sequence, hidden]`.
    pub(super) fn hidden(&self, forward: &Forward, ids: &Tensor, key_mask: Option<&Tensor>) -> Result<Var> {
        let positions = self.positions(0, sequence_length(ids)?, key_mask)?;
        let mut x = self.embed(forward, ids)?;
        let last = self.layers.len().saturating_sub(1);
        for (index, layer) in self.layers.iter().enumerate() {
            // The backward pass begins with the last block: its activations would be computed again at once.
            x = if self.checkpoint_activations && index < last {
                let (layer, positions) = (layer.clone(), positions.clone());
                forward.checkpoint(&[&x], move |forward, x| layer.as_segment(forward, &x[0], &positions))?
            } else {
                layer.forward(forward, &x, &positions, None)?
            };
        }
        Ok(self.norm.forward(forward, &x)?)
    }

    pub(super) fn head_is_adapted(&self, forward: &Forward) -> bool {
        forward.adapters.as_ref().is_some_and(|set| set.adapter(self.head.name()).is_some())
    }

    fn embed(&self, forward: &Forward, ids: &Tensor) -> Result<Var> {
        Ok(self.embedding.forward(forward, ids)?)
    }

    /// Rotary rows and mask for the positions `start..start + tokens`.
    fn positions(&self, start: usize, tokens: usize, key_mask: Option<&Tensor>) -> Result<Positions> {
        let (end, limit) = (start + tokens, self.config.max_position_embeddings);
        if end > limit {
            return Err(ModelError::InvalidArgument {
                operation: "llama",
                message: format!(
                    "{end} tokens are more than the {limit} the model was made for; shorten them, or raise \
                     max_position_embeddings in config.json if you know better"
                ),
            });
        }
        // The table is only ever replaced as a whole, so a panic elsewhere cannot leave it half-made.
        let mut table = self.rotary.lock().unwrap_or_else(PoisonError::into_inner);
        let rotary = match &*table {
            Some(rotary) if rotary.positions() >= end => rotary.slice(start, end)?,
            _ => {
                let positions = end.next_power_of_two().min(limit);
                let rotary = RotaryTable::new(&self.device, &self.config, positions)?;
                table.insert(rotary).slice(start, end)?
            }
        };
        Ok(Positions { rotary, key_mask: key_mask.cloned(), start })
    }
}

impl Model for Llama {
    fn modules(&self) -> Vec<ModuleShape> {
        let blocks = self.layers.iter().flat_map(|layer| layer.linears()).map(Linear::shape);
        [self.embedding.shape()].into_iter().chain(blocks).chain([self.head.shape().head()]).collect()
    }

    /// The mean cross-entropy of the labels that count.
    ///
    /// The logits never exist as a whole, unless the head itself carries an adapter.
    fn loss(&self, forward: &Forward, batch: &Batch) -> lora::Result<Var> {
        batch.check_kind("a language model", &[LabelKind::Tokens])?;
        batch.check_vocabulary(self.config.vocab_size)?;
        let hidden = self.hidden(forward, &batch.ids, batch.key_mask.as_ref())?;
        let (hidden, labels) = labelled_rows(&hidden, batch)?;
        if self.head_is_adapted(forward) {
            return Ok(cross_entropy(&self.head.forward(forward, &hidden)?, &labels, IGNORED, batch.valid)?);
        }
        let weight = forward.parameter(&format!("{HEAD}.weight"), self.head.weight());
        Ok(linear_cross_entropy(&hidden, &weight, &labels, IGNORED, batch.valid, self.loss_chunk_rows)?)
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn savable_modules(&self) -> Vec<String> {
        let norms = self.norms().map(|norm| norm.name().to_string());
        [EMBEDDING_MODULE.to_string()].into_iter().chain(norms).chain([self.head.name().to_string()]).collect()
    }

    fn saved_module(&self, module: &str) -> Vec<(String, Tensor)> {
        if module == EMBEDDING_MODULE {
            return self.embedding.parameters();
        }
        if let Some(norm) = self.norms().find(|norm| norm.name() == module) {
            return norm.parameters();
        }
        self.linear(module).map(Linear::parameters).unwrap_or_default()
    }

    fn tied_parameters(&self) -> Vec<(String, String)> {
        let tied = (format!("{HEAD}.weight"), EMBEDDING.to_string());
        if self.config.tie_word_embeddings { vec![tied] } else { Vec::new() }
    }
}

/// The second extent of `[batch, tokens]`, which must not be empty.
fn sequence_length(ids: &Tensor) -> Result<usize> {
    match ids.shape()[..] {
        [_, tokens] if tokens > 0 => Ok(tokens),
        _ => Err(ModelError::InvalidArgument {
            operation: "llama",
            message: format!("token ids must be [batch, tokens] with at least one token, found {}", ids.shape()),
        }),
    }
}
