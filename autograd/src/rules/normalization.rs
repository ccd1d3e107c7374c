//! Normalisation over the last axis, of extent n. With frozen weights only what dx needs is kept.

use tensor::Result;

use super::keep_if;
use crate::tape::record;
use crate::var::Var;

/// # Normalisation
impl Var {
    /// y = w·x̂ with x̂ = x·r, r = 1/√(mean(x²) + epsilon);
    /// dx = r·(w·dy − x̂·mean(w·dy·x̂)), dw = Σ over rows of dy·x̂.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn rms_norm(&self, weight: &Var, epsilon: f32) -> Result<Var> {
        let output = self.tensor().rms_norm(weight.tensor(), epsilon)?;
        let x = self.tensor().clone();
        let for_x = keep_if(self.requires_gradient(), weight);
        let for_weight = weight.requires_gradient();
        Ok(record("rms_norm", &[self, weight], output, move |dy| {
            let dx = for_x.map(|weight| tensor::rms_norm_backward(&x, &weight, epsilon, dy)).transpose()?;
            let dweight = for_weight.then(|| tensor::rms_norm_weight_gradient(&x, epsilon, dy)).transpose()?;
            Ok(vec![dx, dweight])
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
        let wanted = [weight.requires_gradient(), bias.requires_gradient()];
        Ok(record("layer_norm", &[self, weight, bias], output, move |dy| {
            let dx = for_x.map(|weight| tensor::layer_norm_backward(&x, &weight, epsilon, dy)).transpose()?;
            let (dweight, dbias) = if wanted.contains(&true) {
                let (dweight, dbias) = tensor::layer_norm_parameter_gradients(&x, epsilon, dy)?;
                (wanted[0].then_some(dweight), wanted[1].then_some(dbias))
            } else {
                (None, None)
            };
            Ok(vec![dx, dweight, dbias])
        }))
    }
}

#[cfg(test)]
mod tests {
    use tensor::testing::on_each_backend;

    use crate::check::{check_gradients, random_cases};

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
    }
}
