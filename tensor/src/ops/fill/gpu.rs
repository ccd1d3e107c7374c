//! Launch of `kernel.wgsl`. The CPU's version is `slice::fill`.

use half::{bf16, f16};

use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source, linear_grid};
use crate::shape::Shape;
use crate::tensor::Tensor;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Params {
    words: u32,
    pattern: u32,
}

pub(super) fn full(gpu: &Gpu, device: &Device, shape: Shape, dtype: DType, value: f32) -> Result<Tensor> {
    let out = Tensor::uninitialised(device, "full", shape, dtype)?;
    let twice = |bits: u16| u32::from(bits) | u32::from(bits) << 16;
    let pattern = match dtype {
        DType::F32 => value.to_bits(),
        DType::F16 => twice(f16::from_f32(value).to_bits()),
        DType::Bf16 => twice(bf16::from_f32(value).to_bits()),
        DType::U32 => value as u32,
        DType::I32 => value as i32 as u32,
    };
    let words = (shape.elements() * dtype.bytes()).div_ceil(4);
    Dispatch::new("fill", "main", Source::Wgsl(include_str!("kernel.wgsl")))
        .write(&out)
        .params(&Params { words: words as u32, pattern })
        .run(gpu, linear_grid(words, 256))?;
    Ok(out)
}
