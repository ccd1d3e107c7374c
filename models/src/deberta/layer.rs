//! One transformer block: disentangled attention and feed-forward, each with a residual and a norm after it.

use autograd::{DisentangledConfig, Operand, Var};
use lora::{AdapterSet, DropoutSource, Forward, Linear};
use tensor::{MixedDisentangledAttention, RandomKey, RelativeBuckets, Result, Tensor};

use super::config::DebertaConfig;
use super::norm::Norm;
use crate::weights::WeightSource;

/// Mixed into the seed for the projections of positions, whose adapters' dropout must not repeat the content's masks.
const POSITION_SEED: u64 = 0x706f_7369_7469_6f6e;

/// Takes the linear module `name` with its bias from `source`.
pub(super) fn linear(
    source: &mut dyn WeightSource,
    name: &str,
    outputs: usize,
    inputs: usize,
) -> crate::Result<Linear> {
    let weight = source.matrix(&format!("{name}.weight"), &[outputs, inputs])?;
    let bias = source.bias(&format!("{name}.bias"), outputs)?;
    Ok(Linear::new(name, weight, Some(bias))?)
}

/// Dropout of what comes out of one place of the model, in passes that train: its probability and key. (What goes into an
/// adapter there is dropped under the place's own name.)
pub(super) fn dropout_of(forward: &Forward, probability: f32, place: &str) -> Option<(f32, RandomKey)> {
    let source = forward.dropout.filter(|_| probability > 0.0)?;
    Some((probability, source.key(&format!("{place}.dropout"))))
}

/// What comes out of one place of the model, after its dropout.
pub(super) fn drop_out(forward: &Forward, x: Var, probability: f32, place: &str) -> Result<Var> {
    match dropout_of(forward, probability, place) {
        Some((probability, key)) => x.dropout(probability, key),
        None => Ok(x),
    }
}

/// The weights of one block.
pub(super) struct Layer {
    attention: Attention,
    intermediate: Linear,
    output: Linear,
    output_norm: Norm,
    hidden_dropout: f32,
}

struct Attention {
    name: String,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    norm: Norm,
    heads: usize,
    content_to_position: bool,
    position_to_content: bool,
    attention_dropout: f32,
    hidden_dropout: f32,
}

/// What all blocks of a pass share.
#[derive(Clone)]
pub(super) struct Surroundings {
    /// Which of the relative embeddings' rows a pair of positions takes.
    pub buckets: RelativeBuckets,
    /// u32 `[batch, sequence]`, 0 for padding.
    pub key_mask: Option<Tensor>,
}

impl Layer {
    /// Takes the weights of block `index` from `source`, by their names in Hugging Face checkpoints.
    pub fn new(config: &DebertaConfig, index: usize, source: &mut dyn WeightSource) -> crate::Result<Self> {
        let prefix = format!("deberta.encoder.layer.{index}");
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let mut square = |part: &str| linear(source, &format!("{prefix}.attention.{part}"), hidden, hidden);
        let (query, key, value) = (square("self.query_proj")?, square("self.key_proj")?, square("self.value_proj")?);
        let attention = Attention {
            name: format!("{prefix}.attention"),
            query,
            key,
            value,
            output: square("output.dense")?,
            norm: Norm::new(config, &format!("{prefix}.attention.output.LayerNorm"), source)?,
            heads: config.num_attention_heads,
            content_to_position: config.content_to_position,
            position_to_content: config.position_to_content,
            attention_dropout: config.attention_probs_dropout_prob,
            hidden_dropout: config.hidden_dropout_prob,
        };
        Ok(Layer {
            attention,
            intermediate: linear(source, &format!("{prefix}.intermediate.dense"), intermediate, hidden)?,
            output: linear(source, &format!("{prefix}.output.dense"), hidden, intermediate)?,
            output_norm: Norm::new(config, &format!("{prefix}.output.LayerNorm"), source)?,
            hidden_dropout: config.hidden_dropout_prob,
        })
    }

    /// The block's linear modules, in the order of computation.
    pub fn linears(&self) -> [&Linear; 6] {
        let Attention { query, key, value, output, .. } = &self.attention;
        [query, key, value, output, &self.intermediate, &self.output]
    }

    /// The block's norms.
    pub fn norms(&self) -> [&Norm; 2] {
        [&self.attention.norm, &self.output_norm]
    }

    /// The block with adapters folded in, and with what was trained as a whole.
    pub fn merged(&self, adapters: &AdapterSet) -> crate::Result<Self> {
        let attention = &self.attention;
        Ok(Layer {
            attention: Attention {
                name: attention.name.clone(),
                query: attention.query.merged(adapters)?,
                key: attention.key.merged(adapters)?,
                value: attention.value.merged(adapters)?,
                output: attention.output.merged(adapters)?,
                norm: attention.norm.merged(adapters)?,
                ..*attention
            },
            intermediate: self.intermediate.merged(adapters)?,
            output: self.output.merged(adapters)?,
            output_norm: self.output_norm.merged(adapters)?,
            hidden_dropout: self.hidden_dropout,
        })
    }

    /// `x [batch, sequence, hidden]` to the same shape:
    /// `h = norm(x + attention(x))`, then `norm(h + output(gelu(intermediate(h))))`. `relative` are the relative
    /// embeddings, `[buckets, hidden]`.
    pub fn forward(&self, forward: &Forward, x: &Var, relative: &Var, around: &Surroundings) -> Result<Var> {
        let mixed = self.attention.mix(forward, x, relative, around)?;
        self.after_mixing(forward, x, &mixed)
    }

    /// As [`Layer::forward`], but of the first position alone, `[batch, 1, hidden]`: all that follows attention concerns
    /// each position by itself and is left out for the others.
    pub fn forward_first(&self, forward: &Forward, x: &Var, relative: &Var, around: &Surroundings) -> Result<Var> {
        let mixed = self.attention.mix(forward, x, relative, around)?;
        self.after_mixing(forward, &x.slice(1, 0, 1)?, &mixed.slice(1, 0, 1)?)
    }

    fn after_mixing(&self, forward: &Forward, x: &Var, mixed: &Var) -> Result<Var> {
        let x = self.attention.project(forward, x, mixed)?;
        let wide = self.intermediate.forward(forward, &x)?;
        let wide: Operand = match self.output.is_mixed(forward) {
            true => wide.gelu_rounded()?.into(),
            false => wide.gelu()?.into(),
        };
        self.output_norm.after_residual(forward, &x, &self.output, wide, self.hidden_dropout)
    }
}

impl Attention {
    /// The values of `x [batch, sequence, hidden]` as each position weighs them, of the same shape.
    fn mix(&self, forward: &Forward, x: &Var, relative: &Var, around: &Surroundings) -> Result<Var> {
        let &[batch, sequence, hidden] = &x.shape()[..] else {
            let expected = "hidden states [batch, sequence, hidden]".into();
            return Err(tensor::TensorError::Shape { operation: "deberta", expected, found: *x.shape() });
        };
        let head_dim = hidden / self.heads;
        let split = |x: Var| x.reshape(&[batch, sequence, self.heads, head_dim]);
        let [query, key, value] = Linear::forward_together(forward, [&self.query, &self.key, &self.value], x)?;
        let (query, key, value) = (split(query)?, split(key)?, split(value)?);
        let (position_key, position_query) = self.project_positions(forward, relative, head_dim)?;
        let terms = 1 + usize::from(self.content_to_position) + usize::from(self.position_to_content);
        let dropout = forward.dropout.filter(|_| self.attention_dropout > 0.0);
        let config = DisentangledConfig {
            buckets: around.buckets.clone(),
            key_mask: around.key_mask.clone(),
            scale: 1.0 / ((head_dim * terms) as f32).sqrt(),
            dropout: dropout.map(|source| (self.attention_dropout, source.key(&format!("{}.self", self.name)))),
        };
        let (position_key, position_query) = (position_key.as_ref(), position_query.as_ref());
        let is_mixed = [&self.query, &self.key, &self.value].iter().all(|linear| linear.is_mixed(forward))
            && terms == 3
            && MixedDisentangledAttention::suits([batch, sequence, self.heads, head_dim], config.buckets.count());
        let mixed = match is_mixed {
            true => query.mixed_disentangled_attention(&key, &value, position_key, position_query, &config)?,
            false => query.disentangled_attention(&key, &value, position_key, position_query, &config)?,
        };
        mixed.reshape(&[batch, sequence, hidden])
    }

    /// `norm(x + output(mixed))`, position by position.
    fn project(&self, forward: &Forward, x: &Var, mixed: &Var) -> Result<Var> {
        self.norm.after_residual(forward, x, &self.output, mixed.into(), self.hidden_dropout)
    }

    /// The relative embeddings through the projections of keys and of queries, `[buckets, heads, head_dim]` each. The
    /// projections are those of the content, biases and adapters included.
    fn project_positions(
        &self,
        forward: &Forward,
        relative: &Var,
        head_dim: usize,
    ) -> Result<(Option<Var>, Option<Var>)> {
        let place = format!("{}.self.positions", self.name);
        let embeddings = drop_out(forward, relative.clone(), self.hidden_dropout, &place)?;
        let apart = |source: DropoutSource| DropoutSource { seed: source.seed ^ POSITION_SEED, ..source };
        let forward = Forward { dropout: forward.dropout.map(apart), ..forward.clone() };
        let split = |x: Var| x.reshape(&[embeddings.shape()[0], self.heads, head_dim]);
        if self.content_to_position && self.position_to_content {
            let [key, query] = Linear::forward_together(&forward, [&self.key, &self.query], &embeddings)?;
            return Ok((Some(split(key)?), Some(split(query)?)));
        }
        let project = |projection: &Linear| split(projection.forward(&forward, &embeddings)?);
        Ok((
            self.content_to_position.then(|| project(&self.key)).transpose()?,
            self.position_to_content.then(|| project(&self.query)).transpose()?,
        ))
    }
}
