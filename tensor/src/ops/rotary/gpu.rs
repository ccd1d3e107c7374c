//! Launch of `kernel.wgsl`.

use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source, linear_grid};
use crate::tensor::Tensor;

const WORKGROUP: usize = 256;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Params {
    x_strides: [u32; 4],
    x_offset: u32,
    cos_offset: u32,
    sin_offset: u32,
    pairs: u32,
    sequence: u32,
    heads: u32,
    half_dim: u32,
    direction: f32,
}

/// `cos` and `sin` are contiguous.
pub(super) fn rotate(
    gpu: &Gpu,
    x: &Tensor,
    cos: &Tensor,
    sin: &Tensor,
    name: &'static str,
    direction: f32,
) -> Result<Tensor> {
    let shape = *x.shape();
    let out = Tensor::uninitialised(x.device(), name, shape, DType::F32)?;
    let pairs = shape.elements() / 2;
    let params = Params {
        x_strides: std::array::from_fn(|axis| x.layout.strides[axis] as u32),
        x_offset: x.layout.offset as u32,
        cos_offset: cos.layout.offset as u32,
        sin_offset: sin.layout.offset as u32,
        pairs: pairs as u32,
        sequence: shape[1] as u32,
        heads: shape[2] as u32,
        half_dim: shape[3] as u32 / 2,
        direction,
    };
    Dispatch::new("rotary", "main", Source::Wgsl(include_str!("kernel.wgsl")))
        .read(x)
        .read(cos)
        .read(sin)
        .write(&out)
        .params(&params)
        .run(gpu, linear_grid(pairs, WORKGROUP))?;
    Ok(out)
}
