//! The products of low-rank adapters: a wide matrix with a thin one, and the term that is added to a frozen product.

use super::generator::{CONTAINER, Config, DEPTH, Kind, THIN, THIN_DEPTH, TILE};
use super::{
    MAX_GROUPS, MIN_EXTENT, MIN_ROWS, Params, VECTOR, bind_operand, containers, direct, dispatch, is_read_in,
    reads_vectors, self_test, thin,
};
use crate::device::Backend;
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source, linear_grid};
use crate::ops::matmul::{Operand, Product};
use crate::ops::slots;
use crate::shape::Shape;
use crate::tensor::Tensor;

/// Workgroups that the GPU that was measured runs at once: of kernels with containers, whose slabs take 23 KiB, and of others.
const RESIDENT: [usize; 2] = [264, 396];

/// Extent of a part of `k` at the least, where lines have weights, and elsewhere.
const MIN_DEPTH_PER_PART: [usize; 2] = [128, 256];

/// `left·right` times `alpha` and both scales: f16 `[m, rank]` and `[rank, n]`, the rank a multiple of the slab's extent.
#[derive(Clone, Copy)]
pub(in crate::ops) struct LowRankUpdate<'a> {
    pub left: &'a Tensor,
    pub right: &'a Tensor,
    /// The left operand, and the right one or its transpose, whichever lies in rows, in tiles of right operands.
    pub in_tiles: Option<[&'a Tensor; 2]>,
    /// f32 `[1]` each, at the beginning of their storage.
    pub scales: [&'a Tensor; 2],
    pub alpha: f32,
}

/// `wide [m, k]` times `thin [k, rank]`, both f16, the rank a multiple of [`THIN`].
#[derive(Clone, Copy)]
pub(in crate::ops) struct ThinProduct<'a> {
    pub wide: &'a Tensor,
    pub thin: &'a Tensor,
    /// The thin operand in tiles of a right one.
    pub thin_in_tiles: Option<ThinInTiles<'a>>,
    /// f32 `[k]` each, powers of two: what the thin operand's rows are multiplied by.
    pub row_scales: Option<[&'a Tensor; 2]>,
    /// The result is wanted as `[rank, m]`.
    pub transposed: bool,
}

/// A thin operand, or its transpose, in tiles of a right operand.
#[derive(Clone, Copy)]
pub(in crate::ops) struct ThinInTiles<'a> {
    pub kept: &'a Tensor,
    pub is_transpose: bool,
}

/// The product of a wide operand with a thin one, f16.
#[derive(Clone)]
pub(in crate::ops) struct Projected {
    pub values: Tensor,
    /// The same in tiles of a right operand, from the kernel that has them at hand.
    pub in_tiles: Option<Tensor>,
}

impl LowRankUpdate<'_> {
    fn operands(&self) -> Result<[Operand; 2]> {
        Ok([Operand::new(self.left)?, Operand::new(self.right)?])
    }

    /// Whether the kernel for the product can add this term.
    pub(super) fn suits(&self, product: &Product, vector: usize) -> bool {
        let rank = self.left.shape()[1];
        let Ok([left, right]) = self.operands() else { return false };
        rank > 0
            && rank.is_multiple_of(DEPTH)
            && left.row_major
            && right.row_major == product.b.row_major
            && is_read_in(vector, &left, rank)
            && is_read_in(vector, &right, if right.row_major { product.n } else { rank })
    }

    /// Its extent in slabs.
    pub(super) fn slabs(&self) -> usize {
        self.left.shape()[1] / DEPTH
    }

    pub(super) fn describe(&self, params: &mut Params, vector: usize) -> Result<()> {
        let [left, right] = self.operands()?;
        params.rank = self.left.shape()[1] as u32;
        params.p_offset = (left.offset() / vector) as u32;
        params.p_stride = (left.stride / vector) as u32;
        params.f_offset = (right.offset() / vector) as u32;
        params.f_stride = (right.stride / vector) as u32;
        params.update = self.alpha;
        Ok(())
    }
}

/// `alpha` of its inner extent times each product, f16 `[m, rank]`; `None` in place of each that the device or its shape does not
/// suit.
pub(in crate::ops) fn project(
    products: &[ThinProduct<'_>],
    alpha: impl Fn(usize) -> f32,
) -> Result<Vec<Option<Projected>>> {
    let mut results = vec![None; products.len()];
    let Some(Backend::Gpu(gpu)) = products.first().map(|first| first.wide.device().backend()) else {
        return Ok(results);
    };
    for (result, product) in results.iter_mut().zip(products) {
        *result = direct::thin::project(gpu, product, alpha(product.wide.shape()[1]))?;
    }
    let missing = |place: &usize| results[*place].is_none();
    let rest: Vec<usize> = (0..products.len()).filter(missing).collect();
    let products: Vec<_> = rest.iter().map(|&place| products[place]).collect();
    for PartialSums { places, sums } in partial_sums(gpu, &products)? {
        let [parts, count, rows, columns] = [0, 1, 2, 3].map(|axis| sums.shape()[axis]);
        let out = Tensor::uninitialised(sums.device(), "project", Shape::new(&[count, rows, columns])?, DType::F16)?;
        let words = out.elements() / 2;
        let alpha = alpha(products[places[0]].wide.shape()[1]);
        let params = ProjectionParams { words: words as u32, parts: parts as u32, alpha };
        Dispatch::new("projection_sum", "main", Source::Wgsl(include_str!("projection_sum.wgsl")))
            .read(&sums)
            .write(&out)
            .params(&params)
            .run(gpu, linear_grid(words, 256))?;
        for (slot, place) in places.into_iter().enumerate() {
            results[rest[place]] = Some(Projected { values: out.select(0, slot)?, in_tiles: None });
        }
    }
    Ok(results)
}

/// `alpha` times a product and the thin operand's `scale` (f32 `[1]`), cut to `shape`: the rank without its padding and the wide
/// operand's rows, in the product's order.
pub(in crate::ops) struct ThinGradient<'a> {
    pub product: ThinProduct<'a>,
    pub shape: [usize; 2],
    pub scale: &'a Tensor,
    pub alpha: f32,
}

/// Gradients whose parts one launch adds up at the most: what describes them must fit the parameter block.
const SLOTS: usize = 6;

/// The partial sums of a gradient: those of the product `slot` among products that were computed together.
struct Sum<'a> {
    gradient: &'a ThinGradient<'a>,
    /// Its place among the gradients.
    place: usize,
    partial_sums: Tensor,
    slot: usize,
    /// What the gradient is added to.
    total: Option<Tensor>,
}

/// The gradients, each added to its total where there is one, which is then gone from `totals`; `None` in place of each that
/// the device or its shape does not suit.
pub(in crate::ops) fn factor_gradients(
    gradients: &[ThinGradient<'_>],
    totals: &mut [Option<Tensor>],
) -> Result<Vec<Option<Tensor>>> {
    let mut results = vec![None; gradients.len()];
    let Some(Backend::Gpu(gpu)) = gradients.first().map(|first| first.scale.device().backend()) else {
        return Ok(results);
    };
    for ((result, gradient), total) in results.iter_mut().zip(gradients).zip(totals.iter_mut()) {
        *result = direct::thin::factor_gradient(gpu, gradient, total)?;
    }
    let missing = |place: &usize| results[*place].is_none();
    let rest: Vec<usize> = (0..gradients.len()).filter(missing).collect();
    let products: Vec<_> = rest.iter().map(|&place| gradients[place].product).collect();
    let mut sums = Vec::with_capacity(rest.len());
    for PartialSums { places, sums: partial_sums } in partial_sums(gpu, &products)? {
        sums.extend(places.into_iter().map(|place| rest[place]).enumerate().map(|(slot, place)| Sum {
            gradient: &gradients[place],
            place,
            partial_sums: partial_sums.clone(),
            slot,
            total: totals[place].take(),
        }));
    }
    for sums in sums.chunks_mut(slots::capacity_up_to(gpu, 3, 0, SLOTS)) {
        let added = add_parts(gpu, sums)?;
        for (sum, gradient) in sums.iter().zip(added) {
            results[sum.place] = Some(gradient);
        }
    }
    Ok(results)
}

/// What the parts of each gradient add up to, in one launch.
fn add_parts(gpu: &Gpu, sums: &mut [Sum<'_>]) -> Result<Vec<Tensor>> {
    let has_total: Vec<bool> = sums.iter().map(|sum| sum.total.is_some()).collect();
    let outputs = sums.iter_mut().map(|Sum { gradient, partial_sums, total, .. }| match total.take() {
        Some(mut total) => total.make_unique().map(|()| total),
        None => {
            Tensor::uninitialised(partial_sums.device(), "factor_gradient", Shape::new(&gradient.shape)?, DType::F32)
        }
    });
    let outputs: Vec<Tensor> = outputs.collect::<Result<_>>()?;
    let mut params: GradientParams = bytemuck::Zeroable::zeroed();
    let slots = sums.len();
    let source = move || slots::expand(include_str!("factor_gradient_sum.wgsl"), slots);
    let mut dispatch = Dispatch::new(format!("factor_gradient_sum_{slots}"), "main", Source::Generated(&source));
    for (place, (Sum { gradient, partial_sums, slot, .. }, out)) in sums.iter().zip(&outputs).enumerate() {
        let [parts, products, rows, columns] = [0, 1, 2, 3].map(|axis| partial_sums.shape()[axis]);
        let padding = columns - gradient.shape[1];
        params.counts[place] = out.elements() as u32;
        params.columns[place] = gradient.shape[1] as u32;
        params.part[place] = (rows * columns) as u32;
        // Parts are fewer than workgroups at once, the rank's padding is less than a tile, and products fit a launch.
        let adds = usize::from(has_total[place]);
        params.arrangement[place] = (parts | adds << 15 | padding << 16 | products << 24 | slot << 28) as u32;
        params.alpha[place] = gradient.alpha;
        dispatch = dispatch.read(partial_sums).write(out).read(gradient.scale);
    }
    let [x, y, _] = linear_grid(outputs.iter().map(Tensor::elements).max().unwrap_or(0), 256);
    dispatch.params(&params).run(gpu, [x, y, slots as u32])?;
    Ok(outputs)
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct ProjectionParams {
    words: u32,
    parts: u32,
    alpha: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit, bytemuck::Zeroable)]
struct GradientParams {
    counts: [u32; SLOTS],
    columns: [u32; SLOTS],
    part: [u32; SLOTS],
    arrangement: [u32; SLOTS],
    alpha: [f32; SLOTS],
}

/// A product and its kernel.
struct Planned<'a> {
    /// Its place among the products.
    place: usize,
    config: Config,
    product: Product,
    row_scales: Option<[&'a Tensor; 2]>,
}

impl Planned<'_> {
    /// Whether one launch can compute both.
    fn is_like(&self, other: &Self) -> bool {
        let shape = |planned: &Self| {
            let Product { a, b, m, n, k, .. } = &planned.product;
            (planned.config, [*m, *n, *k, a.stride, b.stride])
        };
        shape(self) == shape(other)
    }
}

/// Products that were computed together, in parts of `k`: f32 `[parts, products, m, rank]` or `[parts, products, rank, m]`.
struct PartialSums {
    /// Of each product its place among all.
    places: Vec<usize>,
    sums: Tensor,
}

/// The products that the device and their shapes suit, as many as possible together.
fn partial_sums(gpu: &Gpu, products: &[ThinProduct<'_>]) -> Result<Vec<PartialSums>> {
    let mut planned = Vec::with_capacity(products.len());
    for (place, thin) in products.iter().enumerate() {
        let product = Product::new("thin product", thin.wide, thin.thin)?;
        if let Some(config) = config(gpu, &product, thin) {
            planned.push(Planned { place, config, product, row_scales: thin.row_scales });
        }
    }
    // Empty slots need buffers, too.
    let most = if slots::capacity_up_to(gpu, 4, 1, thin::SLOTS) == thin::SLOTS { thin::SLOTS } else { 1 };
    let mut computed = Vec::with_capacity(planned.len());
    for group in slots::groups(planned, most, Planned::is_like) {
        let config = group[0].config.for_products(group.len());
        if let Some(config) = self_test::usable(gpu, config, group[0].product.a.tensor.device())? {
            let products: Vec<_> = group.iter().map(|planned| (&planned.product, planned.row_scales)).collect();
            let sums = launch(gpu, config, &products, parts(&config, products[0].0, products.len()))?;
            computed.push(PartialSums { places: group.iter().map(|planned| planned.place).collect(), sums });
        }
    }
    Ok(computed)
}

/// The kernel for a product; `None` where there is none.
fn config(gpu: &Gpu, product: &Product, thin: &ThinProduct<'_>) -> Option<Config> {
    let Product { a, b, m, n, k, batch, .. } = product;
    let weighted = thin.row_scales.is_some();
    let suits = gpu.cooperative.usable()
        && batch.is_empty()
        && *m >= if weighted { MIN_EXTENT } else { MIN_ROWS }
        && m.is_multiple_of(VECTOR)
        && n.is_multiple_of(THIN)
        && *k > 0
        && if weighted { !a.row_major && b.row_major } else { k.is_multiple_of(DEPTH) }
        && m.div_ceil(TILE) * (n / THIN) * thin::SLOTS <= MAX_GROUPS;
    // The kernel that multiplies lines takes any number of them.
    let suits_depth = |vector| weighted || vector != CONTAINER || k.is_multiple_of(THIN_DEPTH);
    let containers = containers(gpu, |vector| suits && reads_vectors(product, vector) && suits_depth(vector))?;
    Some(Config {
        a_depth_contiguous: a.row_major,
        b_depth_contiguous: !b.row_major,
        whole_tiles: m.is_multiple_of(TILE),
        containers,
        kind: Kind::Thin { weighted, transposed: thin.transposed, several: false },
    })
}

/// Into how many parts `k` of so many products is split: as many as keep all multiprocessors busy.
fn parts(config: &Config, product: &Product, count: usize) -> usize {
    let (resident, depth) =
        (RESIDENT[usize::from(!config.containers)], MIN_DEPTH_PER_PART[usize::from(!config.is_weighted())]);
    let tiles = count * product.m.div_ceil(TILE) * (product.n / THIN);
    (resident / tiles).min(product.k / depth).max(1)
}

/// The parameters of a kernel for several products.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct SeveralParams {
    m: u32,
    n: u32,
    k: u32,
    row_tiles: u32,
    column_tiles: u32,
    depth_per_part: u32,
    a_stride: u32,
    b_stride: u32,
    products: u32,
    /// Of each slot's a, b and both scales.
    offsets: [[u32; 4]; thin::SLOTS],
}

/// A product, and the scales of its lines.
pub(super) type ScaledProduct<'a> = (&'a Product, Option<[&'a Tensor; 2]>);

/// Records the kernel, for one product or for several of one shape.
pub(super) fn launch(gpu: &Gpu, config: Config, products: &[ScaledProduct<'_>], parts: usize) -> Result<Tensor> {
    let (product, _) = products[0];
    let depth_per_part = product.k.div_ceil(parts).next_multiple_of(config.step());
    let parts = product.k.div_ceil(depth_per_part);
    let [rows, columns] = if config.is_transposed() { [product.n, product.m] } else { [product.m, product.n] };
    let shape = Shape::new(&[parts, products.len(), rows, columns])?;
    let out = Tensor::uninitialised(product.a.tensor.device(), "thin product", shape, DType::F32)?;
    let wgsl = || config.wgsl();
    let mut dispatch = dispatch(config, product, &out, &wgsl);
    let mut offsets = [[0; 4]; thin::SLOTS];
    let slots = if config.is_several() { thin::SLOTS } else { 1 };
    for (slot, offsets) in offsets.iter_mut().enumerate().take(slots) {
        // The first product again in slots that are empty.
        let (Product { a, b, .. }, row_scales) = products.get(slot).unwrap_or(&products[0]);
        *offsets = [a.offset() / config.vector(), b.offset() / config.vector(), 0, 0].map(|offset| offset as u32);
        if slot > 0 {
            dispatch = [&a.tensor, &b.tensor].into_iter().fold(dispatch, bind_operand(config));
        }
        for (scales, offset) in row_scales.iter().flatten().zip(&mut offsets[2..]) {
            *offset = scales.layout.offset as u32;
            dispatch = dispatch.read(scales);
        }
    }
    let params = Params::of(config, product, depth_per_part);
    let [tiles, parts, _] = params.grid();
    let dispatch = match config.is_several() {
        true => dispatch.params(&SeveralParams::of(&params, products.len(), offsets)),
        false => {
            let [_, _, first_offset, second_offset] = offsets[0];
            dispatch.params(&Params { first_offset, second_offset, ..params })
        }
    };
    dispatch.run(gpu, [tiles * products.len() as u32, parts, 1])?;
    Ok(out)
}

impl SeveralParams {
    fn of(params: &Params, products: usize, offsets: [[u32; 4]; thin::SLOTS]) -> Self {
        let Params { m, n, k, row_tiles, column_tiles, depth_per_part, a_stride, b_stride, .. } = *params;
        let products = products as u32;
        SeveralParams { m, n, k, row_tiles, column_tiles, depth_per_part, a_stride, b_stride, products, offsets }
    }
}
