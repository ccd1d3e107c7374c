//! The product through the crate `gemm`, which picks AVX-512, AVX2 or NEON kernels at run time. Its blocks over `k` do
//! not depend on the number of threads, and the partitions made here are fixed, so neither do the results.

use half::{bf16, f16};
use rayon::prelude::*;

use super::{Operand, Product};
use crate::cpu::{CHUNK, cpu};
use crate::dtype::{DType, Element};
use crate::error::Result;
use crate::tensor::Tensor;
use crate::trusted::{Division, Matrix, gemm};

/// Products of fewer multiplications than this are left to one thread.
const PARALLEL_MULTIPLICATIONS: usize = 1 << 21;

/// Columns that one task handles when the product is a single row: that is bound by reading the matrix, which one
/// thread does at half the speed of two.
const ROW_COLUMNS: usize = 1024;

/// Columns that one task handles when the product has fewer than [`MANY_ROWS`] and at least [`MIN_COLUMNS`]. The crate packs
/// such a right operand on one thread; at 256 x 768 x 3072 NT and 64 x 4096 x 4096 NN that took a quarter and half of
/// the time.
const BLOCK_COLUMNS: usize = 64;
const MANY_ROWS: usize = 1024;
const MIN_COLUMNS: usize = 512;

/// Elements of a 16-bit operand that are converted at a time (16 MiB as f32): large vocabularies are never held whole
/// in f32.
const PANEL_ELEMENTS: usize = 1 << 22;

/// See [`Product::write`].
pub(super) fn write(product: &Product, out: &mut Tensor, alpha: f32, accumulate: bool) -> Result<()> {
    let matrix = product.m * product.n;
    let out = out.cpu_slice_mut::<f32>()?;
    let multiplications = matrix * product.k;
    let update = Update { alpha, accumulate };
    if product.batches() > 1 && multiplications < PARALLEL_MULTIPLICATIONS {
        // Many small products: whole ones to each task.
        let per_task = PARALLEL_MULTIPLICATIONS.div_ceil(multiplications);
        let task = |(index, out): (usize, &mut [f32])| -> Result<()> {
            for (place, out) in out.chunks_mut(matrix).enumerate() {
                multiply(product, index * per_task + place, out, update)?;
            }
            Ok(())
        };
        return out.par_chunks_mut(per_task * matrix).enumerate().try_for_each(task);
    }
    out.chunks_mut(matrix).enumerate().try_for_each(|(index, out)| multiply(product, index, out, update))
}

/// What becomes of the result: `alpha·(a x b)`, plus what was there if `accumulate`.
#[derive(Clone, Copy)]
struct Update {
    alpha: f32,
    accumulate: bool,
}

/// One matrix of the batch.
fn multiply(product: &Product, index: usize, out: &mut [f32], update: Update) -> Result<()> {
    let [a_offset, b_offset] = offsets(product, index);
    let (m, n, k) = (product.m, product.n, product.k);
    let row_panel = panel_extent(&product.a, k, m);
    let column_panel = panel_extent(&product.b, k, n);
    let [a_rows, a_columns] = product.a.strides();
    let [b_rows, b_columns] = product.b.strides();
    for first_row in (0..m).step_by(row_panel) {
        let rows = row_panel.min(m - first_row);
        let a = Panel::new(&product.a.tensor, a_offset + first_row * a_rows, [rows, k], [a_rows, a_columns])?;
        for first_column in (0..n).step_by(column_panel) {
            let columns = column_panel.min(n - first_column);
            let start = b_offset + first_column * b_columns;
            let b = Panel::new(&product.b.tensor, start, [k, columns], [b_rows, b_columns])?;
            let out = &mut out[first_row * n + first_column..];
            multiply_panels(out, n, a.matrix(), b.matrix(), update);
        }
    }
    Ok(())
}

/// Both operands are f32 here; `out` begins at the panel's first element and its rows are `out_stride` apart.
fn multiply_panels(out: &mut [f32], out_stride: usize, a: Matrix<'_>, b: Matrix<'_>, update: Update) {
    gemm(out, out_stride, a, b, update.alpha, update.accumulate, division(a, b));
}

/// How threads share the work. It depends on extents alone, since blocks over `k` may depend on it.
fn division(a: Matrix<'_>, b: Matrix<'_>) -> Division {
    let multiplications = a.rows * a.columns * b.columns;
    let read_along_rows = a.column_stride == 1;
    match a.rows {
        1 if multiplications >= PARALLEL_MULTIPLICATIONS / 4 => Division::Columns(ROW_COLUMNS),
        _ if multiplications < PARALLEL_MULTIPLICATIONS => Division::One,
        ..MANY_ROWS if read_along_rows && b.columns >= MIN_COLUMNS => Division::Columns(BLOCK_COLUMNS),
        _ => Division::Threads,
    }
}

/// Storage offsets of the operands' matrices number `index`.
fn offsets(product: &Product, mut index: usize) -> [usize; 2] {
    let mut offsets = [product.a.offset(), product.b.offset()];
    for axis in product.batch.iter().rev() {
        let here = index % axis.extent;
        index /= axis.extent;
        offsets[0] += here * axis.a_stride;
        offsets[1] += here * axis.b_stride;
    }
    offsets
}

/// How many of an operand's `outer` rows (of the left) or columns (of the right) make a panel.
fn panel_extent(operand: &Operand, k: usize, outer: usize) -> usize {
    if operand.tensor.dtype() == DType::F32 { outer } else { (PANEL_ELEMENTS / k).clamp(1, outer) }
}

/// Part of an operand in f32: the tensor's own elements, or converted ones, which return to the pool.
enum Panel<'a> {
    Own(Matrix<'a>),
    Converted { values: Vec<f32>, rows: usize, columns: usize, strides: [usize; 2] },
}

impl<'a> Panel<'a> {
    fn new(tensor: &'a Tensor, offset: usize, extents: [usize; 2], strides: [usize; 2]) -> Result<Self> {
        let ([rows, columns], [row_stride, column_stride]) = (extents, strides);
        match tensor.dtype() {
            DType::F16 => Self::convert::<f16>(tensor, offset, extents, strides, f16::to_f32),
            DType::Bf16 => Self::convert::<bf16>(tensor, offset, extents, strides, bf16::to_f32),
            _ => {
                let values = tensor.cpu_storage_slice::<f32>()?;
                Ok(Panel::Own(Matrix { values, offset, rows, columns, row_stride, column_stride }))
            }
        }
    }

    /// Converts line by line along the contiguous axis.
    fn convert<T: Element>(
        tensor: &'a Tensor,
        offset: usize,
        [rows, columns]: [usize; 2],
        [row_stride, column_stride]: [usize; 2],
        convert: impl Fn(T) -> f32 + Sync,
    ) -> Result<Self> {
        let source = tensor.cpu_storage_slice::<T>()?;
        // One of the strides is 1; see `Operand`.
        let (line, step, strides) =
            if column_stride == 1 { (columns, row_stride, [columns, 1]) } else { (rows, column_stride, [1, rows]) };
        let mut values = cpu().scratch::<f32>(rows * columns);
        let lines_per_task = CHUNK.div_ceil(line);
        values.par_chunks_mut(lines_per_task * line).enumerate().for_each(|(task, values)| {
            for (place, values) in values.chunks_mut(line).enumerate() {
                let start = offset + (task * lines_per_task + place) * step;
                for (value, &x) in values.iter_mut().zip(&source[start..start + line]) {
                    *value = convert(x);
                }
            }
        });
        Ok(Panel::Converted { values, rows, columns, strides })
    }

    fn matrix(&self) -> Matrix<'_> {
        match self {
            Panel::Own(matrix) => *matrix,
            Panel::Converted { values, rows, columns, strides: [row_stride, column_stride] } => Matrix {
                values,
                offset: 0,
                rows: *rows,
                columns: *columns,
                row_stride: *row_stride,
                column_stride: *column_stride,
            },
        }
    }
}

impl Drop for Panel<'_> {
    fn drop(&mut self) {
        if let Panel::Converted { values, .. } = self {
            cpu().recycle(crate::cpu::CpuBuffer::F32(std::mem::take(values)));
        }
    }
}
