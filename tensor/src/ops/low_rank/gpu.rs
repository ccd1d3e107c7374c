//! Launches of `factor.wgsl`.

use super::super::row_scaled::EXPONENTS;
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source};
use crate::shape::Shape;
use crate::tensor::Tensor;

const FACTOR: &str = include_str!("factor.wgsl");

/// Workgroups that look for the largest magnitude at most, one result each.
const MAXIMA: usize = 128;

/// Elements that a workgroup looks at, or writes, at the least.
const SHARE: usize = 1024;

/// Elements of a factor up to which every workgroup looks at all of them, which saves a launch.
const SMALL: usize = 8192;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct FactorParams {
    offset: u32,
    rows: u32,
    columns: u32,
    padded_columns: u32,
    words: u32,
    maxima: u32,
    lowest: i32,
    highest: i32,
}

/// See [`Tensor::rounded_factor`]; `x` is contiguous and has elements.
pub(super) fn round_factor(gpu: &Gpu, x: &Tensor, padded: Shape) -> Result<(Tensor, Tensor)> {
    const NAME: &str = "rounded_factor";
    let small = x.elements() <= SMALL;
    let groups = if small { 1 } else { x.elements().div_ceil(SHARE).min(MAXIMA) };
    let maxima = Tensor::uninitialised(x.device(), NAME, Shape::new(&[groups])?, DType::U32)?;
    let values = Tensor::uninitialised(x.device(), NAME, padded, DType::F16)?;
    let scale = Tensor::uninitialised(x.device(), NAME, Shape::new(&[1])?, DType::F32)?;
    // A factor with an odd width begins its rows within words; rows of its storage are whole words.
    let words = padded.elements().div_ceil(2);
    let params = FactorParams {
        offset: x.layout.offset as u32,
        rows: x.shape()[0] as u32,
        columns: x.shape()[1] as u32,
        padded_columns: padded[1] as u32,
        words: words as u32,
        maxima: groups as u32,
        lowest: EXPONENTS[0],
        highest: EXPONENTS[1],
    };
    if !small {
        Dispatch::new("factor_maxima", "find_maxima", Source::Wgsl(FACTOR))
            .read(x)
            .write(&maxima)
            .params(&params)
            .run(gpu, [groups as u32, 1, 1])?;
    }
    let (name, entry) = if small { ("factor_round_small", "round_small") } else { ("factor_round", "round") };
    Dispatch::new(name, entry, Source::Wgsl(FACTOR))
        .read(x)
        .write(&maxima)
        .write(&values)
        .write(&scale)
        .params(&params)
        .run(gpu, [words.div_ceil(SHARE / 2).min(MAXIMA) as u32, 1, 1])?;
    Ok((values, scale))
}
