//! LLaMA's config.json, in the spellings of transformers 4 and 5, and the shapes used for benchmarks.

use std::path::Path;

use crate::error::{ModelError, Result};
use crate::json::Object;

/// The settings of a LLaMA model; the names are those of config.json.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the gated feed-forward layer.
    pub intermediate_size: usize,
    /// Number of transformer blocks.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads; divides the number of query heads.
    pub num_key_value_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Longest sequence the model was made for.
    pub max_position_embeddings: usize,
    /// ε of the root-mean-square norms.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How the rotary frequencies are stretched beyond the original context.
    pub rope_scaling: RopeScaling,
    /// The output head is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// The four attention projections have biases.
    pub attention_bias: bool,
    /// The three feed-forward projections have biases.
    pub mlp_bias: bool,
    /// Standard deviation of new weights.
    pub initializer_range: f32,
    /// Token that starts a sequence.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a sequence.
    pub eos_token_ids: Vec<u32>,
    /// Token that fills up short sequences of a batch.
    pub pad_token_id: Option<u32>,
}

/// How rotary frequencies are changed for contexts longer than the original training's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All frequencies divided by the factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// LLaMA 3.1's: low frequencies divided, high ones kept, a smooth passage between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above original/this are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below original/this are high frequencies.
        high_freq_factor: f64,
        /// Context length of the original training.
        original_max_position_embeddings: usize,
    },
}

/// Elements of an attention head at most.
const MAX_HEAD_DIM: usize = 256;

impl LlamaConfig {
    /// Reads a config.json.
    ///
    /// # Errors
    /// [`ModelError::Field`] for absent or impossible values, [`ModelError::Unsupported`] for settings that would
    /// change the result and that the engine does not implement.
    pub fn read(path: &Path) -> Result<Self> {
        Self::from_object(&Object::read(path)?)
    }

    /// Parses the text of a config.json; `path` is for messages.
    ///
    /// # Errors
    /// As [`LlamaConfig::read`].
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        Self::from_object(&Object::parse(path, text)?)
    }

    pub(crate) fn from_object(object: &Object) -> Result<Self> {
        refuse_unsupported(object)?;
        let hidden_size = object.required_count("hidden_size")?;
        let num_attention_heads = object.required_count("num_attention_heads")?;
        let head_dim = match object.count("head_dim")? {
            Some(head_dim) => head_dim,
            None if hidden_size.is_multiple_of(num_attention_heads) => hidden_size / num_attention_heads,
            None => {
                let message = format!("({num_attention_heads}) does not divide hidden_size ({hidden_size})");
                return Err(object.error("num_attention_heads", message));
            }
        };
        let (rope_theta, rope_scaling) = rope(object)?;
        let special = |field: &str, default: u32| {
            if object.contains(field) { object.token_ids(field) } else { Ok(vec![default]) }
        };
        let config = LlamaConfig {
            vocab_size: object.required_count("vocab_size")?,
            hidden_size,
            intermediate_size: object.required_count("intermediate_size")?,
            num_hidden_layers: object.required_count("num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads: object.count("num_key_value_heads")?.unwrap_or(num_attention_heads),
            head_dim,
            max_position_embeddings: object.count("max_position_embeddings")?.unwrap_or(2048),
            rms_norm_eps: object.positive("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            rope_theta,
            rope_scaling,
            tie_word_embeddings: object.flag("tie_word_embeddings", false)?,
            attention_bias: object.flag("attention_bias", false)?,
            mlp_bias: object.flag("mlp_bias", false)?,
            initializer_range: object.positive("initializer_range")?.unwrap_or(0.02) as f32,
            // Absent is not null: the format's own defaults are LLaMA's 1 and 2.
            bos_token_id: special("bos_token_id", 1)?.first().copied(),
            eos_token_ids: special("eos_token_id", 2)?,
            pad_token_id: pad_token(object)?,
        };
        config.check(object.path())?;
        Ok(config)
    }

    /// What must hold between the numbers, whatever their source.
    pub(crate) fn check(&self, path: &Path) -> Result<()> {
        let wrong = |field: &str, message: String| {
            Err(ModelError::Field { path: path.to_path_buf(), field: field.into(), message })
        };
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            let message = format!(
                "({}) must divide num_attention_heads ({})",
                self.num_key_value_heads, self.num_attention_heads
            );
            return wrong("num_key_value_heads", message);
        }
        if self.head_dim > MAX_HEAD_DIM {
            return wrong(
                "head_dim",
                format!("({}) is more than the {MAX_HEAD_DIM} that attention takes", self.head_dim),
            );
        }
        if !self.head_dim.is_multiple_of(2) {
            return wrong("head_dim", format!("({}) must be even, for rotary positions turn pairs", self.head_dim));
        }
        Ok(())
    }

    /// Width of the query projection's output.
    pub fn query_width(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of the key and of the value projection's output.
    pub fn key_value_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Number of weights: embedding, blocks, norms and, unless tied, the head. Configurations that nobody could have made
    /// saturate.
    pub fn parameters(&self) -> u64 {
        let [vocabulary, hidden, intermediate, query, key_value] =
            [self.vocab_size, self.hidden_size, self.intermediate_size, self.query_width(), self.key_value_width()]
                .map(|count| count as u128);
        let attention_bias = if self.attention_bias { query + 2 * key_value + hidden } else { 0 };
        let mlp_bias = if self.mlp_bias { 2 * intermediate + hidden } else { 0 };
        let matrices = 2 * hidden * query + 2 * hidden * key_value + 3 * hidden * intermediate;
        let block = matrices + 2 * hidden + attention_bias + mlp_bias;
        let heads = if self.tie_word_embeddings { 1 } else { 2 };
        let all = heads * vocabulary * hidden + self.num_hidden_layers as u128 * block + hidden;
        u64::try_from(all).unwrap_or(u64::MAX)
    }

    /// The names that [`LlamaConfig::preset`] knows.
    pub const PRESETS: [&str; 6] = ["tiny", "15m", "160m", "1b", "7b", "llama3-8b"];

    /// A well-known shape by name, for benchmarks with random weights. `None` for other names.
    pub fn preset(name: &str) -> Option<Self> {
        let (hidden, intermediate, layers, heads, key_value_heads, vocabulary) = match name {
            "tiny" => (256, 688, 4, 8, 8, 2048),
            "15m" => (288, 768, 6, 6, 6, 32_000),
            "160m" => (768, 3072, 12, 12, 12, 32_000),
            "1b" => (2048, 5632, 22, 32, 4, 32_000),
            "7b" => (4096, 11_008, 32, 32, 32, 32_000),
            "llama3-8b" => (4096, 14_336, 32, 32, 8, 128_256),
            _ => return None,
        };
        Some(LlamaConfig {
            vocab_size: vocabulary,
            hidden_size: hidden,
            intermediate_size: intermediate,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: key_value_heads,
            head_dim: hidden / heads,
            max_position_embeddings: 4096,
            rms_norm_eps: 1e-6,
            rope_theta: if name == "llama3-8b" { 500_000.0 } else { 10_000.0 },
            rope_scaling: RopeScaling::None,
            tie_word_embeddings: false,
            attention_bias: false,
            mlp_bias: false,
            initializer_range: 0.02,
            bos_token_id: Some(1),
            eos_token_ids: vec![2],
            pad_token_id: None,
        })
    }
}

/// Refuses what would silently give other numbers than the checkpoint's authors got.
fn refuse_unsupported(object: &Object) -> Result<()> {
    if let Some(activation) = object.text("hidden_act")?
        && activation != "silu"
        && activation != "swish"
    {
        return Err(object.unsupported("hidden_act", activation, "LLaMA's gate is `silu`"));
    }
    for (field, neutral) in [("attention_dropout", 0.0), ("partial_rotary_factor", 1.0)] {
        if let Some(value) = object.get(field)
            && value.as_f64() != Some(neutral)
        {
            return Err(object.unsupported(field, value, format!("only {neutral} is")));
        }
    }
    if let Some(value) = object.get("quantization_config") {
        return Err(object.unsupported("quantization_config", value, "use a checkpoint in f32, f16 or bf16"));
    }
    if let Some(value) = object.get("sliding_window") {
        return Err(object.unsupported("sliding_window", value, "attention over all earlier tokens is"));
    }
    Ok(())
}

/// The rotary base and scaling: `rope_theta` and `rope_scaling` of transformers 4, or `rope_parameters` of 5.
fn rope(object: &Object) -> Result<(f64, RopeScaling)> {
    const DEFAULT_THETA: f64 = 10_000.0;
    let (theta, settings, field) = match object.object("rope_parameters")? {
        Some(parameters) => {
            let theta = parameters.positive("rope_theta")?.or(object.positive("rope_theta")?);
            (theta, Some(parameters), "rope_parameters")
        }
        None => (object.positive("rope_theta")?, object.object("rope_scaling")?, "rope_scaling"),
    };
    let theta = theta.unwrap_or(DEFAULT_THETA);
    let Some(settings) = settings else { return Ok((theta, RopeScaling::None)) };
    let kind = match settings.text("rope_type")? {
        Some(kind) => Some(kind),
        None => settings.text("type")?,
    };
    let scaling = match kind {
        Some("default") => RopeScaling::None,
        // Transformers 5 writes the parameters even when there is nothing to scale.
        None if field == "rope_parameters" => RopeScaling::None,
        Some("linear") => RopeScaling::Linear { factor: settings.required_positive("factor")? },
        Some("llama3") => {
            let (low, high) =
                (settings.required_positive("low_freq_factor")?, settings.required_positive("high_freq_factor")?);
            if high <= low {
                return Err(settings.error("high_freq_factor", format!("({high}) must exceed low_freq_factor ({low})")));
            }
            RopeScaling::Llama3 {
                factor: settings.required_positive("factor")?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: settings.required_count("original_max_position_embeddings")?,
            }
        }
        Some(other) => return Err(settings.unsupported("rope_type", other, "`default`, `linear` and `llama3` are")),
        None => return Err(settings.error("rope_type", "is missing")),
    };
    Ok((theta, scaling))
}

/// The padding token; -1, which some configurations use for "none", is none.
fn pad_token(object: &Object) -> Result<Option<u32>> {
    if object.get("pad_token_id").is_some_and(|value| value.as_i64() == Some(-1)) {
        return Ok(None);
    }
    Ok(object.token_ids("pad_token_id")?.first().copied())
}

#[cfg(test)]
mod tests;
