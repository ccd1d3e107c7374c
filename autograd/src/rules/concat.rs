//! Joining, cutting and padding along an axis: each is what the gradient of another needs.

use tensor::{Result, Tensor};

use super::record_unary;
use crate::tape::record;
use crate::var::Var;

/// # Joining, cutting, padding
impl Var {
    /// The inputs one after the other along `axis`; each gets its part of dy. Keeps nothing.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn concat(parts: &[&Var], axis: usize) -> Result<Var> {
        let tensors: Vec<&Tensor> = parts.iter().map(|part| part.tensor()).collect();
        let output = Tensor::concat(&tensors, axis)?;
        let extents: Vec<(usize, bool)> = parts.iter().map(|x| (x.shape()[axis], x.requires_gradient())).collect();
        Ok(record("concat", parts, output, move |dy| {
            let mut start = 0;
            extents
                .into_iter()
                .map(|(extent, wanted)| {
                    let range = (start, start + extent);
                    start = range.1;
                    wanted.then(|| dy.slice(axis, range.0, range.1)).transpose()
                })
                .collect()
        }))
    }

    /// The elements `start..end` of one axis; dx = dy there and 0 elsewhere.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn slice(&self, axis: usize, start: usize, end: usize) -> Result<Var> {
        let output = self.tensor().slice(axis, start, end)?;
        let after = self.shape()[axis] - end;
        Ok(record_unary("slice", self, output, move |dy| dy.pad(axis, start, after, 0.0)))
    }

    /// Element `index` of one axis, which disappears; dx = dy there and 0 elsewhere.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn select(&self, axis: usize, index: usize) -> Result<Var> {
        self.slice(axis, index, index + 1)?.squeeze(axis)
    }

    /// `value` before and after the elements of `axis`; dx = dy between them. Keeps nothing.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn pad(&self, axis: usize, before: usize, after: usize, value: f32) -> Result<Var> {
        let output = self.tensor().pad(axis, before, after, value)?;
        let extent = self.shape()[axis];
        Ok(record_unary("pad", self, output, move |dy| dy.slice(axis, before, before + extent)))
    }
}

#[cfg(test)]
mod tests {
    use tensor::testing::on_each_backend;

    use super::*;
    use crate::check::{check_gradients, random_cases};

    on_each_backend! {
        fn derivatives(device) {
            random_cases(2, |random| {
                let shape = random.shape(3);
                for axis in 0..3 {
                    let mut other = shape.clone();
                    other[axis] = random.extent();
                    check_gradients("concat", device, random, &[&shape, &other, &shape], |v| {
                        Var::concat(&[&v[0], &v[1], &v[2]], axis)
                    })?;
                    let (before, after) = (random.integer(0, 2), random.integer(0, 2));
                    check_gradients("pad", device, random, &[&shape], |v| v[0].pad(axis, before, after, 0.5))?;
                    let end = shape[axis];
                    check_gradients("slice", device, random, &[&shape], |v| v[0].slice(axis, end / 3, end))?;
                    check_gradients("select", device, random, &[&shape], |v| v[0].select(axis, end - 1))?;
                }
                Ok(())
            });
        }
    }
}
