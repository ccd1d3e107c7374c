//! Launch of `kernel.wgsl`.

use super::philox::PhiloxKey;
use super::{Distribution, RandomKey};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source, linear_grid};
use crate::shape::Shape;
use crate::tensor::Tensor;

/// The kernel with the generator it calls.
pub(super) const KERNEL: &str = concat!(include_str!("kernel.wgsl"), include_str!("philox.wgsl"));

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Params {
    key: PhiloxKey,
    count: u32,
    shift: f32,
    scale: f32,
    largest: f32,
    zero: u32,
}

pub(super) fn random(
    gpu: &Gpu,
    device: &Device,
    name: &'static str,
    shape: Shape,
    distribution: Distribution,
    key: RandomKey,
) -> Result<Tensor> {
    let out = Tensor::uninitialised(device, name, shape, DType::F32)?;
    let (shift, scale, largest) = match distribution {
        Distribution::Uniform { low, width, largest } => (low, width, largest),
        Distribution::Normal { mean, deviation } => (mean, deviation, f32::INFINITY),
    };
    let normal = matches!(distribution, Distribution::Normal { .. });
    Dispatch::new("random", "main", Source::Wgsl(KERNEL))
        .constant("NORMAL", f64::from(u8::from(normal)))
        .write(&out)
        .params(&Params { key: PhiloxKey::from(&key), count: shape.elements() as u32, shift, scale, largest, zero: 0 })
        .run(gpu, linear_grid(shape.elements().div_ceil(4), 256))?;
    Ok(out)
}
