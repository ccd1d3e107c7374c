//! Plain Rust.

use half::f16;

use super::super::row_scaled::power_of_two;
use super::{PaddedFactor, RoundedValues};
use crate::cpu::cpu;
use crate::error::Result;
use crate::shape::Shape;
use crate::tensor::Tensor;

/// See [`Tensor::rounded_factor`].
pub(super) fn round_factor(factor: &PaddedFactor) -> Result<RoundedValues> {
    let PaddedFactor { x, shape: padded } = factor;
    let source = x.cpu_slice::<f32>()?;
    let scale = power_of_two(source);
    let mut values = cpu().scratch::<f16>(padded.elements());
    values.fill(f16::ZERO);
    for (values, source) in values.chunks_mut(padded[1]).zip(source.chunks(x.shape()[1])) {
        values.iter_mut().zip(source).for_each(|(value, &x)| *value = f16::from_f32(x * (1.0 / scale)));
    }
    let scale = Tensor::from_cpu_vec(Shape::new(&[1])?, vec![scale]);
    Ok(RoundedValues { values: Tensor::from_cpu_vec(*padded, values), in_tiles: None, scale })
}
