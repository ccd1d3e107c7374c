//! Launches of `kernel.wgsl`, one for each part.

use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source, linear_grid};
use crate::shape::{MAX_RANK, Shape, merge_axes};
use crate::tensor::Tensor;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Params {
    count: u32,
    rank: u32,
    source_offset: u32,
    out_offset: u32,
    extents: [u32; MAX_RANK],
    source_strides: [u32; MAX_RANK],
    out_strides: [u32; MAX_RANK],
}

pub(super) fn concat(gpu: &Gpu, parts: &[&Tensor], axis: usize, shape: Shape) -> Result<Tensor> {
    let out = Tensor::uninitialised(parts[0].device(), "concat", shape, parts[0].dtype())?;
    let mut start = 0;
    for part in parts {
        let end = start + part.shape()[axis];
        // Where the part goes, as a view of the result.
        let region = out.slice(axis, start, end)?.layout;
        start = end;
        let (extents, strides) = merge_axes([&part.layout, &region]);
        let mut params = Params {
            count: part.elements() as u32,
            rank: extents.len() as u32,
            source_offset: part.layout.offset as u32,
            out_offset: region.offset as u32,
            extents: [1; MAX_RANK],
            source_strides: [0; MAX_RANK],
            out_strides: [0; MAX_RANK],
        };
        for (axis, (extent, [from, to])) in extents.iter().zip(&strides).enumerate() {
            params.extents[axis] = *extent as u32;
            params.source_strides[axis] = *from as u32;
            params.out_strides[axis] = *to as u32;
        }
        Dispatch::new("concat", "main", Source::Wgsl(include_str!("kernel.wgsl")))
            .read(part)
            .write(&out)
            .params(&params)
            .run(gpu, linear_grid(part.elements(), 256))?;
    }
    Ok(out)
}
