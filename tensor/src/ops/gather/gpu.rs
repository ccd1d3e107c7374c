//! Launches of `gather.wgsl` and `scatter.wgsl`.

use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source, linear_grid};
use crate::shape::Shape;
use crate::tensor::Tensor;

/// Indices that one dispatch of the scatter kernel walks; longer loops are cut short by some drivers.
const WALK: usize = 1 << 15;

/// Invocations that the scatter kernel aims for; enough to fill a large GPU.
const INVOCATIONS: usize = 1 << 16;

fn three(values: &[usize]) -> [u32; 3] {
    [values[0] as u32, values[1] as u32, values[2] as u32]
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct GatherParams {
    elements: u32,
    count: u32,
    inner: u32,
    extent: u32,
    invalid: u32,
    index_offset: u32,
    index_strides: [u32; 3],
    x_offset: u32,
    x_strides: [u32; 3],
}

pub(super) fn gather(
    gpu: &Gpu,
    name: &'static str,
    x: &Tensor,
    indices: &Tensor,
    shape: Shape,
    out_type: DType,
) -> Result<Tensor> {
    let out = Tensor::uninitialised(x.device(), name, shape, out_type)?;
    let format = match x.dtype() {
        DType::F32 | DType::U32 | DType::I32 => 0.0,
        DType::F16 => 1.0,
        DType::Bf16 => 2.0,
    };
    let params = GatherParams {
        elements: shape.elements() as u32,
        count: indices.shape()[1] as u32,
        inner: indices.shape()[2] as u32,
        extent: x.shape()[1] as u32,
        invalid: if out_type == DType::F32 { f32::NAN.to_bits() } else { u32::MAX },
        index_offset: indices.layout.offset as u32,
        index_strides: three(&indices.layout.strides),
        x_offset: x.layout.offset as u32,
        x_strides: three(&x.layout.strides),
    };
    Dispatch::new(name, "main", Source::Wgsl(include_str!("gather.wgsl")))
        .constant("FORMAT", format)
        .read(x)
        .read(indices)
        .write(&out)
        .params(&params)
        .run(gpu, linear_grid(shape.elements(), 256))?;
    Ok(out)
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct ScatterParams {
    columns: u32,
    inner: u32,
    extent: u32,
    classes: u32,
    first: u32,
    last: u32,
    index_offset: u32,
    index_strides: [u32; 3],
    dy_offset: u32,
    dy_strides: [u32; 3],
}

pub(super) fn scatter(
    gpu: &Gpu,
    name: &'static str,
    dy: &Tensor,
    indices: &Tensor,
    extent: usize,
    shape: Shape,
) -> Result<Tensor> {
    let out = Tensor::zeros(dy.device(), &shape, DType::F32)?;
    let (outer, count, inner) = (dy.shape()[0], dy.shape()[1], dy.shape()[2]);
    let columns = outer * inner;
    if shape.elements() == 0 || columns == 0 {
        return Ok(out);
    }
    // A power of two, so that the class of an index is a few of its bits.
    let classes = (INVOCATIONS / columns).clamp(1, 256).min(extent).next_power_of_two();
    for first in (0..count).step_by(WALK) {
        let params = ScatterParams {
            columns: columns as u32,
            inner: inner as u32,
            extent: extent as u32,
            classes: classes as u32,
            first: first as u32,
            last: count.min(first + WALK) as u32,
            index_offset: indices.layout.offset as u32,
            index_strides: three(&indices.layout.strides),
            dy_offset: dy.layout.offset as u32,
            dy_strides: three(&dy.layout.strides),
        };
        Dispatch::new(name, "main", Source::Wgsl(include_str!("scatter.wgsl")))
            .read(dy)
            .read(indices)
            .write(&out)
            .params(&params)
            .run(gpu, linear_grid(columns * classes, 256))?;
    }
    Ok(out)
}
