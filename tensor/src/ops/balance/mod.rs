//! Equal norms for the two factors of many adapters, without a change of their product: the scalar form of RefLoRA.

mod cpu;
mod gpu;
#[cfg(test)]
mod tests;

use crate::device::Backend;
use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::Tensor;

const NAME: &str = "balance_in_place";

/// The largest power of two by which one call changes ‖A‖/‖B‖; what is left is the next call's.
const LARGEST_EXPONENT: i32 = 50;

/// A factor with the optimizer's state of it, all f32 of one shape on one device.
#[derive(Debug)]
pub struct BalanceTarget<'a> {
    /// A or B, updated.
    pub factor: &'a mut Tensor,
    /// What the optimizer keeps on the scale of gradients: Adam's first moment, momentum.
    pub first_moment: Option<&'a mut Tensor>,
    /// What the optimizer keeps on the scale of squared gradients.
    pub second_moment: Option<&'a mut Tensor>,
}

/// The two factors of one adapter.
#[derive(Debug)]
pub struct BalancePair<'a> {
    /// A `[rank, inputs]`.
    pub a: BalanceTarget<'a>,
    /// B `[outputs, rank]`.
    pub b: BalanceTarget<'a>,
}

/// RefLoRA-S: with s = ‖B‖/‖A‖ (Frobenius) and P = √s, in place and several factors a dispatch,
///
/// A ← A·P, B ← B/P, m_A ← m_A/P, v_A ← v_A/s, m_B ← m_B·P, v_B ← v_B·s.
///
/// The product B·A stays, and the moments become those that gradients of the new factors would have given
/// (arXiv 2505.18877, section on the scalar variant). A pair with a factor that is zero or not finite stays as it is; s
/// is kept within 2±⁵⁰ in one call. Other holders of a tensor's storage keep the old values.
///
/// # Errors
/// [`crate::TensorError::Shape`], `DType` or `DeviceMismatch` when a moment differs from its
/// factor or a factor from the others' type or device, or the device's own errors; the first three change nothing.
pub fn balance_in_place(pairs: &mut [BalancePair<'_>]) -> Result<()> {
    let Some(first) = pairs.first().map(|pair| pair.a.factor.clone()) else {
        return Ok(());
    };
    for target in pairs.iter().flat_map(|pair| [&pair.a, &pair.b]) {
        target.factor.expect_dtype(NAME, DType::F32)?;
        first.expect_same_device(NAME, target.factor)?;
        for moment in [&target.first_moment, &target.second_moment].into_iter().flatten() {
            moment.expect_dtype(NAME, DType::F32)?;
            moment.expect_shape(NAME, target.factor.shape())?;
            target.factor.expect_same_device(NAME, moment)?;
        }
    }
    let device = first.device().clone();
    // A holder of the storage would have it copied.
    drop(first);
    let mut targets: Vec<&mut BalanceTarget<'_>> =
        pairs.iter_mut().flat_map(|pair| [&mut pair.a, &mut pair.b]).collect();
    for target in &mut targets {
        target.factor.make_unique()?;
        for moment in [&mut target.first_moment, &mut target.second_moment].into_iter().flatten() {
            moment.make_unique()?;
        }
    }
    match device.backend() {
        Backend::Cpu => cpu::balance(&mut targets),
        Backend::Gpu(gpu) => gpu::balance(gpu, &targets),
    }
}
