//! Plain Rust.

use half::f16;

use super::super::row_scaled::power_of_two;
use crate::cpu::cpu;
use crate::error::Result;
use crate::shape::Shape;
use crate::tensor::Tensor;

/// See [`Tensor::rounded_factor`]; `x` is contiguous and has elements.
pub(super) fn round_factor(x: &Tensor, padded: Shape) -> Result<(Tensor, Tensor)> {
    let source = x.cpu_slice::<f32>()?;
    let scale = power_of_two(source);
    let mut values = cpu().scratch::<f16>(padded.elements());
    values.fill(f16::ZERO);
    for (values, source) in values.chunks_mut(padded[1]).zip(source.chunks(x.shape()[1])) {
        values.iter_mut().zip(source).for_each(|(value, &x)| *value = f16::from_f32(x * (1.0 / scale)));
    }
    Ok((Tensor::from_cpu_vec(padded, values), Tensor::from_cpu_vec(Shape::new(&[1])?, vec![scale])))
}
