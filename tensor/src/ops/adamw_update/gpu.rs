//! Launch of `kernel.wgsl`, up to eight targets a dispatch.

use super::{AdamWTarget, Coefficients, NAME};
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
}

pub(super) fn wgsl(slots: usize) -> String {
    slots::expand(include_str!("kernel.wgsl"), slots)
}

/// The targets' own storage is unique and starts at offset 0.
pub(super) fn update(gpu: &Gpu, targets: &mut [AdamWTarget<'_>], coefficients: &Coefficients) -> Result<()> {
    let gradients: Vec<Tensor> = targets.iter().map(|target| target.gradient.contiguous()).collect::<Result<_>>()?;
    let sizes: Vec<usize> = targets.iter().map(|target| target.parameter.elements()).collect();
    for run in slots::runs(&sizes, slots::capacity(gpu, 4, 0)) {
        let mut params = Params {
            bounds: slots::bounds(sizes[run.clone()].iter().copied()),
            gradient_offsets: [0; SLOTS],
            coefficients: *coefficients,
        };
        let slots = run.len();
        let source = move || wgsl(slots);
        let name = format!("{NAME}_{slots}");
        let mut dispatch = Dispatch::new(name, "main", Source::Generated(&source));
        for (slot, (target, gradient)) in targets[run.clone()].iter().zip(&gradients[run.clone()]).enumerate() {
            params.gradient_offsets[slot] = gradient.layout.offset as u32;
            dispatch =
                dispatch.write(target.parameter).read(gradient).write(target.first_moment).write(target.second_moment);
        }
        dispatch.params(&params).run(gpu, linear_grid(sizes[run].iter().sum(), WORKGROUP))?;
    }
    Ok(())
}
