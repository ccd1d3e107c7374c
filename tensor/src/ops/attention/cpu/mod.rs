//! Plain Rust. Sixteen queries side by side fill the vector registers ("a panel"): scores are held as `[key][16]`, so
//! that the softmax, too, runs in full vectors. Operands are first copied into dense, zero-padded matrices per head.
//! What lives here: that copy, visibility, the two entry points. The inner products are in `panel.rs`.

mod backward;
mod forward;
mod panel;

use rayon::prelude::*;

use super::Problem;
use crate::cpu::cpu;
use crate::error::Result;
use crate::shape::Shape;
use crate::tensor::Tensor;
use panel::{LANES, ROWS};

pub(super) use backward::attention_backward;
pub(super) use forward::attention;

/// Keys whose scores are worked on at a time.
const KEY_TILE: usize = 64;

/// A tensor `[batch, rows, heads, head_dim]` as one dense matrix per `(batch, head)`, rows and columns padded by 0.
struct Packed {
    tensor: Tensor,
    /// Elements of one matrix.
    matrix: usize,
    /// Columns of a matrix: `head_dim` padded to a multiple of [`LANES`].
    width: usize,
}

impl Packed {
    /// `row_multiple`: the number of rows is padded to a multiple of it.
    fn new(x: &Tensor, row_multiple: usize) -> Result<Self> {
        let (batch, rows, heads, head_dim) = (x.shape()[0], x.shape()[1], x.shape()[2], x.shape()[3]);
        let (padded, width) = (rows.next_multiple_of(row_multiple), head_dim.next_multiple_of(LANES));
        let shape = Shape::new(&[batch, heads, padded, width])?;
        let mut values = cpu().scratch::<f32>(shape.elements());
        let source = x.cpu_storage_slice::<f32>()?;
        let strides = x.layout.strides;
        let matrix = padded * width;
        if !values.is_empty() {
            values.par_chunks_mut(matrix).enumerate().for_each(|(index, out)| {
                let start = x.layout.offset + index / heads * strides[0] + index % heads * strides[2];
                for (row, out) in out.chunks_mut(width).enumerate() {
                    let filled = if row < rows { head_dim } else { 0 };
                    out[filled..].fill(0.0);
                    if filled == 0 {
                        continue;
                    }
                    let source = &source[start + row * strides[1]..];
                    match strides[3] {
                        1 => out[..filled].copy_from_slice(&source[..filled]),
                        step => (0..filled).for_each(|i| out[i] = source[i * step]),
                    }
                }
            });
        }
        Ok(Packed { tensor: Tensor::from_cpu_vec(shape, values), matrix, width })
    }

    /// All matrices, one after the other.
    fn values(&self) -> Result<&[f32]> {
        self.tensor.cpu_slice::<f32>()
    }
}

/// Which keys sixteen neighbouring queries see.
struct Visibility<'a> {
    /// The batch element's row of the key mask.
    keep: Option<&'a [u32]>,
    keys: usize,
    /// Position of the first of the queries among the keys: the last key that it sees.
    position: usize,
}

impl Visibility<'_> {
    /// Overwrites the scores of unseen keys; row 0 of `scores` belongs to `first_key`.
    fn hide(&self, scores: &mut [[f32; LANES]], first_key: usize) {
        for (row, scores) in scores.iter_mut().enumerate() {
            let key = first_key + row;
            if key >= self.keys || self.keep.is_some_and(|keep| keep[key] == 0) {
                *scores = [f32::NEG_INFINITY; LANES];
            } else if key > self.position {
                // The first lanes stand before this key.
                scores[..(key - self.position).min(LANES)].fill(f32::NEG_INFINITY);
            }
        }
    }

    /// Rows of a tile from `first_key` on that the last of the queries may see, in whole blocks of [`ROWS`].
    fn rows(&self, first_key: usize) -> usize {
        let end = self.keys.min(self.position + LANES);
        end.saturating_sub(first_key).min(KEY_TILE).next_multiple_of(ROWS)
    }
}

/// The key mask as contiguous rows, one per batch element.
struct Mask(Option<Tensor>);

impl Mask {
    fn new(problem: &Problem<'_>) -> Result<Self> {
        Ok(Mask(problem.key_mask.map(Tensor::contiguous).transpose()?))
    }

    fn values(&self) -> Result<Option<&[u32]>> {
        self.0.as_ref().map(Tensor::cpu_slice::<u32>).transpose()
    }
}

/// The visibility of sixteen queries from `first_query` on.
fn visibility<'a>(problem: &Problem<'_>, mask: Option<&'a [u32]>, batch: usize, first_query: usize) -> Visibility<'a> {
    Visibility {
        keep: mask.map(|mask| &mask[batch * problem.keys..][..problem.keys]),
        keys: problem.keys,
        position: first_query + problem.query_offset,
    }
}

/// Sixteen rows of a packed matrix as columns: `out[d][lane] = factor · rows[lane][d]`.
fn transpose_panel(rows: &[f32], width: usize, factor: f32, out: &mut [[f32; LANES]]) {
    for (lane, row) in rows.chunks_exact(width).take(LANES).enumerate() {
        for (out, value) in out.iter_mut().zip(row) {
            out[lane] = factor * value;
        }
    }
}
