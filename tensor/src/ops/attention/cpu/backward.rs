//! Backward: one task per (batch, key head), which owns its `dk` and `dv` and goes through the query heads of its
//! group, so that nothing is shared and the order of every sum is fixed.

use rayon::prelude::*;

use super::super::{AttentionOutput, Problem};
use super::panel::{LANES, ROWS, blocks, multiply_columns, multiply_rows};
use super::{KEY_TILE, Mask, Packed, Visibility, transpose_panel, visibility};
use crate::cpu::{cpu, math};
use crate::error::Result;
use crate::shape::Shape;
use crate::tensor::Tensor;

/// Panels of queries whose contributions to `dk` and `dv` are added at a time.
const PANELS: usize = 4;

type Rows = [[f32; LANES]];

pub(in super::super) fn attention_backward(
    problem: &Problem<'_>,
    forward: &AttentionOutput,
    upstream: &Tensor,
) -> Result<(Tensor, Tensor, Tensor)> {
    let &Problem { batch, queries, heads, keys, kv_heads, head_dim, .. } = problem;
    let (q, upstream_packed) = (Packed::new(problem.q, LANES)?, Packed::new(upstream, LANES)?);
    let (k, v) = (Packed::new(problem.k, ROWS)?, Packed::new(problem.v, ROWS)?);
    let mask = Mask::new(problem)?;
    let delta = row_products(problem, &forward.output, upstream)?;
    let q_shape = Shape::new(&[batch, heads, queries, head_dim])?;
    let k_shape = Shape::new(&[batch, kv_heads, keys, head_dim])?;
    let mut dq = cpu().scratch::<f32>(q_shape.elements());
    let mut dk = cpu().scratch::<f32>(k_shape.elements());
    let mut dv = cpu().scratch::<f32>(k_shape.elements());
    dk.fill(0.0);
    dv.fill(0.0);
    if dq.is_empty() || dk.is_empty() {
        dq.fill(0.0);
    } else {
        let operands = Operands {
            problem,
            q: q.values()?,
            upstream: upstream_packed.values()?,
            k: k.values()?,
            v: v.values()?,
            mask: mask.values()?,
            delta: &delta,
            log_sum_exp: forward.log_sum_exp.cpu_slice::<f32>()?,
            q_matrix: q.matrix,
            k_matrix: k.matrix,
            width: q.width,
        };
        let k_gradients = dk.par_chunks_mut(keys * head_dim).zip(dv.par_chunks_mut(keys * head_dim));
        dq.par_chunks_mut(problem.group() * queries * head_dim)
            .zip(k_gradients)
            .enumerate()
            .for_each(|(index, (dq, (dk, dv)))| operands.key_head(index, dq, dk, dv));
    }
    let finish = |shape, values| Tensor::from_cpu_vec(shape, values).transpose(1, 2)?.contiguous();
    Ok((finish(q_shape, dq)?, finish(k_shape, dk)?, finish(k_shape, dv)?))
}

/// `Σ_d upstream·output` for every query, `[batch, heads, queries]`.
fn row_products(problem: &Problem<'_>, output: &Tensor, upstream: &Tensor) -> Result<Vec<f32>> {
    let &Problem { batch, queries, heads, head_dim, .. } = problem;
    let dense = upstream.contiguous()?;
    let (output, upstream) = (output.cpu_slice::<f32>()?, dense.cpu_slice::<f32>()?);
    let mut delta = vec![0.0; batch * heads * queries];
    if !delta.is_empty() {
        delta.par_chunks_mut(queries).enumerate().for_each(|(index, delta)| {
            for (query, delta) in delta.iter_mut().enumerate() {
                let start = ((index / heads * queries + query) * heads + index % heads) * head_dim;
                let rows = output[start..][..head_dim].iter().zip(&upstream[start..][..head_dim]);
                *delta = rows.map(|(a, b)| a * b).sum();
            }
        });
    }
    Ok(delta)
}

/// What every task reads.
struct Operands<'a> {
    problem: &'a Problem<'a>,
    q: &'a [f32],
    upstream: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    mask: Option<&'a [u32]>,
    delta: &'a [f32],
    log_sum_exp: &'a [f32],
    q_matrix: usize,
    k_matrix: usize,
    width: usize,
}

/// Up to [`PANELS`] panels of queries of one head, with the tile of P and dS they share with some keys.
struct QueryBlock<'a> {
    /// Packed rows of the block's queries and of their upstream gradients.
    rows: &'a [f32],
    upstream_rows: &'a [f32],
    panels: Vec<QueryPanel<'a>>,
}

struct QueryPanel<'a> {
    seen: Visibility<'a>,
    log_sum_exp: [f32; LANES],
    delta: [f32; LANES],
    /// Scaled queries, upstream gradients and the gradient of the queries, `[head_dim][lane]`.
    query: Vec<[f32; LANES]>,
    upstream: Vec<[f32; LANES]>,
    gradient: Vec<[f32; LANES]>,
    /// P and scale·dS of the current tile of keys, `[key][lane]`; only the first `visible` rows are valid.
    weights: Vec<[f32; LANES]>,
    differences: Vec<[f32; LANES]>,
    visible: usize,
}

impl Operands<'_> {
    fn key_head(&self, index: usize, dq: &mut [f32], dk: &mut [f32], dv: &mut [f32]) {
        let &Problem { queries, head_dim, .. } = self.problem;
        let group = self.problem.group();
        let k = &self.k[index * self.k_matrix..][..self.k_matrix];
        let v = &self.v[index * self.k_matrix..][..self.k_matrix];
        for (member, dq) in dq.chunks_exact_mut(queries * head_dim).enumerate() {
            let head = index * group + member;
            for (block, dq) in dq.chunks_mut(PANELS * LANES * head_dim).enumerate() {
                let first_query = block * PANELS * LANES;
                let count = dq.len() / head_dim;
                let mut block = self.query_block(head, first_query, count);
                for first_key in (0..self.problem.key_end(first_query + count)).step_by(KEY_TILE) {
                    for panel in &mut block.panels {
                        panel.weigh(self, k, v, first_key);
                    }
                    let end = self.problem.keys.min(first_key + KEY_TILE) * head_dim;
                    let range = first_key * head_dim..end;
                    block.add_to_keys(self, &mut dk[range.clone()], &mut dv[range]);
                }
                for (panel, dq) in block.panels.iter().zip(dq.chunks_mut(LANES * head_dim)) {
                    for (lane, dq) in dq.chunks_exact_mut(head_dim).enumerate() {
                        dq.iter_mut().zip(&panel.gradient).for_each(|(dq, gradient)| *dq = gradient[lane]);
                    }
                }
            }
        }
    }

    fn query_block(&self, head: usize, first_query: usize, count: usize) -> QueryBlock<'_> {
        let (problem, width) = (self.problem, self.width);
        let range = head * self.q_matrix + first_query * width..(head + 1) * self.q_matrix;
        let (rows, upstream_rows) = (&self.q[range.clone()], &self.upstream[range]);
        let panels = (0..count).step_by(LANES).map(|start| {
            let mut query = vec![[0.0; LANES]; width];
            let mut upstream = vec![[0.0; LANES]; width];
            transpose_panel(&rows[start * width..], width, problem.scale, &mut query);
            transpose_panel(&upstream_rows[start * width..], width, 1.0, &mut upstream);
            let (mut log_sum_exp, mut delta) = ([0.0; LANES], [0.0; LANES]);
            let first = head * problem.queries + first_query + start;
            let lanes = LANES.min(count - start);
            log_sum_exp[..lanes].copy_from_slice(&self.log_sum_exp[first..][..lanes]);
            delta[..lanes].copy_from_slice(&self.delta[first..][..lanes]);
            QueryPanel {
                seen: visibility(problem, self.mask, head / problem.heads, first_query + start),
                // exp(−∞ − 0) is the 0 that a query needs which sees nothing.
                log_sum_exp: log_sum_exp.map(|value| if value == f32::NEG_INFINITY { 0.0 } else { value }),
                delta,
                query,
                upstream,
                gradient: vec![[0.0; LANES]; width],
                weights: vec![[0.0; LANES]; KEY_TILE],
                differences: vec![[0.0; LANES]; KEY_TILE],
                visible: 0,
            }
        });
        QueryBlock { rows, upstream_rows, panels: panels.collect() }
    }
}

impl QueryPanel<'_> {
    /// Computes P and dS of one tile of keys and adds dS·k to the gradient of the queries.
    fn weigh(&mut self, operands: &Operands<'_>, k: &[f32], v: &[f32], first_key: usize) {
        let (width, depth, scale) = (operands.width, operands.problem.head_dim, operands.problem.scale);
        self.visible = self.seen.rows(first_key);
        let weights = &mut self.weights[..self.visible];
        let differences = &mut self.differences[..self.visible];
        weights.fill([0.0; LANES]);
        for (index, block) in blocks(weights).enumerate() {
            let rows = &k[(first_key + index * ROWS) * width..];
            multiply_rows(block, (rows, width), depth, (self.query.as_flattened(), LANES, 0));
        }
        self.seen.hide(weights, first_key);
        // Local arrays: the compiler vectorises what it knows nobody else can see.
        let (log_sum_exp, delta) = (self.log_sum_exp, self.delta);
        for weights in weights.iter_mut() {
            for lane in 0..LANES {
                weights[lane] = math::exp(weights[lane] - log_sum_exp[lane]);
            }
        }
        differences.fill([0.0; LANES]);
        for (index, block) in blocks(differences).enumerate() {
            let rows = &v[(first_key + index * ROWS) * width..];
            multiply_rows(block, (rows, width), depth, (self.upstream.as_flattened(), LANES, 0));
        }
        for (difference, weight) in differences.iter_mut().zip(weights.iter()) {
            for lane in 0..LANES {
                difference[lane] = scale * weight[lane] * (difference[lane] - delta[lane]);
            }
        }
        for (index, block) in blocks(&mut self.gradient).enumerate() {
            multiply_columns(block, &k[first_key * width..], width, index * ROWS, differences);
        }
    }
}

impl QueryBlock<'_> {
    /// Adds Pᵀ·upstream and dSᵀ·q to the rows of one tile of keys.
    fn add_to_keys(&self, operands: &Operands<'_>, dk: &mut [f32], dv: &mut [f32]) {
        let block = ROWS * operands.problem.head_dim;
        for (index, (dk, dv)) in dk.chunks_mut(block).zip(dv.chunks_mut(block)).enumerate() {
            let row = index * ROWS;
            self.add_rows(operands, self.upstream_rows, row, |panel| &panel.weights, dv);
            self.add_rows(operands, self.rows, row, |panel| &panel.differences, dk);
        }
    }

    /// Adds `Σ_query factor[key][query] · rows[query]` to eight keys of a gradient from `row` of the tile on.
    #[inline(always)]
    fn add_rows(
        &self,
        operands: &Operands<'_>,
        rows: &[f32],
        row: usize,
        factor: impl for<'p> Fn(&'p QueryPanel<'_>) -> &'p Rows,
        gradient: &mut [f32],
    ) {
        let (width, head_dim) = (operands.width, operands.problem.head_dim);
        for column in (0..head_dim).step_by(LANES) {
            let mut sums = [[0.0; LANES]; ROWS];
            for (index, panel) in self.panels.iter().enumerate().filter(|(_, panel)| panel.visible > row) {
                let columns = (&rows[index * LANES * width..], width, column);
                multiply_rows(&mut sums, (factor(panel)[row..row + ROWS].as_flattened(), LANES), LANES, columns);
            }
            for (gradient, sums) in gradient.chunks_exact_mut(head_dim).zip(&sums) {
                gradient[column..].iter_mut().zip(sums).for_each(|(gradient, sum)| *gradient += sum);
            }
        }
    }
}
