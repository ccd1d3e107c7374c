//! Softmax and its logarithm over the last axis. They keep their output only.

use tensor::{Result, Tensor};

use super::record_unary;
use crate::var::Var;

/// # Softmax
impl Var {
    /// y = softmax(x); dx = y·(dy − Σ y·dy).
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn softmax(&self) -> Result<Var> {
        let y = self.tensor().softmax()?;
        Ok(record_unary("softmax", self, y.clone(), move |dy| y.softmax_backward(dy)))
    }

    /// The softmax over the elements whose `mask` is not 0; the others are 0, and so is their gradient:
    /// dx = y·(dy − Σ y·dy).
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn softmax_masked(&self, mask: &Tensor) -> Result<Var> {
        let y = self.tensor().softmax_masked(mask)?;
        Ok(record_unary("softmax_masked", self, y.clone(), move |dy| y.softmax_backward(dy)))
    }

    /// y = ln softmax(x); dx = dy − eʸ·Σ dy.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn log_softmax(&self) -> Result<Var> {
        let y = self.tensor().log_softmax()?;
        Ok(record_unary("log_softmax", self, y.clone(), move |dy| y.log_softmax_backward(dy)))
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
                let shape = random.shape(2);
                let shape = [shape[0], shape[1] + 1];
                check_gradients("softmax", device, random, &[&shape], |v| v[0].affine(3.0, 0.0)?.softmax())?;
                check_gradients("log_softmax", device, random, &[&shape], |v| v[0].affine(3.0, 0.0)?.log_softmax())?;
                let mask = Tensor::from_vec(device, &shape, random.indices(shape.iter().product(), 2))?;
                check_gradients("softmax_masked", device, random, &[&shape], |v| {
                    v[0].affine(3.0, 0.0)?.softmax_masked(&mask)
                })
            });
        }
    }
}
