//! Scaled dot-product attention as one operation, so that no `[batch, heads, queries, keys]` tensor is kept.

use tensor::{AttentionConfig, Result, Tensor};

use crate::tape::record;
use crate::var::Var;

/// # Attention
impl Var {
    /// y = p·v with p = softmax(scale·q·kᵀ), masked, for the queries `self`, `[batch, queries, heads, head_dim]`, and
    /// `key`, `value` of `[batch, keys, kv_heads, head_dim]`; each key and value head serves heads / kv_heads query
    /// heads. With D = Σ dy·y over head_dim:
    /// dv = pᵀ·dy, ds = p·(dy·vᵀ − D), dq = scale·ds·k, dk = scale·dsᵀ·q, summed over the query heads of a key head.
    ///
    /// Keeps q, k, v, the output and one number per query and head (the logarithm of the softmax's denominator).
    /// All three gradients come from one pass, so a constant among them saves nothing.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn attention(
        &self,
        key: &Var,
        value: &Var,
        key_mask: Option<&Tensor>,
        config: &AttentionConfig,
    ) -> Result<Var> {
        let forward = tensor::attention(self.tensor(), key.tensor(), value.tensor(), key_mask, config)?;
        let output = forward.output.clone();
        let [q, k, v] = [self, key, value].map(|var| var.tensor().clone());
        let (key_mask, config) = (key_mask.cloned(), *config);
        Ok(record("attention", &[self, key, value], output, move |dy| {
            let (dq, dk, dv) = tensor::attention_backward(&q, &k, &v, key_mask.as_ref(), &config, &forward, dy)?;
            Ok(vec![Some(dq), Some(dk), Some(dv)])
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
            random_cases(4, |random| {
                let (batch, queries, kv_heads) = (random.integer(1, 2), random.extent(), random.integer(1, 2));
                let causal = random.integer(0, 1) == 1;
                let query_offset = if causal { random.integer(0, 2) } else { 0 };
                let keys = queries + query_offset;
                let (heads, head_dim) = (kv_heads * random.integer(1, 2), 2 * random.integer(1, 3));
                let config = AttentionConfig { causal, scale: 0.7, query_offset };
                let q_shape = [batch, queries, heads, head_dim];
                let k_shape = [batch, keys, kv_heads, head_dim];
                let mask = Tensor::from_vec(device, &[batch, keys], random.indices(batch * keys, 2))?;
                for mask in [None, Some(&mask)] {
                    check_gradients("attention", device, random, &[&q_shape, &k_shape, &k_shape], |v| {
                        v[0].affine(2.0, 0.0)?.attention(&v[1], &v[2], mask, &config)
                    })?;
                }
                Ok(())
            });
        }
    }
}
