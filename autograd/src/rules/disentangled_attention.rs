//! Disentangled attention, by content and relative position, as one operation.

use tensor::{DisentangledAttention, PerOperand, RandomKey, RelativeBuckets, Result, Tensor};

use crate::tape::record;
use crate::var::Var;

/// What [`Var::disentangled_attention`] needs besides its differentiable operands.
#[derive(Clone, Debug)]
pub struct DisentangledConfig {
    /// Which rows of pk and pq a pair of positions takes.
    pub buckets: RelativeBuckets,
    /// u32 `[batch, sequence]`, 0 for padding; `None` when every position is a token.
    pub key_mask: Option<Tensor>,
    /// Factor of the scores.
    pub scale: f32,
    /// Probability below 1 with which a probability is dropped, and the key of the mask.
    pub dropout: Option<(f32, RandomKey)>,
}

/// # Disentangled attention
impl Var {
    /// y = D(p)·v with p = softmax(s) and s\[i, j\] = scale·(q\[i\]·k\[j\] + q\[i\]·pk\[b\] + k\[j\]·pq\[b\]), masked, where b is
    /// the bucket of i − j and D dropout, for the queries `self`, `key` and `value`, all `[batch, sequence, heads,
    /// head_dim]`, and `position_key` pk and `position_query` pq, `[buckets, heads, head_dim]`, either of which may be
    /// absent. With dD = D(dy·vᵀ) and ds = scale·p·(dD − Σ p·dD), summed by bucket to dc (over the keys) and dr (over the
    /// queries): dv = D(p)ᵀ·dy, dq = ds·k + dc·pk, dk = dsᵀ·q + dr·pq, dpk = dcᵀ·q, dpq = drᵀ·k.
    ///
    /// Keeps the operands and p, `[heads, batch, sequence, sequence]`.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn disentangled_attention(
        &self,
        key: &Var,
        value: &Var,
        position_key: Option<&Var>,
        position_query: Option<&Var>,
        config: &DisentangledConfig,
    ) -> Result<Var> {
        let attention = DisentangledAttention {
            query: self.tensor().clone(),
            key: key.tensor().clone(),
            value: value.tensor().clone(),
            position_key: position_key.map(|position| position.tensor().clone()),
            position_query: position_query.map(|position| position.tensor().clone()),
            buckets: config.buckets.clone(),
            key_mask: config.key_mask.clone(),
            scale: config.scale,
            dropout: config.dropout,
        };
        let wanted = PerOperand {
            query: self.requires_gradient(),
            key: key.requires_gradient(),
            value: value.requires_gradient(),
            position_key: position_key.is_some_and(Var::requires_gradient),
            position_query: position_query.is_some_and(Var::requires_gradient),
        };
        let forward = attention.forward()?;
        let probabilities = forward.probabilities;
        // An absent operand is a constant to the tape.
        let absent = Var::constant(self.tensor().clone());
        let inputs = [self, key, value, position_key.unwrap_or(&absent), position_query.unwrap_or(&absent)];
        Ok(record("disentangled_attention", &inputs, forward.output, move |dy| {
            let gradients = attention.backward(&probabilities, dy, wanted)?;
            let PerOperand { query, key, value, position_key, position_query } = gradients;
            Ok(vec![query, key, value, position_key, position_query])
        }))
    }
}

#[cfg(test)]
mod tests {
    use tensor::testing::on_each_backend;

    use super::*;
    use crate::check::{check_gradients, random_cases};

    on_each_backend! {
        fn derivatives(device) {
            random_cases(3, |random| {
                let (batch, sequence, heads) = (random.integer(1, 2), random.extent(), random.integer(1, 2));
                let head_dim = random.integer(1, 4);
                let span = random.integer(1, 3);
                let bucket = |t: usize| (t + span).saturating_sub(sequence - 1).min(2 * span - 1) as u32;
                let table: Vec<u32> = (0..2 * sequence - 1).map(bucket).collect();
                let mask = Tensor::from_vec(device, &[batch, sequence], random.indices(batch * sequence, 2))?;
                let key = RandomKey { seed: 1, stream: 2, step: random.integer(0, 9) as u64 };
                let plain = DisentangledConfig {
                    buckets: RelativeBuckets::new(device, &table, 2 * span)?,
                    key_mask: None,
                    scale: 0.7,
                    dropout: None,
                };
                let masked = DisentangledConfig { key_mask: Some(mask), dropout: Some((0.3, key)), ..plain.clone() };
                let content = [batch, sequence, heads, head_dim];
                let position = [2 * span, heads, head_dim];
                let shapes: [&[usize]; 5] = [&content, &content, &content, &position, &position];
                for config in [&plain, &masked] {
                    check_gradients("both terms", device, random, &shapes, |v| {
                        v[0].disentangled_attention(&v[1], &v[2], Some(&v[3]), Some(&v[4]), config)
                    })?;
                }
                check_gradients("content to position", device, random, &shapes[..4], |v| {
                    v[0].disentangled_attention(&v[1], &v[2], Some(&v[3]), None, &plain)
                })?;
                check_gradients("position to content", device, random, &shapes[..4], |v| {
                    v[0].disentangled_attention(&v[1], &v[2], None, Some(&v[3]), &plain)
                })
            });
        }
    }
}
