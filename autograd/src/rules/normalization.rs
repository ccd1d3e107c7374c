//! Normalisation over the last axis, of extent n. With frozen weights only what dx needs is kept.

use tensor::{RandomKey, ResidualNorm, Result};

use super::keep_if;
use crate::accumulation::{Gradient, Totals};
use crate::rounded::RoundedVar;
use crate::tape::record_accumulating;
use crate::var::Var;

/// # Normalisation
impl Var {
    /// y = w·x̂ with x̂ = x·r, r = 1/√(mean(x²) + epsilon);
    /// dx = r·(w·dy − x̂·mean(w·dy·x̂)), added to what x has gathered in the same pass over memory (the gradient that goes
    /// around a block); dw = Σ over rows of dy·x̂.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn rms_norm(&self, weight: &Var, epsilon: f32) -> Result<Var> {
        let output = self.tensor().rms_norm(weight.tensor(), epsilon)?;
        Ok(record_accumulating("rms_norm", &[self, weight], output, rms_norm_rule(self, weight, epsilon)))
    }

    /// As [`Var::rms_norm`], with a result that exists in 16 bits only and is computed again, from x, where it is wanted in
    /// the backward pass.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn rms_norm_rounded(&self, weight: &Var, epsilon: f32) -> Result<RoundedVar> {
        let (x, w) = (self.tensor().clone(), weight.tensor().clone());
        let norm = move || x.rms_norm_row_scaled(&w, epsilon);
        let (output, rule) = ((norm()?, *self.shape()), rms_norm_rule(self, weight, epsilon));
        Ok(RoundedVar::record("rms_norm_rounded", &[self, weight], output, norm, rule))
    }

    /// y = w·x̂ + b with x̂ = (x − mean(x))·r, r = 1/√(var(x) + epsilon);
    /// dx = r·(w·dy − mean(w·dy) − x̂·mean(w·dy·x̂)), dw = Σ over rows of dy·x̂, db = Σ over rows of dy.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn layer_norm(&self, weight: &Var, bias: &Var, epsilon: f32) -> Result<Var> {
        let output = self.tensor().layer_norm(weight.tensor(), bias.tensor(), epsilon)?;
        let x = self.tensor().clone();
        let for_x = keep_if(self.requires_gradient(), weight);
        let parameters_wanted = weight.requires_gradient() || bias.requires_gradient();
        Ok(record_accumulating("layer_norm", &[self, weight, bias], output, move |dy, totals| {
            let dy = dy.into_tensor()?;
            if let Some(weight) = for_x {
                totals.update(0, |total| tensor::layer_norm_backward(&x, &weight, epsilon, &dy, total))?;
            }
            if parameters_wanted {
                let (dweight, dbias) = tensor::layer_norm_parameter_gradients(&x, epsilon, &dy)?;
                totals.add(1, dweight)?;
                totals.add(2, dbias)?;
            }
            Ok(())
        }))
    }

    /// [`Var::layer_norm`] of `self + D(branch)` with dropout D (a probability below 1 and its key), for mixed precision: the
    /// result comes with its rounded rows, see [`Var::row_scaled`], and the gradient of `branch` rounded, as linear layers want
    /// them. dx is that of the norm, dbranch = D(dx).
    ///
    /// Keeps the sum.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn residual_norm(
        &self,
        branch: &Var,
        dropout: Option<(f32, RandomKey)>,
        [weight, bias]: [&Var; 2],
        epsilon: f32,
    ) -> Result<Var> {
        let parameters = [weight.tensor(), bias.tensor()];
        let ResidualNorm { sum, normed, rounded } =
            ResidualNorm::new([self.tensor(), branch.tensor()], dropout, parameters, epsilon)?;
        let (shape, kept_weight) = (*self.shape(), weight.tensor().clone());
        let parameters_wanted = weight.requires_gradient() || bias.requires_gradient();
        let rule = move |dy: Gradient, totals: &mut Totals| {
            let dy = dy.into_tensor()?;
            let (dx, dbranch) = ResidualNorm::backward(&sum, &kept_weight, epsilon, dropout, &dy)?;
            totals.add(0, dx)?;
            totals.add_rounded(1, dbranch, &shape)?;
            if parameters_wanted {
                let (dweight, dbias) = tensor::layer_norm_parameter_gradients(&sum, epsilon, &dy)?;
                totals.add(2, dweight)?;
                totals.add(3, dbias)?;
            }
            Ok(())
        };
        Ok(record_accumulating("residual_norm", &[self, branch, weight, bias], normed, rule).with_rounded(rounded))
    }
}

/// The rule of both forms of the root-mean-square norm.
fn rms_norm_rule(x: &Var, weight: &Var, epsilon: f32) -> impl FnOnce(Gradient, &mut Totals) -> Result<()> + 'static {
    let for_x = keep_if(x.requires_gradient(), weight);
    let for_weight = weight.requires_gradient();
    let x = x.tensor().clone();
    move |dy, totals| {
        let dy = dy.into_tensor()?;
        if let Some(weight) = for_x {
            totals.update(0, |total| tensor::rms_norm_backward(&x, &weight, epsilon, &dy, total))?;
        }
        if for_weight {
            totals.add(1, tensor::rms_norm_weight_gradient(&x, epsilon, &dy)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tensor::testing::on_each_backend;

    use crate::check::{TestRandom, check_gradients, random_cases};
    use crate::tape::Tape;

    on_each_backend! {
        fn derivatives(device) {
            random_cases(3, |random| {
                let mut shape = random.shape(3);
                shape[2] += 2;
                let hidden = [shape[2]];
                check_gradients("rms_norm", device, random, &[&shape, &hidden], |v| {
                    v[0].affine(2.0, 0.0)?.rms_norm(&v[1], 1e-2)
                })?;
                check_gradients("layer_norm", device, random, &[&shape, &hidden, &hidden], |v| {
                    v[0].affine(2.0, 0.0)?.layer_norm(&v[1], &v[2], 0.1)
                })
            });
        }

        /// Rounded to 16 bits, the branch's gradient is not the exact one: compared are those of the operations that the norm
        /// stands for.
        fn residual_norms_have_the_same_gradients(device) {
            let mut random = TestRandom::new(9);
            let key = tensor::RandomKey { seed: 4, stream: 5, step: 6 };
            let shapes: [&[usize]; 4] = [&[2, 3, 40], &[2, 3, 40], &[40], &[40]];
            let operands = shapes.map(|shape| random.tensor(device, shape, -2.0, 2.0).unwrap());
            let dy = random.tensor(device, &[2, 3, 40], -1.0, 1.0).unwrap();
            let names = ["x", "branch", "weight", "bias"];
            let run = |fused: bool| {
                let tape = Tape::new();
                let v = [0, 1, 2, 3].map(|i| tape.leaf(names[i], &operands[i]));
                let y = match fused {
                    true => v[0].residual_norm(&v[1], Some((0.3, key)), [&v[2], &v[3]], 0.1).unwrap(),
                    false => {
                        let sum = v[0].add(&v[1].dropout(0.3, key).unwrap()).unwrap();
                        sum.layer_norm(&v[2], &v[3], 0.1).unwrap()
                    }
                };
                let rounded = y.row_scaled().unwrap().restored().unwrap().to_vec::<f32>().unwrap();
                // The sum is used once more: its gradient is added to.
                let y = y.add(&v[0]).unwrap();
                let gradients = tape.backward_from(&y, dy.clone()).unwrap();
                let gradients = names.iter().flat_map(|name| gradients.get(name).unwrap().to_vec::<f32>().unwrap());
                y.tensor().to_vec::<f32>().unwrap().into_iter().chain(rounded).chain(gradients).collect::<Vec<_>>()
            };
            let (fused, apart) = (run(true), run(false));
            assert_eq!(fused.len(), apart.len());
            for (i, (fused, apart)) in fused.into_iter().zip(apart).enumerate() {
                assert!((fused - apart).abs() <= 1e-3 * apart.abs() + 1e-3, "{i}: {fused} instead of {apart}");
            }
        }

        /// Rounded to 16 bits, the function goes in steps: compared are the gradients of the exact norm.
        fn rounded_norms_have_the_same_gradients(device) {
            let mut random = TestRandom::new(4);
            let (x, weight) = (random.tensor(device, &[2, 3, 40], -3.0, 3.0).unwrap(), random.tensor(device, &[40], 0.5, 2.0));
            let (weight, dy) = (weight.unwrap(), random.tensor(device, &[2, 3, 40], -1.0, 1.0).unwrap());
            let run = |rounded: bool| {
                let tape = Tape::new();
                let (x, weight) = (tape.leaf("x", &x), tape.leaf("weight", &weight));
                let y = match rounded {
                    true => {
                        let y = x.rms_norm_rounded(&weight, 1e-2).unwrap();
                        let again = y.kept().rows().unwrap();
                        assert_eq!(again.values().to_vec::<tensor::f16>(), y.rows().values().to_vec::<tensor::f16>());
                        assert_eq!(y.shape()[..], [2, 3, 40]);
                        y.to_var().unwrap()
                    }
                    false => x.rms_norm(&weight, 1e-2).unwrap(),
                };
                let mut values = y.tensor().to_vec::<f32>().unwrap();
                let gradients = tape.backward_from(&y, dy.clone()).unwrap();
                let gradients = gradients.into_iter().flat_map(|(_, gradient)| gradient.to_vec::<f32>().unwrap());
                values.extend(gradients);
                values
            };
            let (rounded, exact) = (run(true), run(false));
            assert_eq!(rounded[240..], exact[240..], "gradients");
            let close = |(a, b): (&f32, &f32)| (a - b).abs() <= b.abs() / 2048.0 + 1e-6;
            assert!(rounded[..240].iter().zip(&exact).all(close), "{rounded:?} {exact:?}");
        }

        fn gradients_that_go_around_a_norm_are_added(device) {
            check_gradients("x + norm(x)", device, &mut TestRandom::new(7), &[&[2, 3, 5], &[5], &[5]], |v| {
                let x = v[0].affine(2.0, 0.0)?;
                let x = x.add(&x.rms_norm(&v[1], 1e-2)?)?;
                x.add(&x.layer_norm(&v[1], &v[2], 0.1)?)
            })
            .unwrap();
        }
    }
}
