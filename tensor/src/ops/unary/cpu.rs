//! Plain Rust, one loop per function so that each vectorises.

use rayon::prelude::*;

use super::Unary;
use crate::cpu::math;
use crate::cpu::{CHUNK, PARALLEL_THRESHOLD, cpu};
use crate::error::Result;
use crate::tensor::Tensor;

pub(super) fn unary(x: &Tensor, operation: Unary, scale: f32, shift: f32) -> Result<Tensor> {
    let source = x.cpu_slice::<f32>()?;
    let mut out = cpu().scratch::<f32>(source.len());
    match operation {
        Unary::Negate => map(source, &mut out, |x| -x),
        Unary::Absolute => map(source, &mut out, f32::abs),
        Unary::Square => map(source, &mut out, |x| x * x),
        Unary::SquareRoot => map(source, &mut out, f32::sqrt),
        Unary::ReciprocalSquareRoot => map(source, &mut out, |x| 1.0 / x.sqrt()),
        Unary::Reciprocal => map(source, &mut out, |x| 1.0 / x),
        Unary::Exponential => map(source, &mut out, math::exp),
        Unary::Logarithm => map(source, &mut out, f32::ln),
        Unary::Sine => map(source, &mut out, f32::sin),
        Unary::Cosine => map(source, &mut out, f32::cos),
        Unary::Tanh => map(source, &mut out, math::tanh),
        Unary::Sigmoid => map(source, &mut out, math::sigmoid),
        Unary::Silu => map(source, &mut out, |x| x * math::sigmoid(x)),
        Unary::Gelu => map(source, &mut out, |x| 0.5 * x * (1.0 + math::erf(x * std::f32::consts::FRAC_1_SQRT_2))),
        Unary::Relu => map(source, &mut out, |x| if x < 0.0 { 0.0 } else { x }),
        Unary::Affine => map(source, &mut out, |x| scale * x + shift),
    }
    Ok(Tensor::from_cpu_vec(*x.shape(), out))
}

fn map(source: &[f32], out: &mut [f32], function: impl Fn(f32) -> f32 + Sync) {
    let apply = |(source, out): (&[f32], &mut [f32])| {
        for (value, &x) in out.iter_mut().zip(source) {
            *value = function(x);
        }
    };
    if source.len() < PARALLEL_THRESHOLD {
        return apply((source, out));
    }
    source.par_chunks(CHUNK).zip(out.par_chunks_mut(CHUNK)).for_each(apply);
}
