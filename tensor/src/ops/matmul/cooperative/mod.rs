//! Products of two f16 operands on tensor cores, where the device has cooperative matrices of 16 x 16 and the shape
//! suits them; every kernel is tested on the device before its first use.

mod generator;
mod self_test;
#[cfg(test)]
mod tests;

use super::gpu::add_parts;
use super::{Operand, Product};
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source};
use crate::shape::Shape;
use crate::tensor::Tensor;
use generator::{Config, DEPTH, TILE};

/// Rows and columns of the result from which a tile of 128 x 128 wins over a smaller one on ordinary cores.
const MIN_EXTENT: usize = 64;

/// Workgroups that the GPU that was measured runs at once: two on each of 132 multiprocessors.
const RESIDENT: usize = 264;

/// Extent of a part of `k` at the least, see [`parts`].
const MIN_DEPTH_PER_PART: usize = 512;

/// Workgroups that a device launches along one axis of the grid at the least.
const MAX_GROUPS: usize = 65_535;

/// Elements in which offsets and strides are counted.
const VECTOR: usize = 4;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Params {
    m: u32,
    n: u32,
    k: u32,
    row_tiles: u32,
    column_tiles: u32,
    depth_per_part: u32,
    a_offset: u32,
    a_stride: u32,
    b_offset: u32,
    b_stride: u32,
    row_scales_offset: u32,
    alpha: f32,
    accumulate: u32,
}

/// What becomes of the sums: `alpha` times the product, rows times `row_scales` (f32 `[m]`, contiguous), plus what was
/// there if `accumulate`.
#[derive(Clone, Copy)]
pub(super) struct Update<'a> {
    pub alpha: f32,
    pub row_scales: Option<&'a Tensor>,
    pub accumulate: bool,
}

/// Computes the product if the device and the shape suit, and says whether it did.
pub(super) fn write(gpu: &Gpu, product: &Product, out: &Tensor, update: Update<'_>) -> Result<bool> {
    let Some(config) = config(gpu, product, update.row_scales.is_some()) else { return Ok(false) };
    if !self_test::passes(gpu, config, out.device())? {
        return Ok(false);
    }
    launch(gpu, config, product, parts(product), out, update)?;
    Ok(true)
}

/// The kernel for a product; `None` where there is none.
fn config(gpu: &Gpu, product: &Product, row_scaled: bool) -> Option<Config> {
    let Product { a, b, m, n, k, batch, .. } = product;
    let reads_vectors = |operand: &Operand, contiguous: usize| {
        [contiguous, operand.offset(), operand.stride].iter().all(|extent| extent.is_multiple_of(VECTOR))
    };
    let suits = gpu.cooperative.usable()
        && [a, b].iter().all(|operand| operand.tensor.dtype() == DType::F16)
        && batch.is_empty()
        && *m >= MIN_EXTENT
        && *n >= MIN_EXTENT
        && n.is_multiple_of(VECTOR)
        && k.is_multiple_of(DEPTH)
        && reads_vectors(a, if a.row_major { *k } else { *m })
        && reads_vectors(b, if b.row_major { *n } else { *k })
        && m.div_ceil(TILE) * n.div_ceil(TILE) <= MAX_GROUPS;
    suits.then(|| Config {
        a_depth_contiguous: a.row_major,
        b_depth_contiguous: !b.row_major,
        whole_tiles: m.is_multiple_of(TILE) && n.is_multiple_of(TILE),
        row_scaled,
    })
}

/// Into how many parts `k` is split: as many as keep all multiprocessors busy where the tiles alone do not.
fn parts(product: &Product) -> usize {
    let tiles = product.m.div_ceil(TILE) * product.n.div_ceil(TILE);
    (RESIDENT / tiles).min(product.k / MIN_DEPTH_PER_PART).max(1)
}

/// Records the kernel, and the sum of the parts where there are several.
fn launch(gpu: &Gpu, config: Config, product: &Product, parts: usize, out: &Tensor, update: Update<'_>) -> Result<()> {
    let depth_per_part = product.k.div_ceil(parts).next_multiple_of(DEPTH);
    let parts = product.k.div_ceil(depth_per_part);
    if parts == 1 {
        return multiply(gpu, config, product, depth_per_part, out, update);
    }
    let shape = Shape::new(&[parts, product.m, product.n])?;
    let partial_sums = Tensor::uninitialised(out.device(), "matmul", shape, DType::F32)?;
    let scaled = Update { alpha: 1.0, accumulate: false, ..update };
    multiply(gpu, config, product, depth_per_part, &partial_sums, scaled)?;
    add_parts(gpu, &partial_sums, out, update.alpha, update.accumulate)
}

fn multiply(
    gpu: &Gpu,
    config: Config,
    product: &Product,
    depth_per_part: usize,
    out: &Tensor,
    update: Update<'_>,
) -> Result<()> {
    let Product { a, b, m, n, k, .. } = product;
    let (row_tiles, column_tiles) = (m.div_ceil(TILE), n.div_ceil(TILE));
    let params = Params {
        m: *m as u32,
        n: *n as u32,
        k: *k as u32,
        row_tiles: row_tiles as u32,
        column_tiles: column_tiles as u32,
        depth_per_part: depth_per_part as u32,
        a_offset: (a.offset() / VECTOR) as u32,
        a_stride: (a.stride / VECTOR) as u32,
        b_offset: (b.offset() / VECTOR) as u32,
        b_stride: (b.stride / VECTOR) as u32,
        row_scales_offset: update.row_scales.map_or(0, |scales| scales.layout.offset as u32),
        alpha: update.alpha,
        accumulate: u32::from(update.accumulate),
    };
    let wgsl = || config.wgsl();
    // The operands are bound as if they were written to; the generator says why.
    let mut dispatch = Dispatch::new(config.name(), "main", Source::Generated(&wgsl))
        .write(&a.tensor)
        .write(&b.tensor)
        .write(out)
        .params(&params);
    if let Some(scales) = update.row_scales {
        dispatch = dispatch.read(scales);
    }
    dispatch.run(gpu, [(row_tiles * column_tiles) as u32, k.div_ceil(depth_per_part) as u32, 1])
}
