//! Plain Rust, one pass over the four arrays.

use rayon::prelude::*;

use super::{AdamWTarget, Coefficients};
use crate::cpu::CHUNK;
use crate::error::Result;

/// The targets' own storage is unique.
pub(super) fn update(targets: &mut [AdamWTarget<'_>], c: &Coefficients) -> Result<()> {
    for target in targets {
        let gradient = target.gradient.contiguous()?;
        let g = gradient.cpu_slice::<f32>()?;
        let p = target.parameter.cpu_slice_mut::<f32>()?;
        let m = target.first_moment.cpu_slice_mut::<f32>()?;
        let v = target.second_moment.cpu_slice_mut::<f32>()?;
        p.par_chunks_mut(CHUNK)
            .zip(g.par_chunks(CHUNK))
            .zip(m.par_chunks_mut(CHUNK))
            .zip(v.par_chunks_mut(CHUNK))
            .for_each(|(((p, g), m), v)| update_chunk(p, g, m, v, c));
    }
    Ok(())
}

fn update_chunk(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], c: &Coefficients) {
    for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
        *m = c.beta1 * *m + c.one_minus_beta1 * g;
        *v = c.beta2 * *v + c.one_minus_beta2 * (g * g);
        *p = *p * c.decay - c.step_size * (*m / (v.sqrt() / c.root_correction + c.epsilon));
    }
}
