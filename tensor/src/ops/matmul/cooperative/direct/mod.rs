//! Products of row-scaled matrices with large frozen ones whose operands go from memory straight into the registers of the
//! multiply instructions, without workgroup memory and without barriers.
//!
//! Two things make that fast. An invocation needs eight elements of each matrix of 16 x 16, and gets them with one read of 16
//! bytes where they lie side by side; so both operands lie in tiles (`gpu/tiles.rs`): the right one is kept there, the left
//! one is written there by the kernel that computes it, or brought there before the product. And every eight invocations, which
//! the memory delivers to together, read from one line of 128 bytes, or two: as many lines as they touch, as many cycles a read
//! takes. Elements are then told to be matrices by what WGSL cannot express (`gpu/registers.rs`).
//!
//! On an NVIDIA H200, TFLOP/s, with the matrix's transpose / with the matrix: 385 / 383 at 4096³, 407 / 403 at 8192³, where
//! kernels with workgroup memory reach 325 / 335 and 344 / 350 (left operands packed before the product). A read in rows, without tiles, gives 225 for both. What is left
//! is power: at 390 TFLOP/s the card draws the 700 W that it may. Two steps are in flight at a time: with three there are not
//! enough registers (119), unless tiles have 48 columns (396, but few widths are multiples of 96).
//!
//! A chunk of a tile, two rows by four columns, is what an invocation holds of 16 rows of a left operand, and of 16 columns of a
//! transpose. Of the matrix itself, whose rows are along `k`, words of two rows are taken apart and put together.

mod kernel;
mod self_test;
#[cfg(test)]
mod tests;
pub(super) mod thin;
mod thin_kernel;

use kernel::TILE;

use super::generator::{DEPTH, VECTOR};
use super::{LowRankUpdate, MAX_GROUPS, Params, Update, is_read_in};
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source, Tiles, linear_grid};
use crate::ops::matmul::Product;
use crate::shape::Shape;
use crate::tensor::{Storage, Tensor};

/// Tiles of the result from which the kernels win: fewer leave multiprocessors without work. Counted with the lesser of the
/// matrix's extents, so that both of its products, one in each direction, are computed by these kernels, or none.
const MIN_TILES: usize = 192;

/// Elements of a word.
const WORD: usize = 2;

/// Elements that an invocation of the kernel that packs moves: four chunks.
const CHUNKS_PACKED: usize = 32;

/// What decides the text of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops::matmul) struct Config {
    /// The right operand is the transpose of the matrix that is kept.
    pub transposed: bool,
    /// The tiles cover the result's rows exactly.
    whole_rows: bool,
    low_rank: LowRank,
    biased: bool,
    results: Results,
}

/// Whether there is a low-rank term, and how its operands lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops::matmul) enum LowRank {
    Absent,
    InRows,
    /// Both as the product's right operand, for which all rows make whole tiles.
    InTiles,
}

/// What becomes of the sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops::matmul) enum Results {
    /// f32; what is added to them lies in their buffer.
    InPlace,
    /// f32; what is added to them lies in a buffer of its own.
    Apart,
    /// f16, without the rows' powers of two; nothing is added but a low-rank term.
    Halves,
}

/// The kernel for a product, tested on the device. `None` where the device, the shape or the update does not suit.
pub(in crate::ops::matmul) fn plan(
    gpu: &Gpu,
    product: &Product,
    update: &Update<'_>,
    results: Results,
) -> Result<Option<Config>> {
    if !gpu.cooperative.direct_usable() || !suits(product, update, results) {
        return Ok(None);
    }
    let config = Config::of(product, update, results);
    let device = product.a.tensor.device();
    match gpu.cooperative.fault(&config.name(), || self_test::find_fault(gpu, config, device))? {
        None => Ok(Some(config)),
        Some(fault) => {
            gpu.cooperative.turn_off_direct(&gpu.summary.name, &fault);
            Ok(None)
        }
    }
}

fn suits(product: &Product, update: &Update<'_>, results: Results) -> bool {
    let Product { a, b, m, n, k, batch, .. } = product;
    let Storage::Gpu(storage) = &b.tensor.storage else { return false };
    let fills_storage = b.offset() == 0
        && b.stride == if b.row_major { *n } else { *k }
        && storage.bytes() == (n * k * DType::F16.bytes()) as u64;
    batch.is_empty()
        && b.tensor.dtype() == DType::F16
        && fills_storage
        && a.row_major
        && is_read_in(VECTOR, a, *k)
        && extents_suit(*m, *n, *k)
        && update.suits(results)
        && update.bias.is_none_or(|bias| bias.layout.offset.is_multiple_of(VECTOR))
        && update.low_rank.is_none_or(|term| term.suits(product, WORD))
}

impl Update<'_> {
    /// Whether what is wanted besides the product is what kernels with these results do.
    fn suits(&self, results: Results) -> bool {
        match results {
            Results::InPlace | Results::Apart => self.row_scales.is_some(),
            Results::Halves => self.row_scales.is_none() && self.bias.is_none() && !self.accumulate,
        }
    }
}

/// Whether a product's extents suit these kernels.
pub(in crate::ops::matmul) fn extents_suit(m: usize, n: usize, k: usize) -> bool {
    n.is_multiple_of(TILE) && k.is_multiple_of(TILE) && is_large(m, n, k) && m.div_ceil(TILE) * (n / TILE) <= MAX_GROUPS
}

/// Whether the result, and that of the matrix's other product, make enough tiles.
fn is_large(m: usize, n: usize, k: usize) -> bool {
    m.div_ceil(TILE) * (n.min(k) / TILE) >= MIN_TILES
}

/// Whether what is computed for products to read had better be written in tiles: where it is so large that the products' kernels
/// are these. Below that more is won by one launch for several of an adapter's products, of kernels that read rows.
pub(in crate::ops) fn reads_tiles(gpu: &Gpu, [rows, columns]: [usize; 2]) -> bool {
    const LEAST: usize = 1 << 22;
    gpu.cooperative.direct_usable()
        && rows.is_multiple_of(TILE)
        && columns.is_multiple_of(TILE)
        && rows * columns >= LEAST
}

impl Config {
    fn of(product: &Product, update: &Update<'_>, results: Results) -> Self {
        Config {
            transposed: !product.b.row_major,
            whole_rows: product.m.is_multiple_of(TILE),
            low_rank: match update.low_rank {
                None => LowRank::Absent,
                Some(LowRankUpdate { in_tiles: Some(_), .. }) if product.m.is_multiple_of(TILE) => LowRank::InTiles,
                Some(_) => LowRank::InRows,
            },
            biased: update.bias.is_some(),
            results,
        }
    }
}

/// The left operand as the kernels read it, f16 in tiles, its rows padded with zeros to whole tiles of the result.
pub(in crate::ops::matmul) fn pack(gpu: &Gpu, product: &Product) -> Result<Tensor> {
    let Product { a, m, k, .. } = product;
    if m.is_multiple_of(TILE) && Tiles::Left(*k).hold(&a.tensor) {
        return Ok(a.tensor.clone());
    }
    let shape = Shape::new(&[m.next_multiple_of(TILE), *k])?;
    let packed = Tensor::uninitialised(a.tensor.device(), "packed rows", shape, DType::F16)?;
    let invocations = packed.elements() / CHUNKS_PACKED;
    let params = PackParams {
        rows: *m as u32,
        columns: *k as u32,
        offset: (a.offset() / VECTOR) as u32,
        stride: (a.stride / VECTOR) as u32,
        invocations: invocations as u32,
    };
    Dispatch::new("pack_rows", "main", Source::Wgsl(include_str!("pack.wgsl")))
        .read(&a.tensor)
        .write_tiles(&packed, Tiles::Left(*k))
        .params(&params)
        .run(gpu, linear_grid(invocations, 256))?;
    Ok(packed)
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct PackParams {
    rows: u32,
    columns: u32,
    offset: u32,
    stride: u32,
    invocations: u32,
}

/// Records the product of a left operand that [`pack`] made into `out`, which has the result's shape and is contiguous: f32, or f16
/// for a kernel of [`Results::Halves`]. `addend`, f32 of the same shape and contiguous from its storage's beginning on, is what a
/// kernel of [`Results::Apart`] adds.
pub(in crate::ops::matmul) fn write(
    gpu: &Gpu,
    config: Config,
    product: &Product,
    packed: &Tensor,
    out: &Tensor,
    update: Update<'_>,
    addend: Option<&Tensor>,
) -> Result<()> {
    let Product { b, m, n, k, .. } = product;
    let offset = |tensor: Option<&Tensor>| tensor.map_or(0, |tensor| tensor.layout.offset as u32);
    let mut params = Params {
        m: *m as u32,
        n: *n as u32,
        k: *k as u32,
        row_tiles: m.div_ceil(TILE) as u32,
        column_tiles: (n / TILE) as u32,
        depth_per_part: *k as u32,
        row_scales_offset: offset(update.row_scales),
        alpha: update.alpha,
        accumulate: u32::from(update.accumulate),
        bias_offset: offset(update.bias) / VECTOR as u32,
        ..bytemuck::Zeroable::zeroed()
    };
    if let Some(term) = update.low_rank {
        term.describe(&mut params, WORD)?;
    }
    let wgsl = || config.wgsl();
    let mut dispatch = Dispatch::new(config.name(), "main", Source::HalvedContainers(&wgsl))
        .read_tiles(packed, Tiles::Left(*k))
        .read_tiles(&b.tensor, Tiles::Right(if config.transposed { *k } else { *n }))
        .write(out)
        .params(&params);
    if let Some(scales) = update.row_scales {
        dispatch = dispatch.read(scales);
    }
    if let Some(LowRankUpdate { left, right, in_tiles, scales: [left_scale, right_scale], .. }) = update.low_rank {
        dispatch = match in_tiles.filter(|_| config.low_rank == LowRank::InTiles) {
            Some(operands) => operands
                .into_iter()
                .fold(dispatch, |dispatch, operand| dispatch.read_tiles(operand, Tiles::Right(operand.shape()[1]))),
            None => dispatch.read(left).read(right),
        };
        dispatch = dispatch.read(left_scale).read(right_scale);
    }
    if let Some(bias) = update.bias {
        dispatch = dispatch.read(bias);
    }
    if let Some(addend) = addend {
        dispatch = dispatch.read(addend);
    }
    dispatch.run(gpu, params.grid())
}

const _: () = assert!(
    TILE.is_multiple_of(Tiles::OPERAND[0]) && TILE.is_multiple_of(Tiles::OPERAND[1]) && TILE.is_multiple_of(DEPTH)
);
