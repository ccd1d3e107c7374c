//! Launches of `forward.wgsl` and `backward.wgsl`.

use super::{Dropout, ResidualNorm, rows_of, uninitialised};
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source, row_grid, row_team};
use crate::ops::RowScaled;
use crate::ops::dropout::Rule;
use crate::ops::halves::with_halves;
use crate::ops::random::philox::PhiloxKey;
use crate::ops::row_scaled::EXPONENTS;
use crate::shape::Shape;
use crate::tensor::Tensor;

/// Elements of a vector.
const VECTOR: usize = 4;

/// Vectors of a row that an invocation keeps at the most.
const MOST_VECTORS: usize = 4;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Params {
    key: PhiloxKey,
    threshold: u32,
    kept_scale: f32,
    rows: u32,
    vectors: u32,
    epsilon: f32,
    lowest: i32,
    highest: i32,
    offsets: [u32; 4],
}

/// Whether there are kernels for contiguous operands: rows of whole vectors that fit into the registers of a workgroup. What is
/// no probability is left to the operation that says so.
pub(super) fn suits(operands: &[Tensor], dropout: Dropout) -> bool {
    let [rows, columns] = rows_of(&operands[0]);
    rows * columns > 0
        && columns.is_multiple_of(VECTOR)
        && columns <= VECTOR * MOST_VECTORS * crate::gpu::ROW_WORKGROUP
        && u32::try_from(rows * columns).is_ok()
        && operands.iter().all(|operand| operand.layout.offset.is_multiple_of(VECTOR))
        && dropout.is_none_or(|(probability, _)| (0.0..1.0).contains(&probability))
}

/// The text of a kernel: its own, and what both have in common.
pub(super) fn text(own: &str, native: bool) -> String {
    let parts = [
        own,
        include_str!("common.wgsl"),
        &include_str!("../row_scaled/kernels/team.wgsl").replace("MAXIMA", "u32"),
        include_str!("../row_scaled/kernels/numbers.wgsl"),
        include_str!("../random/philox.wgsl"),
    ];
    with_halves(&parts.concat(), native)
}

pub(super) const FORWARD: &str = include_str!("forward.wgsl");
pub(super) const BACKWARD: &str = include_str!("backward.wgsl");

/// Room for rounded rows.
fn rounded_like(x: &Tensor) -> Result<RowScaled> {
    let [rows, columns] = rows_of(x);
    let values = uninitialised(x, &Shape::new(&[rows, columns])?, DType::F16)?;
    Ok(RowScaled::from_parts(values, uninitialised(x, &Shape::new(&[rows])?, DType::F32)?))
}

/// Records a kernel over the rows of the first operand.
fn run(
    gpu: &Gpu,
    (name, own): (&'static str, &'static str),
    operands: &[Tensor],
    outputs: &[&Tensor],
    dropout: Dropout,
    epsilon: f32,
) -> Result<()> {
    let ([rows, columns], native) = (rows_of(&operands[0]), gpu.cooperative.usable());
    let dropout = dropout.filter(|(probability, _)| *probability > 0.0);
    let none = PhiloxKey { seed: [0; 2], stream: [0; 2], step: 0 };
    let (key, Rule { threshold, scale }) = match dropout {
        Some((probability, key)) => (PhiloxKey::from(&key), Rule::new(name, probability)?),
        None => (none, Rule { threshold: 0, scale: 1.0 }),
    };
    let mut offsets = [0; 4];
    for (offset, operand) in offsets.iter_mut().zip(operands) {
        *offset = (operand.layout.offset / VECTOR) as u32;
    }
    let (vectors, team) = (columns / VECTOR, row_team(columns));
    let params = Params {
        key,
        threshold,
        kept_scale: scale,
        rows: rows as u32,
        vectors: vectors as u32,
        epsilon,
        lowest: EXPONENTS[0],
        highest: EXPONENTS[1],
        offsets,
    };
    let text = || text(own, native);
    let full_name = if native { format!("{name}_native") } else { name.to_string() };
    // All are bound as if they were written to, so that the driver keeps what it read in registers over the barriers.
    let dispatch = Dispatch::new(full_name, "main", Source::Generated(&text))
        .constant("TEAM", team as f64)
        .constant("VECTORS", vectors.div_ceil(team) as f64)
        .constant("DROPOUT", f64::from(u8::from(dropout.is_some())))
        .params(&params);
    let dispatch = operands.iter().chain(outputs.iter().copied()).fold(dispatch, Dispatch::write);
    dispatch.run(gpu, row_grid(rows, team))
}

/// `operands` are x, y, weight and bias.
pub(super) fn forward(gpu: &Gpu, operands: &[Tensor; 4], dropout: Dropout, epsilon: f32) -> Result<ResidualNorm> {
    let x = &operands[0];
    let sum = uninitialised(x, x.shape(), DType::F32)?;
    let normed = uninitialised(x, x.shape(), DType::F32)?;
    let rounded = rounded_like(x)?;
    let outputs = [&sum, &normed, rounded.values(), rounded.scales()];
    run(gpu, ("residual_norm", FORWARD), operands, &outputs, dropout, epsilon)?;
    Ok(ResidualNorm { sum, normed, rounded })
}

/// `operands` are the sum, the upstream gradient and the weight.
pub(super) fn backward(
    gpu: &Gpu,
    operands: &[Tensor; 3],
    dropout: Dropout,
    epsilon: f32,
) -> Result<(Tensor, RowScaled)> {
    let sum = &operands[0];
    let dx = uninitialised(sum, sum.shape(), DType::F32)?;
    let dy = rounded_like(sum)?;
    let outputs = [&dx, dy.values(), dy.scales()];
    run(gpu, ("residual_norm_backward", BACKWARD), operands, &outputs, dropout, epsilon)?;
    Ok((dx, dy))
}
