//! Other views of the same elements. None of them keeps a tensor.

use tensor::{Result, Shape};

use super::{record_unary, unbroadcast};
use crate::var::Var;

/// # Views
impl Var {
    /// The same elements under another shape; dx = dy under x's shape.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn reshape(&self, shape: &[usize]) -> Result<Var> {
        let from = *self.shape();
        Ok(record_unary("reshape", self, self.tensor().reshape(shape)?, move |dy| dy.reshape(&from)))
    }

    /// Exchanges two axes; so does the gradient.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn transpose(&self, first: usize, second: usize) -> Result<Var> {
        let output = self.tensor().transpose(first, second)?;
        Ok(record_unary("transpose", self, output, move |dy| dy.transpose(first, second)))
    }

    /// The matrix transpose: exchanges the last two axes; so does the gradient.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn t(&self) -> Result<Var> {
        Ok(record_unary("t", self, self.tensor().t()?, |dy| dy.t()))
    }

    /// Reorders the axes; the gradient's axes go back.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn permute(&self, order: &[usize]) -> Result<Var> {
        let output = self.tensor().permute(order)?;
        let mut back = vec![0; order.len()];
        order.iter().enumerate().for_each(|(target, &source)| back[source] = target);
        Ok(record_unary("permute", self, output, move |dy| dy.permute(&back)))
    }

    /// Removes an axis of extent 1; the gradient gets it back.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn squeeze(&self, axis: usize) -> Result<Var> {
        Ok(record_unary("squeeze", self, self.tensor().squeeze(axis)?, move |dy| dy.unsqueeze(axis)))
    }

    /// Inserts an axis of extent 1; the gradient loses it.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn unsqueeze(&self, axis: usize) -> Result<Var> {
        Ok(record_unary("unsqueeze", self, self.tensor().unsqueeze(axis)?, move |dy| dy.squeeze(axis)))
    }

    /// Repeats axes of extent 1; dx = the sum of dy over the repetitions.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Var> {
        let from: Shape = *self.shape();
        Ok(record_unary("broadcast_to", self, self.tensor().broadcast_to(shape)?, move |dy| unbroadcast(dy, &from)))
    }

    /// The same elements side by side in row-major order; dx = dy.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn contiguous(&self) -> Result<Var> {
        Ok(record_unary("contiguous", self, self.tensor().contiguous()?, |dy| Ok(dy.clone())))
    }
}

#[cfg(test)]
mod tests {
    use tensor::testing::on_each_backend;

    use crate::check::{check_gradients, random_cases};

    on_each_backend! {
        fn derivatives(device) {
            random_cases(2, |random| {
                let shape = random.shape(3);
                let all = shape.iter().product();
                let extents = [shape[0], 1, shape[2]];
                check_gradients("reshape", device, random, &[&shape], |v| v[0].reshape(&[all, 1]))?;
                check_gradients("reshape of a view", device, random, &[&shape], |v| v[0].t()?.reshape(&[all]))?;
                check_gradients("transpose", device, random, &[&shape], |v| v[0].transpose(0, 2))?;
                check_gradients("t", device, random, &[&shape], |v| v[0].t())?;
                check_gradients("permute", device, random, &[&shape], |v| v[0].permute(&[2, 0, 1]))?;
                check_gradients("squeeze", device, random, &[&extents], |v| v[0].squeeze(1))?;
                check_gradients("unsqueeze", device, random, &[&shape], |v| v[0].unsqueeze(1))?;
                check_gradients("contiguous", device, random, &[&shape], |v| v[0].t()?.contiguous())?;
                check_gradients("broadcast_to", device, random, &[&extents], |v| {
                    v[0].broadcast_to(&[2, extents[0], 3, extents[2]])
                })
            });
        }
    }
}
