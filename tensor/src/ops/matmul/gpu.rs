//! Launch of the generated kernels, and of `reduction.wgsl` after them where `k` is split.

use std::cell::RefCell;

use super::cooperative::{self, Update};
use super::generator::{Config, OperandConfig};
use super::selection::{Choice, candidates, choose};
use super::turn::turned;
use super::{Operand, Product};
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source, linear_grid};
use crate::shape::Shape;
use crate::tensor::Tensor;

/// Batch axes that a kernel can walk: all that a tensor can have beside the matrix's two.
const MAX_BATCH_AXES: usize = crate::shape::MAX_RANK - 2;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Params {
    m: u32,
    n: u32,
    k: u32,
    batches: u32,
    row_tiles: u32,
    column_tiles: u32,
    workgroups: u32,
    depth_per_part: u32,
    a_offset: u32,
    a_stride: u32,
    b_offset: u32,
    b_stride: u32,
    alpha: f32,
    accumulate: u32,
    batch_rank: u32,
    batch_extents: [u32; MAX_BATCH_AXES],
    a_batch_strides: [u32; MAX_BATCH_AXES],
    b_batch_strides: [u32; MAX_BATCH_AXES],
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct ReductionParams {
    count: u32,
    parts: u32,
    alpha: f32,
    accumulate: u32,
}

/// See [`Product::write`].
pub(super) fn write(gpu: &Gpu, product: &Product, out: &mut Tensor, alpha: f32, accumulate: bool) -> Result<()> {
    let update = Update::plain(alpha, accumulate);
    if let Some(plan) = cooperative::plan(gpu, product, &update)? {
        return cooperative::write(gpu, plan, product, out, update);
    }
    let turned = turned(product)?;
    let product = turned.as_ref().unwrap_or(product);
    let Product { m, n, k, .. } = *product;
    let choice = match gpu.is_tuned() {
        true => fastest(gpu, product, &candidates(m, n, k, product.batches()), out)?,
        false => choose(m, n, k, product.batches()),
    };
    write_as(gpu, product, choice, out, alpha, accumulate)
}

/// The choice that takes the least time to compute such a product as `out`.
fn fastest(gpu: &Gpu, product: &Product, choices: &[Choice], out: &Tensor) -> Result<Choice> {
    let Product { m, n, k, .. } = product;
    let Config { a, b, .. } = config(product, choices[0]);
    let name = format!("{} times {m} x {n} x {k}, {} {}", product.batches(), a.name(), b.name());
    let scratch = RefCell::new(Tensor::uninitialised(out.device(), "matmul", *out.shape(), DType::F32)?);
    gpu.fastest(name, choices, |choice| {
        write_as(gpu, product, choice, &mut scratch.borrow_mut(), 1.0, false)?;
        Ok(true)
    })
}

/// As [`write()`], with an explicit choice of tile and split.
pub(super) fn write_as(
    gpu: &Gpu,
    product: &Product,
    choice: Choice,
    out: &mut Tensor,
    alpha: f32,
    accumulate: bool,
) -> Result<()> {
    if choice.parts == 1 {
        return multiply(gpu, product, choice, out, alpha, accumulate);
    }
    let partial_shape = Shape::new(&[choice.parts, product.shape.elements()])?;
    let partial_sums = Tensor::uninitialised(out.device(), "matmul", partial_shape, DType::F32)?;
    multiply(gpu, product, choice, &partial_sums, 1.0, false)?;
    add_parts(gpu, &partial_sums, out, alpha, accumulate)
}

/// Adds up the products of the parts of `k`, `partial_sums [parts, ..]`, into `out` as [`Product::write`] says.
pub(super) fn add_parts(gpu: &Gpu, partial_sums: &Tensor, out: &Tensor, alpha: f32, accumulate: bool) -> Result<()> {
    let (parts, count) = (partial_sums.shape()[0], out.elements());
    let params = ReductionParams { count: count as u32, parts: parts as u32, alpha, accumulate: u32::from(accumulate) };
    Dispatch::new("matmul_reduction", "main", Source::Wgsl(include_str!("reduction.wgsl")))
        .read(partial_sums)
        .write(out)
        .params(&params)
        .run(gpu, linear_grid(count, 256))
}

fn multiply(gpu: &Gpu, product: &Product, choice: Choice, out: &Tensor, alpha: f32, accumulate: bool) -> Result<()> {
    let tile = choice.tile;
    let config = config(product, choice);
    let (row_tiles, column_tiles) = (product.m.div_ceil(tile.rows as usize), product.n.div_ceil(tile.columns as usize));
    let workgroups = row_tiles * column_tiles * product.batches() * choice.parts;
    let mut params = Params {
        m: product.m as u32,
        n: product.n as u32,
        k: product.k as u32,
        batches: product.batches() as u32,
        row_tiles: row_tiles as u32,
        column_tiles: column_tiles as u32,
        workgroups: workgroups as u32,
        depth_per_part: choice.depth_per_part as u32,
        a_offset: product.a.offset() as u32,
        a_stride: product.a.stride as u32,
        b_offset: product.b.offset() as u32,
        b_stride: product.b.stride as u32,
        alpha,
        accumulate: u32::from(accumulate),
        batch_rank: product.batch.len() as u32,
        batch_extents: [1; MAX_BATCH_AXES],
        a_batch_strides: [0; MAX_BATCH_AXES],
        b_batch_strides: [0; MAX_BATCH_AXES],
    };
    for (index, axis) in product.batch.iter().enumerate() {
        params.batch_extents[index] = axis.extent as u32;
        params.a_batch_strides[index] = axis.a_stride as u32;
        params.b_batch_strides[index] = axis.b_stride as u32;
    }
    Dispatch::new(config.name(), "main", Source::Generated(&|| config.wgsl()))
        .read(&product.a.tensor)
        .read(&product.b.tensor)
        .write(out)
        .params(&params)
        .run(gpu, linear_grid(workgroups, 1))
}

fn config(product: &Product, choice: Choice) -> Config {
    Config {
        tile: choice.tile,
        a: operand_config(&product.a, product.a.row_major, [product.m, product.k], a_strides(product)),
        b: operand_config(&product.b, !product.b.row_major, [product.n, product.k], b_strides(product)),
        vector_out: product.n.is_multiple_of(4),
    }
}

fn a_strides(product: &Product) -> impl Iterator<Item = usize> + '_ {
    product.batch.iter().map(|axis| axis.a_stride)
}

fn b_strides(product: &Product) -> impl Iterator<Item = usize> + '_ {
    product.batch.iter().map(|axis| axis.b_stride)
}

/// `extents` are those of the result's axis and of `k`.
fn operand_config(
    operand: &Operand,
    depth_contiguous: bool,
    extents: [usize; 2],
    batch_strides: impl Iterator<Item = usize>,
) -> OperandConfig {
    let contiguous = extents[usize::from(depth_contiguous)];
    let vectors = [contiguous, operand.offset(), operand.stride].into_iter().chain(batch_strides).all(|x| x % 4 == 0);
    OperandConfig { dtype: operand.tensor.dtype(), depth_contiguous, vectors }
}
