//! Launch of `kernel.wgsl`.

use super::Rule;
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source, linear_grid};
use crate::ops::random::RandomKey;
use crate::ops::random::philox::PhiloxKey;
use crate::tensor::Tensor;

/// The kernel with the generator it calls.
pub(super) const KERNEL: &str = concat!(include_str!("kernel.wgsl"), include_str!("../random/philox.wgsl"));

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Params {
    key: PhiloxKey,
    count: u32,
    offset: u32,
    threshold: u32,
    scale: f32,
    // The vectors of the WGSL structure round its size up to a multiple of 8.
    padding: u32,
}

pub(super) fn dropout(gpu: &Gpu, x: &Tensor, rule: Rule, key: RandomKey) -> Result<Tensor> {
    let out = Tensor::uninitialised(x.device(), "dropout", *x.shape(), DType::F32)?;
    Dispatch::new("dropout", "main", Source::Wgsl(KERNEL))
        .read(x)
        .write(&out)
        .params(&Params {
            key: PhiloxKey::from(&key),
            count: x.elements() as u32,
            offset: x.layout.offset as u32,
            threshold: rule.threshold,
            scale: rule.scale,
            padding: 0,
        })
        .run(gpu, linear_grid(x.elements().div_ceil(4), 256))?;
    Ok(out)
}
