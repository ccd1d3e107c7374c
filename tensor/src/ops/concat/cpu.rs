//! Plain Rust: for every index of the axes before the joined one, each part's elements are one run.

use rayon::prelude::*;

use crate::cpu::{CHUNK, PARALLEL_THRESHOLD, cpu};
use crate::dtype::Element;
use crate::error::Result;
use crate::shape::Shape;
use crate::tensor::Tensor;

pub(super) fn concat<T: Element>(parts: &[&Tensor], axis: usize, shape: Shape) -> Result<Tensor> {
    let mut out = cpu().scratch::<T>(shape.elements());
    if out.is_empty() {
        return Ok(Tensor::from_cpu_vec(shape, out));
    }
    let parts = parts.iter().map(|part| part.contiguous()).collect::<Result<Vec<_>>>()?;
    let sources = parts
        .iter()
        .map(|part| Ok((part.cpu_slice::<T>()?, part.shape()[axis..].iter().product())))
        .collect::<Result<Vec<(&[T], usize)>>>()?;
    let joined: usize = shape[axis..].iter().product();
    let fill = |(outer, out): (usize, &mut [T])| {
        let mut start = 0;
        for &(source, run) in &sources {
            out[start..start + run].copy_from_slice(&source[outer * run..(outer + 1) * run]);
            start += run;
        }
    };
    if out.len() < PARALLEL_THRESHOLD {
        out.chunks_mut(joined).enumerate().for_each(fill);
    } else {
        out.par_chunks_mut(joined).with_min_len(CHUNK.div_ceil(joined)).enumerate().for_each(fill);
    }
    Ok(Tensor::from_cpu_vec(shape, out))
}
