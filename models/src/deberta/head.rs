//! The heads: a pooler and classifier of sequences, and the prediction of masked tokens.

use autograd::{Var, biased_linear_cross_entropy};
use lora::{AdapterSet, Batch, Forward, IGNORED, Linear};
use tensor::{Device, Result, Tensor};

use super::config::DebertaConfig;
use super::layer::{drop_out, linear};
use super::norm::Norm;
use super::options::DebertaHead;
use crate::classifier::check_labels;
use crate::error::ModelError;
use crate::loss::{chunk_rows, labelled_rows};
use crate::weights::{RandomWeights, WeightSource, WeightType};

const POOLER: &str = "pooler.dense";
const CLASSIFIER: &str = "classifier";
const TRANSFORM: &str = "cls.predictions.transform";
/// The module of the prediction of tokens; its own parameter is a bias for each token.
pub(super) const PREDICTIONS: &str = "cls.predictions";
const TOKEN_BIAS: [&str; 2] = ["cls.predictions.bias", "cls.predictions.decoder.bias"];
/// The name under which the embedding is the matrix that gives logits.
pub(super) const DECODER: &str = "cls.predictions.decoder.weight";

/// What stands on top of the encoder.
pub(super) enum Head {
    Sequence(Box<SequenceHead>),
    Tokens(Box<TokenHead>),
}

/// Classes or a number for each sequence, from its first token.
pub(super) struct SequenceHead {
    pooler: Linear,
    classifier: Linear,
    pooler_dropout: f32,
    classifier_dropout: f32,
}

/// A token for each position.
pub(super) struct TokenHead {
    dense: Linear,
    norm: Norm,
    /// The embedding, `[vocabulary, hidden]`.
    decoder: Tensor,
    /// f32 `[vocabulary]`.
    bias: Tensor,
}

/// Where heads get their weights.
pub(super) struct HeadSource<'a> {
    pub weights: &'a mut dyn WeightSource,
    pub device: &'a Device,
    /// What new weights are drawn from.
    pub seed: u64,
    /// The modules that were made new.
    pub fresh: Vec<String>,
}

impl HeadSource<'_> {
    /// A linear module from the checkpoint, or a new one where there is none: weights from
    /// N(0, `initializer_range`²) by seed and name, biases 0.
    fn linear(&mut self, config: &DebertaConfig, name: &str, outputs: usize) -> crate::Result<Linear> {
        let hidden = config.hidden_size;
        let weight = format!("{name}.weight");
        match self.weights.stored_shape(&weight) {
            Some(shape) => {
                if name == CLASSIFIER {
                    check_labels(name, &shape, outputs)?;
                }
                linear(self.weights, name, outputs, hidden)
            }
            None => {
                let (seed, deviation) = (self.seed, config.initializer_range);
                let mut random = RandomWeights {
                    device: self.device,
                    weight_type: WeightType::F32,
                    seed,
                    deviation,
                    from_bf16: false,
                };
                self.fresh.push(name.into());
                linear(&mut random, name, outputs, hidden)
            }
        }
    }
}

impl Head {
    /// Takes the head's weights, or makes them; `embedding` is the encoder's.
    pub fn new(
        config: &DebertaConfig,
        head: DebertaHead,
        embedding: &Tensor,
        source: &mut HeadSource<'_>,
    ) -> crate::Result<Self> {
        let labels = match head {
            DebertaHead::Classifier { labels } if labels < 2 => {
                return Err(ModelError::InvalidArgument {
                    operation: "deberta",
                    message: format!("a classifier tells 2 classes or more apart, not {labels}"),
                });
            }
            DebertaHead::Classifier { labels } => labels,
            DebertaHead::Regression => 1,
            DebertaHead::MaskedLanguageModel => {
                return Ok(Head::Tokens(Box::new(TokenHead::new(config, embedding, source.weights)?)));
            }
        };
        Ok(Head::Sequence(Box::new(SequenceHead {
            pooler: source.linear(config, POOLER, config.hidden_size)?,
            classifier: source.linear(config, CLASSIFIER, labels)?,
            pooler_dropout: config.pooler_dropout,
            classifier_dropout: config.classifier_dropout,
        })))
    }

    /// The head's linear modules; the last of a sequence head is its output.
    pub fn linears(&self) -> Vec<&Linear> {
        match self {
            Head::Sequence(head) => vec![&head.pooler, &head.classifier],
            Head::Tokens(head) => vec![&head.dense],
        }
    }

    /// The modules that are no linear layers, with their parameters.
    pub fn other_modules(&self) -> Vec<(&str, Vec<(String, Tensor)>)> {
        match self {
            Head::Sequence(_) => Vec::new(),
            Head::Tokens(head) => {
                let bias = vec![("bias".to_string(), head.bias.clone())];
                vec![(head.norm.name(), head.norm.parameters()), (PREDICTIONS, bias)]
            }
        }
    }

    /// The head with adapters folded in, and with what was trained as a whole.
    pub fn merged(&self, adapters: &AdapterSet) -> crate::Result<Self> {
        Ok(match self {
            Head::Sequence(head) => Head::Sequence(Box::new(SequenceHead {
                pooler: head.pooler.merged(adapters)?,
                classifier: head.classifier.merged(adapters)?,
                ..**head
            })),
            Head::Tokens(head) => Head::Tokens(Box::new(TokenHead {
                dense: head.dense.merged(adapters)?,
                norm: head.norm.merged(adapters)?,
                decoder: adapters.merge_parameter(DECODER, &head.decoder)?,
                bias: adapters.merge_parameter(TOKEN_BIAS[0], &head.bias)?,
            })),
        })
    }

    /// Whether a tensor of a checkpoint, by name, has its place in models with other heads only.
    pub fn leaves_out(&self, name: &str) -> bool {
        let others = match self {
            Head::Sequence(_) => ["cls.predictions.", "lm_predictions.", "mask_predictions."].as_slice(),
            // The decoder is the embedding.
            Head::Tokens(_) => {
                &["pooler.", "classifier.", "lm_predictions.", "mask_predictions.", "cls.predictions.decoder."]
            }
        };
        others.iter().any(|prefix| name.starts_with(prefix))
    }
}

impl SequenceHead {
    /// Number of outputs for each sequence.
    pub fn labels(&self) -> usize {
        self.classifier.weight().shape()[0]
    }

    /// The first token's output of the last block, `[batch, hidden]`, to `[batch, labels]`: classifier(gelu(pooler(first))).
    pub fn forward(&self, forward: &Forward, first: &Var) -> Result<Var> {
        let first = drop_out(forward, first.clone(), self.pooler_dropout, POOLER)?;
        let pooled = self.pooler.forward(forward, &first)?.gelu()?;
        let pooled = drop_out(forward, pooled, self.classifier_dropout, CLASSIFIER)?;
        self.classifier.forward(forward, &pooled)
    }
}

impl TokenHead {
    fn new(config: &DebertaConfig, embedding: &Tensor, source: &mut dyn WeightSource) -> crate::Result<Self> {
        let hidden = config.hidden_size;
        // Files that keep one of two tied tensors may keep either.
        let stored = TOKEN_BIAS.into_iter().find(|name| source.stored_shape(name).is_some());
        Ok(TokenHead {
            dense: linear(source, &format!("{TRANSFORM}.dense"), hidden, hidden)?,
            norm: Norm::new(config, &format!("{TRANSFORM}.LayerNorm"), source)?,
            decoder: embedding.clone(),
            bias: source.bias(stored.unwrap_or(TOKEN_BIAS[0]), config.vocab_size)?,
        })
    }

    /// norm(gelu(dense(hidden))).
    fn transform(&self, forward: &Forward, hidden: &Var) -> Result<Var> {
        self.norm.forward(forward, &self.dense.forward(forward, hidden)?.gelu()?)
    }

    /// `hidden [batch, sequence, hidden]` to logits `[batch, sequence, vocabulary]`.
    pub fn forward(&self, forward: &Forward, hidden: &Var) -> Result<Var> {
        let (decoder, bias) = self.output(forward);
        self.transform(forward, hidden)?.matmul(&decoder.t()?)?.add(&bias)
    }

    /// The mean cross-entropy of the labels that count; the logits never exist as a whole.
    pub fn loss(&self, forward: &Forward, hidden: &Var, batch: &Batch) -> Result<Var> {
        let (hidden, labels) = labelled_rows(hidden, batch)?;
        let transformed = self.transform(forward, &hidden)?;
        let (decoder, bias) = self.output(forward);
        let chunk = chunk_rows(self.decoder.shape()[0], self.decoder.device());
        biased_linear_cross_entropy(&transformed, &decoder, &bias, &labels, IGNORED, batch.valid, chunk)
    }

    /// The matrix `[vocabulary, hidden]` and the bias that give logits.
    fn output(&self, forward: &Forward) -> (Var, Var) {
        (forward.parameter(DECODER, &self.decoder), forward.parameter(TOKEN_BIAS[0], &self.bias))
    }
}
