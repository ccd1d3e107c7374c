//! Plain Rust, a row of scores at a time.

use super::Problem;
use crate::cpu::rows::{for_each_row, maximum, sum};
use crate::cpu::{cpu, math};
use crate::error::Result;
use crate::ops::dropout::Rule;
use crate::ops::random::philox::{PhiloxKey, SPAN, words};
use crate::shape::Shape;
use crate::tensor::Tensor;

/// The probabilities, in place of `scores`, and the same after dropout. `terms` are the inner products of queries with
/// pk and of keys with pq.
pub(super) fn probabilities(
    problem: &Problem<'_>,
    mut scores: Tensor,
    terms: [Option<&Tensor>; 2],
) -> Result<(Tensor, Tensor)> {
    let &Problem { sequence, batch, .. } = problem;
    let (table, count) = (problem.operands.buckets.table.cpu_slice::<u32>()?, problem.operands.buckets.count);
    let [by_query, by_key] = terms.map(|term| term.map(Tensor::cpu_slice::<f32>).transpose());
    let (by_query, by_key) = (by_query?, by_key?);
    let mask = problem.key_mask.as_ref().map(Tensor::cpu_slice::<u32>).transpose()?;
    let scale = problem.operands.scale;
    for_each_row(scores.cpu_slice_mut::<f32>()?, sequence, |row, scores| {
        let (matrix, query) = (row / sequence, row % sequence);
        let mask = mask.map(|mask| &mask[matrix % batch * sequence..][..sequence]);
        if mask.is_some_and(|mask| mask[query] == 0) {
            return scores.fill(0.0);
        }
        // The bucket of key j is at query + (sequence - 1) - j.
        let bucket = |key: usize| table[query + sequence - 1 - key] as usize;
        for (key, score) in scores.iter_mut().enumerate() {
            if let Some(term) = by_query {
                *score += term[row * count + bucket(key)];
            }
            if let Some(term) = by_key {
                *score += term[(matrix * sequence + key) * count + bucket(key)];
            }
            let seen = mask.is_none_or(|mask| mask[key] != 0);
            *score = if seen { *score * scale } else { f32::NEG_INFINITY };
        }
        let largest = maximum(scores);
        scores.iter_mut().for_each(|score| *score = math::exp(*score - largest));
        let normaliser = (1.0 / sum([scores], |[e]| e)) as f32;
        scores.iter_mut().for_each(|score| *score *= normaliser);
    });
    let kept = dropped(problem, &scores)?;
    Ok((scores, kept))
}

/// The scores' gradient, in place of `dkept`, the gradient of the probabilities after dropout; and those probabilities.
pub(super) fn score_gradient(
    problem: &Problem<'_>,
    probabilities: &Tensor,
    mut dkept: Tensor,
) -> Result<(Tensor, Tensor)> {
    let &Problem { sequence, .. } = problem;
    let (p, scale) = (probabilities.cpu_slice::<f32>()?, problem.operands.scale);
    let mask = Dropout::new(problem);
    for_each_row(dkept.cpu_slice_mut::<f32>()?, sequence, |row, gradient| {
        let p = &p[row * sequence..][..sequence];
        if let Some(mask) = &mask {
            mask.apply(row, gradient);
        }
        let total = sum([p, gradient], |[p, g]| p * g) as f32;
        gradient.iter_mut().zip(p).for_each(|(g, &p)| *g = scale * p * (*g - total));
    });
    Ok((dkept, dropped(problem, probabilities)?))
}

/// The scores' gradient summed by bucket for each query, and for each key, where asked for:
/// `[heads, batch·sequence, buckets]`.
pub(super) fn bucket_sums(
    problem: &Problem<'_>,
    dscores: &Tensor,
    directions: [bool; 2],
) -> Result<[Option<Tensor>; 2]> {
    let &Problem { sequence, heads, batch, .. } = problem;
    let (table, count) = (problem.operands.buckets.table.cpu_slice::<u32>()?, problem.operands.buckets.count);
    let gradient = dscores.cpu_slice::<f32>()?;
    let shape = Shape::new(&[heads, batch * sequence, count])?;
    let sums = |of_queries: bool| {
        let mut sums = cpu().scratch::<f32>(shape.elements());
        for_each_row(&mut sums, count, |row, sums| {
            sums.fill(0.0);
            let (matrix, own) = (row / sequence * sequence * sequence, row % sequence);
            for other in 0..sequence {
                let (query, key) = if of_queries { (own, other) } else { (other, own) };
                sums[table[query + sequence - 1 - key] as usize] += gradient[matrix + query * sequence + key];
            }
        });
        Tensor::from_cpu_vec(shape, sums)
    };
    Ok([directions[0].then(|| sums(true)), directions[1].then(|| sums(false))])
}

fn dropped(problem: &Problem<'_>, probabilities: &Tensor) -> Result<Tensor> {
    let Some(mask) = Dropout::new(problem) else { return Ok(probabilities.clone()) };
    let mut kept = cpu().scratch::<f32>(probabilities.elements());
    kept.copy_from_slice(probabilities.cpu_slice::<f32>()?);
    for_each_row(&mut kept, problem.sequence, |row, values| mask.apply(row, values));
    Ok(Tensor::from_cpu_vec(*probabilities.shape(), kept))
}

/// The dropout mask: the word of element `j` of a row is that of its place when rows are padded to whole Philox blocks.
struct Dropout {
    rule: Rule,
    key: PhiloxKey,
    blocks_per_row: usize,
}

impl Dropout {
    fn new(problem: &Problem<'_>) -> Option<Self> {
        let blocks_per_row = problem.sequence.div_ceil(4);
        problem.dropout.map(|(rule, key)| Dropout { rule, key: PhiloxKey::from(&key), blocks_per_row })
    }

    fn apply(&self, row: usize, values: &mut [f32]) {
        for (span, values) in values.chunks_mut(SPAN).enumerate() {
            let words = words(&self.key, (row * self.blocks_per_row + span * SPAN / 4) as u32);
            for (value, word) in values.iter_mut().zip(words) {
                *value = if word < self.rule.threshold { 0.0 } else { *value * self.rule.scale };
            }
        }
    }
}
