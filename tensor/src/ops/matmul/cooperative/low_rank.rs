//! The products of low-rank adapters: a wide matrix with a thin one, and the term that is added to a frozen product.

use super::generator::{CONTAINER, Config, DEPTH, Kind, THIN, THIN_DEPTH, TILE};
use super::{MAX_GROUPS, MIN_EXTENT, Params, VECTOR, containers, dispatch, is_read_in, reads_vectors, self_test};
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
    /// f32 `[1]` each, at the beginning of their storage.
    pub scales: [&'a Tensor; 2],
    pub alpha: f32,
}

/// `wide [m, k]` times `thin [k, rank]`, both f16, the rank a multiple of [`THIN`].
#[derive(Clone, Copy)]
pub(in crate::ops) struct ThinProduct<'a> {
    pub wide: &'a Tensor,
    pub thin: &'a Tensor,
    /// f32 `[k]` each, powers of two: what the thin operand's rows are multiplied by.
    pub row_scales: Option<[&'a Tensor; 2]>,
    /// The result is wanted as `[rank, m]`.
    pub transposed: bool,
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

/// `alpha` times the product, f16 `[m, rank]`; `None` where the device or the shape does not suit.
pub(in crate::ops) fn project(thin: &ThinProduct<'_>, alpha: f32) -> Result<Option<Tensor>> {
    let device = thin.wide.device();
    let Backend::Gpu(gpu) = device.backend() else { return Ok(None) };
    let Some(partial_sums) = partial_sums(gpu, thin)? else { return Ok(None) };
    let [parts, rows, columns] = [0, 1, 2].map(|axis| partial_sums.shape()[axis]);
    let out = Tensor::uninitialised(device, "project", Shape::new(&[rows, columns])?, DType::F16)?;
    let words = rows * columns / 2;
    let params = ProjectionParams { words: words as u32, parts: parts as u32, alpha };
    Dispatch::new("projection_sum", "main", Source::Wgsl(include_str!("projection_sum.wgsl")))
        .read(&partial_sums)
        .write(&out)
        .params(&params)
        .run(gpu, linear_grid(words, 256))?;
    Ok(Some(out))
}

/// `alpha` times a product and the thin operand's `scale` (f32 `[1]`), cut to `shape`: the rank without its padding and the wide
/// operand's rows, in the product's order.
pub(in crate::ops) struct ThinGradient<'a> {
    pub product: ThinProduct<'a>,
    pub shape: [usize; 2],
    pub scale: &'a Tensor,
    pub alpha: f32,
}

/// Gradients whose parts one launch adds up at the most.
const SLOTS: usize = 2;

/// The gradients; `None` in place of each that the device or its shape does not suit.
pub(in crate::ops) fn factor_gradients(gradients: &[ThinGradient<'_>]) -> Result<Vec<Option<Tensor>>> {
    let mut results = vec![None; gradients.len()];
    let Some(Backend::Gpu(gpu)) = gradients.first().map(|first| first.scale.device().backend()) else {
        return Ok(results);
    };
    let mut sums = Vec::with_capacity(gradients.len());
    for (index, gradient) in gradients.iter().enumerate() {
        if let Some(partial_sums) = partial_sums(gpu, &gradient.product)? {
            sums.push((index, gradient, partial_sums));
        }
    }
    for sums in sums.chunks(slots::capacity_up_to(gpu, 3, 0, SLOTS)) {
        for ((index, ..), gradient) in sums.iter().zip(add_parts(gpu, sums)?) {
            results[*index] = Some(gradient);
        }
    }
    Ok(results)
}

/// What the parts of each gradient add up to, in one launch.
fn add_parts(gpu: &Gpu, sums: &[(usize, &ThinGradient<'_>, Tensor)]) -> Result<Vec<Tensor>> {
    let outputs = sums.iter().map(|(_, gradient, partial_sums)| {
        Tensor::uninitialised(partial_sums.device(), "factor_gradient", Shape::new(&gradient.shape)?, DType::F32)
    });
    let outputs: Vec<Tensor> = outputs.collect::<Result<_>>()?;
    let mut params: GradientParams = bytemuck::Zeroable::zeroed();
    let slots = sums.len();
    let source = move || slots::expand(include_str!("factor_gradient_sum.wgsl"), slots);
    let mut dispatch = Dispatch::new(format!("factor_gradient_sum_{slots}"), "main", Source::Generated(&source));
    for (slot, ((_, gradient, partial_sums), out)) in sums.iter().zip(&outputs).enumerate() {
        let [parts, rows, columns] = [0, 1, 2].map(|axis| partial_sums.shape()[axis]);
        params.counts[slot] = out.elements() as u32;
        params.columns[slot] = gradient.shape[1] as u32;
        params.part[slot] = (rows * columns) as u32;
        params.part_columns[slot] = columns as u32;
        params.parts[slot] = parts as u32;
        params.alpha[slot] = gradient.alpha;
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
    part_columns: [u32; SLOTS],
    parts: [u32; SLOTS],
    alpha: [f32; SLOTS],
}

/// The product in parts of `k`, f32 `[parts, m, rank]` or `[parts, rank, m]`.
fn partial_sums(gpu: &Gpu, thin: &ThinProduct<'_>) -> Result<Option<Tensor>> {
    let product = Product::new("thin product", thin.wide, thin.thin)?;
    let Some(config) = config(gpu, &product, thin) else { return Ok(None) };
    let Some(config) = self_test::usable(gpu, config, thin.wide.device())? else { return Ok(None) };
    let parts = parts(&config, &product);
    launch(gpu, config, &product, parts, thin.row_scales).map(Some)
}

/// The kernel for a product; `None` where there is none.
fn config(gpu: &Gpu, product: &Product, thin: &ThinProduct<'_>) -> Option<Config> {
    let Product { a, b, m, n, k, batch, .. } = product;
    let weighted = thin.row_scales.is_some();
    let suits = gpu.cooperative.usable()
        && batch.is_empty()
        && *m >= MIN_EXTENT
        && m.is_multiple_of(VECTOR)
        && n.is_multiple_of(THIN)
        && *k > 0
        && if weighted { !a.row_major && b.row_major } else { k.is_multiple_of(DEPTH) }
        && m.div_ceil(TILE) * (n / THIN) <= MAX_GROUPS;
    // The kernel that multiplies lines takes any number of them.
    let suits_depth = |vector| weighted || vector != CONTAINER || k.is_multiple_of(THIN_DEPTH);
    let containers = containers(gpu, |vector| suits && reads_vectors(product, vector) && suits_depth(vector))?;
    Some(Config {
        a_depth_contiguous: a.row_major,
        b_depth_contiguous: !b.row_major,
        whole_tiles: m.is_multiple_of(TILE),
        containers,
        kind: Kind::Thin { weighted, transposed: thin.transposed },
    })
}

/// Into how many parts `k` is split: as many as keep all multiprocessors busy.
fn parts(config: &Config, product: &Product) -> usize {
    let is_weighted = matches!(config.kind, Kind::Thin { weighted: true, .. });
    let (resident, depth) = (RESIDENT[usize::from(!config.containers)], MIN_DEPTH_PER_PART[usize::from(!is_weighted)]);
    let tiles = product.m.div_ceil(TILE) * (product.n / THIN);
    (resident / tiles).min(product.k / depth).max(1)
}

/// Records the kernel.
pub(super) fn launch(
    gpu: &Gpu,
    config: Config,
    product: &Product,
    parts: usize,
    row_scales: Option<[&Tensor; 2]>,
) -> Result<Tensor> {
    let depth_per_part = product.k.div_ceil(parts).next_multiple_of(config.step());
    let parts = product.k.div_ceil(depth_per_part);
    let transposed = matches!(config.kind, Kind::Thin { transposed: true, .. });
    let [rows, columns] = if transposed { [product.n, product.m] } else { [product.m, product.n] };
    let shape = Shape::new(&[parts, rows, columns])?;
    let out = Tensor::uninitialised(product.a.tensor.device(), "thin product", shape, DType::F32)?;
    let [first_offset, second_offset] =
        row_scales.map_or([0; 2], |scales| scales.map(|scales| scales.layout.offset as u32));
    let params = Params { first_offset, second_offset, ..Params::of(config, product, depth_per_part) };
    let wgsl = || config.wgsl();
    let mut dispatch = dispatch(config, product, &out, &wgsl).params(&params);
    if let Some([first, second]) = row_scales {
        dispatch = dispatch.read(first).read(second);
    }
    dispatch.run(gpu, params.grid())?;
    Ok(out)
}
