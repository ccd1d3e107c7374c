//! One step of stochastic gradient descent for many tensors at once, in place.

mod cpu;
mod gpu;
#[cfg(test)]
mod tests;

use crate::device::Backend;
use crate::dtype::DType;
use crate::error::{Result, TensorError};
use crate::tensor::Tensor;

const NAME: &str = "sgd_update_in_place";

/// One parameter with its gradient and its momentum, all f32 of one shape on one device.
#[derive(Debug)]
pub struct SgdTarget<'a> {
    /// p, updated.
    pub parameter: &'a mut Tensor,
    /// g, read only; any strides.
    pub gradient: &'a Tensor,
    /// b, updated; zeros before the first step. Needed when the step's momentum is not 0, else left alone.
    pub momentum: Option<&'a mut Tensor>,
}

/// The numbers of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdStep {
    /// η, after the schedule.
    pub learning_rate: f64,
    /// μ; 0 for plain descent.
    pub momentum: f64,
    /// λ, added to the gradient as λ·p.
    pub weight_decay: f64,
    /// Looks one step ahead along the momentum.
    pub nesterov: bool,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Coefficients {
    learning_rate: f32,
    momentum: f32,
    weight_decay: f32,
}

/// One step of gradient descent with PyTorch's meaning (dampening 0), several tensors a dispatch. For every element:
///
/// g ← g + λ·p;  b ← μ·b + g;  d = g + μ·b with Nesterov, else b (g itself where μ = 0);  p ← p − η·d
///
/// Other holders of a target's storage keep the old values: shared storage is copied first. Nothing is changed when
/// an error is found in the arguments.
///
/// # Errors
/// [`TensorError::Shape`], [`TensorError::DType`] or [`TensorError::DeviceMismatch`] when the tensors of a target
/// differ or targets are on different devices, [`TensorError::InvalidArgument`] for momentum without its tensor or
/// Nesterov without momentum, or the device's own errors.
pub fn sgd_update_in_place(targets: &mut [SgdTarget<'_>], step: &SgdStep) -> Result<()> {
    let invalid = |message: &str| Err(TensorError::InvalidArgument { operation: NAME, message: message.into() });
    let with_momentum = step.momentum != 0.0;
    if step.nesterov && !with_momentum {
        return invalid("nesterov needs a momentum other than 0");
    }
    let Some(first) = targets.first() else {
        return Ok(());
    };
    let device = first.parameter.device().clone();
    for target in targets.iter() {
        if with_momentum && target.momentum.is_none() {
            return invalid("a momentum other than 0 needs a momentum tensor for every parameter");
        }
        for tensor in [&*target.parameter, target.gradient].into_iter().chain(target.momentum.as_deref()) {
            tensor.expect_dtype(NAME, DType::F32)?;
            tensor.expect_shape(NAME, target.parameter.shape())?;
            first.parameter.expect_same_device(NAME, tensor)?;
        }
    }
    for target in targets.iter_mut() {
        target.parameter.make_unique()?;
        match &mut target.momentum {
            Some(momentum) if with_momentum => momentum.make_unique()?,
            // Dropping the handle here keeps the backends from looking at a tensor that plays no part.
            momentum => *momentum = None,
        }
    }
    let coefficients = Coefficients {
        learning_rate: step.learning_rate as f32,
        momentum: step.momentum as f32,
        weight_decay: step.weight_decay as f32,
    };
    match device.backend() {
        Backend::Cpu => cpu::update(targets, &coefficients, step.nesterov),
        Backend::Gpu(gpu) => gpu::update(gpu, targets, &coefficients, with_momentum, step.nesterov),
    }
}
