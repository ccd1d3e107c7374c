//! Products of two f16 operands on tensor cores, where the device has cooperative matrices of 16 x 16 and the shape
//! suits them; every kernel is tested on the device before its first use.

mod batched;
mod declarations;
pub(super) mod direct;
mod ending;
mod generator;
mod large;
mod low_rank;
mod plan;
mod self_test;
mod side;
#[cfg(test)]
mod tests;
mod thin;

use super::gpu::add_parts;
use super::{Operand, Product};
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source};
use crate::shape::Shape;
use crate::tensor::Tensor;
pub(in crate::ops) use batched::BatchedProduct;
use generator::{CONTAINER, Config, DEPTH, Kind, TILE, VECTOR};
pub(in crate::ops) use low_rank::{
    LowRankUpdate, Projected, ThinGradient, ThinInTiles, ThinProduct, factor_gradients, project,
};
pub(super) use plan::{Plan, plan};

/// Rows and columns of the result from which a tile of 128 x 128 wins over a smaller one on ordinary cores.
const MIN_EXTENT: usize = 64;

/// Rows from which it wins where else several operations follow each other: a layer with an adapter, 32 x 768 x 768, takes 41 us
/// in 3 launches in place of 100 us in 11 (H200).
const MIN_ROWS: usize = 16;

/// Workgroups that the GPU that was measured runs at once: two on each of 132 multiprocessors.
const RESIDENT: usize = 264;

/// Workgroups with large tiles that it runs at once: one on each multiprocessor.
const RESIDENT_LARGE: usize = 132;

/// Extent of a part of `k` at the least, see [`parts`].
const MIN_DEPTH_PER_PART: usize = 512;

/// Workgroups that a device launches along one axis of the grid at the least.
const MAX_GROUPS: usize = 65_535;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit, bytemuck::Zeroable)]
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
    first_offset: u32,
    second_offset: u32,
    rank: u32,
    p_offset: u32,
    p_stride: u32,
    f_offset: u32,
    f_stride: u32,
    update: f32,
    bias_offset: u32,
}

/// What becomes of the sums: `alpha` times the product, rows times `row_scales` (f32 `[m]`, contiguous), plus what was
/// there if `accumulate`.
#[derive(Clone, Copy)]
pub(super) struct Update<'a> {
    pub alpha: f32,
    pub row_scales: Option<&'a Tensor>,
    pub accumulate: bool,
    /// Added to the product before it is multiplied by anything.
    pub low_rank: Option<&'a LowRankUpdate<'a>>,
    /// f32 `[n]`, contiguous: added to every row of the product times `alpha`, which then is 1.
    pub bias: Option<&'a Tensor>,
}

impl Update<'_> {
    /// `alpha` times the product, plus what was there if `accumulate`.
    pub fn plain(alpha: f32, accumulate: bool) -> Self {
        Update { alpha, row_scales: None, accumulate, low_rank: None, bias: None }
    }
}

/// Computes the product as [`plan()`] says.
pub(super) fn write(gpu: &Gpu, plan: Plan, product: &Product, out: &Tensor, update: Update<'_>) -> Result<()> {
    launch(gpu, plan.config, product, plan.parts, out, update)
}

/// The kernel for a product; `None` where there is none.
fn config(gpu: &Gpu, product: &Product, update: &Update<'_>) -> Option<Config> {
    let Product { a, b, m, n, k, batch, .. } = product;
    let suits = gpu.cooperative.usable()
        && batch.is_empty()
        && *m >= if update.row_scales.is_some() || update.low_rank.is_some() { MIN_ROWS } else { MIN_EXTENT }
        && *n >= MIN_EXTENT
        && n.is_multiple_of(VECTOR)
        && k.is_multiple_of(DEPTH)
        && m.div_ceil(TILE) * n.div_ceil(TILE) <= MAX_GROUPS
        && update.bias.is_none_or(|bias| bias.layout.offset.is_multiple_of(VECTOR));
    let containers = containers(gpu, |vector| {
        suits && reads_vectors(product, vector) && update.low_rank.is_none_or(|term| term.suits(product, vector))
    })?;
    let (row_scaled, biased) = (update.row_scales.is_some(), update.bias.is_some());
    let low_rank_slabs = update.low_rank.map_or(0, LowRankUpdate::slabs);
    let width = large_width(product).filter(|_| containers && low_rank_slabs <= large::MAX_LOW_RANK_SLABS);
    let kind = match width {
        Some(columns) => {
            let split = parts_of(m / TILE * (n / columns), *k, RESIDENT_LARGE) > 1;
            Kind::Large { columns, row_scaled, low_rank_slabs, biased, split }
        }
        None => {
            let small = is_small(*m, *n, *k);
            Kind::Square { small, row_scaled, low_rank: update.low_rank.is_some(), biased }
        }
    };
    let (a_depth_contiguous, b_depth_contiguous) = (a.row_major, !b.row_major);
    Some(Config { a_depth_contiguous, b_depth_contiguous, whole_tiles: false, containers, kind }.covering(*m, *n))
}

/// Whether a result makes so few tiles that most multiprocessors would have one at the most, and `k` is too short to be split: what
/// takes time then is waiting, of which smaller tiles do more at once.
fn is_small(m: usize, n: usize, k: usize) -> bool {
    m.div_ceil(TILE) * n.div_ceil(TILE) <= RESIDENT / 2 && k < 2 * MIN_DEPTH_PER_PART
}

/// The width of the large tiles that cover the result, if any do: of two widths the one that takes less time, a multiprocessor
/// computing one tile after another.
fn large_width(product: &Product) -> Option<usize> {
    let Product { m, n, .. } = product;
    // The narrower tiles read more for each multiplication: a tenth of the time, measured.
    let time = |columns: usize| {
        let rounds = (m / TILE * (n / columns)).div_ceil(RESIDENT_LARGE);
        rounds * columns * if columns == large::WIDTHS[0] { 10 } else { 11 }
    };
    large::WIDTHS.into_iter().filter(|columns| covers(product, *columns)).min_by_key(|columns| time(*columns))
}

/// Whether large tiles of a width cover the result.
fn covers(product: &Product, columns: usize) -> bool {
    let Product { m, n, k, .. } = product;
    m.is_multiple_of(TILE) && n.is_multiple_of(columns) && k.is_multiple_of(large::step(columns))
}

/// Whether operands are moved in containers of 16 bytes; `None` where they cannot even be moved in vectors of 8.
fn containers(gpu: &Gpu, suits: impl Fn(usize) -> bool) -> Option<bool> {
    if gpu.cooperative.containers_usable() && suits(CONTAINER) {
        return Some(true);
    }
    suits(VECTOR).then_some(false)
}

/// Whether the operands can be read in vectors.
fn reads_vectors(product: &Product, vector: usize) -> bool {
    let Product { a, b, m, n, k, .. } = product;
    is_read_in(vector, a, if a.row_major { *k } else { *m }) && is_read_in(vector, b, if b.row_major { *n } else { *k })
}

/// Whether an f16 operand can be read in vectors, `contiguous` being its extent along its contiguous axis.
fn is_read_in(vector: usize, operand: &Operand, contiguous: usize) -> bool {
    operand.tensor.dtype() == DType::F16
        && [contiguous, operand.offset(), operand.stride].iter().all(|extent| extent.is_multiple_of(vector))
}

/// Into how many parts `k` is split.
fn parts(config: &Config, product: &Product) -> usize {
    match config.kind {
        Kind::Large { split: false, .. } => 1,
        Kind::Large { columns, .. } => parts_of(product.m / TILE * (product.n / columns), product.k, RESIDENT_LARGE),
        _ => {
            let tiles = product.m.div_ceil(config.tile_rows()) * product.n.div_ceil(config.tile_columns());
            parts_of(tiles, product.k, RESIDENT)
        }
    }
}

/// As many parts as keep all multiprocessors busy where the tiles alone do not.
fn parts_of(tiles: usize, k: usize, resident: usize) -> usize {
    (resident / tiles).min(k / MIN_DEPTH_PER_PART).max(1)
}

/// Records the kernel, and the sum of the parts where there are several.
fn launch(gpu: &Gpu, config: Config, product: &Product, parts: usize, out: &Tensor, update: Update<'_>) -> Result<()> {
    let depth_per_part = product.k.div_ceil(parts).next_multiple_of(config.step());
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
    let offset = |tensor: Option<&Tensor>| tensor.map_or(0, |tensor| tensor.layout.offset as u32);
    let mut params = Params {
        row_scales_offset: offset(update.row_scales),
        alpha: update.alpha,
        accumulate: u32::from(update.accumulate),
        bias_offset: offset(update.bias) / VECTOR as u32,
        ..Params::of(config, product, depth_per_part)
    };
    if let Some(term) = update.low_rank {
        term.describe(&mut params, config.vector())?;
    }
    let wgsl = || config.wgsl();
    let mut dispatch = dispatch(config, product, out, &wgsl).params(&params);
    if let Some(scales) = update.row_scales {
        dispatch = dispatch.read(scales);
    }
    if let Some(LowRankUpdate { left, right, scales: [left_scale, right_scale], .. }) = update.low_rank {
        dispatch = [*left, *right].into_iter().fold(dispatch, bind_operand(config)).read(left_scale).read(right_scale);
    }
    if let Some(bias) = update.bias {
        dispatch = dispatch.read(bias);
    }
    dispatch.run(gpu, params.grid())
}

impl Params {
    /// A product without anything besides.
    fn of(config: Config, product: &Product, depth_per_part: usize) -> Self {
        let Product { a, b, m, n, k, .. } = product;
        let vector = config.vector();
        Params {
            m: *m as u32,
            n: *n as u32,
            k: *k as u32,
            row_tiles: m.div_ceil(config.tile_rows()) as u32,
            column_tiles: n.div_ceil(config.tile_columns()) as u32,
            depth_per_part: depth_per_part as u32,
            a_offset: (a.offset() / vector) as u32,
            a_stride: (a.stride / vector) as u32,
            b_offset: (b.offset() / vector) as u32,
            b_stride: (b.stride / vector) as u32,
            alpha: 1.0,
            ..bytemuck::Zeroable::zeroed()
        }
    }

    fn grid(&self) -> [u32; 3] {
        [self.row_tiles * self.column_tiles, self.k.div_ceil(self.depth_per_part), 1]
    }
}

/// How operands are bound: for most kernels as if they were written to; the generators say why.
fn bind_operand<'a>(config: Config) -> fn(Dispatch<'a>, &'a Tensor) -> Dispatch<'a> {
    if config.is_large() { Dispatch::read } else { Dispatch::write }
}

/// The kernel with its first three bindings.
fn dispatch<'a>(config: Config, product: &'a Product, out: &'a Tensor, wgsl: &'a dyn Fn() -> String) -> Dispatch<'a> {
    dispatch_of(config, [&product.a.tensor, &product.b.tensor], out, wgsl)
}

/// The same for two operands and a result.
fn dispatch_of<'a>(
    config: Config,
    operands: [&'a Tensor; 2],
    out: &'a Tensor,
    wgsl: &'a dyn Fn() -> String,
) -> Dispatch<'a> {
    let source = if config.containers { Source::HalvedContainers(wgsl) } else { Source::Generated(wgsl) };
    operands.into_iter().fold(Dispatch::new(config.name(), "main", source), bind_operand(config)).write(out)
}
