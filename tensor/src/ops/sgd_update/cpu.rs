//! Plain Rust, one pass over the arrays.

use rayon::prelude::*;

use super::{Coefficients, SgdTarget};
use crate::cpu::CHUNK;
use crate::error::Result;

/// The targets' own storage is unique; momentum is there for all or none.
pub(super) fn update(targets: &mut [SgdTarget<'_>], c: &Coefficients, nesterov: bool) -> Result<()> {
    for target in targets {
        let gradient = target.gradient.contiguous()?;
        let g = gradient.cpu_slice::<f32>()?.par_chunks(CHUNK);
        let p = target.parameter.cpu_slice_mut::<f32>()?.par_chunks_mut(CHUNK);
        match &mut target.momentum {
            None => p.zip(g).for_each(|(p, g)| descend(p, g, c)),
            Some(momentum) => {
                let b = momentum.cpu_slice_mut::<f32>()?.par_chunks_mut(CHUNK);
                p.zip(g).zip(b).for_each(|((p, g), b)| descend_with_momentum(p, g, b, c, nesterov));
            }
        }
    }
    Ok(())
}

fn descend(p: &mut [f32], g: &[f32], c: &Coefficients) {
    for (p, &g) in p.iter_mut().zip(g) {
        *p -= c.learning_rate * (g + c.weight_decay * *p);
    }
}

fn descend_with_momentum(p: &mut [f32], g: &[f32], b: &mut [f32], c: &Coefficients, nesterov: bool) {
    for ((p, &g), b) in p.iter_mut().zip(g).zip(b) {
        let g = g + c.weight_decay * *p;
        *b = c.momentum * *b + g;
        let direction = if nesterov { g + c.momentum * *b } else { *b };
        *p -= c.learning_rate * direction;
    }
}
