//! Norms in f64, then one pass over each tensor.

use rayon::prelude::*;

use super::{BalanceTarget, LARGEST_EXPONENT};
use crate::cpu::CHUNK;
use crate::error::Result;
use crate::tensor::Tensor;

/// `targets` are A and B of each pair in turn; their storage is unique.
pub(super) fn balance(targets: &mut [&mut BalanceTarget<'_>]) -> Result<()> {
    for pair in targets.chunks_exact_mut(2) {
        let (a, b) = (norm(pair[0].factor)?, norm(pair[1].factor)?);
        let defined = a > 0.0 && b > 0.0 && (a * b).is_finite();
        if !defined {
            continue;
        }
        let limit = f64::from(LARGEST_EXPONENT).exp2();
        let p = (b / a).clamp(limit.recip(), limit).sqrt();
        for (target, p) in pair.iter_mut().zip([p, p.recip()]) {
            scale(target.factor, p)?;
            if let Some(first) = &mut target.first_moment {
                scale(first, p.recip())?;
            }
            if let Some(second) = &mut target.second_moment {
                scale(second, (p * p).recip())?;
            }
        }
    }
    Ok(())
}

fn norm(x: &Tensor) -> Result<f64> {
    let partial: Vec<f64> = x
        .cpu_slice::<f32>()?
        .par_chunks(CHUNK)
        .map(|chunk| chunk.iter().map(|&x| f64::from(x) * f64::from(x)).sum())
        .collect();
    Ok(partial.iter().sum::<f64>().sqrt())
}

fn scale(x: &mut Tensor, factor: f64) -> Result<()> {
    let factor = factor as f32;
    x.cpu_slice_mut::<f32>()?.par_chunks_mut(CHUNK).for_each(|chunk| chunk.iter_mut().for_each(|x| *x *= factor));
    Ok(())
}
