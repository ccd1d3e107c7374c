//! Plain Rust: rows of the broadcast operands, one loop per function and stride pattern so that each vectorises.

use rayon::prelude::*;

use super::Binary;
use crate::cpu::{CHUNK, PARALLEL_THRESHOLD, RowWalk, cpu, math};
use crate::error::Result;
use crate::tensor::Tensor;

pub(super) fn binary(a: &Tensor, b: &Tensor, operation: Binary) -> Result<Tensor> {
    match operation {
        Binary::Add => map(a, b, |a, b| a + b),
        Binary::Subtract => map(a, b, |a, b| a - b),
        Binary::Multiply => map(a, b, |a, b| a * b),
        Binary::Divide => map(a, b, |a, b| a / b),
        Binary::Maximum => map(a, b, |a, b| if a > b || a.is_nan() { a } else { b }),
        Binary::Minimum => map(a, b, |a, b| if a < b || a.is_nan() { a } else { b }),
        Binary::Less => map(a, b, |a, b| if a < b { 1.0 } else { 0.0 }),
        Binary::Equal => map(a, b, |a, b| if a == b { 1.0 } else { 0.0 }),
        Binary::SiluBackward => map(a, b, |x, upstream| upstream * silu_derivative(x)),
        Binary::GeluBackward => map(a, b, |x, upstream| upstream * gelu_derivative(x)),
        Binary::TanhBackward => map(a, b, |y, upstream| upstream * (1.0 - y * y)),
        Binary::SigmoidBackward => map(a, b, |y, upstream| upstream * y * (1.0 - y)),
        Binary::SiluMultiply => map(a, b, |a, b| a * math::sigmoid(a) * b),
    }
}

#[inline(always)]
fn silu_derivative(x: f32) -> f32 {
    let s = math::sigmoid(x);
    s * (1.0 + x * (1.0 - s))
}

#[inline(always)]
fn gelu_derivative(x: f32) -> f32 {
    let cumulative = 0.5 * (1.0 + math::erf(x * std::f32::consts::FRAC_1_SQRT_2));
    let density = 0.398_942_3 * math::exp(-0.5 * x * x);
    cumulative + x * density
}

/// `a` and `b` already have the common shape.
fn map(a: &Tensor, b: &Tensor, function: impl Fn(f32, f32) -> f32 + Sync) -> Result<Tensor> {
    let mut out = cpu().scratch::<f32>(a.elements());
    let shape = *a.shape();
    if out.is_empty() {
        return Ok(Tensor::from_cpu_vec(shape, out));
    }
    let (left, right) = (a.cpu_storage_slice::<f32>()?, b.cpu_storage_slice::<f32>()?);
    let walk = RowWalk::new([&a.layout, &b.layout]);
    let row = walk.row;
    // Pieces of one row where rows are long, groups of whole rows where they are short.
    let piece = if row >= CHUNK { CHUNK } else { CHUNK / row * row };
    let pieces_per_row = row.div_ceil(piece).max(1);
    let task = |(index, out): (usize, &mut [f32])| {
        if row >= CHUNK {
            let (line, first) = (index / pieces_per_row, index % pieces_per_row * piece);
            let [i, j] = walk.start(line);
            map_row(left, right, [i + first * walk.steps[0], j + first * walk.steps[1]], walk.steps, out, &function);
        } else {
            let first_row = index * (piece / row);
            for (line, out) in out.chunks_mut(row).enumerate() {
                map_row(left, right, walk.start(first_row + line), walk.steps, out, &function);
            }
        }
    };
    if out.len() < PARALLEL_THRESHOLD {
        let mut rest = &mut out[..];
        let mut index = 0;
        while !rest.is_empty() {
            let take =
                if row >= CHUNK { piece.min(row - index % pieces_per_row * piece) } else { piece.min(rest.len()) };
            let (now, later) = rest.split_at_mut(take);
            task((index, now));
            rest = later;
            index += 1;
        }
    } else if row >= CHUNK {
        out.par_chunks_mut(row).enumerate().for_each(|(line, out)| {
            out.par_chunks_mut(piece).enumerate().for_each(|(i, out)| task((line * pieces_per_row + i, out)));
        });
    } else {
        out.par_chunks_mut(piece).enumerate().for_each(task);
    }
    Ok(Tensor::from_cpu_vec(shape, out))
}

#[inline(always)]
fn map_row(
    a: &[f32],
    b: &[f32],
    start: [usize; 2],
    steps: [usize; 2],
    out: &mut [f32],
    function: &impl Fn(f32, f32) -> f32,
) {
    let n = out.len();
    let [i, j] = start;
    match steps {
        [1, 1] => {
            for ((value, &x), &y) in out.iter_mut().zip(&a[i..i + n]).zip(&b[j..j + n]) {
                *value = function(x, y);
            }
        }
        [1, 0] => {
            let y = b[j];
            out.iter_mut().zip(&a[i..i + n]).for_each(|(value, &x)| *value = function(x, y));
        }
        [0, 1] => {
            let x = a[i];
            out.iter_mut().zip(&b[j..j + n]).for_each(|(value, &y)| *value = function(x, y));
        }
        [s, t] => {
            for (k, value) in out.iter_mut().enumerate() {
                *value = function(a[i + k * s], b[j + k * t]);
            }
        }
    }
}
