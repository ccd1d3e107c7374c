//! Launches: Gram matrices of many factors a dispatch, then one dispatch for all pairs in each phase of the small
//! matrices (more for large ranks, see BUDGET), then products of many gradients a dispatch.

use super::{Item, NAME, PairShape, Refactoring, SINGULAR_VALUE_FLOOR};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source, linear_grid};
use crate::ops::linalg::{BUDGET, at_most_invocations};
use crate::ops::slots;
use crate::shape::Shape;
use crate::tensor::Tensor;

/// Work of one pair is done by one workgroup, which could not keep pace with more.
pub(super) const RANK_LIMIT: usize = 256;

/// Slots of one dispatch: their offsets must fit the parameter block.
pub(super) const SLOTS: usize = 30;

/// Sweeps that may be done. Most pairs take 6 to 9.
const SWEEPS: usize = 24;

pub(super) const SUM: &str = concat!(include_str!("pairs.wgsl"), include_str!("sum.wgsl"), include_str!("double.wgsl"));
pub(super) const PRODUCT: &str =
    concat!(include_str!("pairs.wgsl"), include_str!("product.wgsl"), include_str!("double.wgsl"));
pub(super) const FRAMES: &str =
    concat!(include_str!("pairs.wgsl"), include_str!("frames.wgsl"), include_str!("double.wgsl"));
pub(super) const METRICS: &str =
    concat!(include_str!("pairs.wgsl"), include_str!("metrics.wgsl"), include_str!("double.wgsl"));

/// A kernel that changes two matrices of a pair in place, with the file that says where it keeps them after it: naga 30
/// stops at constants that are declared after a size made of others.
macro_rules! in_place {
    ($kernel:literal, $matrices:literal) => {
        concat!(include_str!("pairs.wgsl"), include_str!($kernel), include_str!($matrices), include_str!("double.wgsl"))
    };
}

pub(super) const CHOLESKY: InPlace = InPlace {
    name: "refactoring_cholesky",
    in_storage: in_place!("cholesky.wgsl", "matrices_storage.wgsl"),
    in_workgroup: in_place!("cholesky.wgsl", "matrices_workgroup.wgsl"),
    bytes_of_invocation: 0,
};
pub(super) const JACOBI: InPlace = InPlace {
    name: "refactoring_jacobi",
    in_storage: in_place!("jacobi.wgsl", "matrices_storage.wgsl"),
    in_workgroup: in_place!("jacobi.wgsl", "matrices_workgroup.wgsl"),
    bytes_of_invocation: 32,
};

/// The two forms of a kernel that changes two matrices of a pair in place.
pub(super) struct InPlace {
    name: &'static str,
    pub in_storage: &'static str,
    pub in_workgroup: &'static str,
    /// Workgroup memory that it needs besides.
    bytes_of_invocation: usize,
}

impl InPlace {
    /// A dispatch with matrices in workgroup memory where they have room.
    fn start<'a>(&self, gpu: &Gpu, tables: &'a Tables, workgroup: usize) -> Dispatch<'a> {
        let bytes = 16 * tables.gram.tile * tables.gram.tile + self.bytes_of_invocation * workgroup + 64;
        let dispatch = if tables.largest_rank <= tables.gram.tile && bytes <= gpu.summary.workgroup_bytes as usize {
            Dispatch::new(self.name, "main", Source::Wgsl(self.in_workgroup)).constant("SIDE", tables.gram.tile as f64)
        } else {
            Dispatch::new(format!("{}_large", self.name), "main", Source::Wgsl(self.in_storage))
        };
        dispatch.constant("WORKGROUP", workgroup as f64).read(&tables.pairs)
    }
}

/// How Gram matrices are divided among workgroups; see `gram.wgsl`.
#[derive(Clone, Copy, Debug)]
pub(super) struct GramTiles {
    /// Rows of a tile.
    pub tile: usize,
    /// Tiles staged at once.
    pub sides: usize,
    /// Columns staged at once.
    pub stage: usize,
    /// Columns of one partial Gram matrix.
    pub chunk: usize,
}

impl GramTiles {
    pub fn new(largest_rank: usize) -> Self {
        let tile = largest_rank.next_power_of_two().clamp(4, 32);
        let side = tile / 4;
        let (sides, cells) = if largest_rank <= tile { (1, side * (side + 1) / 2) } else { (2, side * side) };
        let copies = Self::workgroup(tile) / cells;
        let stage = 32 / sides / copies * copies;
        GramTiles { tile, sides, stage, chunk: (16 * stage).min(64 * copies) }
    }

    fn workgroup(tile: usize) -> usize {
        8 * tile
    }

    pub fn constants(&self) -> [(&'static str, f64); 4] {
        let GramTiles { tile, sides, stage, .. } = *self;
        [("TILE", tile), ("SIDES", sides), ("STAGE", stage), ("WORKGROUP", Self::workgroup(tile))]
            .map(|(name, value)| (name, value as f64))
    }
}

pub(super) fn gram_wgsl(slots: usize) -> String {
    slots::expand(concat!(include_str!("gram.wgsl"), include_str!("fetch.wgsl")), slots) + include_str!("double.wgsl")
}

pub(super) fn multiply_wgsl(slots: usize) -> String {
    slots::expand(concat!(include_str!("multiply.wgsl"), include_str!("fetch.wgsl")), slots)
}

/// What kernels look up about a fixed list of pairs.
#[derive(Clone, Debug)]
pub(super) struct Tables {
    /// Lines of `gram.wgsl`, one a factor, and a last one with the number of workgroups.
    factors: Tensor,
    /// Lines of `pairs.wgsl`.
    pairs: Tensor,
    /// What `multiply.wgsl` needs for the gradients of all pairs.
    products: Products,
    /// First workgroup of each factor, and the number of all.
    groups: Vec<usize>,
    gram: GramTiles,
    largest_rank: usize,
    /// Elements of the work buffers and of `values`.
    work: usize,
    values: usize,
}

impl Tables {
    /// `items` are those of all pairs in turn.
    pub fn new(device: &Device, shapes: &[PairShape], items: &[Item]) -> Result<Self> {
        let largest_rank = shapes.iter().map(|shape| shape.rank).max().unwrap_or(1);
        let gram = GramTiles::new(largest_rank);
        let (mut factors, mut pairs) = (Vec::<u32>::new(), Vec::<u32>::new());
        let (mut groups, mut group, mut work, mut values) = (Vec::new(), 0, 0, 0);
        for shape in shapes {
            let side = shape.rank.div_ceil(gram.tile);
            let tiles = side * (side + 1) / 2;
            pairs.extend([shape.rank, work, values].map(|x| x as u32));
            for (length, transposed) in [(shape.inputs, 0), (shape.outputs, 1)] {
                let count = length.div_ceil(gram.chunk) * tiles;
                groups.push(group);
                factors.extend([shape.rank, length, transposed, group, tiles, gram.chunk].map(|x| x as u32));
                pairs.extend([group, count].map(|x| x as u32));
                group += count;
            }
            work += shape.rank * shape.rank;
            values += shape.rank + 5;
        }
        groups.push(group);
        factors.extend([0, 0, 0, group as u32, 0, 0]);
        Ok(Tables {
            factors: Tensor::from_vec(device, &[factors.len()], factors)?,
            pairs: Tensor::from_vec(device, &[pairs.len()], pairs)?,
            products: Products::new(device, items)?,
            groups,
            gram,
            largest_rank,
            work,
            values,
        })
    }
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct GramParams {
    zero: u32,
    first: u32,
    offsets: [u32; SLOTS],
}

#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::NoUninit)]
struct PairParams {
    zero: u32,
    pairs: u32,
    tile: u32,
    first: u32,
    last: u32,
    sweeps: u32,
}

/// Slots of a kernel with `per_slot` buffers a slot beside two shared ones and a parameter block.
fn capacity(gpu: &Gpu, per_slot: usize) -> usize {
    slots::capacity_up_to(gpu, per_slot, 2, SLOTS)
}

/// `factors` are A and B of each pair in turn, contiguous; the matrices' storage is unique.
pub(super) fn update(gpu: &Gpu, refactoring: &mut Refactoring, factors: &[Tensor]) -> Result<()> {
    let Refactoring { device, shapes, matrices, undefined, tables: Some(tables), .. } = refactoring else {
        return Ok(());
    };
    let buffer = |count: usize, dtype| Tensor::uninitialised(device, NAME, Shape::new(&[count])?, dtype);
    let records = gram(gpu, tables, factors)?;
    // Pairs of f32.
    let [left, right, product] = [
        buffer(2 * tables.work, DType::F32)?,
        buffer(2 * tables.work, DType::F32)?,
        buffer(2 * tables.work, DType::F32)?,
    ];
    let values = buffer(tables.values, DType::F32)?;
    let info = buffer(4 * shapes.len(), DType::U32)?;
    let frames = buffer(2 * tables.work, DType::F32)?;
    let params = PairParams { pairs: shapes.len() as u32, tile: tables.gram.tile as u32, ..PairParams::default() };
    let elements = [(tables.largest_rank * tables.largest_rank).div_ceil(256) as u32, shapes.len() as u32, 1];
    let start =
        |name: &'static str, text: &'static str| Dispatch::new(name, "main", Source::Wgsl(text)).read(&tables.pairs);
    start("refactoring_sum", SUM)
        .read(&records)
        .write(&left)
        .write(&right)
        .write(&info)
        .params(&params)
        .run(gpu, elements)?;
    drop(records);
    cholesky(gpu, tables, params, [&left, &right, &values])?;
    start("refactoring_product", PRODUCT)
        .read(&left)
        .read(&right)
        .write(&product)
        .params(&params)
        .run(gpu, elements)?;
    jacobi(gpu, tables, params, [&product, &right, &values])?;
    start("refactoring_frames", FRAMES)
        .constant("FLOOR", SINGULAR_VALUE_FLOOR)
        .read(&left)
        .read(&product)
        .read(&right)
        .read(&values)
        .write(&frames)
        .write(&info)
        .params(&params)
        .run(gpu, elements)?;
    start("refactoring_metrics", METRICS)
        .constant("FLOOR", SINGULAR_VALUE_FLOOR)
        .read(&frames)
        .read(&values)
        .read(&info)
        .write(matrices)
        .write(undefined)
        .params(&params)
        .run(gpu, elements)
}

/// The grid of `fetch.wgsl` for slots with these first workgroups; the last number is the end.
fn slots_grid(groups: &[usize]) -> [u32; 3] {
    let most = groups.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
    let [x, z, _] = linear_grid(most, 1);
    [x, (groups.len() - 1) as u32, z]
}

/// The partial Gram matrices of all factors, in double.
fn gram(gpu: &Gpu, tables: &Tables, factors: &[Tensor]) -> Result<Tensor> {
    let groups = tables.groups[factors.len()];
    let record = 2 * (tables.gram.tile * tables.gram.tile + 1);
    let records = Tensor::uninitialised(factors[0].device(), NAME, Shape::new(&[groups * record])?, DType::F32)?;
    for first in (0..factors.len()).step_by(capacity(gpu, 1)) {
        let last = (first + capacity(gpu, 1)).min(factors.len());
        let slots = last - first;
        let source = move || gram_wgsl(slots);
        let mut params = GramParams { zero: 0, first: first as u32, offsets: [0; SLOTS] };
        let mut dispatch = Dispatch::new(format!("refactoring_gram_{slots}"), "main", Source::Generated(&source))
            .read(&tables.factors)
            .write(&records);
        for (name, value) in tables.gram.constants() {
            dispatch = dispatch.constant(name, value);
        }
        for (slot, factor) in factors[first..last].iter().enumerate() {
            params.offsets[slot] = factor.layout.offset as u32;
            dispatch = dispatch.read(factor);
        }
        dispatch.params(&params).run(gpu, slots_grid(&tables.groups[first..=last]))?;
    }
    Ok(records)
}

/// Invocations for a matrix of this rank, `medium` for those of 9 to 64; a power of two that every device has.
fn workgroup(gpu: &Gpu, rank: usize, medium: usize) -> usize {
    let wanted = match rank {
        0..=8 => 64,
        9..=64 => medium,
        _ => 1024,
    };
    at_most_invocations(gpu, wanted)
}

fn cholesky(gpu: &Gpu, tables: &Tables, params: PairParams, [left, right, values]: [&Tensor; 3]) -> Result<()> {
    let n = tables.largest_rank;
    let workgroup = workgroup(gpu, n, 256);
    let mut first = 0;
    while first < n {
        let (mut last, mut iterations) = (first, n + 2 * (n * n).div_ceil(workgroup));
        while last < n && (last == first || iterations < BUDGET) {
            let below = n - last - 1;
            iterations += (2 * below * below).div_ceil(workgroup) + (2 * n).div_ceil(workgroup) + 1;
            last += 1;
        }
        CHOLESKY
            .start(gpu, tables, workgroup)
            .write(left)
            .write(right)
            .write(values)
            .params(&PairParams { first: first as u32, last: last as u32, ..params })
            .run(gpu, linear_grid(params.pairs as usize, 1))?;
        first = last;
    }
    Ok(())
}

fn jacobi(gpu: &Gpu, tables: &Tables, params: PairParams, [product, right, values]: [&Tensor; 3]) -> Result<()> {
    let n = tables.largest_rank;
    // In small matrices, what all lanes of a pair do alike costs more than their elements.
    let workgroup = workgroup(gpu, n, if n <= 32 { 128 } else { 256 });
    let players = n.next_multiple_of(2).max(2);
    let pairs = players / 2;
    let lanes = (workgroup / pairs.next_power_of_two()).clamp(1, 16);
    let rounds = players - 1;
    let round = pairs.div_ceil(workgroup / lanes) * (4 * n.div_ceil(lanes) + lanes + 1) + 1;
    // Several sweeps a dispatch, or several dispatches a sweep; the lengths at the end cost n²/workgroup + n, matrices in
    // workgroup memory 2·n²/workgroup.
    let budget = BUDGET - 3 * n * n.div_ceil(workgroup) - n;
    let sweeps = (budget / (rounds * round)).min(SWEEPS);
    let rounds_at_once = if sweeps > 0 { rounds } else { (budget / round).max(1) };
    let sweeps = sweeps.max(1);
    for _ in 0..SWEEPS.div_ceil(sweeps) {
        for first in (0..rounds).step_by(rounds_at_once) {
            let last = (first + rounds_at_once).min(rounds);
            let params = PairParams { first: first as u32, last: last as u32, sweeps: sweeps as u32, ..params };
            JACOBI
                .start(gpu, tables, workgroup)
                .constant("LANES", lanes as f64)
                .write(product)
                .write(right)
                .write(values)
                .params(&params)
                .run(gpu, linear_grid(params.pairs as usize, 1))?;
        }
    }
    Ok(())
}

/// The workgroups of a list of products.
#[derive(Clone, Debug)]
struct Products {
    /// Lines of `multiply.wgsl`, one an item, and a last one with the number of workgroups.
    table: Tensor,
    groups: Vec<usize>,
    tile: usize,
}

impl Products {
    fn new(device: &Device, items: &[Item]) -> Result<Self> {
        let largest_rank = items.iter().map(|item| item.rank).max().unwrap_or(1);
        let tile = largest_rank.next_power_of_two().clamp(8, 32);
        let (mut lines, mut groups, mut group) = (Vec::new(), Vec::new(), 0);
        for item in items {
            groups.push(group);
            lines.extend([item.rank, item.length, usize::from(item.transposed), group, item.matrix].map(|x| x as u32));
            group += item.rank.div_ceil(tile) * item.length.div_ceil(2048 / tile);
        }
        groups.push(group);
        lines.extend([0, 0, 0, group as u32, 0]);
        Ok(Products { table: Tensor::from_vec(device, &[lines.len()], lines)?, groups, tile })
    }
}

/// Each input, contiguous, multiplied by its item's matrix; `all` when the items are those of all pairs.
pub(super) fn multiply(
    gpu: &Gpu,
    refactoring: &Refactoring,
    items: &[Item],
    all: bool,
    inputs: &[Tensor],
) -> Result<Vec<Tensor>> {
    #[repr(C)]
    #[derive(Clone, Copy, bytemuck::NoUninit)]
    struct Params {
        first: u32,
        offsets: [u32; SLOTS],
    }
    let device = &refactoring.device;
    let own;
    let products = match &refactoring.tables {
        Some(tables) if all => &tables.products,
        _ => {
            own = Products::new(device, items)?;
            &own
        }
    };
    let outputs: Vec<Tensor> = items
        .iter()
        .map(|item| Tensor::uninitialised(device, NAME, Shape::new(&item.shape())?, DType::F32))
        .collect::<Result<_>>()?;
    for first in (0..items.len()).step_by(capacity(gpu, 2)) {
        let last = (first + capacity(gpu, 2)).min(items.len());
        let slots = last - first;
        let source = move || multiply_wgsl(slots);
        let mut params = Params { first: first as u32, offsets: [0; SLOTS] };
        let mut dispatch = Dispatch::new(format!("refactoring_multiply_{slots}"), "main", Source::Generated(&source))
            .constant("TILE", products.tile as f64)
            .read(&products.table)
            .read(&refactoring.matrices);
        for (slot, (input, output)) in inputs[first..last].iter().zip(&outputs[first..last]).enumerate() {
            params.offsets[slot] = input.layout.offset as u32;
            dispatch = dispatch.read(input).write(output);
        }
        dispatch.params(&params).run(gpu, slots_grid(&products.groups[first..=last]))?;
    }
    Ok(outputs)
}
