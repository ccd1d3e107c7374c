//! Launch of `kernel.wgsl`.

use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source, linear_grid};
use crate::tensor::Tensor;

const WORKGROUP: usize = 256;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Params {
    count: u32,
    gate_offset: u32,
    up_offset: u32,
    upstream_offset: u32,
}

pub(super) fn backward(
    gpu: &Gpu,
    gate: &Tensor,
    up: &Tensor,
    upstream: &Tensor,
    name: &'static str,
) -> Result<(Tensor, Tensor)> {
    let for_gate = Tensor::uninitialised(gate.device(), name, *gate.shape(), DType::F32)?;
    let for_up = Tensor::uninitialised(gate.device(), name, *gate.shape(), DType::F32)?;
    let params = Params {
        count: gate.elements() as u32,
        gate_offset: gate.layout.offset as u32,
        up_offset: up.layout.offset as u32,
        upstream_offset: upstream.layout.offset as u32,
    };
    Dispatch::new(name, "main", Source::Wgsl(include_str!("kernel.wgsl")))
        .read(gate)
        .read(up)
        .read(upstream)
        .write(&for_gate)
        .write(&for_up)
        .params(&params)
        .run(gpu, linear_grid(gate.elements(), WORKGROUP))?;
    Ok((for_gate, for_up))
}
