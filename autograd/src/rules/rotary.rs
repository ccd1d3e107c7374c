//! Rotary position embedding.

use tensor::{Result, Tensor};

use super::record_unary;
use crate::var::Var;

/// # Rotary position embedding
impl Var {
    /// Rotates the pairs (x₁, x₂) of each head, taken from its two halves, by the angle of their position:
    /// y₁ = x₁·cos − x₂·sin, y₂ = x₂·cos + x₁·sin; dx is dy rotated back. `self` is
    /// `[batch, sequence, heads, head_dim]`, the tables are `[sequence, head_dim / 2]`.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn rotary(&self, cos: &Tensor, sin: &Tensor) -> Result<Var> {
        let output = tensor::rotary(self.tensor(), cos, sin)?;
        let (cos, sin) = (cos.clone(), sin.clone());
        Ok(record_unary("rotary", self, output, move |dy| tensor::rotary_backward(dy, &cos, &sin)))
    }
}

#[cfg(test)]
mod tests {
    use tensor::testing::on_each_backend;

    use crate::check::{check_gradients, random_cases};

    on_each_backend! {
        fn derivatives(device) {
            random_cases(2, |random| {
                let [batch, sequence, heads, half] =
                    [random.integer(1, 2), random.extent(), random.integer(1, 3), random.integer(1, 4)];
                let angles = random.tensor(device, &[sequence, half], -3.0, 3.0)?;
                let (cos, sin) = (angles.cos()?, angles.sin()?);
                let shape = [batch, sequence, heads, 2 * half];
                check_gradients("rotary", device, random, &[&shape], |v| v[0].rotary(&cos, &sin))
            });
        }
    }
}
