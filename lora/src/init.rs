//! How fresh factors begin.

use tensor::{DType, Device, RandomKey, Tensor};

use crate::adapter_set::Adapter;
use crate::error::Result;

/// A from [`kaiming_uniform`], B zero: the product is zero, and A has gradients to follow as soon as B moves.
pub(crate) fn fresh_factors(adapter: &Adapter, device: &Device, seed: u64) -> Result<(Tensor, Tensor)> {
    let a = kaiming_uniform(device, adapter.rank, adapter.inputs, RandomKey::named(seed, &adapter.a, 0))?;
    Ok((a, Tensor::zeros(device, &[adapter.outputs, adapter.rank], DType::F32)?))
}

/// A weight `[outputs, inputs]`, uniform in ±1/√inputs: Kaiming's initialisation with a = √5, as PEFT and PyTorch's
/// linear layers use it. Counter-based: every element depends on the key and its index alone.
///
/// # Errors
/// [`tensor::TensorError::InvalidArgument`] when there are no inputs, or the device's own errors.
pub fn kaiming_uniform(device: &Device, outputs: usize, inputs: usize, key: RandomKey) -> Result<Tensor> {
    let bound = 1.0 / (inputs as f32).sqrt();
    Ok(Tensor::random_uniform(device, &[outputs, inputs], -bound, bound, key)?)
}
