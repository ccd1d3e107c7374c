//! Attention with rotary position embedding in mixed precision, as one operation that keeps 16-bit rows only.

use tensor::{AttentionConfig, MixedAttention, Result, Shape, Tensor};

use crate::accumulation::{Gradient, Totals};
use crate::rounded::RoundedVar;
use crate::var::Var;

/// # Attention in mixed precision
impl Var {
    /// As [`Var::rotary`] of the queries `self` and of `key`, and [`Var::attention`], with queries, keys, values and the output
    /// rounded to 16 bits row by row; the output is `[batch, sequence, heads · head_dim]` and exists in 16 bits only. The gradients
    /// are those of attention at the rounded operands, of the rounded dy.
    ///
    /// Keeps the rounded q, k, v and output, and one number per query and head. All three gradients come from one pass.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn mixed_attention(
        &self,
        key: &Var,
        value: &Var,
        tables: [&Tensor; 2],
        key_mask: Option<&Tensor>,
        config: &AttentionConfig,
    ) -> Result<RoundedVar> {
        let operands = [self.tensor(), key.tensor(), value.tensor()];
        let forward = MixedAttention::new(operands, tables, key_mask, config)?;
        let output = (forward.output().clone(), Shape::new(&forward.output_shape())?);
        let rule = move |dy: Gradient, totals: &mut Totals| {
            let gradients = forward.backward(&dy.into_tensor()?)?;
            gradients.into_iter().enumerate().try_for_each(|(input, gradient)| totals.add(input, gradient))
        };
        Ok(RoundedVar::record_kept("mixed_attention", &[self, key, value], output, rule))
    }
}

#[cfg(test)]
mod tests {
    use tensor::Device;
    use tensor::testing::on_each_backend;

    use super::*;
    use crate::check::TestRandom;
    use crate::tape::Tape;

    /// y·w for the operands moved by `step` along `directions`, and with `gradients` their gradients.
    struct Probe<'a> {
        device: &'a Device,
        shapes: [[usize; 4]; 3],
        tables: [Tensor; 2],
        weights: Tensor,
    }

    impl Probe<'_> {
        fn run(&self, tape: &Tape, operands: &[Vec<f32>; 3]) -> Result<Var> {
            let leaf = |i: usize| {
                let tensor = Tensor::from_slice(self.device, &self.shapes[i], &operands[i])?;
                tape.leaf(["q", "k", "v"][i], &tensor).affine(1.5, 0.0)
            };
            let config = AttentionConfig { causal: true, scale: 0.5, query_offset: 0 };
            let tables = [&self.tables[0], &self.tables[1]];
            let output = leaf(0)?.mixed_attention(&leaf(1)?, &leaf(2)?, tables, None, &config)?.to_var()?;
            let flat = output.reshape(&[output.elements()])?;
            flat.mul(&Var::constant(self.weights.clone()))?.sum(&[0], false)
        }

        fn value(&self, operands: &[Vec<f32>; 3]) -> Result<f64> {
            Ok(f64::from(self.run(&Tape::inference(), operands)?.tensor().item::<f32>()?))
        }
    }

    on_each_backend! {
        /// A long step, since what is rounded changes in jumps, along directions of many elements, in which these cancel.
        fn derivatives(device) {
            let mut random = TestRandom::new(11);
            let shapes = [[2, 9, 4, 16], [2, 9, 2, 16], [2, 9, 2, 16]];
            let angles = random.tensor(device, &[9, 8], -3.0, 3.0).unwrap();
            let tables = [angles.cos().unwrap(), angles.sin().unwrap()];
            let weights = random.tensor(device, &[2 * 9 * 4 * 16], -1.0, 1.0).unwrap();
            let probe = Probe { device, shapes, tables, weights };
            let point = shapes.map(|shape| random.values(shape.iter().product(), -1.0, 1.0));
            let tape = Tape::new();
            let gradients = tape.backward(&probe.run(&tape, &point).unwrap()).unwrap();
            for (input, name) in ["q", "k", "v"].into_iter().enumerate() {
                let gradient = gradients.get(name).unwrap().to_vec::<f32>().unwrap();
                let direction = gradient.iter().map(|g| g + random.uniform(-0.02, 0.02)).collect::<Vec<_>>();
                let length = direction.iter().map(|d| d * d).sum::<f32>().sqrt();
                let moved = |step: f32| {
                    let mut moved = point.clone();
                    moved[input].iter_mut().zip(&direction).for_each(|(x, d)| *x += step * d / length);
                    probe.value(&moved).unwrap()
                };
                let slope = |step: f32| (moved(step) - moved(-step)) / (2.0 * f64::from(step));
                let numeric = (4.0 * slope(0.2) - slope(0.4)) / 3.0;
                let along = gradient.iter().zip(&direction).map(|(g, d)| f64::from(g * d / length)).sum::<f64>();
                assert!((numeric - along).abs() <= 1e-2 * along, "{name}: {along}, differences give {numeric}");
            }
        }
    }
}
