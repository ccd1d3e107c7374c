//! Reductions: sum, mean, max and min over any axes, argmax over one. f32 in; f32 out, or u32 positions.

mod argmax;
mod cpu;
mod gpu;
mod plan;
#[cfg(test)]
mod tests;

use crate::device::Backend;
use crate::dtype::DType;
use crate::error::{Result, TensorError};
use crate::shape::{MAX_RANK, Shape};
use crate::tensor::Tensor;
use plan::Plan;

/// The functions; the numbers are the kernel's `OPERATION` constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Reduction {
    Sum = 0,
    Maximum = 1,
    Minimum = 2,
}

impl Reduction {
    /// The value that changes nothing when combined.
    fn identity(self) -> f32 {
        match self {
            Reduction::Sum => 0.0,
            Reduction::Maximum => f32::NEG_INFINITY,
            Reduction::Minimum => f32::INFINITY,
        }
    }
}

impl Tensor {
    /// The sum over `axes`, which disappear, or stay with extent 1 if `keep_axes`. Over no elements it is 0.
    ///
    /// # Errors
    /// [`TensorError::Axis`] for an axis that does not exist, [`TensorError::InvalidArgument`] for one named twice,
    /// [`TensorError::DType`] for other types than f32, or the device's own errors.
    pub fn sum(&self, axes: &[usize], keep_axes: bool) -> Result<Tensor> {
        reduce(self, "sum", Reduction::Sum, axes, keep_axes)
    }

    /// The mean over `axes`, which disappear, or stay with extent 1 if `keep_axes`. Over no elements it is NaN.
    ///
    /// # Errors
    /// As [`Tensor::sum`].
    pub fn mean(&self, axes: &[usize], keep_axes: bool) -> Result<Tensor> {
        reduce(self, "mean", Reduction::Sum, axes, keep_axes)
    }

    /// The largest element over `axes`, which disappear, or stay with extent 1 if `keep_axes`; NaN if one is NaN.
    ///
    /// # Errors
    /// As [`Tensor::sum`], and [`TensorError::Shape`] where there are no elements to choose from.
    pub fn max(&self, axes: &[usize], keep_axes: bool) -> Result<Tensor> {
        reduce(self, "max", Reduction::Maximum, axes, keep_axes)
    }

    /// The smallest element over `axes`, which disappear, or stay with extent 1 if `keep_axes`; NaN if one is NaN.
    ///
    /// # Errors
    /// As [`Tensor::max`].
    pub fn min(&self, axes: &[usize], keep_axes: bool) -> Result<Tensor> {
        reduce(self, "min", Reduction::Minimum, axes, keep_axes)
    }

    /// The position of the largest element along `axis`, which disappears, as u32. Of equal elements the first wins;
    /// NaN counts as the largest.
    ///
    /// # Errors
    /// As [`Tensor::max`].
    pub fn argmax(&self, axis: usize) -> Result<Tensor> {
        argmax::argmax(self, axis)
    }

    /// The inverse of [`Tensor::broadcast_to`] for gradients: sums over the axes that broadcasting `shape` to this
    /// tensor's shape would add or repeat.
    ///
    /// # Errors
    /// [`TensorError::Broadcast`] when `shape` does not broadcast to this tensor's shape; otherwise as
    /// [`Tensor::sum`].
    pub fn sum_to(&self, shape: &[usize]) -> Result<Tensor> {
        let target = Shape::new(shape)?;
        if Shape::broadcast("sum_to", self.shape(), &target)? != *self.shape() {
            return Err(TensorError::Broadcast { operation: "sum_to", left: *self.shape(), right: target });
        }
        let lead = self.rank() - target.rank();
        let axes: Vec<usize> =
            (0..self.rank()).filter(|&axis| axis < lead || target[axis - lead] != self.shape()[axis]).collect();
        self.sum(&axes, true)?.reshape(shape)
    }
}

fn reduce(x: &Tensor, name: &'static str, reduction: Reduction, axes: &[usize], keep_axes: bool) -> Result<Tensor> {
    x.expect_dtype(name, DType::F32)?;
    let mut selected = [false; MAX_RANK];
    for &axis in axes {
        x.check_axis(name, axis)?;
        if std::mem::replace(&mut selected[axis], true) {
            let message = format!("axis {axis} is named twice in {axes:?}");
            return Err(TensorError::InvalidArgument { operation: name, message });
        }
    }
    let kept = kept_shape(x.shape(), &selected);
    let shape: Vec<usize> = (0..x.rank()).filter(|&axis| keep_axes || !selected[axis]).map(|axis| kept[axis]).collect();
    let count: usize = (0..x.rank()).filter(|&axis| selected[axis]).map(|axis| x.shape()[axis]).product();
    if count == 0 {
        let value = match (reduction, name) {
            (Reduction::Sum, "mean") => f32::NAN,
            (Reduction::Sum, _) => 0.0,
            _ => return Err(nothing_to_choose(x, name)),
        };
        return Tensor::full(x.device(), &shape, DType::F32, value);
    }
    if count == 1 || x.elements() == 0 {
        return x.reshape(&shape);
    }
    let divisor = if name == "mean" { count } else { 1 };
    reduce_selected(x, name, reduction, &selected, divisor)?.reshape(&shape)
}

/// Reduces the selected axes of a tensor that has elements, in one pass over memory where its layout allows, then
/// divides by `divisor`.
fn reduce_selected(
    x: &Tensor,
    name: &'static str,
    reduction: Reduction,
    selected: &[bool; MAX_RANK],
    divisor: usize,
) -> Result<Tensor> {
    if let Some(plan) = Plan::new(&x.layout, selected) {
        return match x.device().backend() {
            Backend::Cpu => cpu::reduce(x, &plan, reduction, divisor),
            Backend::Gpu(device) => gpu::reduce(device, x, &plan, name, reduction, divisor),
        };
    }
    let mut reduced: Vec<usize> = (0..x.rank()).filter(|&axis| selected[axis] && x.shape()[axis] != 1).collect();
    reduced.sort_by_key(|&axis| x.layout.strides[axis]);
    if let [nearest, _, ..] = reduced[..] {
        // Several axes that do not lie side by side: the one whose elements are closest first, which shrinks the rest.
        let mut first = [false; MAX_RANK];
        first[nearest] = true;
        let partial = reduce_selected(x, name, reduction, &first, 1)?.reshape(&kept_shape(x.shape(), &first))?;
        let mut rest = *selected;
        rest[nearest] = false;
        return reduce_selected(&partial, name, reduction, &rest, divisor);
    }
    // One axis in an awkward layout: a copy with that axis last always has a plan.
    let mut order: Vec<usize> = (0..x.rank()).filter(|axis| !reduced.contains(axis)).collect();
    order.extend(&reduced);
    let mut moved = [false; MAX_RANK];
    for (place, &axis) in order.iter().enumerate() {
        moved[place] = selected[axis];
    }
    reduce_selected(&x.permute(&order)?.contiguous()?, name, reduction, &moved, divisor)
}

fn kept_shape(shape: &Shape, selected: &[bool; MAX_RANK]) -> Shape {
    (0..shape.rank()).filter(|&axis| selected[axis]).fold(*shape, |shape, axis| shape.with_extent(axis, 1))
}

fn nothing_to_choose(x: &Tensor, operation: &'static str) -> TensorError {
    TensorError::Shape { operation, expected: "at least one element along the reduced axes".into(), found: *x.shape() }
}
