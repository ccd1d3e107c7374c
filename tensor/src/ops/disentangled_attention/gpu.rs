//! Launches of the three kernels.

use super::Problem;
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source, linear_grid, row_grid, row_team};
use crate::ops::random::philox::PhiloxKey;
use crate::shape::Shape;
use crate::tensor::Tensor;

/// Scores to probabilities, with the generator of the dropout mask.
pub(super) const FORWARD: &str = concat!(
    include_str!("forward.wgsl"),
    include_str!("team.wgsl"),
    include_str!("team_max.wgsl"),
    include_str!("kept_factors.wgsl"),
    include_str!("../random/philox.wgsl")
);
/// The scores' gradient, with the generator of the dropout mask.
pub(super) const BACKWARD: &str = concat!(
    include_str!("backward.wgsl"),
    include_str!("team.wgsl"),
    include_str!("kept_factors.wgsl"),
    include_str!("../random/philox.wgsl")
);
/// Sums by bucket.
pub(super) const BUCKET_SUMS: &str = include_str!("bucket_sums.wgsl");

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub(super) struct RowParams {
    key: PhiloxKey,
    threshold: u32,
    kept_scale: f32,
    rows: u32,
    sequence: u32,
    batch: u32,
    buckets: u32,
    mask_offset: u32,
    scale: f32,
    lowest: f32,
}

impl RowParams {
    pub fn with_kept_scale(self, kept_scale: f32) -> Self {
        RowParams { kept_scale, ..self }
    }
}

pub(super) fn row_params(problem: &Problem<'_>) -> RowParams {
    let none = PhiloxKey { seed: [0; 2], stream: [0; 2], step: 0 };
    let (key, threshold, kept_scale) = match &problem.dropout {
        Some((rule, key)) => (PhiloxKey::from(key), rule.threshold, rule.scale),
        None => (none, 0, 1.0),
    };
    RowParams {
        key,
        threshold,
        kept_scale,
        rows: problem.rows() as u32,
        sequence: problem.sequence as u32,
        batch: problem.batch as u32,
        buckets: problem.operands.buckets.count as u32,
        mask_offset: problem.key_mask.as_ref().map_or(0, |mask| mask.layout.offset as u32),
        scale: problem.operands.scale,
        lowest: f32::NEG_INFINITY,
    }
}

pub(super) fn flag(on: bool) -> f64 {
    f64::from(u8::from(on))
}

/// See [`super::cpu::probabilities`].
pub(super) fn probabilities(
    gpu: &Gpu,
    problem: &Problem<'_>,
    scores: Tensor,
    terms: [Option<&Tensor>; 2],
) -> Result<(Tensor, Tensor)> {
    let kept = kept_like(problem, &scores)?;
    let table = &problem.operands.buckets.table;
    let team = row_team(problem.sequence);
    // What is absent needs something bound in its place; it is not read.
    let mut dispatch = Dispatch::new("disentangled_probabilities", "main", Source::Wgsl(FORWARD))
        .constant("TEAM", team as f64)
        .constant("CONTENT_TO_POSITION", flag(terms[0].is_some()))
        .constant("POSITION_TO_CONTENT", flag(terms[1].is_some()))
        .constant("MASK", flag(problem.key_mask.is_some()))
        .constant("DROPOUT", flag(kept.is_some()))
        .read(terms[0].unwrap_or(table))
        .read(terms[1].unwrap_or(table))
        .read(table)
        .read(problem.key_mask.as_ref().unwrap_or(table))
        .write(&scores);
    let nothing = Tensor::uninitialised(scores.device(), "disentangled_attention", Shape::scalar(), DType::F32)?;
    dispatch = dispatch.write(kept.as_ref().unwrap_or(&nothing));
    dispatch.params(&row_params(problem)).run(gpu, row_grid(problem.rows(), team))?;
    let kept = kept.unwrap_or_else(|| scores.clone());
    Ok((scores, kept))
}

/// See [`super::cpu::score_gradient`].
pub(super) fn score_gradient(
    gpu: &Gpu,
    problem: &Problem<'_>,
    probabilities: &Tensor,
    dkept: Tensor,
) -> Result<(Tensor, Tensor)> {
    let kept = kept_like(problem, probabilities)?;
    let team = row_team(problem.sequence);
    let nothing = Tensor::uninitialised(dkept.device(), "disentangled_attention", Shape::scalar(), DType::F32)?;
    let mut params = row_params(problem);
    // The kernel knows no mask; the place of its offset holds that of the probabilities.
    params.mask_offset = probabilities.layout.offset as u32;
    Dispatch::new("disentangled_score_gradient", "main", Source::Wgsl(BACKWARD))
        .constant("TEAM", team as f64)
        .constant("DROPOUT", flag(kept.is_some()))
        .read(probabilities)
        .write(&dkept)
        .write(kept.as_ref().unwrap_or(&nothing))
        .params(&params)
        .run(gpu, row_grid(problem.rows(), team))?;
    Ok((dkept, kept.unwrap_or_else(|| probabilities.clone())))
}

/// Room for the probabilities after dropout, where there is any.
fn kept_like(problem: &Problem<'_>, probabilities: &Tensor) -> Result<Option<Tensor>> {
    let shape = *probabilities.shape();
    let make = || Tensor::uninitialised(probabilities.device(), "disentangled_attention", shape, DType::F32);
    problem.dropout.is_some().then(make).transpose()
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct SumsParams {
    count: u32,
    rows: u32,
    sequence: u32,
    buckets: u32,
    first_direction: u32,
}

/// See [`super::cpu::bucket_sums`].
pub(super) fn bucket_sums(
    gpu: &Gpu,
    problem: &Problem<'_>,
    dscores: &Tensor,
    directions: [bool; 2],
) -> Result<[Option<Tensor>; 2]> {
    const NAME: &str = "disentangled_bucket_sums";
    let &Problem { heads, batch, sequence, .. } = problem;
    let buckets = &problem.operands.buckets;
    let many = directions.iter().filter(|&&wanted| wanted).count();
    let shape = Shape::new(&[many, heads, batch * sequence, buckets.count])?;
    let sums = Tensor::uninitialised(dscores.device(), NAME, shape, DType::F32)?;
    let params = SumsParams {
        count: shape.elements() as u32,
        rows: problem.rows() as u32,
        sequence: sequence as u32,
        buckets: buckets.count as u32,
        first_direction: u32::from(!directions[0]),
    };
    Dispatch::new(NAME, "main", Source::Wgsl(BUCKET_SUMS))
        .read(dscores)
        .read(&buckets.starts)
        .write(&sums)
        .params(&params)
        .run(gpu, linear_grid(shape.elements(), 256))?;
    let mut next = 0;
    let mut take = |wanted: bool| {
        let taken = wanted.then(|| sums.select(0, next)).transpose();
        next += usize::from(wanted);
        taken
    };
    Ok([take(directions[0])?, take(directions[1])?])
}
