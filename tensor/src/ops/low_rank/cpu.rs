//! Plain Rust.

use half::f16;

use super::super::row_scaled::EXPONENTS;
use crate::cpu::cpu;
use crate::error::Result;
use crate::shape::Shape;
use crate::tensor::Tensor;

/// See [`Tensor::rounded_factor`]; `x` is contiguous and has elements.
pub(super) fn round_factor(x: &Tensor, padded: Shape) -> Result<(Tensor, Tensor)> {
    let source = x.cpu_slice::<f32>()?;
    // Magnitudes are in the order of their bits, NaN the largest.
    let largest = source.iter().fold(0, |largest: u32, x| largest.max(x.to_bits() & 0x7fff_ffff));
    let exponent = ((largest >> 23) as i32 - 127).clamp(EXPONENTS[0], EXPONENTS[1]);
    let scale = f32::from_bits(((exponent + 127) as u32) << 23);
    let mut values = cpu().scratch::<f16>(padded.elements());
    values.fill(f16::ZERO);
    for (values, source) in values.chunks_mut(padded[1]).zip(source.chunks(x.shape()[1])) {
        values.iter_mut().zip(source).for_each(|(value, &x)| *value = f16::from_f32(x * (1.0 / scale)));
    }
    Ok((Tensor::from_cpu_vec(padded, values), Tensor::from_cpu_vec(Shape::new(&[1])?, vec![scale])))
}
