//! Normalisation over the last axis, of extent n. With frozen weights only what dx needs is kept.

use tensor::Result;

use super::keep_if;
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
        let x = self.tensor().clone();
        let for_x = keep_if(self.requires_gradient(), weight);
        let for_weight = weight.requires_gradient();
        Ok(record_accumulating("rms_norm", &[self, weight], output, move |dy, totals| {
            if let Some(weight) = for_x {
                totals.update(0, |total| tensor::rms_norm_backward(&x, &weight, epsilon, &dy, total))?;
            }
            if for_weight {
                totals.add(1, tensor::rms_norm_weight_gradient(&x, epsilon, &dy)?)?;
            }
            Ok(())
        }))
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
}

#[cfg(test)]
mod tests {
    use tensor::testing::on_each_backend;

    use crate::check::{TestRandom, check_gradients, random_cases};

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
