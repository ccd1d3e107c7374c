//! The order of a storage's elements. A matrix that many products read, such as a frozen weight, is brought into the order in
//! which their kernels read it fastest, in place: there is no room for a second copy. Every kernel says what order it reads a
//! storage in, rows unless it says tiles, and a storage in another order is brought into that one first. So nothing but speed
//! depends on where a matrix happens to be in tiles, and no caller needs to know. There and back again takes a matrix of 4096 x 4096
//! about 80 us, as much as tiles save in its two products of a training step: where both orders are wanted in every step, as of
//! DeBERTa's query and key projections, which project positions as well, nothing is won and little lost (0.4 of 19 ms).
//!
//! Tiles of 16 rows and 32 columns follow each other along the rows. A tile is 64 chunks of 16 bytes: two rows (2u, 2u + 1) by
//! four columns (the quad q of eight), the first row's four elements first. Chunk 32·s + 4·u + t is of the quad
//! 2s + (t mod 2) + 4·⌊t/2⌋. Why this one: a product with the matrix's transpose reads chunks 32·s to 32·s + 31 at once, and each
//! eight of them, which the memory delivers together, are a line of 128 bytes; a product with the matrix itself reads four
//! pairs by eight quads, each eight from two lines. No order has one line for both; this one takes NVIDIA's H200 from 345 to
//! 383 TFLOP/s for the second kind (4096³).
//!
//! What does not live here: the kernels that read tiles (`ops/matmul/cooperative/direct`).

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::dispatch::{Dispatch, Source, linear_grid};
use super::{Gpu, GpuStorage};
use crate::error::Result;

/// Rows and columns of a tile.
pub(crate) const TILE: [usize; 2] = [16, 32];

/// Elements of a chunk.
const CHUNK: usize = 8;

/// In which order a storage's elements lie.
#[derive(Default)]
pub(super) struct Order {
    /// Columns of the matrix that is in tiles; 0 for rows.
    columns: AtomicU32,
}

impl Order {
    fn columns(&self) -> u32 {
        self.columns.load(Relaxed)
    }
}

#[cfg(test)]
impl GpuStorage {
    pub fn is_in_tiles(&self) -> bool {
        self.order.columns() > 0
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
    to_tiles: u32,
}

/// The order that a kernel wants a storage in.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub storage: &'a GpuStorage,
    /// Tiles of a matrix of so many columns, or rows where that is 0.
    pub columns: u32,
    /// Its elements are all written, none is read.
    pub overwritten: bool,
}

/// Brings storages into the orders that are wanted.
pub(super) fn arrange<'a, 'b>(gpu: &'a Gpu, wanted: impl Iterator<Item = Wanted<'b>> + Clone) -> Result<Guard<'a>> {
    let guard = read(&gpu.orders);
    if wanted.clone().all(|wanted| wanted.storage.order.columns() == wanted.columns) {
        return Ok(Guard::Shared { _guard: guard });
    }
    drop(guard);
    let guard = write(&gpu.orders);
    for Wanted { storage, columns, overwritten } in wanted {
        let found = storage.order.columns();
        if overwritten {
            storage.order.columns.store(columns, Relaxed);
        } else if found != columns {
            if found > 0 {
                turn(gpu, storage, found, false)?;
                storage.order.columns.store(0, Relaxed);
            }
            if columns > 0 {
                turn(gpu, storage, columns, true)?;
                storage.order.columns.store(columns, Relaxed);
            }
        }
    }
    Ok(Guard::Alone { _guard: guard })
}

/// Records the way of all elements of a storage into the other order, through memory that is given back.
fn turn(gpu: &Gpu, storage: &GpuStorage, columns: u32, to_tiles: bool) -> Result<()> {
    let scratch = storage.gpu().allocate("tiles", storage.bytes())?;
    let chunks = storage.bytes() as usize / (2 * CHUNK);
    let params = Params { chunks: chunks as u32, columns, to_tiles: u32::from(to_tiles) };
    let source = || Source::Wgsl(include_str!("tiles.wgsl"));
    for (entry, from, to) in [("main", storage, &scratch), ("copy", &scratch, storage)] {
        Dispatch::new("tiles", entry, source()).between(from, to).params(&params).run(gpu, linear_grid(chunks, 256))?;
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
    use crate::{DType, Tensor, f16};

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

    fn read_in_tiles(x: &Tensor, columns: usize) -> Vec<f16> {
        let out = Tensor::zeros(gpu(), x.shape(), DType::F16).unwrap();
        let dispatch = Dispatch::new("words", "main", Source::Wgsl(COPY)).read_tiles(x, columns).write(&out);
        dispatch.run(backend(), [x.elements() as u32 / 2, 1, 1]).unwrap();
        out.to_vec().unwrap()
    }

    #[test]
    #[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
    fn tiles_hold_each_element_in_its_place_wgsl() {
        let (rows, columns) = (48, 96);
        let (x, values) = matrix(rows, columns);
        let found = read_in_tiles(&x, columns);
        for (place, value) in found.into_iter().enumerate() {
            let (tile, chunk, element) = (place / 512, place / 8 % 64, place % 8);
            let (half, pair, lane) = (chunk / 32, chunk / 4 % 8, chunk % 4);
            let row = tile / (columns / 32) * 16 + 2 * pair + element / 4;
            let column = tile % (columns / 32) * 32 + 4 * (2 * half + lane % 2 + 4 * (lane / 2)) + element % 4;
            assert_eq!(value, values[row * columns + column], "row {row}, column {column}");
        }
    }

    #[test]
    #[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
    fn what_is_written_in_tiles_is_read_in_rows_wgsl() {
        let (x, values) = matrix(32, 64);
        for before in [0, 32] {
            let out = Tensor::zeros(gpu(), x.shape(), DType::F16).unwrap();
            if before > 0 {
                read_in_tiles(&out, before);
            }
            let dispatch = Dispatch::new("words", "main", Source::Wgsl(COPY)).read_tiles(&x, 64).write_tiles(&out, 64);
            dispatch.run(backend(), [x.elements() as u32 / 2, 1, 1]).unwrap();
            assert_eq!(read_in_tiles(&out, 64), read_in_tiles(&x, 64));
            assert_eq!(out.to_vec::<f16>().unwrap(), values);
        }
    }

    #[test]
    #[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
    fn other_readers_never_see_tiles_wgsl() {
        let (x, values) = matrix(32, 64);
        let doubled: Vec<f32> = values.iter().map(|x| 2.0 * x.to_f32()).collect();
        for _ in 0..2 {
            assert_ne!(read_in_tiles(&x, 64), values);
            assert_eq!(x.to_vec::<f16>().unwrap(), values, "the host");
            assert_ne!(read_in_tiles(&x, 64), values);
            let sum = x.cast(DType::F32).unwrap().affine(2.0, 0.0).unwrap();
            assert_eq!(sum.to_vec::<f32>().unwrap(), doubled, "a kernel");
        }
        assert_ne!(read_in_tiles(&x, 64), read_in_tiles(&x, 32), "tiles of a matrix of another width");
        assert_eq!(x.slice(0, 3, 5).unwrap().to_vec::<f16>().unwrap(), values[3 * 64..5 * 64], "a part");
    }
}
