//! Launch of `kernel.wgsl`.

use super::EXPONENTS;
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source, row_grid, row_team};
use crate::shape::Shape;
use crate::tensor::Tensor;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Params {
    rows: u32,
    columns: u32,
    stride: u32,
    offset: u32,
    lowest: i32,
    highest: i32,
}

/// Neither axis is empty; `padded` has the rows' length in storage.
pub(super) fn round(gpu: &Gpu, x: &Tensor, padded: Shape, name: &'static str) -> Result<(Tensor, Tensor)> {
    let values = Tensor::uninitialised(x.device(), name, padded, DType::F16)?;
    let scales = Tensor::uninitialised(x.device(), name, Shape::new(&[padded[0]])?, DType::F32)?;
    let params = Params {
        rows: padded[0] as u32,
        columns: x.shape()[1] as u32,
        stride: padded[1] as u32,
        offset: x.layout.offset as u32,
        lowest: EXPONENTS[0],
        highest: EXPONENTS[1],
    };
    let team = row_team(padded[1]);
    Dispatch::new(name, "main", Source::Wgsl(include_str!("kernel.wgsl")))
        .constant("TEAM", team as f64)
        .read(x)
        .write(&values)
        .write(&scales)
        .params(&params)
        .run(gpu, row_grid(padded[0], team))?;
    Ok((values, scales))
}
