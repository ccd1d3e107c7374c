//! Launch of `kernel.wgsl`.

use super::Unary;
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source, linear_grid};
use crate::tensor::Tensor;

/// Elements of the result that a workgroup of 256 invocations computes.
const ELEMENTS: usize = 1024;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Params {
    count: u32,
    offset: u32,
    scale: f32,
    shift: f32,
}

pub(super) fn unary(
    gpu: &Gpu,
    x: &Tensor,
    name: &'static str,
    operation: Unary,
    scale: f32,
    shift: f32,
) -> Result<Tensor> {
    let out = Tensor::uninitialised(x.device(), name, *x.shape(), DType::F32)?;
    let params = Params { count: x.elements() as u32, offset: x.layout.offset as u32, scale, shift };
    Dispatch::new("unary", "main", Source::Wgsl(include_str!("kernel.wgsl")))
        .constant("OPERATION", f64::from(operation as u32))
        .read(x)
        .write(&out)
        .params(&params)
        .run(gpu, linear_grid(x.elements(), ELEMENTS))?;
    Ok(out)
}
