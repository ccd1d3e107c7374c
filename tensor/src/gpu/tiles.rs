//! The order of a storage's elements. A matrix that products read often, such as a frozen weight, is kept in the order in which
//! their kernels read it fastest, in place: there is no room for a second copy. Every kernel says what order it reads a storage
//! in, rows unless it says tiles, and a storage in another order is brought into that one first. So nothing but speed depends on
//! where a matrix happens to be in tiles, and no caller needs to know. There and back again takes a matrix of 4096 x 4096 about
//! 80 us, as much as tiles save in its two products of a training step: where both orders are wanted in every step, as of
//! DeBERTa's query and key projections, which project positions as well, nothing is won and little lost (0.4 of 19 ms). What
//! kernels compute for products to read they write in tiles at once ([`Dispatch::write_tiles`]).
//!
//! Tiles follow each other along the rows. A tile is 64 chunks of 16 bytes: two rows (2u, 2u + 1) by four columns (a quad), the
//! first row's four elements first. Which chunk is where decides how many lines of 128 bytes the memory reads for each eight
//! invocations of a subgroup, which it delivers together; the fewer, the faster. No order has one line for products with the
//! matrix and with its transpose both.
//!
//! - Right operands of products (`ops/matmul/cooperative/direct`): tiles of 32 rows and 16 columns. Of the eight quads of rows the
//!   first halves come before the second ones, and within them four quads of columns. A product with the transpose reads the
//!   halves, each eight chunks from one line; a product with the matrix reads four quads of rows by eight of columns, each eight
//!   from two lines. In both an invocation's sums are eight neighbours in a row of the result.
//! - Left operands: the same, but the first halves of all tiles along the columns come before the second ones, and the words of a
//!   chunk's rows come in turn, as the multiply instruction takes them. Their columns are along `k` in the same order as a right operand's columns or rows, so one order serves both products.
//! - Wide tiles, of attention (`ops/mixed_attention/direct`): 16 rows, 32 columns. Chunk 32·s + 4·u + t is of the quad
//!   2s + (t mod 2) + 4·⌊t/2⌋ of columns.
//!
//! What does not live here: the kernels that read tiles.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::dispatch::{Dispatch, Source, linear_grid};
use super::{Gpu, GpuStorage};
use crate::error::Result;
use crate::tensor::{Storage, Tensor};

/// The text of a function `right_chunk` from a row, a vector of four columns and the vectors in a row to their chunk in a right
/// operand's tiles.
pub(crate) const RIGHT_CHUNK: &str = include_str!("right_chunk.wgsl");

/// The same of a left operand's.
pub(crate) const LEFT_CHUNK: &str = include_str!("left_chunk.wgsl");

const SOURCE: Source<'static> = Source::Wgsl(include_str!("tiles.wgsl"));

/// Elements of a chunk, and of its part in a row.
const CHUNK: usize = 8;
const VECTOR: usize = 4;

/// In which order the elements of a matrix that fills its storage lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tiles {
    /// Tiles of a right operand of a product, of so many columns.
    Right(usize),
    /// Tiles of a left operand of a product, of so many columns.
    Left(usize),
    /// Wide tiles of a matrix of so many columns.
    Wide(usize),
}

impl Tiles {
    /// Rows and columns of a product's tile.
    pub const OPERAND: [usize; 2] = [32, 16];

    /// Rows and columns of a wide tile.
    pub const WIDE: [usize; 2] = [16, 32];

    /// Whether `tensor` fills its storage and lies in these tiles, and need not be brought there.
    pub fn hold(self, tensor: &Tensor) -> bool {
        let Storage::Gpu(storage) = &tensor.storage else { return false };
        let is_whole = tensor.is_contiguous() && storage.bytes() == (tensor.elements() * tensor.dtype().bytes()) as u64;
        is_whole && storage.order.get() == Order::code(Some(self))
    }
}

/// A contiguous f16 matrix that begins at a vector of four elements, in tiles of its own. Both extents are multiples of theirs.
pub(crate) fn copied_to_tiles(gpu: &Gpu, matrix: &Tensor, tiles: Tiles) -> Result<Tensor> {
    let copy = Tensor::uninitialised(matrix.device(), "tiles", *matrix.shape(), matrix.dtype())?;
    let chunks = matrix.elements() / CHUNK;
    let params =
        Params { offset: (matrix.layout.offset / VECTOR) as u32, ..Params::of(chunks, Order::code(Some(tiles)), true) };
    let dispatch = Dispatch::new("tiles", "main", SOURCE).read(matrix).write_tiles(&copy, tiles);
    dispatch.params(&params).run(gpu, linear_grid(chunks, 256))?;
    Ok(copy)
}

/// In which order a storage's elements lie: 0 for rows.
#[derive(Default)]
pub(super) struct Order(AtomicU32);

impl Order {
    fn code(tiles: Option<Tiles>) -> u32 {
        match tiles {
            None => 0,
            Some(Tiles::Wide(columns)) => 4 * columns as u32,
            Some(Tiles::Right(columns)) => 4 * columns as u32 + 1,
            Some(Tiles::Left(columns)) => 4 * columns as u32 + 2,
        }
    }

    fn get(&self) -> u32 {
        self.0.load(Relaxed)
    }

    fn set(&self, code: u32) {
        self.0.store(code, Relaxed);
    }
}

#[cfg(test)]
impl GpuStorage {
    pub fn is_in_tiles(&self) -> bool {
        self.order.get() > 0
    }
}

/// Keeps orders as they are while it lives.
pub(super) enum Guard<'a> {
    Shared { _guard: RwLockReadGuard<'a, ()> },
    Alone { _guard: RwLockWriteGuard<'a, ()> },
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Params {
    chunks: u32,
    columns: u32,
    /// Of the rows, in vectors of four elements.
    offset: u32,
    /// 0 for wide tiles, 1 for right operands, 2 for left ones.
    kind: u32,
    to_tiles: u32,
}

impl Params {
    fn of(chunks: usize, code: u32, to_tiles: bool) -> Self {
        let (columns, kind) = (code / 4, code % 4);
        Params { chunks: chunks as u32, columns, offset: 0, kind, to_tiles: u32::from(to_tiles) }
    }
}

/// The order that a kernel wants a storage in.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub storage: &'a GpuStorage,
    /// `None` for rows.
    pub tiles: Option<Tiles>,
    /// Its elements are all written, none is read.
    pub overwritten: bool,
}

/// Brings storages into the orders that are wanted.
pub(super) fn arrange<'a, 'b>(gpu: &'a Gpu, wanted: impl Iterator<Item = Wanted<'b>> + Clone) -> Result<Guard<'a>> {
    let guard = read(&gpu.orders);
    if wanted.clone().all(|wanted| wanted.storage.order.get() == Order::code(wanted.tiles)) {
        return Ok(Guard::Shared { _guard: guard });
    }
    drop(guard);
    let guard = write(&gpu.orders);
    for Wanted { storage, tiles, overwritten } in wanted {
        let (found, code) = (storage.order.get(), Order::code(tiles));
        if overwritten {
            storage.order.set(code);
        } else if found != code {
            for (code, to_tiles) in [(found, false), (code, true)] {
                if code > 0 {
                    turn(gpu, storage, code, to_tiles)?;
                    storage.order.set(if to_tiles { code } else { 0 });
                }
            }
        }
    }
    Ok(Guard::Alone { _guard: guard })
}

/// Records the way of all elements of a storage from rows to tiles or back, through memory that is given back.
fn turn(gpu: &Gpu, storage: &GpuStorage, code: u32, to_tiles: bool) -> Result<()> {
    let scratch = storage.gpu().allocate("tiles", storage.bytes())?;
    let chunks = storage.bytes() as usize / (2 * CHUNK);
    let params = Params::of(chunks, code, to_tiles);
    for (entry, from, to) in [("main", storage, &scratch), ("copy", &scratch, storage)] {
        Dispatch::new("tiles", entry, SOURCE).between(from, to).params(&params).run(gpu, linear_grid(chunks, 256))?;
    }
    Ok(())
}

fn read(lock: &RwLock<()>) -> RwLockReadGuard<'_, ()> {
    lock.read().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn write(lock: &RwLock<()>) -> RwLockWriteGuard<'_, ()> {
    lock.write().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Backend;
    use crate::testing::gpu;
    use crate::{DType, f16};

    /// Copies words as they lie.
    const COPY: &str = "
        @group(0) @binding(0) var<storage, read> source: array<u32>;
        @group(0) @binding(1) var<storage, read_write> result: array<u32>;
        @compute @workgroup_size(1) fn main(@builtin(workgroup_id) group: vec3<u32>) { result[group.x] = source[group.x]; }";

    fn matrix(rows: usize, columns: usize) -> (Tensor, Vec<f16>) {
        let values: Vec<f16> = (0..rows * columns).map(|i| f16::from_bits((i % 31_000) as u16)).collect();
        (Tensor::from_slice(gpu(), &[rows, columns], &values).unwrap(), values)
    }

    fn backend() -> &'static std::sync::Arc<Gpu> {
        let Backend::Gpu(gpu) = gpu().backend() else { panic!("a GPU") };
        gpu
    }

    fn read_in_tiles(x: &Tensor, tiles: Tiles) -> Vec<f16> {
        let out = Tensor::zeros(gpu(), x.shape(), DType::F16).unwrap();
        let dispatch = Dispatch::new("words", "main", Source::Wgsl(COPY)).read_tiles(x, tiles).write(&out);
        dispatch.run(backend(), [x.elements() as u32 / 2, 1, 1]).unwrap();
        out.to_vec().unwrap()
    }

    #[test]
    #[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
    fn tiles_hold_each_element_in_its_place_wgsl() {
        let (rows, columns) = (96, 96);
        let (x, values) = matrix(rows, columns);
        for (place, value) in read_in_tiles(&x, Tiles::Wide(columns)).into_iter().enumerate() {
            let (tile, chunk, element) = (place / 512, place / 8 % 64, place % 8);
            let (half, pair, lane) = (chunk / 32, chunk / 4 % 8, chunk % 4);
            let row = tile / (columns / 32) * 16 + 2 * pair + element / 4;
            let column = tile % (columns / 32) * 32 + 4 * (2 * half + lane % 2 + 4 * (lane / 2)) + element % 4;
            assert_eq!(value, values[row * columns + column], "row {row}, column {column}");
        }
        let right = read_in_tiles(&x, Tiles::Right(columns));
        let left = read_in_tiles(&x, Tiles::Left(columns));
        for (place, &value) in right.iter().enumerate() {
            let (tile, chunk, element) = (place / 512, place / 8 % 64, place % 8);
            let (half, line, quad) = (chunk / 32, chunk / 4 % 8, chunk % 4);
            let half_tile = (tile / (columns / 16) * 2 + half) * (columns / 16) + tile % (columns / 16);
            let in_turn = [0, 1, 4, 5, 2, 3, 6, 7][element];
            assert_eq!(left[half_tile * 256 + chunk % 32 * 8 + in_turn], value, "a left operand's");
            let row = tile / (columns / 16) * 32 + 4 * line + 2 * half + element / 4;
            let column = tile % (columns / 16) * 16 + 4 * quad + element % 4;
            assert_eq!(value, values[row * columns + column], "row {row}, column {column}");
        }
    }

    #[test]
    #[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
    fn what_is_written_in_tiles_is_read_in_rows_wgsl() {
        let (x, values) = matrix(32, 64);
        for (before, tiles) in [
            (None, Tiles::Wide(64)),
            (Some(Tiles::Wide(32)), Tiles::Wide(64)),
            (Some(Tiles::Wide(64)), Tiles::Right(64)),
            (Some(Tiles::Right(32)), Tiles::Left(64)),
            (Some(Tiles::Left(64)), Tiles::Right(64)),
        ] {
            let out = Tensor::zeros(gpu(), x.shape(), DType::F16).unwrap();
            if let Some(before) = before {
                read_in_tiles(&out, before);
            }
            let dispatch =
                Dispatch::new("words", "main", Source::Wgsl(COPY)).read_tiles(&x, tiles).write_tiles(&out, tiles);
            dispatch.run(backend(), [x.elements() as u32 / 2, 1, 1]).unwrap();
            assert!(tiles.hold(&out) && !tiles.hold(&out.slice(0, 0, 16).unwrap()));
            assert_eq!(read_in_tiles(&out, tiles), read_in_tiles(&x, tiles));
            assert_eq!(out.to_vec::<f16>().unwrap(), values);
            assert!(!tiles.hold(&out));
        }
    }

    #[test]
    #[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
    fn other_readers_never_see_tiles_wgsl() {
        let (x, values) = matrix(32, 64);
        let doubled: Vec<f32> = values.iter().map(|x| 2.0 * x.to_f32()).collect();
        for tiles in [Tiles::Wide(64), Tiles::Right(64), Tiles::Left(64), Tiles::Wide(64)] {
            assert_ne!(read_in_tiles(&x, tiles), values);
            assert_eq!(x.to_vec::<f16>().unwrap(), values, "the host");
            assert_ne!(read_in_tiles(&x, tiles), values);
            let sum = x.cast(DType::F32).unwrap().affine(2.0, 0.0).unwrap();
            assert_eq!(sum.to_vec::<f32>().unwrap(), doubled, "a kernel");
        }
        let orders =
            [Tiles::Wide(64), Tiles::Wide(32), Tiles::Right(64), Tiles::Right(32), Tiles::Left(64), Tiles::Left(32)];
        let found = orders.map(|tiles| read_in_tiles(&x, tiles));
        for (i, one) in found.iter().enumerate() {
            assert!(found[..i].iter().all(|other| other != one), "{:?} is another order", orders[i]);
        }
        assert_eq!(x.slice(0, 3, 5).unwrap().to_vec::<f16>().unwrap(), values[3 * 64..5 * 64], "a part");
    }

    #[test]
    #[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
    fn parts_are_copied_to_tiles_wgsl() {
        let (x, values) = matrix(96, 64);
        let part = x.slice(0, 32, 96).unwrap();
        for tiles in [Tiles::Wide(64), Tiles::Right(64), Tiles::Left(64)] {
            let copy = copied_to_tiles(backend(), &part, tiles).unwrap();
            assert!(tiles.hold(&copy));
            assert_eq!(copy.to_vec::<f16>().unwrap(), values[32 * 64..]);
        }
        assert_eq!(x.to_vec::<f16>().unwrap(), values);
    }
}
