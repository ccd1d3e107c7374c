//! Launches: `sum.wgsl` until one number is left, `clip.wgsl`, `scale.wgsl`.

use super::NORM_EPSILON;
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source, linear_grid};
use crate::ops::slots::{self, SLOTS};
use crate::shape::Shape;
use crate::tensor::Tensor;

const WORKGROUP: usize = 256;

/// Elements that one workgroup of `sum.wgsl` adds up: 16 an invocation.
const BLOCK: usize = 4096;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct SumParams {
    /// Where each slot's blocks begin and end among those of this dispatch.
    bounds: [u32; SLOTS + 1],
    counts: [u32; SLOTS],
    offsets: [u32; SLOTS],
    /// Blocks of earlier dispatches.
    first_block: u32,
}

pub(super) fn sum_wgsl(slots: usize) -> String {
    slots::expand(include_str!("sum.wgsl"), slots)
}

pub(super) fn scale_wgsl(slots: usize) -> String {
    slots::expand(include_str!("scale.wgsl"), slots)
}

/// The tensors are contiguous. Every block of a tensor gives one partial sum, whichever dispatch it is in; partial
/// sums are added in the same way until one is left.
pub(super) fn sum_of_squares(gpu: &Gpu, tensors: &[Tensor]) -> Result<Tensor> {
    let mut sums = add_blocks(gpu, &tensors.iter().collect::<Vec<_>>(), true)?;
    while sums.elements() > 1 {
        sums = add_blocks(gpu, &[&sums], false)?;
    }
    sums.reshape(&[])
}

/// One sum for each block of each tensor, in order, as `[blocks]`; a single 0 where there are no elements.
fn add_blocks(gpu: &Gpu, tensors: &[&Tensor], square: bool) -> Result<Tensor> {
    let device = tensors[0].device();
    let sizes: Vec<usize> = tensors.iter().map(|tensor| tensor.elements()).collect();
    let blocks: Vec<usize> = sizes.iter().map(|size| size.div_ceil(BLOCK)).collect();
    let total = blocks.iter().sum::<usize>();
    if total == 0 {
        return Tensor::zeros(device, &[1], DType::F32);
    }
    let out = Tensor::uninitialised(device, "sum_of_squares", Shape::new(&[total])?, DType::F32)?;
    let mut first_block = 0;
    for run in slots::runs(&sizes, slots::capacity(gpu, 1, 1)) {
        let mut params = SumParams {
            bounds: slots::bounds(blocks[run.clone()].iter().copied()),
            counts: [0; SLOTS],
            offsets: [0; SLOTS],
            first_block: first_block as u32,
        };
        let slots = run.len();
        let source = move || sum_wgsl(slots);
        let mut dispatch = Dispatch::new(format!("sum_of_squares_{slots}"), "main", Source::Generated(&source))
            .constant("SQUARE", f64::from(u8::from(square)))
            .write(&out);
        for (slot, tensor) in tensors[run.clone()].iter().enumerate() {
            params.counts[slot] = tensor.elements() as u32;
            params.offsets[slot] = tensor.layout.offset as u32;
            dispatch = dispatch.read(tensor);
        }
        let run_blocks: usize = blocks[run].iter().sum();
        dispatch.params(&params).run(gpu, linear_grid(run_blocks, 1))?;
        first_block += run_blocks;
    }
    Ok(out)
}

pub(super) fn clip_scale(gpu: &Gpu, sum_of_squares: &Tensor, max_norm: f32) -> Result<Tensor> {
    #[repr(C)]
    #[derive(Clone, Copy, bytemuck::NoUninit)]
    struct Params {
        offset: u32,
        max_norm: f32,
        epsilon: f32,
    }
    let out = Tensor::uninitialised(sum_of_squares.device(), "clip_scale", Shape::new(&[])?, DType::F32)?;
    let params = Params { offset: sum_of_squares.layout.offset as u32, max_norm, epsilon: NORM_EPSILON };
    Dispatch::new("clip_scale", "main", Source::Wgsl(include_str!("clip.wgsl")))
        .read(sum_of_squares)
        .write(&out)
        .params(&params)
        .run(gpu, [1, 1, 1])?;
    Ok(out)
}

/// The tensors' storage is unique and starts at offset 0.
pub(super) fn scale_in_place(gpu: &Gpu, tensors: &mut [&mut Tensor], scale: &Tensor) -> Result<()> {
    #[repr(C)]
    #[derive(Clone, Copy, bytemuck::NoUninit)]
    struct Params {
        bounds: [u32; SLOTS + 1],
        scale_offset: u32,
    }
    let sizes: Vec<usize> = tensors.iter().map(|tensor| tensor.elements()).collect();
    for run in slots::runs(&sizes, slots::capacity(gpu, 1, 1)) {
        let bounds = slots::bounds(sizes[run.clone()].iter().copied());
        let slots = run.len();
        let source = move || scale_wgsl(slots);
        let mut dispatch =
            Dispatch::new(format!("scale_in_place_{slots}"), "main", Source::Generated(&source)).read(scale);
        for tensor in &tensors[run.clone()] {
            dispatch = dispatch.write(tensor);
        }
        dispatch
            .params(&Params { bounds, scale_offset: scale.layout.offset as u32 })
            .run(gpu, linear_grid(sizes[run].iter().sum(), WORKGROUP))?;
    }
    Ok(())
}
