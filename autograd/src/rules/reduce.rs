//! Reductions over axes.

use tensor::{Result, Shape, Tensor};

use super::record_unary;
use crate::var::Var;

/// # Reductions
impl Var {
    /// The sum over `axes`; dx = dy, repeated along them. Keeps nothing.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn sum(&self, axes: &[usize], keep_axes: bool) -> Result<Var> {
        let output = self.tensor().sum(axes, keep_axes)?;
        let expand = Expand::new(self.shape(), axes);
        Ok(record_unary("sum", self, output, move |dy| expand.apply(dy)))
    }

    /// The mean over `axes`; dx = dy/n, repeated along them, for n elements in each mean. Keeps nothing.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn mean(&self, axes: &[usize], keep_axes: bool) -> Result<Var> {
        let output = self.tensor().mean(axes, keep_axes)?;
        let expand = Expand::new(self.shape(), axes);
        let count: usize = axes.iter().map(|&axis| self.shape()[axis]).product();
        Ok(record_unary("mean", self, output, move |dy| expand.apply(&dy.affine(1.0 / count as f32, 0.0)?)))
    }

    /// The largest element over `axes`; dx = dy at the largest element, in equal parts where several are.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn max(&self, axes: &[usize], keep_axes: bool) -> Result<Var> {
        let output = self.tensor().max(axes, keep_axes)?;
        Ok(self.extremum("max", axes, output))
    }

    /// The smallest element over `axes`; dx = dy at the smallest element, in equal parts where several are.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn min(&self, axes: &[usize], keep_axes: bool) -> Result<Var> {
        let output = self.tensor().min(axes, keep_axes)?;
        Ok(self.extremum("min", axes, output))
    }

    fn extremum(&self, operation: &'static str, axes: &[usize], output: Tensor) -> Var {
        let (x, y) = (self.tensor().clone(), output.clone());
        let axes = axes.to_vec();
        record_unary(operation, self, output, move |dy| {
            let expand = Expand::new(x.shape(), &axes);
            let hits = x.equal(&expand.apply(&y)?)?;
            let share = dy.div(&hits.sum(&axes, false)?.reshape(dy.shape())?)?;
            hits.mul(&expand.apply(&share)?)
        })
    }
}

/// Repeats a reduced tensor along the axes it was reduced over.
struct Expand {
    kept: Vec<usize>,
    full: Shape,
}

impl Expand {
    fn new(full: &Shape, axes: &[usize]) -> Self {
        let mut kept = full.to_vec();
        axes.iter().for_each(|&axis| kept[axis] = 1);
        Expand { kept, full: *full }
    }

    /// Takes the reduced tensor with or without the axes of extent 1.
    fn apply(&self, reduced: &Tensor) -> Result<Tensor> {
        reduced.reshape(&self.kept)?.broadcast_to(&self.full)
    }
}

#[cfg(test)]
mod tests {
    use tensor::testing::on_each_backend;

    use super::*;
    use crate::check::{check_gradients, random_cases};
    use crate::tape::Tape;

    on_each_backend! {
        fn sums_and_means(device) {
            random_cases(2, |random| {
                let shape = random.shape(3);
                for axes in [&[0, 1, 2][..], &[1], &[0, 2]] {
                    for keep in [false, true] {
                        check_gradients("sum", device, random, &[&shape], |v| v[0].sum(axes, keep))?;
                        check_gradients("mean", device, random, &[&shape], |v| v[0].mean(axes, keep))?;
                    }
                }
                Ok(())
            });
        }

        fn extrema(device) {
            // Offsets far enough apart that no difference quotient steps over a change of the extremum.
            let offsets: Vec<f32> = (0..24).map(|i| ((i * 7) % 24) as f32).collect();
            let offsets = Var::constant(Tensor::from_vec(device, &[2, 3, 4], offsets).unwrap());
            random_cases(2, |random| {
                for axes in [&[0, 1, 2][..], &[1], &[0, 2]] {
                    check_gradients("max", device, random, &[&[2, 3, 4]], |v| {
                        v[0].affine(0.3, 0.0)?.add(&offsets)?.max(axes, false)
                    })?;
                    check_gradients("min", device, random, &[&[2, 3, 4]], |v| {
                        v[0].affine(0.3, 0.0)?.add(&offsets)?.min(axes, true)
                    })?;
                }
                Ok(())
            });
        }

        fn equal_extrema_share(device) {
            let tape = Tape::new();
            let x = tape.leaf("x", &Tensor::from_slice(device, &[4], &[1.0f32, 3.0, 3.0, 2.0]).unwrap());
            let gradients = tape.backward(&x.max(&[0], false).unwrap()).unwrap();
            assert_eq!(gradients.get("x").unwrap().to_vec::<f32>().unwrap(), [0.0, 0.5, 0.5, 0.0]);
        }
    }
}
