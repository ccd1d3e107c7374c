//! One step of AdamW for many tensors at once, in place.

mod cpu;
mod gpu;
#[cfg(test)]
mod tests;

use crate::device::Backend;
use crate::dtype::DType;
use crate::error::{Result, TensorError};
use crate::tensor::Tensor;

const NAME: &str = "adamw_update_in_place";

/// One parameter with its gradient and its moments, all f32 of one shape on one device.
#[derive(Debug)]
pub struct AdamWTarget<'a> {
    /// p, updated.
    pub parameter: &'a mut Tensor,
    /// g, read only; any strides.
    pub gradient: &'a Tensor,
    /// m, updated; zeros before the first step.
    pub first_moment: &'a mut Tensor,
    /// v, updated; zeros before the first step.
    pub second_moment: &'a mut Tensor,
}

/// The numbers of one step. In f64, since 1 − β₂ loses digits in f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// η, after the schedule.
    pub learning_rate: f64,
    /// β₁, in [0, 1).
    pub beta1: f64,
    /// β₂, in [0, 1).
    pub beta2: f64,
    /// ε, added outside the root.
    pub epsilon: f64,
    /// λ, decoupled: the parameter shrinks by 1 − η·λ.
    pub weight_decay: f64,
    /// t, 1 for the first step.
    pub step: u64,
}

/// What the arithmetic needs, rounded once: bias corrections are powers of numbers near 1, which f32 would blur.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Coefficients {
    /// 1 − η·λ
    decay: f32,
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    /// η / (1 − β₁ᵗ)
    step_size: f32,
    /// √(1 − β₂ᵗ)
    root_correction: f32,
    epsilon: f32,
}

impl AdamWStep {
    fn coefficients(&self) -> Result<Coefficients> {
        let rates = [("beta1", self.beta1), ("beta2", self.beta2)];
        if let Some((name, value)) = rates.iter().find(|(_, value)| !(0.0..1.0).contains(value)) {
            let message = format!("{name} must lie in [0, 1), found {value}");
            return Err(TensorError::InvalidArgument { operation: NAME, message });
        }
        if self.step == 0 {
            let message = "steps are counted from 1, found 0".into();
            return Err(TensorError::InvalidArgument { operation: NAME, message });
        }
        let t = self.step as f64;
        Ok(Coefficients {
            decay: (1.0 - self.learning_rate * self.weight_decay) as f32,
            beta1: self.beta1 as f32,
            one_minus_beta1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            one_minus_beta2: (1.0 - self.beta2) as f32,
            step_size: (self.learning_rate / (1.0 - self.beta1.powf(t))) as f32,
            root_correction: (1.0 - self.beta2.powf(t)).sqrt() as f32,
            epsilon: self.epsilon as f32,
        })
    }
}

/// One step of AdamW with PyTorch's meaning, several tensors a dispatch. For every element, in this order:
///
/// p ← p·(1 − η·λ);  m ← β₁·m + (1 − β₁)·g;  v ← β₂·v + (1 − β₂)·g²;
/// p ← p − η/(1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)
///
/// Other holders of a target's storage keep the old values: shared storage is copied first. Nothing is changed when
/// an error is found in the arguments.
///
/// # Errors
/// [`TensorError::Shape`], [`TensorError::DType`] or [`TensorError::DeviceMismatch`] when the four tensors of a target
/// differ or targets are on different devices, [`TensorError::InvalidArgument`] for step 0 or a β outside [0, 1), or
/// the device's own errors.
pub fn adamw_update_in_place(targets: &mut [AdamWTarget<'_>], step: &AdamWStep) -> Result<()> {
    let coefficients = step.coefficients()?;
    let Some(first) = targets.first() else {
        return Ok(());
    };
    let device = first.parameter.device().clone();
    for target in targets.iter() {
        for tensor in [&*target.parameter, target.gradient, &*target.first_moment, &*target.second_moment] {
            tensor.expect_dtype(NAME, DType::F32)?;
            tensor.expect_shape(NAME, target.parameter.shape())?;
            first.parameter.expect_same_device(NAME, tensor)?;
        }
    }
    for target in targets.iter_mut() {
        target.parameter.make_unique()?;
        target.first_moment.make_unique()?;
        target.second_moment.make_unique()?;
    }
    match device.backend() {
        Backend::Cpu => cpu::update(targets, &coefficients),
        Backend::Gpu(gpu) => gpu::update(gpu, targets, &coefficients),
    }
}
