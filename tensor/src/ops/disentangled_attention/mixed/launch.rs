//! Launches of the kernels between the products.

use std::borrow::Cow;

use super::super::RelativeBuckets;
use super::super::gpu::{flag, row_params};
use super::super::problem::Problem;
use super::kernels::{Heads, ScoreGradient};
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source, row_grid, row_team};
use crate::ops::halves::with_halves;
use crate::ops::row_scaled::EXPONENTS;
use crate::shape::Shape;
use crate::tensor::Tensor;

const NAME: &str = "mixed_disentangled_attention";

/// Elements of a vector.
const VECTOR: usize = 4;

/// Vectors of a row that an invocation keeps.
const VECTORS_EACH: usize = 4;

/// Vectors of a head that an invocation keeps while it is rounded; where there are more, they are read again.
const HEAD_VECTORS_EACH: usize = 8;

/// Tensors rounded by one launch at the most.
const MOST_TENSORS: usize = 3;

/// Rows, and vectors of sums by bucket, that a workgroup makes.
const SUMS_TILE: usize = 16;

fn named(name: &str, native: bool) -> Cow<'_, str> {
    if native { Cow::Owned(format!("{name}_native")) } else { Cow::Borrowed(name) }
}

pub(super) fn probabilities_text(native: bool) -> String {
    let parts = [
        include_str!("probabilities.wgsl"),
        include_str!("../team.wgsl"),
        include_str!("../team_max.wgsl"),
        include_str!("../kept_factors.wgsl"),
        include_str!("../../random/philox.wgsl"),
    ];
    with_halves(&parts.concat(), native)
}

pub(super) fn score_gradient_text(native: bool) -> String {
    with_halves(&[include_str!("score_gradient.wgsl"), include_str!("../team.wgsl")].concat(), native)
}

pub(super) fn bucket_sums_text(native: bool) -> String {
    with_halves(include_str!("bucket_sums.wgsl"), native)
}

/// The kernel that rounds so many tensors.
pub(super) fn round_text(tensors: usize, native: bool) -> String {
    let (mut bindings, mut cases) = (String::new(), String::new());
    for i in 0..tensors {
        // As if it were written to, so that the driver keeps what is read in registers over the barriers.
        bindings += &format!("@group(0) @binding({i}) var<storage, read_write> x{i}: array<vec4<f32>>;\n");
        cases += &format!("        case {i}u: {{ return x{i}[params.offsets[{i}] + place]; }}\n");
    }
    let each = |text: &dyn Fn(usize) -> String| (0..HEAD_VECTORS_EACH).map(text).collect::<String>();
    let read = each(&|i| {
        format!(
            "    let vector{i} = vector_of(which, first, min(local + {0}u, last));\n    largest = max(largest, magnitude(vector{i}));\n",
            256 * i
        )
    });
    let write = each(&|i| format!("    write(start, local + {}u, vector{i} * factor, last);\n", 256 * i));
    let text = include_str!("round.wgsl")
        .replace("$bindings", &bindings)
        .replace("$values", &tensors.to_string())
        .replace("$scales", &(tensors + 1).to_string())
        .replace("$cases", &cases)
        .replace("    $read\n", &read)
        .replace("    $write\n", &write)
        .replace("$kept", &(256 * HEAD_VECTORS_EACH).to_string());
    with_halves(&text, native)
}

fn uninitialised(like: &Tensor, shape: &[usize], dtype: DType) -> Result<Tensor> {
    Tensor::uninitialised(like.device(), NAME, Shape::new(shape)?, dtype)
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct RoundParams {
    rows: u32,
    vectors: u32,
    lowest: i32,
    highest: i32,
    offsets: [u32; MOST_TENSORS],
}

/// Tensors `[batch, sequence, heads, head_dim]`, three at the most, rounded head by head.
pub(super) fn round(gpu: &Gpu, [batch, sequence, heads, head_dim]: [usize; 4], tensors: &[&Tensor]) -> Result<Heads> {
    let tensors = tensors.iter().map(|tensor| tensor.contiguous()).collect::<Result<Vec<_>>>()?;
    let (first, count, native) = (&tensors[0], tensors.len(), gpu.cooperative.usable());
    let values = uninitialised(first, &[count, heads, batch, sequence, head_dim], DType::F16)?;
    let scales = uninitialised(first, &[count, heads, batch], DType::F32)?;
    let mut offsets = [0; MOST_TENSORS];
    for (offset, tensor) in offsets.iter_mut().zip(&tensors) {
        *offset = (tensor.layout.offset / VECTOR) as u32;
    }
    let params = RoundParams {
        rows: sequence as u32,
        vectors: (head_dim / VECTOR) as u32,
        lowest: EXPONENTS[0],
        highest: EXPONENTS[1],
        offsets,
    };
    let text = || round_text(count, native);
    let dispatch =
        Dispatch::new(named(&format!("{NAME}_round_{count}"), native).into_owned(), "main", Source::Generated(&text));
    let dispatch = tensors.iter().fold(dispatch, Dispatch::write);
    let dispatch = dispatch.write(&values).write(&scales).params(&params);
    dispatch.run(gpu, [heads as u32, batch as u32, count as u32])?;
    Ok(Heads { values, scales })
}

/// The probabilities in f16, before dropout and after it, not multiplied by the factor of what is kept. `scores` are the inner
/// products of rounded queries and keys, f32 `[heads, batch, sequence, sequence]`, `terms` theirs with positions, f16 `[2, heads,
/// batch·sequence, buckets]`.
pub(super) fn probabilities(
    gpu: &Gpu,
    problem: &Problem<'_>,
    [scores, terms]: [&Tensor; 2],
    [content_scales, position_scales]: [&Tensor; 2],
) -> Result<(Tensor, Tensor)> {
    let (shape, native) = (problem.probabilities_shape(), gpu.cooperative.usable());
    let probabilities = uninitialised(scores, &shape, DType::F16)?;
    let drops = problem.dropout.is_some();
    let dropped = uninitialised(scores, if drops { &shape } else { &[] }, DType::F16)?;
    let buckets = &problem.operands.buckets;
    let team = team(problem.sequence);
    let text = || probabilities_text(native);
    // The factor of what is kept is the following product's.
    let params = row_params(problem).with_kept_scale(1.0);
    Dispatch::new(named("mixed_disentangled_probabilities", native), "main", Source::Generated(&text))
        .constant("TEAM", team as f64)
        .constant("MASK", flag(problem.key_mask.is_some()))
        .constant("DROPOUT", flag(drops))
        .constant("IDENTITY", flag(buckets.is_identity))
        .read(scores)
        .read(terms)
        .read(content_scales)
        .read(position_scales)
        .read(&buckets.table)
        // What is absent needs something bound in its place; it is not read.
        .read(problem.key_mask.as_ref().unwrap_or(&buckets.table))
        .write(&probabilities)
        .write(&dropped)
        .params(&params)
        .run(gpu, row_grid(problem.rows(), team))?;
    let dropped = if drops { dropped } else { probabilities.clone() };
    Ok((probabilities, dropped))
}

/// Invocations that share a row, each with [`VECTORS_EACH`] vectors.
fn team(sequence: usize) -> usize {
    row_team(sequence.div_ceil(VECTORS_EACH))
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct GradientParams {
    rows: u32,
    sequence: u32,
    value_scales_offset: u32,
    slope: f32,
    multiple: f32,
}

/// `slope` times p·(g − Σ p·g) in f16, g being the gradient of the probabilities after dropout where they are kept, else 0; to be
/// multiplied by `multiple` and the scales of v and dy.
pub(super) fn score_gradient(
    gpu: &Gpu,
    [probabilities, dropped]: [&Tensor; 2],
    gradient: &Tensor,
    [value_scales, upstream_scales]: [&Tensor; 2],
    slope: f32,
    multiple: f32,
) -> Result<ScoreGradient> {
    let sequence = gradient.shape()[3];
    let (rows, native, team) = (gradient.elements() / sequence, gpu.cooperative.usable(), team(sequence));
    let values = uninitialised(gradient, gradient.shape(), DType::F16)?;
    let scales = uninitialised(gradient, &gradient.shape()[..2], DType::F32)?;
    let value_scales_offset = value_scales.layout.offset as u32;
    let params = GradientParams { rows: rows as u32, sequence: sequence as u32, value_scales_offset, slope, multiple };
    let text = || score_gradient_text(native);
    Dispatch::new(named("mixed_disentangled_score_gradient", native), "main", Source::Generated(&text))
        .constant("TEAM", team as f64)
        .read(probabilities)
        .read(dropped)
        .read(gradient)
        .read(value_scales)
        .read(upstream_scales)
        .write(&values)
        .write(&scales)
        .params(&params)
        .run(gpu, row_grid(rows, team))?;
    Ok(ScoreGradient { values, scales })
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct SumsParams {
    sequence: u32,
    buckets: u32,
    multiple: f32,
}

/// The scores' gradient summed by bucket, for each query over keys and for each key over queries, times `multiple`: f16 `[2,
/// heads, batch, sequence, buckets]`.
pub(super) fn bucket_sums(gpu: &Gpu, buckets: &RelativeBuckets, gradient: &Tensor, multiple: f32) -> Result<Tensor> {
    let [heads, batch, sequence] = [0, 1, 2].map(|axis| gradient.shape()[axis]);
    let native = gpu.cooperative.usable();
    let sums = uninitialised(gradient, &[2, heads, batch, sequence, buckets.count], DType::F16)?;
    let params = SumsParams { sequence: sequence as u32, buckets: buckets.count as u32, multiple };
    let text = || bucket_sums_text(native);
    let tiles = [buckets.count.div_ceil(VECTOR * SUMS_TILE), sequence.div_ceil(SUMS_TILE), 2 * heads * batch];
    Dispatch::new(named("mixed_disentangled_bucket_sums", native), "main", Source::Generated(&text))
        .constant("IDENTITY", flag(buckets.is_identity))
        .read(gradient)
        .read(&buckets.starts)
        .write(&sums)
        .params(&params)
        .run(gpu, tiles.map(|extent| extent as u32))?;
    Ok(sums)
}
