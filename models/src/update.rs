//! Two versions of one model on disk: whether the second can be an update of the first, and their weights one by one.

use std::path::Path;

use tensor::{DType, Device, Tensor};

use crate::architecture::ModelConfig;
use crate::checkpoint::{Checkpoint, StoredTensor};
use crate::error::{ModelError, Result};
use crate::weights::float_type;

/// An old checkpoint and a new one of the same architecture, with the same tensors of the same shapes. Only a vocabulary may
/// have grown, by rows appended to the embedding and the output head; heads of other tasks may come and go.
pub struct ModelUpdate {
    old: Version,
    new: Version,
}

/// One checkpoint of a model.
struct Version {
    config: ModelConfig,
    checkpoint: Checkpoint,
}

/// Which checkpoint of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The base that adapters were trained on.
    Old,
    /// The base that they are restored for.
    New,
}

/// The matrices with a row for each token.
const VOCABULARY: [&str; 3] =
    ["model.embed_tokens.weight", "lm_head.weight", "deberta.embeddings.word_embeddings.weight"];

/// First parts of the names of tensors that are no part of the model that adapters adapt: heads, and what older exports
/// carry along.
const OPTIONAL: [&str; 7] = ["lm_head", "score", "pooler", "classifier", "cls", "lm_predictions", "mask_predictions"];

impl ModelUpdate {
    /// Opens two checkpoint directories and compares what they hold. Weights are not read.
    ///
    /// # Errors
    /// [`ModelError::Update`] naming the setting or tensor for another architecture, names or shapes; otherwise as
    /// [`ModelConfig::read`] and [`Checkpoint::open`].
    pub fn open(old: &Path, new: &Path) -> Result<Self> {
        let version = |directory: &Path| -> Result<Version> {
            Ok(Version { config: ModelConfig::read(directory)?, checkpoint: Checkpoint::open(directory)? })
        };
        let update = ModelUpdate { old: version(old)?, new: version(new)? };
        let difference = differing_setting(&update.old.config, &update.new.config)
            .or_else(|| differing_tensor(&update.old.checkpoint, &update.new.checkpoint, update.is_tied()));
        match difference {
            None => Ok(update),
            Some(message) => Err(ModelError::Update { old: old.to_path_buf(), new: new.to_path_buf(), message }),
        }
    }

    /// The checkpoint of one side.
    pub fn checkpoint(&self, side: Side) -> &Checkpoint {
        &self.version(side).checkpoint
    }

    /// Tokens of the vocabulary of one side.
    pub fn vocabulary(&self, side: Side) -> usize {
        match &self.version(side).config {
            ModelConfig::Llama(config) => config.vocab_size,
            ModelConfig::Deberta(config) => config.vocab_size,
        }
    }

    /// The paths of the modules whose weight is a matrix.
    pub fn modules(&self, side: Side) -> Vec<String> {
        let matrices = self.checkpoint(side).tensors().filter(|(_, stored)| stored.shape.len() == 2);
        matrices.filter_map(|(name, _)| name.strip_suffix(".weight")).map(String::from).collect()
    }

    /// A module's weight of one side, f32 on the CPU. An output head that is the embedding matrix is found under either
    /// name.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`] or [`ModelError::TensorType`], or the device's own errors.
    pub fn weight(&self, side: Side, module: &str) -> Result<Tensor> {
        let Version { config, checkpoint } = self.version(side);
        let name = format!("{module}.weight");
        let tied = match (config, name.as_str()) {
            (ModelConfig::Llama(config), "lm_head.weight") if config.tie_word_embeddings => Some(VOCABULARY[0]),
            (ModelConfig::Llama(config), "model.embed_tokens.weight") if config.tie_word_embeddings => {
                Some(VOCABULARY[1])
            }
            _ => None,
        };
        let found = [Some(name.as_str()), checkpoint.alias(&name), tied].into_iter().flatten();
        let found = found.filter_map(|name| Some((name, checkpoint.get(name)?, checkpoint.bytes(name)?))).next();
        let Some((stored_name, stored, bytes)) = found else {
            return Err(ModelError::MissingTensor {
                path: checkpoint.directory().to_path_buf(),
                tensor: name,
                expected: Vec::new(),
                hint: "; the adapter adapts it".into(),
            });
        };
        let Some(dtype) = float_type(stored.dtype) else {
            let path = checkpoint.file_of(stored_name).unwrap_or(checkpoint.directory()).to_path_buf();
            let found = format!("{:?}", stored.dtype);
            return Err(ModelError::TensorType { path, tensor: stored_name.into(), found });
        };
        Ok(Tensor::from_bytes(&Device::cpu(), dtype, &stored.shape, &bytes)?.cast(DType::F32)?)
    }

    /// Whether embedding and head are one matrix, which may be stored under either name.
    fn is_tied(&self) -> bool {
        matches!(&self.old.config, ModelConfig::Llama(config) if config.tie_word_embeddings)
    }

    fn version(&self, side: Side) -> &Version {
        match side {
            Side::Old => &self.old,
            Side::New => &self.new,
        }
    }
}

/// The first setting that makes two models different architectures, with both values.
fn differing_setting(old: &ModelConfig, new: &ModelConfig) -> Option<String> {
    let (settings, vocabularies) = match (old, new) {
        (ModelConfig::Llama(old), ModelConfig::Llama(new)) => {
            let both = |name, of: fn(&crate::LlamaConfig) -> usize| (name, of(old), of(new));
            let settings = vec![
                both("hidden_size", |config| config.hidden_size),
                both("intermediate_size", |config| config.intermediate_size),
                both("num_hidden_layers", |config| config.num_hidden_layers),
                both("num_attention_heads", |config| config.num_attention_heads),
                both("num_key_value_heads", |config| config.num_key_value_heads),
                both("head_dim", |config| config.head_dim),
                both("tie_word_embeddings", |config| usize::from(config.tie_word_embeddings)),
            ];
            (settings, (old.vocab_size, new.vocab_size))
        }
        (ModelConfig::Deberta(old), ModelConfig::Deberta(new)) => {
            let both = |name, of: fn(&crate::DebertaConfig) -> usize| (name, of(old), of(new));
            let settings = vec![
                both("hidden_size", |config| config.hidden_size),
                both("intermediate_size", |config| config.intermediate_size),
                both("num_hidden_layers", |config| config.num_hidden_layers),
                both("num_attention_heads", |config| config.num_attention_heads),
                both("position_buckets", |config| config.position_buckets.unwrap_or(0)),
                both("pos_att_type (c2p)", |config| usize::from(config.content_to_position)),
                both("pos_att_type (p2c)", |config| usize::from(config.position_to_content)),
            ];
            (settings, (old.vocab_size, new.vocab_size))
        }
        _ => {
            return Some(
                "config.json: `model_type` differs; adapters move between versions of one architecture".into(),
            );
        }
    };
    if vocabularies.1 < vocabularies.0 {
        let (before, after) = vocabularies;
        return Some(format!("config.json: `vocab_size` went from {before} to {after}; a vocabulary may only grow"));
    }
    let (name, before, after) = settings.into_iter().find(|(_, before, after)| before != after)?;
    Some(format!("config.json: `{name}` is {before} in the old base and {after} in the new one"))
}

/// The first tensor that only one side has, or whose shapes do not suit each other.
fn differing_tensor(old: &Checkpoint, new: &Checkpoint, tied: bool) -> Option<String> {
    let required = |name: &str| {
        let first = name.split('.').next().unwrap_or(name);
        if tied && name == VOCABULARY[0] {
            return false;
        }
        !OPTIONAL.contains(&first) && !name.ends_with("rotary_emb.inv_freq") && !name.ends_with("position_ids")
    };
    for (name, stored) in old.tensors().filter(|(name, _)| required(name)) {
        let Some(other) = new.get(name) else {
            return Some(format!("the tensor `{name}` of the old base is not in the new one"));
        };
        if !suits(name, stored, other) {
            return Some(format!(
                "the tensor `{name}` has shape {:?} in the old base and {:?} in the new one",
                stored.shape, other.shape
            ));
        }
    }
    let added = new.tensors().find(|(name, _)| required(name) && old.get(name).is_none());
    added.map(|(name, _)| format!("the tensor `{name}` of the new base is not in the old one"))
}

fn suits(name: &str, old: &StoredTensor, new: &StoredTensor) -> bool {
    match (&old.shape[..], &new.shape[..]) {
        (&[before, width], &[after, new_width]) if VOCABULARY.contains(&name) => after >= before && width == new_width,
        (old, new) => old == new,
    }
}
