//! Plain Rust: positions in parallel, heads within.

use rayon::prelude::*;

use crate::cpu::{CHUNK, PARALLEL_THRESHOLD, cpu};
use crate::error::Result;
use crate::tensor::Tensor;

/// `cos` and `sin` are contiguous.
pub(super) fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor, direction: f32) -> Result<Tensor> {
    let shape = *x.shape();
    let mut out = cpu().scratch::<f32>(shape.elements());
    let (sequence, heads, head_dim) = (shape[1], shape[2], shape[3]);
    if out.is_empty() {
        return Ok(Tensor::from_cpu_vec(shape, out));
    }
    let (source, cos, sin) = (x.cpu_storage_slice::<f32>()?, cos.cpu_slice::<f32>()?, sin.cpu_slice::<f32>()?);
    let (strides, offset, half) = (x.layout.strides, x.layout.offset, head_dim / 2);
    let row = heads * head_dim;
    let rotate_rows = |first: usize, out: &mut [f32]| {
        for (index, out) in out.chunks_mut(row).enumerate() {
            let (batch, position) = ((first + index) / sequence, (first + index) % sequence);
            let cos = &cos[position * half..][..half];
            let sin = &sin[position * half..][..half];
            for (head, out) in out.chunks_mut(head_dim).enumerate() {
                let start = offset + batch * strides[0] + position * strides[1] + head * strides[2];
                rotate_head(&source[start..], strides[3], cos, sin, direction, out);
            }
        }
    };
    if out.len() < PARALLEL_THRESHOLD {
        rotate_rows(0, &mut out);
    } else {
        let rows = CHUNK.div_ceil(row);
        out.par_chunks_mut(rows * row).enumerate().for_each(|(task, out)| rotate_rows(task * rows, out));
    }
    Ok(Tensor::from_cpu_vec(shape, out))
}

fn rotate_head(x: &[f32], step: usize, cos: &[f32], sin: &[f32], direction: f32, out: &mut [f32]) {
    let half = cos.len();
    let (low, high) = out.split_at_mut(half);
    let (sin, high) = (&sin[..half], &mut high[..half]);
    if step == 1 {
        let (a, b) = (&x[..half], &x[half..][..half]);
        for i in 0..half {
            let sin = direction * sin[i];
            low[i] = a[i] * cos[i] - b[i] * sin;
            high[i] = b[i] * cos[i] + a[i] * sin;
        }
        return;
    }
    for i in 0..half {
        let (a, b, sin) = (x[i * step], x[(i + half) * step], direction * sin[i]);
        low[i] = a * cos[i] - b * sin;
        high[i] = b * cos[i] + a * sin;
    }
}
