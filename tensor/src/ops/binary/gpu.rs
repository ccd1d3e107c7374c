//! Launch of `kernel.wgsl`.

use super::Binary;
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source, linear_grid};
use crate::shape::{MAX_RANK, merge_axes};
use crate::tensor::Tensor;

/// Elements of the result that a workgroup of 256 invocations computes.
const ELEMENTS: usize = 1024;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Params {
    count: u32,
    rank: u32,
    a_offset: u32,
    b_offset: u32,
    extents: [u32; MAX_RANK],
    a_strides: [u32; MAX_RANK],
    b_strides: [u32; MAX_RANK],
}

/// `a` and `b` already have the common shape.
pub(super) fn binary(gpu: &Gpu, a: &Tensor, b: &Tensor, name: &'static str, operation: Binary) -> Result<Tensor> {
    let out = Tensor::uninitialised(a.device(), name, *a.shape(), DType::F32)?;
    let (extents, strides) = merge_axes([&a.layout, &b.layout]);
    let dense = extents.is_empty() || extents.len() == 1 && strides[0] == [1, 1];
    let mut params = Params {
        count: a.elements() as u32,
        rank: extents.len() as u32,
        a_offset: a.layout.offset as u32,
        b_offset: b.layout.offset as u32,
        extents: [1; MAX_RANK],
        a_strides: [0; MAX_RANK],
        b_strides: [0; MAX_RANK],
    };
    for (axis, (extent, [a_stride, b_stride])) in extents.iter().zip(&strides).enumerate() {
        params.extents[axis] = *extent as u32;
        params.a_strides[axis] = *a_stride as u32;
        params.b_strides[axis] = *b_stride as u32;
    }
    Dispatch::new("binary", "main", Source::Wgsl(include_str!("kernel.wgsl")))
        .constant("OPERATION", f64::from(operation as u32))
        .constant("DENSE", f64::from(u8::from(dense)))
        .read(a)
        .read(b)
        .write(&out)
        .params(&params)
        .run(gpu, linear_grid(a.elements(), ELEMENTS))?;
    Ok(out)
}
