//! One transformer block: attention and gated feed-forward, each behind a norm and beside a residual.

use autograd::{Operand, Var};
use lora::{AdapterSet, Forward, Linear};
use tensor::{AttentionConfig, MixedAttention, Result, Tensor, is_better_rounded};

use super::config::LlamaConfig;
use super::norm::Norm;
use super::rotary::RotaryTable;
use crate::weights::WeightSource;

/// The weights of one block.
pub(super) struct Layer {
    input_norm: Norm,
    attention: Attention,
    post_attention_norm: Norm,
    feed_forward: FeedForward,
}

struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    head_dim: usize,
}

struct FeedForward {
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// What all blocks of a pass share: the rotary rows of the tokens' positions, and which keys are tokens.
#[derive(Clone)]
pub(super) struct Positions {
    pub rotary: RotaryTable,
    /// u32 `[batch, keys]`, 0 for padding.
    pub key_mask: Option<Tensor>,
    /// Position of the first token.
    pub start: usize,
}

/// The keys and values of earlier tokens of one block, `[batch, tokens, kv_heads, head_dim]` each; keys are turned.
#[derive(Clone, Default)]
pub(super) struct LayerCache {
    keys_and_values: Option<(Tensor, Tensor)>,
}

impl LayerCache {
    /// Adds the new tokens' keys and values, and returns all there are now.
    fn extend(&mut self, keys: &Tensor, values: &Tensor) -> Result<(Tensor, Tensor)> {
        let all = match self.keys_and_values.take() {
            None => (keys.clone(), values.clone()),
            Some((old_keys, old_values)) => {
                (Tensor::concat(&[&old_keys, keys], 1)?, Tensor::concat(&[&old_values, values], 1)?)
            }
        };
        self.keys_and_values = Some(all.clone());
        Ok(all)
    }
}

impl Layer {
    /// Takes the weights of block `index` from `source`, by their names in Hugging Face checkpoints.
    pub fn new(config: &LlamaConfig, index: usize, source: &mut dyn WeightSource) -> crate::Result<Self> {
        let prefix = format!("model.layers.{index}");
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let (query, key_value) = (config.query_width(), config.key_value_width());
        let mut linear = |part: &str, outputs: usize, inputs: usize, bias: bool| -> crate::Result<Linear> {
            let name = format!("{prefix}.{part}");
            let weight = source.matrix(&format!("{name}.weight"), &[outputs, inputs])?;
            let bias = if bias { Some(source.bias(&format!("{name}.bias"), outputs)?) } else { None };
            Ok(Linear::new(name, weight, bias)?)
        };
        let attention = Attention {
            query: linear("self_attn.q_proj", query, hidden, config.attention_bias)?,
            key: linear("self_attn.k_proj", key_value, hidden, config.attention_bias)?,
            value: linear("self_attn.v_proj", key_value, hidden, config.attention_bias)?,
            output: linear("self_attn.o_proj", hidden, query, config.attention_bias)?,
            head_dim: config.head_dim,
        };
        let feed_forward = FeedForward {
            gate: linear("mlp.gate_proj", intermediate, hidden, config.mlp_bias)?,
            up: linear("mlp.up_proj", intermediate, hidden, config.mlp_bias)?,
            down: linear("mlp.down_proj", hidden, intermediate, config.mlp_bias)?,
        };
        let mut norm = |part: &str| Norm::new(format!("{prefix}.{part}"), hidden, config.rms_norm_eps, source);
        Ok(Layer {
            input_norm: norm("input_layernorm")?,
            attention,
            post_attention_norm: norm("post_attention_layernorm")?,
            feed_forward,
        })
    }

    /// The block's linear modules, in the order of computation.
    pub fn linears(&self) -> [&Linear; 7] {
        let Layer { attention: Attention { query, key, value, output, .. }, feed_forward, .. } = self;
        [query, key, value, output, &feed_forward.gate, &feed_forward.up, &feed_forward.down]
    }

    /// The block's norms.
    pub fn norms(&self) -> [&Norm; 2] {
        [&self.input_norm, &self.post_attention_norm]
    }

    /// The block with adapters folded in, and with what was trained as a whole.
    pub fn merged(&self, adapters: &AdapterSet) -> crate::Result<Self> {
        let (attention, feed_forward) = (&self.attention, &self.feed_forward);
        Ok(Layer {
            input_norm: self.input_norm.merged(adapters)?,
            attention: Attention {
                query: attention.query.merged(adapters)?,
                key: attention.key.merged(adapters)?,
                value: attention.value.merged(adapters)?,
                output: attention.output.merged(adapters)?,
                head_dim: attention.head_dim,
            },
            post_attention_norm: self.post_attention_norm.merged(adapters)?,
            feed_forward: FeedForward {
                gate: feed_forward.gate.merged(adapters)?,
                up: feed_forward.up.merged(adapters)?,
                down: feed_forward.down.merged(adapters)?,
            },
        })
    }

    /// `x [batch, sequence, hidden]` to the same shape:
    /// `h = x + attention(norm(x))`, then `h + feed_forward(norm(h))`.
    pub fn forward(
        &self,
        forward: &Forward,
        x: &Var,
        positions: &Positions,
        cache: Option<&mut LayerCache>,
    ) -> Result<Var> {
        let (h, gated) = self.before_down(forward, x, positions, cache)?;
        self.feed_forward.down.forward_onto(forward, gated, &h)
    }

    /// The block as a segment of its own, see [`Forward::checkpoint`]: all that is computed on the pass's tape.
    pub fn as_segment(&self, forward: &Forward, x: &Var, positions: &Positions) -> Result<Var> {
        let (h, gated) = self.before_down(forward, x, positions, None)?;
        self.feed_forward.down.forward_onto_last(forward, gated, &h)
    }

    /// h, and what the last projection reads.
    fn before_down(
        &self,
        forward: &Forward,
        x: &Var,
        positions: &Positions,
        cache: Option<&mut LayerCache>,
    ) -> Result<(Var, Operand)> {
        let Attention { query, key, value, .. } = &self.attention;
        let normed = self.input_norm.forward_to(forward, x, &[query, key, value])?;
        let x = self.attention.forward(forward, x, normed, positions, cache)?;
        let FeedForward { gate, up, .. } = &self.feed_forward;
        let normed = self.post_attention_norm.forward_to(forward, &x, &[gate, up])?;
        let gated = self.feed_forward.gated(forward, normed)?;
        Ok((x, gated))
    }
}

impl Attention {
    /// The residual plus the attention of x.
    fn forward(
        &self,
        forward: &Forward,
        residual: &Var,
        x: Operand,
        positions: &Positions,
        cache: Option<&mut LayerCache>,
    ) -> Result<Var> {
        let (batch, sequence) = (x.shape()[0], x.shape()[1]);
        let heads = |projected: Var| {
            let count = projected.shape()[2] / self.head_dim;
            projected.reshape(&[batch, sequence, count, self.head_dim])
        };
        let [query, key, value] = Linear::forward_together(forward, [&self.query, &self.key, &self.value], x)?;
        let (query, key, value) = (heads(query)?, heads(key)?, heads(value)?);
        let is_mixed = MixedAttention::HEAD_DIMS.contains(&self.head_dim)
            && [&self.query, &self.key, &self.value, &self.output].iter().all(|linear| linear.is_mixed(forward));
        let mixed: Operand = match cache {
            None if is_mixed => {
                let RotaryTable { cosines, sines } = &positions.rotary;
                let (mask, config) = (positions.key_mask.as_ref(), self.config(positions));
                query.mixed_attention(&key, &value, [cosines, sines], mask, &config)?.into()
            }
            cache => self.in_f32([query, key, value], positions, cache)?.into(),
        };
        self.output.forward_onto(forward, mixed, residual)
    }

    /// `[batch, sequence, heads, head_dim]` each to `[batch, sequence, heads · head_dim]`.
    fn in_f32(&self, [q, k, v]: [Var; 3], positions: &Positions, cache: Option<&mut LayerCache>) -> Result<Var> {
        let RotaryTable { cosines, sines } = &positions.rotary;
        let (query, mut key, mut value) = (q.rotary(cosines, sines)?, k.rotary(cosines, sines)?, v);
        if let Some(cache) = cache {
            let (keys, values) = cache.extend(key.tensor(), value.tensor())?;
            (key, value) = (Var::constant(keys), Var::constant(values));
        }
        let mixed = query.attention(&key, &value, positions.key_mask.as_ref(), &self.config(positions))?;
        let [batch, sequence, heads, head_dim] = [0, 1, 2, 3].map(|axis| mixed.shape()[axis]);
        mixed.reshape(&[batch, sequence, heads * head_dim])
    }

    fn config(&self, positions: &Positions) -> AttentionConfig {
        AttentionConfig { causal: true, scale: 1.0 / (self.head_dim as f32).sqrt(), query_offset: positions.start }
    }
}

impl FeedForward {
    /// silu(gate(x)) · up(x).
    fn gated(&self, forward: &Forward, x: Operand) -> Result<Operand> {
        // Each goes as soon as it has been read: this is where a block takes the most memory.
        let layers = [&self.gate, &self.up];
        let is_mixed = [&self.gate, &self.up, &self.down].iter().all(|linear| linear.is_mixed(forward));
        let [hidden, intermediate] = [0, 1].map(|axis| self.down.weight().shape()[axis]);
        if is_mixed && is_better_rounded(x.shape().elements() / hidden.max(1), hidden, intermediate) {
            let [gate, up] = Linear::forward_together_rounded(forward, layers, x)?;
            return Ok(gate.silu_mul_rounded(&up)?.into());
        }
        let [gate, up] = Linear::forward_together(forward, layers, x)?;
        Ok(if is_mixed { gate.silu_mul_rounded(&up)?.into() } else { gate.silu_mul(&up)?.into() })
    }
}
