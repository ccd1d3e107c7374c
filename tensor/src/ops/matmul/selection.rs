//! Which tile a product gets on the GPU, and into how many parts its inner extent is split.
//!
//! A plain function of the shape with constants measured on one large GPU. It does not look at the device, so that a
//! program's results do not change with it; on smaller GPUs the choice is merely less good.

use super::generator::Tile;

/// 8 x 8 sums an invocation: the most products per element read. For results that fill a GPU.
pub(super) const LARGE: Tile =
    Tile { rows: 128, columns: 128, depth: 16, thread_rows: 8, thread_columns: 8, unrolled: 16 };

/// For results of middling size.
pub(super) const MEDIUM: Tile =
    Tile { rows: 64, columns: 64, depth: 16, thread_rows: 4, thread_columns: 8, unrolled: 16 };

/// For small results, and for one axis of up to 32.
pub(super) const SMALL: Tile =
    Tile { rows: 32, columns: 32, depth: 16, thread_rows: 4, thread_columns: 4, unrolled: 16 };

/// For few columns: an adapter's down projection.
pub(super) const TALL: Tile =
    Tile { rows: 64, columns: 16, depth: 32, thread_rows: 4, thread_columns: 4, unrolled: 32 };

/// For few rows: one token at a time, an adapter's gradient.
pub(super) const WIDE: Tile =
    Tile { rows: 16, columns: 64, depth: 32, thread_rows: 4, thread_columns: 4, unrolled: 32 };

/// Every tile that is used.
pub(super) const TILES: [Tile; 5] = [LARGE, MEDIUM, SMALL, TALL, WIDE];

/// How a product is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub tile: Tile,
    /// Parts of `k`, each summed by workgroups of its own and added up by a second kernel; 1 for none.
    pub parts: usize,
    /// Extent of a part, a multiple of the tile's depth; the last part may be shorter.
    pub depth_per_part: usize,
}

/// Multiprocessors of the GPU that the costs below are about.
const MULTIPROCESSORS: usize = 132;

/// What it costs to start the second kernel, in the unit of [`cost`].
const REDUCTION_COST: f64 = 400_000.0;

/// What it costs to write and read one element of a part, in the unit of [`cost`].
const PARTIAL_SUM_COST: f64 = 32.0 / MULTIPROCESSORS as f64;

/// Parts that `k` is split into at the most.
const MAX_PARTS: usize = 64;

/// Multiplications per multiprocessor, as if all ran at the speed of the largest tile.
fn cost(tile: &Tile, workgroups: usize, depth: usize) -> f64 {
    // Speed relative to the largest tile, and the workgroups that a multiprocessor needs at once to reach it.
    let (speed, resident) = match tile.threads() {
        256 => (1.0, 2),
        128 => (0.75, 4),
        _ => (0.5, 6),
    };
    let rounds = workgroups.div_ceil(MULTIPROCESSORS).max(resident);
    let work = tile.rows as usize * tile.columns as usize * depth * rounds;
    work as f64 / speed
}

/// The cheapest tile and split for `batches` products of `[m, k] x [k, n]`.
pub(super) fn choose(m: usize, n: usize, k: usize, batches: usize) -> Choice {
    let mut best: Option<(f64, Choice)> = None;
    for tile in TILES {
        let tiles = m.div_ceil(tile.rows as usize) * n.div_ceil(tile.columns as usize) * batches;
        let mut wanted = 1;
        while wanted <= MAX_PARTS {
            let depth_per_part = k.div_ceil(wanted).next_multiple_of(tile.depth as usize);
            let parts = k.div_ceil(depth_per_part);
            let extra =
                if parts > 1 { REDUCTION_COST + (parts * m * n * batches) as f64 * PARTIAL_SUM_COST } else { 0.0 };
            let cost = cost(&tile, tiles * parts, depth_per_part.min(k)) + extra;
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, Choice { tile, parts, depth_per_part }));
            }
            wanted *= 2;
        }
    }
    // Proof: the loops above run at least once each.
    best.expect("there is a tile").1
}
