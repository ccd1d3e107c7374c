//! Products of many pairs of f16 matrices in one launch, each multiplied by scales of its own, with the results stored in the
//! order that their reader wants: what attention is made of. Elsewhere than on tensor cores they are composed of ordinary
//! products.

use super::generator::{Config, DEPTH, Kind, TILE, VECTOR};
use super::{MAX_GROUPS, MIN_EXTENT, RESIDENT, containers, dispatch_of, is_read_in, self_test};
use crate::device::Backend;
use crate::dtype::DType;
use crate::error::{Result, TensorError};
use crate::gpu::Gpu;
use crate::ops::matmul::Operand;
use crate::shape::{Layout, Shape, merge_axes};
use crate::tensor::Tensor;

const NAME: &str = "batched_matmul";

/// Batch axes that a kernel walks.
const AXES: usize = 3;

/// Products of two f16 operands `[.., m, k]` and `[.., k, n]`; leading axes are batches and broadcast.
#[derive(Clone, Copy)]
pub(in crate::ops) struct BatchedProduct<'a> {
    pub a: &'a Tensor,
    pub b: &'a Tensor,
    /// Factor of all products.
    pub alpha: f32,
    /// At most two, f32, of shapes that broadcast to the batch axes: each product is multiplied by its element of each.
    pub scales: &'a [&'a Tensor],
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Params {
    m: u32,
    n: u32,
    k: u32,
    row_tiles: u32,
    a_offset: u32,
    a_stride: u32,
    b_offset: u32,
    b_stride: u32,
    alpha: f32,
    accumulate: u32,
    out_offset: u32,
    out_stride: u32,
    scale_offsets: [u32; 2],
    extents: [u32; AXES - 1],
    a_steps: [u32; AXES],
    b_steps: [u32; AXES],
    out_steps: [u32; AXES],
    scale_steps: [[u32; AXES]; 2],
}

impl<'a> BatchedProduct<'a> {
    /// The products without scales.
    pub fn new(a: &'a Tensor, b: &'a Tensor) -> Self {
        BatchedProduct { a, b, alpha: 1.0, scales: &[] }
    }

    /// f16 `[.., m, n]`.
    ///
    /// # Errors
    /// As [`BatchedProduct::sums`].
    pub fn rounded(&self) -> Result<Tensor> {
        let (batch, [m, n]) = self.shape()?;
        let out =
            Tensor::uninitialised(self.a.device(), NAME, Shape::new(&[&batch[..], &[m, n]].concat())?, DType::F16)?;
        if self.write(&out, false)? {
            return Ok(out);
        }
        self.composed()?.cast(DType::F16)
    }

    /// f32 `[.., m, n]` with its axes in `order`, of which the last stays the last, contiguous; added to `onto`, a tensor of
    /// that shape, in place where this is its only holder.
    ///
    /// # Errors
    /// [`TensorError::Shape`] or [`TensorError::Broadcast`] for operands that do not fit together, or the device's own errors.
    pub fn sums(&self, order: &[usize], onto: Option<Tensor>) -> Result<Tensor> {
        let (batch, [m, n]) = self.shape()?;
        let shape = [&batch[..], &[m, n]].concat();
        let stored = Shape::new(&order.iter().map(|&axis| shape[axis]).collect::<Vec<_>>())?;
        let accumulate = onto.is_some();
        let mut out = match onto {
            Some(onto) => onto.contiguous()?,
            None => Tensor::uninitialised(self.a.device(), NAME, stored, DType::F32)?,
        };
        out.expect_shape(NAME, &stored)?;
        let mut inverse = vec![0; order.len()];
        order.iter().enumerate().for_each(|(place, &axis)| inverse[axis] = place);
        out.make_unique()?;
        let view = out.permute(&inverse)?;
        if self.write(&view, accumulate)? {
            return Ok(out);
        }
        let sums = self.composed()?.permute(order)?.contiguous()?;
        if accumulate { out.add(&sums) } else { Ok(sums) }
    }

    /// The batch axes, and the results' rows and columns.
    fn shape(&self) -> Result<(Shape, [usize; 2])> {
        let (a, b) = (self.a.shape(), self.b.shape());
        let ([a_lead @ .., m, k], [b_lead @ .., inner, n]) = (&a[..], &b[..]) else {
            let found = if a.rank() < 2 { *a } else { *b };
            return Err(TensorError::Shape { operation: NAME, expected: "matrices".into(), found });
        };
        if inner != k {
            return Err(TensorError::Shape { operation: NAME, expected: format!("[.., {k}, n]"), found: *b });
        }
        Ok((Shape::broadcast(NAME, &Shape::new(a_lead)?, &Shape::new(b_lead)?)?, [*m, *n]))
    }

    /// By ordinary products.
    fn composed(&self) -> Result<Tensor> {
        let product = self.a.matmul_scaled(self.b, self.alpha)?;
        self.scales.iter().try_fold(product, |product, scales| {
            let rank = scales.rank();
            product.mul(&scales.unsqueeze(rank)?.unsqueeze(rank + 1)?)
        })
    }

    /// Writes into `out`, a view `[.., m, n]` of a tensor that nobody else holds, if the device and the shape suit, and says
    /// whether it did.
    fn write(&self, out: &Tensor, accumulate: bool) -> Result<bool> {
        let Backend::Gpu(gpu) = out.device().backend() else { return Ok(false) };
        let layout = BatchLayout::of(self, out)?;
        let Some(config) = layout.config(gpu, self.scales.len(), out.dtype() == DType::F16) else { return Ok(false) };
        let Some(config) = self_test::usable(gpu, config, out.device())? else { return Ok(false) };
        self.launch(gpu, config, &layout, out, accumulate).map(|()| true)
    }

    /// Records the kernel.
    pub(super) fn launch(
        &self,
        gpu: &Gpu,
        config: Config,
        layout: &BatchLayout,
        out: &Tensor,
        accumulate: bool,
    ) -> Result<()> {
        let scale_offset = |place: usize| self.scales.get(place).map_or(0, |scales| scales.layout.offset as u32);
        let params = Params {
            alpha: self.alpha,
            accumulate: u32::from(accumulate),
            scale_offsets: [scale_offset(0), scale_offset(1)],
            ..layout.params(config)
        };
        let tiles = params.row_tiles * layout.n.div_ceil(config.tile_columns()) as u32;
        let wgsl = || config.wgsl();
        let dispatch = dispatch_of(config, [&layout.a.tensor, &layout.b.tensor], out, &wgsl).params(&params);
        let dispatch = self.scales.iter().fold(dispatch, |dispatch, scales| dispatch.read(scales));
        dispatch.run(gpu, [tiles, 1, layout.batches as u32])
    }
}

/// Where the operands and the results of each product lie.
pub(super) struct BatchLayout {
    a: Operand,
    b: Operand,
    m: usize,
    n: usize,
    k: usize,
    batches: usize,
    out_offset: usize,
    out_stride: usize,
    /// Merged batch axes, and the steps along them of a, b, the result and both scales.
    extents: Vec<usize>,
    steps: Vec<[usize; 5]>,
}

impl BatchLayout {
    pub fn of(product: &BatchedProduct<'_>, out: &Tensor) -> Result<Self> {
        let (batch, [m, n]) = product.shape()?;
        let (a, b) = (Operand::new(product.a)?, Operand::new(product.b)?);
        let leading = |tensor: &Tensor, axes: usize| -> Result<Layout> {
            let layout = Layout { shape: Shape::new(&tensor.shape()[..axes])?, ..tensor.layout };
            Ok(layout.broadcast_to(&batch))
        };
        // What is absent has no steps.
        let mut scales = [Layout::contiguous(Shape::scalar()).broadcast_to(&batch); 2];
        for (layout, tensor) in scales.iter_mut().zip(product.scales) {
            *layout = leading(tensor, tensor.rank())?;
        }
        let [first, second] = &scales;
        let result = leading(out, batch.rank())?;
        let (mut extents, mut steps) =
            merge_axes([&a.batch_layout(&batch)?, &b.batch_layout(&batch)?, &result, first, second]);
        while extents.len() < AXES {
            extents.insert(0, 1);
            steps.insert(0, [0; 5]);
        }
        let k = product.a.shape()[product.a.rank() - 1];
        let (out_offset, out_stride) = (out.layout.offset, out.layout.strides[batch.rank()]);
        Ok(BatchLayout { a, b, m, n, k, batches: batch.elements(), out_offset, out_stride, extents, steps })
    }

    /// The kernel; `None` where there is none.
    fn config(&self, gpu: &Gpu, scales: usize, halves: bool) -> Option<Config> {
        let BatchLayout { a, b, m, n, k, steps, .. } = self;
        let mut of_results = [*n, self.out_stride, self.out_offset].into_iter().chain(steps.iter().map(|step| step[2]));
        let suits = gpu.cooperative.usable()
            && self.extents.len() == AXES
            && *m >= MIN_EXTENT
            && *n >= MIN_EXTENT
            && *k > 0
            && k.is_multiple_of(DEPTH)
            && self.batches > 0
            && self.batches.max(m.div_ceil(TILE) * n.div_ceil(TILE / 2)) <= MAX_GROUPS
            && of_results.all(|extent| extent.is_multiple_of(VECTOR));
        let containers = containers(gpu, |vector| {
            suits
                && is_read_in(vector, a, if a.row_major { *k } else { *m })
                && is_read_in(vector, b, if b.row_major { *n } else { *k })
                && steps.iter().all(|[a, b, ..]| a.is_multiple_of(vector) && b.is_multiple_of(vector))
        })?;
        // Narrow tiles leave less to the last round of workgroups, where there are few rounds.
        let few = self.batches * m.div_ceil(TILE) * n.div_ceil(TILE) < 4 * RESIDENT;
        let narrow = few || (1..=TILE / 2).contains(&(n % TILE));
        Some(Config {
            a_depth_contiguous: a.row_major,
            b_depth_contiguous: !b.row_major,
            whole_tiles: m.is_multiple_of(TILE) && n.is_multiple_of(if narrow { TILE / 2 } else { TILE }),
            containers,
            kind: Kind::Batched { narrow, scales, halves },
        })
    }

    /// The parameters of products without anything besides.
    fn params(&self, config: Config) -> Params {
        let BatchLayout { a, b, m, n, k, extents, steps, .. } = self;
        let vector = config.vector();
        let along = |which: usize, unit: usize| std::array::from_fn(|axis| (steps[axis][which] / unit) as u32);
        Params {
            m: *m as u32,
            n: *n as u32,
            k: *k as u32,
            row_tiles: m.div_ceil(TILE) as u32,
            a_offset: (a.offset() / vector) as u32,
            a_stride: (a.stride / vector) as u32,
            b_offset: (b.offset() / vector) as u32,
            b_stride: (b.stride / vector) as u32,
            alpha: 1.0,
            accumulate: 0,
            out_offset: (self.out_offset / VECTOR) as u32,
            out_stride: (self.out_stride / VECTOR) as u32,
            scale_offsets: [0; 2],
            extents: [extents[1] as u32, extents[2] as u32],
            a_steps: along(0, vector),
            b_steps: along(1, vector),
            out_steps: along(2, VECTOR),
            scale_steps: [along(3, 1), along(4, 1)],
        }
    }
}

/// The text that places a workgroup's tile, and the one that places its product.
pub(super) fn beginning(columns: usize, scales: usize) -> (String, String) {
    let tile = format!(
        "let first_row = group.x % params.row_tiles * {TILE}u;\nlet first_column = group.x / params.row_tiles * {columns}u;\n"
    );
    let mut part = "let outer = group.z / params.extents[1];\n\
                    let place0 = outer / params.extents[0];\n\
                    let place1 = outer % params.extents[0];\n\
                    let place2 = group.z % params.extents[1];\n\
                    let start = 0u;\nlet end = params.k;\n"
        .to_string();
    let place = |name: &str| {
        let steps = [0, 1, 2].map(|axis| format!(" + place{axis} * params.{name}_steps[{axis}]"));
        format!("params.{name}_offset{}", steps.concat())
    };
    for name in ["a", "b", "out"] {
        part += &format!("let {name}_begin = {};\n", place(name));
    }
    let factors = ["first", "second"].iter().take(scales);
    let factors: String = factors.map(|name| format!(" * {name}_scales[{}]", place(name))).collect();
    (tile, part + &format!("let multiple = params.alpha{factors};\n"))
}

/// The text that writes a vector of sums.
pub(super) fn write(halves: bool) -> String {
    let value = match halves {
        true => "out[i] = vec2<u32>(pack2x16float(value.xy), pack2x16float(value.zw));\n",
        false => "var sum = value;\nif (params.accumulate != 0u) {\nsum += out[i];\n}\nout[i] = sum;\n",
    };
    format!("let i = part_start + row * params.out_stride + column / {VECTOR}u;\n{value}")
}
