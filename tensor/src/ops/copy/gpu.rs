//! Launch of `kernel.wgsl`, and of `transpose.wgsl` for turned matrices.

use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source, linear_grid};
use crate::shape::{MAX_RANK, merge_axes};
use crate::tensor::Tensor;

const WORKGROUP: usize = 256;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Params {
    count: u32,
    rank: u32,
    offset: u32,
    extents: [u32; MAX_RANK],
    strides: [u32; MAX_RANK],
}

/// Side of the tiles of `transpose.wgsl`.
const TILE: usize = 32;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct TransposeParams {
    rows: u32,
    columns: u32,
    offset: u32,
    column_stride: u32,
}

fn transpose(gpu: &Gpu, x: &Tensor, out: &Tensor, [rows, columns, column_stride]: [usize; 3]) -> Result<()> {
    let params = TransposeParams {
        rows: rows as u32,
        columns: columns as u32,
        offset: x.layout.offset as u32,
        column_stride: column_stride as u32,
    };
    Dispatch::new("transpose", "main", Source::Wgsl(include_str!("transpose.wgsl")))
        .read(x)
        .write(out)
        .params(&params)
        .run(gpu, [columns.div_ceil(TILE) as u32, rows.div_ceil(TILE) as u32, 1])
}

/// The number that names a type in kernels.
fn code(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 0.0,
        DType::F16 => 1.0,
        DType::Bf16 => 2.0,
        DType::U32 => 3.0,
        DType::I32 => 4.0,
    }
}

pub(super) fn copy(gpu: &Gpu, x: &Tensor, name: &'static str, dtype: DType) -> Result<Tensor> {
    let out = Tensor::uninitialised(x.device(), name, *x.shape(), dtype)?;
    let (extents, strides) = merge_axes([&x.layout]);
    if let ([rows, columns], [[1], [column_stride]]) = (&extents[..], &strides[..])
        && x.dtype() == dtype
        && !dtype.is_half()
        && rows.max(columns).div_ceil(TILE) <= 65_535
    {
        transpose(gpu, x, &out, [*rows, *columns, *column_stride])?;
        return Ok(out);
    }
    let mut params = Params {
        count: x.elements() as u32,
        rank: extents.len() as u32,
        offset: x.layout.offset as u32,
        extents: [1; MAX_RANK],
        strides: [0; MAX_RANK],
    };
    for (axis, (extent, [stride])) in extents.iter().zip(&strides).enumerate() {
        params.extents[axis] = *extent as u32;
        params.strides[axis] = *stride as u32;
    }
    let words = (x.elements() * dtype.bytes()).div_ceil(4);
    Dispatch::new(name, "main", Source::Wgsl(include_str!("kernel.wgsl")))
        .constant("SOURCE", code(x.dtype()))
        .constant("TARGET", code(dtype))
        .read(x)
        .write(&out)
        .params(&params)
        .run(gpu, linear_grid(words, WORKGROUP))?;
    Ok(out)
}
