//! Forward: one task per sixteen queries of a head, tiles of keys in order, softmax rescaled as its maximum grows.

use rayon::prelude::*;

use super::super::{AttentionOutput, Problem};
use super::panel::{LANES, ROWS, blocks, multiply_columns, multiply_rows};
use super::{KEY_TILE, Mask, Packed, Visibility, transpose_panel, visibility};
use crate::cpu::{cpu, math};
use crate::error::Result;
use crate::shape::Shape;
use crate::tensor::Tensor;

pub(in super::super) fn attention(problem: &Problem<'_>) -> Result<AttentionOutput> {
    let &Problem { batch, queries, heads, head_dim, .. } = problem;
    let q = Packed::new(problem.q, LANES)?;
    let (k, v) = (Packed::new(problem.k, ROWS)?, Packed::new(problem.v, ROWS)?);
    let mask = Mask::new(problem)?;
    let (q_values, k_values, v_values, mask) = (q.values()?, k.values()?, v.values()?, mask.values()?);
    let by_head = Shape::new(&[batch, heads, queries, head_dim])?;
    let mut output = cpu().scratch::<f32>(by_head.elements());
    let mut log_sum_exp = cpu().scratch::<f32>(batch * heads * queries);
    if !output.is_empty() {
        let matrices = output.par_chunks_mut(queries * head_dim).zip(log_sum_exp.par_chunks_mut(queries));
        matrices.enumerate().for_each(|(index, (output, log_sum_exp))| {
            let kv_index = index / problem.group();
            let keys = &k_values[kv_index * k.matrix..][..k.matrix];
            let values = &v_values[kv_index * v.matrix..][..v.matrix];
            let panels = output.par_chunks_mut(LANES * head_dim).zip(log_sum_exp.par_chunks_mut(LANES));
            panels.enumerate().for_each(|(panel, (output, log_sum_exp))| {
                let first_query = panel * LANES;
                let seen = visibility(problem, mask, index / heads, first_query);
                let rows = &q_values[index * q.matrix + first_query * q.width..];
                let mut panel = Panel::new(rows, q.width, problem);
                for first_key in (0..problem.key_end(first_query + output.len() / head_dim)).step_by(KEY_TILE) {
                    panel.add_tile(keys, values, &seen, first_key);
                }
                panel.finish(head_dim, output, log_sum_exp);
            });
        });
    }
    Ok(AttentionOutput {
        output: Tensor::from_cpu_vec(by_head, output).transpose(1, 2)?.contiguous()?,
        log_sum_exp: Tensor::from_cpu_vec(problem.log_sum_exp_shape()?, log_sum_exp),
    })
}

/// Sixteen queries on their way through the keys.
struct Panel {
    width: usize,
    depth: usize,
    /// Scaled queries, `[head_dim][lane]`.
    query: Vec<[f32; LANES]>,
    /// Σ p·v so far, `[head_dim][lane]`.
    sum: Vec<[f32; LANES]>,
    maximum: [f32; LANES],
    total: [f32; LANES],
}

impl Panel {
    fn new(rows: &[f32], width: usize, problem: &Problem<'_>) -> Self {
        let mut query = vec![[0.0; LANES]; width];
        transpose_panel(rows, width, problem.scale, &mut query);
        Panel {
            width,
            depth: problem.head_dim,
            query,
            sum: vec![[0.0; LANES]; width],
            maximum: [f32::NEG_INFINITY; LANES],
            total: [0.0; LANES],
        }
    }

    fn add_tile(&mut self, keys: &[f32], values: &[f32], seen: &Visibility<'_>, first_key: usize) {
        let width = self.width;
        let mut tile = [[0.0f32; LANES]; KEY_TILE];
        let scores = &mut tile[..seen.rows(first_key)];
        for (index, block) in blocks(scores).enumerate() {
            let rows = &keys[(first_key + index * ROWS) * width..];
            multiply_rows(block, (rows, width), self.depth, (self.query.as_flattened(), LANES, 0));
        }
        seen.hide(scores, first_key);
        self.exponentiate(scores);
        let values = &values[first_key * width..];
        for (index, block) in blocks(&mut self.sum).enumerate() {
            multiply_columns(block, values, width, index * ROWS, scores);
        }
    }

    /// Turns scores into exp(score − maximum) and brings what was summed before to the new maximum.
    fn exponentiate(&mut self, scores: &mut [[f32; LANES]]) {
        let mut maximum = self.maximum;
        for row in scores.iter() {
            for (maximum, score) in maximum.iter_mut().zip(row) {
                *maximum = maximum.max(*score);
            }
        }
        // A query that has seen nothing yet would give −∞ − (−∞).
        let shift = maximum.map(|maximum| if maximum == f32::NEG_INFINITY { 0.0 } else { maximum });
        // Local arrays: the compiler vectorises what it knows nobody else can see.
        let (mut rescale, mut total) = ([0.0; LANES], self.total);
        for lane in 0..LANES {
            rescale[lane] = math::exp(self.maximum[lane] - shift[lane]);
            total[lane] *= rescale[lane];
        }
        for row in scores.iter_mut() {
            for lane in 0..LANES {
                row[lane] = math::exp(row[lane] - shift[lane]);
            }
            for lane in 0..LANES {
                total[lane] += row[lane];
            }
        }
        self.total = total;
        for sum in &mut self.sum {
            for (sum, rescale) in sum.iter_mut().zip(&rescale) {
                *sum *= rescale;
            }
        }
        self.maximum = maximum;
    }

    fn finish(&self, head_dim: usize, output: &mut [f32], log_sum_exp: &mut [f32]) {
        for (lane, output) in output.chunks_exact_mut(head_dim).enumerate() {
            let total = self.total[lane];
            let normaliser = if total == 0.0 { 0.0 } else { 1.0 / total };
            for (output, sum) in output.iter_mut().zip(&self.sum) {
                *output = sum[lane] * normaliser;
            }
            log_sum_exp[lane] = if total == 0.0 { f32::NEG_INFINITY } else { self.maximum[lane] + total.ln() };
        }
    }
}
