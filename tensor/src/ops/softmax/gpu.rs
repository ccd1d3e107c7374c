//! Launches of `kernel.wgsl` and `backward.wgsl`.

use super::MaskRows;
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source, row_grid, row_team};
use crate::shape::MAX_RANK;
use crate::tensor::Tensor;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct ForwardParams {
    rows: u32,
    columns: u32,
    offset: u32,
    lowest: f32,
    mask_offset: u32,
    mask_column_stride: u32,
    mask_rank: u32,
    mask_extents: [u32; MAX_RANK],
    mask_strides: [u32; MAX_RANK],
}

pub(super) fn forward(
    gpu: &Gpu,
    x: &Tensor,
    mask: Option<&Tensor>,
    name: &'static str,
    logarithm: bool,
) -> Result<Tensor> {
    let out = Tensor::uninitialised(x.device(), name, *x.shape(), DType::F32)?;
    let columns = x.shape()[x.rank() - 1];
    let rows = x.elements() / columns;
    let mut params = ForwardParams {
        rows: rows as u32,
        columns: columns as u32,
        offset: x.layout.offset as u32,
        lowest: f32::NEG_INFINITY,
        mask_offset: 0,
        mask_column_stride: 0,
        mask_rank: 0,
        mask_extents: [1; MAX_RANK],
        mask_strides: [0; MAX_RANK],
    };
    if let Some(mask) = mask {
        let places = MaskRows::new(&mask.layout);
        params.mask_offset = places.offset as u32;
        params.mask_column_stride = places.column_stride as u32;
        params.mask_rank = places.extents.len() as u32;
        for (axis, (extent, [stride])) in places.extents.iter().zip(&places.strides).enumerate() {
            params.mask_extents[axis] = *extent as u32;
            params.mask_strides[axis] = *stride as u32;
        }
    }
    let mask_kind = match mask.map(Tensor::dtype) {
        None => 0.0,
        Some(DType::U32) => 1.0,
        Some(_) => 2.0,
    };
    let team = row_team(columns);
    Dispatch::new("softmax", "main", Source::Wgsl(include_str!("kernel.wgsl")))
        .constant("TEAM", team as f64)
        .constant("LOGARITHM", f64::from(u8::from(logarithm)))
        .constant("MASK", mask_kind)
        .read(x)
        .read(mask.unwrap_or(x))
        .write(&out)
        .params(&params)
        .run(gpu, row_grid(rows, team))?;
    Ok(out)
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct BackwardParams {
    rows: u32,
    columns: u32,
    y_offset: u32,
    upstream_offset: u32,
}

pub(super) fn backward(
    gpu: &Gpu,
    y: &Tensor,
    upstream: &Tensor,
    name: &'static str,
    logarithm: bool,
) -> Result<Tensor> {
    let out = Tensor::uninitialised(y.device(), name, *y.shape(), DType::F32)?;
    let columns = y.shape()[y.rank() - 1];
    let rows = y.elements() / columns;
    let params = BackwardParams {
        rows: rows as u32,
        columns: columns as u32,
        y_offset: y.layout.offset as u32,
        upstream_offset: upstream.layout.offset as u32,
    };
    let team = row_team(columns);
    Dispatch::new("softmax_backward", "main", Source::Wgsl(include_str!("backward.wgsl")))
        .constant("TEAM", team as f64)
        .constant("LOGARITHM", f64::from(u8::from(logarithm)))
        .read(y)
        .read(upstream)
        .write(&out)
        .params(&params)
        .run(gpu, row_grid(rows, team))?;
    Ok(out)
}
