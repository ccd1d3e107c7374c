//! Which tile a product gets on the GPU, and into how many parts its inner extent is split.
//!
//! A plain function of the shape with constants measured on one large GPU (an NVIDIA H200). It does not look at the
//! device, so that a program's results do not change with it; on smaller GPUs the choice is merely less good.

use std::fmt;

use super::generator::Tile;

/// A tile and what it costs. All costs are in multiplications of one multiprocessor at the speed of the largest tile,
/// of which there are about 150,000 in a microsecond.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub tile: Tile,
    /// Speed within a long product, relative to the largest tile.
    speed: f64,
    /// Workgroups that a multiprocessor must have at once to reach that speed.
    resident: usize,
    /// Starting a workgroup and writing its result take as long as this much of `k`.
    overhead: usize,
}

const fn tile(rows: u32, columns: u32, depth: u32, thread_rows: u32, thread_columns: u32) -> Tile {
    // Slabs are written out whole: a loop in their place costs between nothing and a fifth of the speed.
    Tile { rows, columns, depth, thread_rows, thread_columns, unrolled: depth }
}

/// 8 x 16 sums an invocation: the most products per element read. With 128 invocations every one copies a patch of
/// either operand, so that no warp waits for a branch; 8 x 8 sums and 256 invocations reach three quarters.
pub(super) const TILE_128X128: Tile = tile(128, 128, 16, 8, 16);
/// For results that the largest tile covers too few times to keep all multiprocessors busy.
pub(super) const TILE_64X64: Tile = tile(64, 64, 16, 8, 8);
/// For small results.
pub(super) const TILE_32X32: Tile = tile(32, 32, 16, 4, 4);
/// For up to 32 columns: adapters of common rank.
pub(super) const TILE_128X32: Tile = tile(128, 32, 16, 8, 4);
/// For up to 32 rows.
pub(super) const TILE_32X128: Tile = tile(32, 128, 16, 4, 8);
/// For up to 16 columns: adapters of small rank.
pub(super) const TILE_64X16: Tile = tile(64, 16, 32, 4, 4);
/// For up to 16 rows: one token at a time, an adapter's gradient.
pub(super) const TILE_16X64: Tile = tile(16, 64, 32, 4, 4);

/// Every tile that is used.
pub(super) const CANDIDATES: [Candidate; 7] = [
    Candidate { tile: TILE_128X128, speed: 1.0, resident: 2, overhead: 56 },
    Candidate { tile: TILE_64X64, speed: 0.75, resident: 2, overhead: 35 },
    Candidate { tile: TILE_32X32, speed: 0.35, resident: 4, overhead: 14 },
    Candidate { tile: TILE_128X32, speed: 0.48, resident: 4, overhead: 16 },
    Candidate { tile: TILE_32X128, speed: 0.48, resident: 4, overhead: 16 },
    Candidate { tile: TILE_64X16, speed: 0.25, resident: 4, overhead: 32 },
    Candidate { tile: TILE_16X64, speed: 0.25, resident: 4, overhead: 32 },
];

/// How a product is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub tile: Tile,
    /// Parts of `k`, each summed by workgroups of its own and added up by a second kernel; 1 for none.
    pub parts: usize,
    /// Extent of a part, a multiple of the tile's depth; the last part may be shorter.
    pub depth_per_part: usize,
}

/// Multiprocessors of the GPU that was measured.
const MULTIPROCESSORS: usize = 132;

/// Starting the second kernel.
const REDUCTION_COST: f64 = 400_000.0;

/// Writing and reading one element of a part, with all multiprocessors at it.
const PARTIAL_SUM_COST: f64 = 0.8;

/// Parts that `k` is split into at the most.
const MAX_PARTS: usize = 32;

/// Extent of a part at the least: shorter ones are not worth a second kernel.
const MIN_DEPTH_PER_PART: usize = 128;

/// Choices that a device that measures compares.
const CANDIDATES_MEASURED: usize = 8;

/// `k` cut into about `wanted` parts of whole slabs.
pub(super) fn split(tile: Tile, k: usize, wanted: usize) -> Choice {
    let depth_per_part = k.div_ceil(wanted).next_multiple_of(tile.depth as usize);
    Choice { tile, parts: k.div_ceil(depth_per_part), depth_per_part }
}

/// The cheapest tile and split for `batches` products of `[m, k] x [k, n]`.
pub(super) fn choose(m: usize, n: usize, k: usize, batches: usize) -> Choice {
    let cheapest = costs(m, n, k, batches).min_by(|(left, _), (right, _)| left.total_cmp(right));
    cheapest.map_or_else(|| split(TILE_128X128, k, 1), |(_, choice)| choice)
}

/// The choices among which the fastest is likely to be, the cheapest first.
pub(super) fn candidates(m: usize, n: usize, k: usize, batches: usize) -> Vec<Choice> {
    let mut all: Vec<_> = costs(m, n, k, batches).collect();
    all.sort_by(|(left, _), (right, _)| left.total_cmp(right));
    let mut choices: Vec<Choice> = all.into_iter().map(|(_, choice)| choice).collect();
    choices.dedup();
    choices.truncate(CANDIDATES_MEASURED);
    choices
}

/// Every tile with every split, and what it costs.
fn costs(m: usize, n: usize, k: usize, batches: usize) -> impl Iterator<Item = (f64, Choice)> {
    let most = (k / MIN_DEPTH_PER_PART).clamp(1, MAX_PARTS);
    let wanted =
        move || std::iter::successors(Some(1), |wanted| Some(2 * wanted)).take_while(move |&wanted| wanted <= most);
    CANDIDATES.into_iter().flat_map(move |candidate| {
        wanted().map(move |wanted| {
            let choice = split(candidate.tile, k, wanted);
            (cost(&candidate, &choice, [m, n, k], batches), choice)
        })
    })
}

fn cost(candidate: &Candidate, choice: &Choice, [m, n, k]: [usize; 3], batches: usize) -> f64 {
    let (rows, columns) = (choice.tile.rows as usize, choice.tile.columns as usize);
    let workgroups = m.div_ceil(rows) * n.div_ceil(columns) * batches * choice.parts;
    // A multiprocessor takes on `resident` workgroups at a time; the last time round may leave most without work.
    let rounds = workgroups.div_ceil(MULTIPROCESSORS * candidate.resident) * candidate.resident;
    let depth = choice.depth_per_part.min(k) + candidate.overhead;
    let sums = (rows * columns) as f64 * depth as f64 * rounds as f64 / candidate.speed;
    match choice.parts {
        1 => sums,
        parts => sums + REDUCTION_COST + PARTIAL_SUM_COST * parts as f64 * (m * n * batches) as f64,
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tile { rows, columns, depth, .. } = self.tile;
        write!(f, "{rows} x {columns} x {depth} in parts: {}", self.parts)
    }
}
