//! Launch of `kernel.wgsl`.

use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source, linear_grid};
use crate::shape::{MAX_RANK, merge_axes};
use crate::tensor::Tensor;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Params {
    count: u32,
    rank: u32,
    offsets: [u32; 3],
    extents: [u32; MAX_RANK],
    /// Strides of the condition, then of `a`, then of `b`.
    strides: [[u32; MAX_RANK]; 3],
}

/// The three operands have one shape.
pub(super) fn select_where(gpu: &Gpu, condition: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let out = Tensor::uninitialised(a.device(), "select_where", *a.shape(), a.dtype())?;
    let operands = [condition, a, b];
    let (extents, strides) = merge_axes(operands.map(|x| &x.layout));
    let mut params = Params {
        count: a.elements() as u32,
        rank: extents.len() as u32,
        offsets: operands.map(|x| x.layout.offset as u32),
        extents: [1; MAX_RANK],
        strides: [[0; MAX_RANK]; 3],
    };
    for (axis, (extent, here)) in extents.iter().zip(&strides).enumerate() {
        params.extents[axis] = *extent as u32;
        for (strides, stride) in params.strides.iter_mut().zip(here) {
            strides[axis] = *stride as u32;
        }
    }
    Dispatch::new("select_where", "main", Source::Wgsl(include_str!("kernel.wgsl")))
        .read(condition)
        .read(a)
        .read(b)
        .write(&out)
        .params(&params)
        .run(gpu, linear_grid(a.elements(), 256))?;
    Ok(out)
}
