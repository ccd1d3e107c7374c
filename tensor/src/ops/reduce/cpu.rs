//! Plain Rust. Sums are folded in f32 over fixed blocks whose results join f64 totals; the pieces depend on the shape
//! alone, never on the number of threads.

use super::Reduction;
use super::plan::Plan;
use crate::cpu::rows::{fold, for_each_chunk, map_in_order};
use crate::cpu::{CHUNK, PARALLEL_THRESHOLD, cpu};
use crate::error::Result;
use crate::shape::Shape;
use crate::tensor::Tensor;

/// Elements that one task folds.
const SEGMENT: usize = 1 << 16;

/// Columns folded side by side where the columns are contiguous.
const TILE: usize = 256;

/// Rows folded in f32 before the result joins the f64 totals.
const BLOCK_ROWS: usize = 32;

/// How two values combine, in both widths. Comparisons are joined by `|`: the branch of `||` may keep a loop from
/// vectorising.
trait Combine: Sync {
    const IDENTITY: f32;
    fn narrow(a: f32, b: f32) -> f32;
    fn wide(a: f64, b: f64) -> f64;
}

struct Sum;
struct Maximum;
struct Minimum;

impl Combine for Sum {
    const IDENTITY: f32 = 0.0;
    #[inline(always)]
    fn narrow(a: f32, b: f32) -> f32 {
        a + b
    }
    #[inline(always)]
    fn wide(a: f64, b: f64) -> f64 {
        a + b
    }
}

impl Combine for Maximum {
    const IDENTITY: f32 = f32::NEG_INFINITY;
    #[inline(always)]
    fn narrow(a: f32, b: f32) -> f32 {
        if (a > b) | a.is_nan() { a } else { b }
    }
    #[inline(always)]
    fn wide(a: f64, b: f64) -> f64 {
        if (a > b) | a.is_nan() { a } else { b }
    }
}

impl Combine for Minimum {
    const IDENTITY: f32 = f32::INFINITY;
    #[inline(always)]
    fn narrow(a: f32, b: f32) -> f32 {
        if (a < b) | a.is_nan() { a } else { b }
    }
    #[inline(always)]
    fn wide(a: f64, b: f64) -> f64 {
        if (a < b) | a.is_nan() { a } else { b }
    }
}

pub(super) fn reduce(x: &Tensor, plan: &Plan, reduction: Reduction, divisor: usize) -> Result<Tensor> {
    let source = x.cpu_storage_slice::<f32>()?;
    let mut out = cpu().scratch::<f32>(plan.kept());
    match reduction {
        Reduction::Sum => fold_into::<Sum>(source, plan, divisor as f64, &mut out),
        Reduction::Maximum => fold_into::<Maximum>(source, plan, 1.0, &mut out),
        Reduction::Minimum => fold_into::<Minimum>(source, plan, 1.0, &mut out),
    }
    Ok(Tensor::from_cpu_vec(Shape::new(&[plan.kept()])?, out))
}

fn fold_into<C: Combine>(source: &[f32], plan: &Plan, divisor: f64, out: &mut [f32]) {
    if plan.is_inner() {
        inner::<C>(source, plan, divisor, out);
    } else {
        outer::<C>(source, plan, divisor, out);
    }
}

/// Each result folds a contiguous row.
fn inner<C: Combine>(source: &[f32], plan: &Plan, divisor: f64, out: &mut [f32]) {
    let parallel = plan.kept() * plan.reduced >= PARALLEL_THRESHOLD;
    let rows_per_task = (CHUNK / plan.reduced).max(1);
    let segments = plan.reduced.div_ceil(SEGMENT);
    for_each_chunk(out, rows_per_task, parallel, |task, out| {
        for (index, value) in out.iter_mut().enumerate() {
            let position = task * rows_per_task + index;
            let start = plan.offset
                + position / plan.columns * plan.batch_stride
                + position % plan.columns * plan.column_stride;
            let row = &source[start..start + plan.reduced];
            let part = |part: &[f32]| fold([part], C::IDENTITY, |[x]| x, C::narrow, C::wide);
            let total = if segments == 1 {
                part(row)
            } else {
                let bounds = |segment| segment * SEGMENT..row.len().min((segment + 1) * SEGMENT);
                let parts = map_in_order(segments, true, |segment| part(&row[bounds(segment)]));
                parts.into_iter().fold(f64::from(C::IDENTITY), C::wide)
            };
            *value = (total / divisor) as f32;
        }
    });
}

/// Neighbouring results fold neighbouring columns; the rows of a tile of columns are folded together.
fn outer<C: Combine>(source: &[f32], plan: &Plan, divisor: f64, out: &mut [f32]) {
    let parallel = plan.kept() * plan.reduced >= PARALLEL_THRESHOLD;
    let rows_per_segment = SEGMENT / plan.columns.min(TILE);
    let segments = plan.reduced.div_ceil(rows_per_segment);
    for_each_chunk(out, plan.columns, parallel, |batch, out| {
        for_each_chunk(out, TILE, parallel, |tile, out| {
            let start = plan.offset + batch * plan.batch_stride + tile * TILE;
            let parts = map_in_order(segments, parallel, |segment| {
                let first = segment * rows_per_segment;
                let rows = rows_per_segment.min(plan.reduced - first);
                fold_rows::<C>(
                    &source[start + first * plan.reduced_stride..],
                    plan.reduced_stride,
                    rows,
                    out_len(plan, tile),
                )
            });
            for (column, value) in out.iter_mut().enumerate() {
                let total = parts.iter().fold(f64::from(C::IDENTITY), |total, part| C::wide(total, part[column]));
                *value = (total / divisor) as f32;
            }
        });
    });
}

/// Columns in a tile.
fn out_len(plan: &Plan, tile: usize) -> usize {
    TILE.min(plan.columns - tile * TILE)
}

fn fold_rows<C: Combine>(source: &[f32], stride: usize, rows: usize, width: usize) -> [f64; TILE] {
    let mut totals = [f64::from(C::IDENTITY); TILE];
    for first in (0..rows).step_by(BLOCK_ROWS) {
        let mut block = [C::IDENTITY; TILE];
        for row in first..rows.min(first + BLOCK_ROWS) {
            let values = &source[row * stride..row * stride + width];
            block.iter_mut().zip(values).for_each(|(total, &x)| *total = C::narrow(*total, x));
        }
        totals.iter_mut().zip(&block[..width]).for_each(|(total, &x)| *total = C::wide(*total, f64::from(x)));
    }
    totals
}
