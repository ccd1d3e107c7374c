//! DeBERTa-v2's and v3's config.json in its several spellings, and the shapes used for benchmarks.

use std::path::Path;

use serde_json::Value;

use crate::error::{ModelError, Result};
use crate::json::Object;

/// The settings of a DeBERTa-v2 or v3 model; the names are those of config.json, but for what is said of each.
#[derive(Clone, Debug, PartialEq)]
pub struct DebertaConfig {
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of transformer blocks.
    pub num_hidden_layers: usize,
    /// Number of attention heads; divides the hidden size.
    pub num_attention_heads: usize,
    /// Longest sequence the model was made for.
    pub max_position_embeddings: usize,
    /// From which distance on relative positions are no longer told apart; where config.json says -1, it is
    /// `max_position_embeddings`.
    pub max_relative_positions: usize,
    /// Number of buckets on either side, beyond half of which distances share them; `None` (-1 in config.json) for one
    /// bucket for each distance.
    pub position_buckets: Option<usize>,
    /// Queries meet the keys of relative positions (`c2p` in `pos_att_type`).
    pub content_to_position: bool,
    /// Keys meet the queries of relative positions (`p2c` in `pos_att_type`).
    pub position_to_content: bool,
    /// A layer norm on the relative embeddings (`layer_norm` in `norm_rel_ebd`).
    pub normalise_relative_embeddings: bool,
    /// ε of the layer norms.
    pub layer_norm_eps: f32,
    /// Dropout of embeddings, relative embeddings and the outputs of sublayers, in training.
    pub hidden_dropout_prob: f32,
    /// Dropout of the attention's probabilities, in training.
    pub attention_probs_dropout_prob: f32,
    /// Dropout before the pooler, in training.
    pub pooler_dropout: f32,
    /// Dropout before the classifier, in training (`cls_dropout`; `hidden_dropout_prob` where that is not given).
    pub classifier_dropout: f32,
    /// Standard deviation of new weights.
    pub initializer_range: f32,
    /// Token that fills up short sequences of a batch.
    pub pad_token_id: u32,
    /// Number of labels of the classifier that the checkpoint was saved with, where config.json says so.
    pub num_labels: Option<usize>,
}

impl DebertaConfig {
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
    /// As [`DebertaConfig::read`].
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        Self::from_object(&Object::parse(path, text)?)
    }

    pub(crate) fn from_object(object: &Object) -> Result<Self> {
        refuse_unsupported(object)?;
        let max_position_embeddings = object.count("max_position_embeddings")?.unwrap_or(512);
        let (content_to_position, position_to_content) = position_terms(object)?;
        let dropout = |field: &str| object.probability(field);
        let hidden_dropout_prob = dropout("hidden_dropout_prob")?.unwrap_or(0.1);
        let config = DebertaConfig {
            vocab_size: object.required_count("vocab_size")?,
            hidden_size: object.required_count("hidden_size")?,
            intermediate_size: object.required_count("intermediate_size")?,
            num_hidden_layers: object.required_count("num_hidden_layers")?,
            num_attention_heads: object.required_count("num_attention_heads")?,
            max_position_embeddings,
            max_relative_positions: count_or_none(object, "max_relative_positions")?.unwrap_or(max_position_embeddings),
            position_buckets: count_or_none(object, "position_buckets")?,
            content_to_position,
            position_to_content,
            normalise_relative_embeddings: relative_norm(object)?,
            layer_norm_eps: object.positive("layer_norm_eps")?.unwrap_or(1e-7) as f32,
            hidden_dropout_prob,
            attention_probs_dropout_prob: dropout("attention_probs_dropout_prob")?.unwrap_or(0.1),
            pooler_dropout: dropout("pooler_dropout")?.unwrap_or(0.0),
            classifier_dropout: dropout("cls_dropout")?.unwrap_or(hidden_dropout_prob),
            initializer_range: object.positive("initializer_range")?.unwrap_or(0.02) as f32,
            pad_token_id: object.token_ids("pad_token_id")?.first().copied().unwrap_or(0),
            num_labels: labels(object)?,
        };
        config.check(object.path())?;
        if let Some(pooler) = object.count("pooler_hidden_size")?
            && pooler != config.hidden_size
        {
            let way_out = format!("the pooler is as wide as the model, {}", config.hidden_size);
            return Err(object.unsupported("pooler_hidden_size", pooler, way_out));
        }
        Ok(config)
    }

    /// What must hold between the numbers, whatever their source.
    pub(crate) fn check(&self, path: &Path) -> Result<()> {
        let wrong = |field: &str, message: String| {
            Err(ModelError::Field { path: path.to_path_buf(), field: field.into(), message })
        };
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let message = format!("({}) does not divide hidden_size ({})", self.num_attention_heads, self.hidden_size);
            return wrong("num_attention_heads", message);
        }
        if let Some(buckets) = self.position_buckets
            && (buckets < 2 || self.max_relative_positions < buckets / 2 + 2)
        {
            let message = format!(
                "({buckets}) must be at least 2, and half of it below the {} relative positions by 2 or more",
                self.max_relative_positions
            );
            return wrong("position_buckets", message);
        }
        Ok(())
    }

    /// Width of one head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Rows of the relative embeddings on either side of distance 0.
    pub fn span(&self) -> usize {
        self.position_buckets.unwrap_or(self.max_relative_positions)
    }

    /// Number of weights of embeddings and encoder, without heads. Configurations that nobody could have made saturate.
    pub fn parameters(&self) -> u64 {
        let [vocabulary, hidden, intermediate, span] =
            [self.vocab_size, self.hidden_size, self.intermediate_size, self.span()].map(|count| count as u128);
        let attention = 4 * (hidden * hidden + hidden);
        let feed_forward = 2 * hidden * intermediate + hidden + intermediate;
        let block = attention + feed_forward + 4 * hidden;
        let relative_norm = if self.normalise_relative_embeddings { 2 * hidden } else { 0 };
        let layers = self.num_hidden_layers as u128;
        let all = vocabulary * hidden + 2 * hidden + 2 * span * hidden + relative_norm + layers * block;
        u64::try_from(all).unwrap_or(u64::MAX)
    }

    /// The names that [`DebertaConfig::preset`] knows.
    pub const PRESETS: [&str; 6] = ["tiny", "mini", "xsmall", "small", "base", "large"];

    /// The shape of a published DeBERTaV3 by name, or a tiny or mini one, for benchmarks with random weights. `None` for other
    /// names.
    pub fn preset(name: &str) -> Option<Self> {
        let (hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, vocab_size) = match name {
            "tiny" => (64, 128, 2, 4, 1024),
            "mini" => (256, 1024, 6, 4, 4224),
            "xsmall" => (384, 1536, 12, 6, 128_100),
            "small" => (768, 3072, 6, 12, 128_100),
            "base" => (768, 3072, 12, 12, 128_100),
            "large" => (1024, 4096, 24, 16, 128_100),
            _ => return None,
        };
        Some(DebertaConfig {
            vocab_size,
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            max_position_embeddings: 512,
            max_relative_positions: 512,
            position_buckets: Some(256),
            content_to_position: true,
            position_to_content: true,
            normalise_relative_embeddings: true,
            layer_norm_eps: 1e-7,
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            pooler_dropout: 0.0,
            classifier_dropout: 0.1,
            initializer_range: 0.02,
            pad_token_id: 0,
            num_labels: None,
        })
    }
}

/// Refuses what would silently give other numbers than the checkpoint's authors got.
fn refuse_unsupported(object: &Object) -> Result<()> {
    for (field, needed, way_out) in [
        ("relative_attention", true, "attention by relative position is needed"),
        ("share_att_key", true, "positions must share the projections of queries and keys, as in DeBERTaV3"),
        ("position_biased_input", false, "inputs without absolute positions are"),
    ] {
        // Absent, the first two mean false and the third means true.
        if object.flag(field, !needed)? != needed {
            return Err(object.unsupported(field, !needed, way_out));
        }
    }
    let zero = |field: &str, way_out: &str| match object.get(field) {
        Some(value) if value.as_f64() != Some(0.0) => Err(object.unsupported(field, value, way_out)),
        _ => Ok(()),
    };
    zero("conv_kernel_size", "the convolution of DeBERTa-v2 xlarge is not; use a DeBERTaV3 checkpoint")?;
    zero("type_vocab_size", "models without token types are")?;
    for field in ["hidden_act", "pooler_hidden_act"] {
        if let Some(activation) = object.text(field)?
            && activation != "gelu"
        {
            return Err(object.unsupported(field, activation, "`gelu` is"));
        }
    }
    if let Some(width) = object.count("embedding_size")?
        && Some(width) != object.count("hidden_size")?
    {
        return Err(object.unsupported("embedding_size", width, "embeddings as wide as hidden_size are"));
    }
    Ok(())
}

/// A count, or -1 or 0 for none.
fn count_or_none(object: &Object, field: &str) -> Result<Option<usize>> {
    match object.get(field).and_then(Value::as_i64) {
        Some(-1 | 0) => Ok(None),
        _ => object.count(field),
    }
}

/// `pos_att_type`, as "p2c|c2p" or ["p2c", "c2p"]: whether c2p is there, and p2c.
fn position_terms(object: &Object) -> Result<(bool, bool)> {
    let names: Vec<String> = match object.get("pos_att_type") {
        None => Vec::new(),
        Some(Value::String(text)) => text.split('|').map(|name| name.trim().to_lowercase()).collect(),
        Some(Value::Array(values)) => {
            let name = |value: &Value| value.as_str().map(str::to_lowercase);
            values.iter().map(name).collect::<Option<_>>().ok_or_else(|| wrong_terms(object))?
        }
        Some(_) => return Err(wrong_terms(object)),
    };
    if let Some(name) = names.iter().find(|name| !["c2p", "p2c", ""].contains(&name.as_str())) {
        return Err(object.unsupported("pos_att_type", name, "`c2p` and `p2c` are"));
    }
    let has = |name: &str| names.iter().any(|other| other == name);
    Ok((has("c2p"), has("p2c")))
}

fn wrong_terms(object: &Object) -> ModelError {
    object.error("pos_att_type", "must be a text like \"p2c|c2p\" or a list of such names")
}

/// Whether `norm_rel_ebd` asks for the layer norm.
fn relative_norm(object: &Object) -> Result<bool> {
    let Some(text) = object.text("norm_rel_ebd")? else { return Ok(false) };
    let mut norm = false;
    for name in text.split('|').map(|name| name.trim().to_lowercase()) {
        match name.as_str() {
            "layer_norm" => norm = true,
            "none" | "" => {}
            _ => return Err(object.unsupported("norm_rel_ebd", text, "`layer_norm` and `none` are")),
        }
    }
    Ok(norm)
}

/// The number of labels: `num_labels`, or as many as `id2label` names.
fn labels(object: &Object) -> Result<Option<usize>> {
    if let Some(count) = object.count("num_labels")? {
        return Ok(Some(count));
    }
    Ok(object.get("id2label").and_then(Value::as_object).map(|names| names.len()).filter(|&count| count > 0))
}

#[cfg(test)]
mod tests;
