//! What a caller chooses when a model is made.

use super::config::DebertaConfig;
use crate::weights::WeightType;

/// What stands on top of the encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DebertaHead {
    /// A pooler of the first token and a classifier.
    Classifier {
        /// Number of classes.
        labels: usize,
    },
    /// As [`DebertaHead::Classifier`], with one output that predicts a number.
    Regression,
    /// The masked-language-modelling head `cls.predictions`, whose last matrix is the embedding.
    MaskedLanguageModel,
}

/// Probabilities of dropout that replace those of config.json, each below 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DropoutOverrides {
    /// For `hidden_dropout_prob`.
    pub hidden: Option<f32>,
    /// For `attention_probs_dropout_prob`.
    pub attention: Option<f32>,
    /// For `pooler_dropout`.
    pub pooler: Option<f32>,
    /// For `cls_dropout`.
    pub classifier: Option<f32>,
}

impl DropoutOverrides {
    /// The configuration with the overrides in it.
    pub(super) fn apply(&self, config: DebertaConfig) -> DebertaConfig {
        DebertaConfig {
            hidden_dropout_prob: self.hidden.unwrap_or(config.hidden_dropout_prob),
            attention_probs_dropout_prob: self.attention.unwrap_or(config.attention_probs_dropout_prob),
            pooler_dropout: self.pooler.unwrap_or(config.pooler_dropout),
            classifier_dropout: self.classifier.unwrap_or(config.classifier_dropout),
            ..config
        }
    }
}

/// How a DeBERTa model is made of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DebertaOptions {
    /// The head. A pooler or classifier that the checkpoint does not hold is made new.
    pub head: DebertaHead,
    /// Element type of the weight matrices.
    pub weight_type: WeightType,
    /// What new weights are drawn from.
    pub seed: u64,
    /// Other probabilities of dropout than config.json's.
    pub dropout: DropoutOverrides,
}

impl DebertaOptions {
    /// A head on f32 weights with config.json's dropout, new weights from seed 0.
    pub fn new(head: DebertaHead) -> Self {
        DebertaOptions { head, weight_type: WeightType::F32, seed: 0, dropout: DropoutOverrides::default() }
    }
}
