//! Launch of `kernel.wgsl` or, with momentum, `momentum.wgsl`, up to eight targets a dispatch.

use super::{Coefficients, NAME, SgdTarget};
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source, linear_grid};
use crate::ops::slots::{self, SLOTS};
use crate::tensor::Tensor;

const WORKGROUP: usize = 256;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Params {
    bounds: [u32; SLOTS + 1],
    gradient_offsets: [u32; SLOTS],
    coefficients: Coefficients,
    nesterov: u32,
}

pub(super) fn wgsl(with_momentum: bool, slots: usize) -> String {
    slots::expand(if with_momentum { include_str!("momentum.wgsl") } else { include_str!("kernel.wgsl") }, slots)
}

/// The targets' own storage is unique and starts at offset 0; momentum is there for all or none.
pub(super) fn update(
    gpu: &Gpu,
    targets: &mut [SgdTarget<'_>],
    coefficients: &Coefficients,
    with_momentum: bool,
    nesterov: bool,
) -> Result<()> {
    let gradients: Vec<Tensor> = targets.iter().map(|target| target.gradient.contiguous()).collect::<Result<_>>()?;
    let sizes: Vec<usize> = targets.iter().map(|target| target.parameter.elements()).collect();
    let per_slot = if with_momentum { 3 } else { 2 };
    for run in slots::runs(&sizes, slots::capacity(gpu, per_slot, 0)) {
        let mut params = Params {
            bounds: slots::bounds(sizes[run.clone()].iter().copied()),
            gradient_offsets: [0; SLOTS],
            coefficients: *coefficients,
            nesterov: u32::from(nesterov),
        };
        let slots = run.len();
        let source = move || wgsl(with_momentum, slots);
        let kind = if with_momentum { "momentum" } else { "plain" };
        let mut dispatch = Dispatch::new(format!("{NAME}_{kind}_{slots}"), "main", Source::Generated(&source));
        for (slot, (target, gradient)) in targets[run.clone()].iter().zip(&gradients[run.clone()]).enumerate() {
            params.gradient_offsets[slot] = gradient.layout.offset as u32;
            dispatch = dispatch.write(target.parameter).read(gradient);
            if let Some(momentum) = target.momentum.as_deref() {
                dispatch = dispatch.write(momentum);
            }
        }
        dispatch.params(&params).run(gpu, linear_grid(sizes[run].iter().sum(), WORKGROUP))?;
    }
    Ok(())
}
