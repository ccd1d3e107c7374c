//! Plain Rust: one task a row, whose elements stay in the cache between the two passes.

use rayon::prelude::*;

use super::CrossEntropy;
use crate::cpu::{cpu, math};
use crate::error::{Result, TensorError};
use crate::shape::Shape;
use crate::tensor::Tensor;

/// Sums and maxima of one row are taken in this many lanes, combined in a fixed order.
const LANES: usize = 16;

/// Elements summed in f32 before the sum goes into an f64: keeps rounding errors small in long rows.
const BLOCK: usize = 1024;

pub(super) fn forward(logits: &Tensor, labels: &Tensor, ignore: i32) -> Result<CrossEntropy> {
    let (vocabulary, row_stride) = (logits.shape()[1], logits.layout.strides[0]);
    let labels = labels.cpu_slice::<i32>()?;
    check_labels("cross_entropy", labels, ignore, vocabulary)?;
    let source = logits.cpu_storage_slice::<f32>()?;
    let (mut losses, mut sums) = (cpu().scratch::<f32>(labels.len()), cpu().scratch::<f32>(labels.len()));
    losses.par_iter_mut().zip(&mut sums).zip(labels).enumerate().for_each(|(r, ((loss, log_sum_exp), &label))| {
        let start = logits.layout.offset + r * row_stride;
        let row = &source[start..start + vocabulary];
        let largest = maximum(row);
        let logarithm = sum_of_exponentials(row, largest).ln();
        *log_sum_exp = (f64::from(largest) + logarithm) as f32;
        // The difference first: it is exact where the label has nearly all of the probability.
        let at_label = |label: usize| (f64::from(largest) - f64::from(row[label]) + logarithm) as f32;
        *loss = if label == ignore { 0.0 } else { at_label(label as usize) };
    });
    let shape = Shape::new(&[labels.len()])?;
    Ok(CrossEntropy { losses: Tensor::from_cpu_vec(shape, losses), log_sum_exp: Tensor::from_cpu_vec(shape, sums) })
}

pub(super) fn backward(
    logits: &mut Tensor,
    labels: &Tensor,
    ignore: i32,
    log_sum_exp: &Tensor,
    scale: f32,
) -> Result<()> {
    let vocabulary = logits.shape()[1];
    let (labels, sums) = (labels.cpu_slice::<i32>()?, log_sum_exp.cpu_slice::<f32>()?);
    check_labels("cross_entropy_backward", labels, ignore, vocabulary)?;
    let rows = logits.cpu_slice_mut::<f32>()?.par_chunks_mut(vocabulary);
    rows.zip(labels).zip(sums).for_each(|((row, &label), &sum)| {
        if label == ignore {
            return row.fill(0.0);
        }
        let at_label = scale * (math::exp(row[label as usize] - sum) - 1.0);
        for value in row.iter_mut() {
            *value = scale * math::exp(*value - sum);
        }
        row[label as usize] = at_label;
    });
    Ok(())
}

fn check_labels(operation: &'static str, labels: &[i32], ignore: i32, vocabulary: usize) -> Result<()> {
    let valid = |label: i32| label == ignore || usize::try_from(label).is_ok_and(|label| label < vocabulary);
    match labels.iter().position(|&label| !valid(label)) {
        None => Ok(()),
        Some(row) => Err(TensorError::InvalidArgument {
            operation,
            message: format!(
                "label {} of row {row} is neither {ignore} (ignored) nor one of {vocabulary} columns",
                labels[row]
            ),
        }),
    }
}

/// The largest element, NaN aside; the least finite number for a row of −∞, so that differences stay defined.
fn maximum(row: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::MIN; LANES];
    let pieces = row.chunks_exact(LANES);
    let rest = pieces.remainder();
    for piece in pieces {
        for (lane, &x) in lanes.iter_mut().zip(piece) {
            *lane = larger(*lane, x);
        }
    }
    rest.iter().chain(&lanes).fold(f32::MIN, |a, &b| larger(a, b))
}

/// Σ exp(x − largest); NaN when an element is NaN or +∞.
fn sum_of_exponentials(row: &[f32], largest: f32) -> f64 {
    let mut total = 0.0;
    for block in row.chunks(BLOCK) {
        let mut lanes = [0.0f32; LANES];
        let pieces = block.chunks_exact(LANES);
        let rest = pieces.remainder();
        for piece in pieces {
            for (lane, &x) in lanes.iter_mut().zip(piece) {
                *lane += math::exp(x - largest);
            }
        }
        let rest: f32 = rest.iter().map(|&x| math::exp(x - largest)).sum();
        total += f64::from(lanes.iter().sum::<f32>() + rest);
    }
    total
}
