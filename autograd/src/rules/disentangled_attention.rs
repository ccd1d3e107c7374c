//! Disentangled attention, by content and relative position, as one operation.

use tensor::{
    DisentangledAttention, MixedDisentangledAttention, PerOperand, RandomKey, RelativeBuckets, Result, Tensor,
};

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
        let operands = [Some(self), Some(key), Some(value), position_key, position_query];
        let (attention, wanted) = (config.of(operands), wanted(operands));
        // An absent operand is a constant to the tape.
        let absent = Var::constant(self.tensor().clone());
        let inputs = operands.map(|x| x.unwrap_or(&absent));
        let forward = attention.forward()?;
        let probabilities = forward.probabilities;
        Ok(record("disentangled_attention", &inputs, forward.output, move |dy| {
            Ok(in_order(attention.backward(&probabilities, dy, wanted)?))
        }))
    }

    /// [`Var::disentangled_attention`] in mixed precision: of operands and dy rounded to 16 bits.
    ///
    /// Keeps what [`MixedDisentangledAttention`] keeps.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn mixed_disentangled_attention(
        &self,
        key: &Var,
        value: &Var,
        position_key: Option<&Var>,
        position_query: Option<&Var>,
        config: &DisentangledConfig,
    ) -> Result<Var> {
        let operands = [Some(self), Some(key), Some(value), position_key, position_query];
        let (forward, wanted) = (MixedDisentangledAttention::new(&config.of(operands))?, wanted(operands));
        // An absent operand is a constant to the tape.
        let absent = Var::constant(self.tensor().clone());
        let inputs = operands.map(|x| x.unwrap_or(&absent));
        let output = forward.output().clone();
        Ok(record("mixed_disentangled_attention", &inputs, output, move |dy| {
            Ok(in_order(forward.backward(dy, wanted)?))
        }))
    }
}

/// q, k, v, pk and pq, of which the last two may be absent.
type Operands<'a> = [Option<&'a Var>; 5];

impl DisentangledConfig {
    /// The problem. The first three operands are there.
    fn of(&self, operands: Operands<'_>) -> DisentangledAttention {
        let [query, key, value, position_key, position_query] = operands.map(|x| x.map(|x| x.tensor().clone()));
        let (Some(query), Some(key), Some(value)) = (query, key, value) else {
            unreachable!("only positions may be absent")
        };
        DisentangledAttention {
            query,
            key,
            value,
            position_key,
            position_query,
            buckets: self.buckets.clone(),
            key_mask: self.key_mask.clone(),
            scale: self.scale,
            dropout: self.dropout,
        }
    }
}

fn wanted(operands: Operands<'_>) -> PerOperand<bool> {
    let [query, key, value, position_key, position_query] = operands.map(|x| x.is_some_and(Var::requires_gradient));
    PerOperand { query, key, value, position_key, position_query }
}

fn in_order(gradients: PerOperand<Option<Tensor>>) -> Vec<Option<Tensor>> {
    let PerOperand { query, key, value, position_key, position_query } = gradients;
    vec![query, key, value, position_key, position_query]
}

#[cfg(test)]
mod tests {
    use tensor::testing::on_each_backend;

    use super::*;
    use crate::check::{check_gradients, random_cases};
    use crate::tape::Tape;

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

        /// Rounded to 16 bits, the function goes in steps: compared are the gradients of the exact attention.
        fn mixed_precision_has_the_same_gradients(device) {
            let mut random = crate::check::TestRandom::new(8);
            let table: Vec<u32> = (0..127u32).map(|t| (t / 3).min(31)).collect();
            let key = RandomKey { seed: 1, stream: 2, step: 3 };
            let config = DisentangledConfig {
                buckets: RelativeBuckets::new(device, &table, 32).unwrap(),
                key_mask: None,
                scale: 0.1,
                dropout: Some((0.2, key)),
            };
            let (content, position) = ([1, 64, 1, 64], [32, 1, 64]);
            let mut operand = |shape: &[usize]| random.tensor(device, shape, -1.0, 1.0).unwrap();
            let operands = [&content[..], &content, &content, &position, &position].map(&mut operand);
            let dy = operand(&content);
            let run = |mixed: bool| {
                let tape = Tape::new();
                let names = ["q", "k", "v", "pk", "pq"];
                let v: Vec<Var> = names.iter().zip(&operands).map(|(name, x)| tape.leaf(name, x)).collect();
                let y = match mixed {
                    true => v[0].mixed_disentangled_attention(&v[1], &v[2], Some(&v[3]), Some(&v[4]), &config),
                    false => v[0].disentangled_attention(&v[1], &v[2], Some(&v[3]), Some(&v[4]), &config),
                };
                let gradients = tape.backward_from(&y.unwrap(), dy.clone()).unwrap();
                names.map(|name| gradients.get(name).unwrap().to_vec::<f32>().unwrap())
            };
            for (got, want) in run(true).iter().zip(run(false)) {
                let largest = want.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
                assert_eq!(got.len(), want.len());
                assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() <= 4e-3 * largest));
            }
        }
    }
}
