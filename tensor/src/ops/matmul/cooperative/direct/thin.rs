//! Thin products of matrices in tiles, in one launch each: an adapter's products with what its layer's products read as well.

use super::thin_kernel::{Config, EXTENT, SHARE};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::f16;
use crate::gpu::{Dispatch, Gpu, Source, Tiles, copied_to_tiles};
use crate::ops::matmul::cooperative::low_rank::{Projected, ThinGradient, ThinInTiles, ThinProduct};
use crate::ops::matmul::cooperative::self_test::{first_difference, operand};
use crate::shape::Shape;
use crate::tensor::Tensor;

#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::NoUninit)]
struct Params {
    rows: u32,
    columns: u32,
    padded_rank: u32,
    rank: u32,
    first_offset: u32,
    second_offset: u32,
    alpha: f32,
    accumulate: u32,
}

/// Whether the device has the kernels and a matrix lies in tiles that suit them.
fn suits(gpu: &Gpu, matrix: &Tensor) -> bool {
    let extents = [matrix.shape()[0], matrix.shape()[1]];
    gpu.cooperative.direct_usable()
        && Tiles::Left(extents[1]).hold(matrix)
        && extents.iter().all(|extent| extent.is_multiple_of(EXTENT) && extent.is_multiple_of(SHARE))
}

/// Whether a thin operand can be brought into tiles.
fn suits_tiles(thin: &Tensor) -> bool {
    thin.dtype() == DType::F16
        && thin.is_contiguous()
        && thin.layout.offset.is_multiple_of(4)
        && thin.shape().iter().all(|extent| extent.is_multiple_of(EXTENT))
}

/// Whether the kernel passes its test, which runs before its first use.
fn usable(gpu: &Gpu, config: Config, device: &Device) -> Result<bool> {
    let fault = gpu.cooperative.fault(&config.name(), || find_fault(gpu, config, device))?;
    if let Some(fault) = &fault {
        gpu.cooperative.turn_off_direct(&gpu.summary.name, fault);
    }
    Ok(fault.is_none())
}

/// `alpha` times the product, `[m, rank]`; `None` where the device or an operand does not suit.
pub(in crate::ops::matmul::cooperative) fn project(
    gpu: &Gpu,
    product: &ThinProduct<'_>,
    alpha: f32,
) -> Result<Option<Projected>> {
    let ThinProduct { wide, thin_in_tiles: Some(ThinInTiles { kept, is_transpose }), .. } = product else {
        return Ok(None);
    };
    let config = Config::Projection { transposed: *is_transpose };
    if !suits(gpu, wide) || !usable(gpu, config, wide.device())? {
        return Ok(None);
    }
    launch_projection(gpu, config, wide, kept, alpha).map(Some)
}

/// `kept` is the thin operand or its transpose.
fn launch_projection(gpu: &Gpu, config: Config, wide: &Tensor, kept: &Tensor, alpha: f32) -> Result<Projected> {
    let [rows, columns] = [wide.shape()[0], wide.shape()[1]];
    let rank = kept.shape()[usize::from(config == Config::Projection { transposed: false })];
    let new = || Tensor::uninitialised(wide.device(), "project", Shape::new(&[rows, rank])?, DType::F16);
    let (values, in_tiles) = (new()?, new()?);
    let params = Params {
        rows: rows as u32,
        columns: columns as u32,
        padded_rank: rank as u32,
        rank: rank as u32,
        alpha,
        ..Params::default()
    };
    let source = || config.wgsl();
    Dispatch::new(config.name(), "main", Source::HalvedContainers(&source))
        .read_tiles(wide, Tiles::Left(columns))
        .read_tiles(kept, Tiles::Right(kept.shape()[1]))
        .write(&values)
        .write_tiles(&in_tiles, Tiles::Right(rank))
        .params(&params)
        .run(gpu, [(rows / EXTENT) as u32, (rank / EXTENT) as u32, 1])?;
    Ok(Projected { values, in_tiles: Some(in_tiles) })
}

/// The gradient, added to `total` where there is one, which is then gone; `None` where something does not suit.
pub(in crate::ops::matmul::cooperative) fn factor_gradient(
    gpu: &Gpu,
    gradient: &ThinGradient<'_>,
    total: &mut Option<Tensor>,
) -> Result<Option<Tensor>> {
    let ThinProduct { wide, thin, thin_in_tiles, row_scales: Some(row_scales), transposed } = gradient.product else {
        return Ok(None);
    };
    let (matrix, config) = (wide.t()?, Config::Gradient { transposed });
    let can_be_read = suits_tiles(thin) && row_scales.iter().all(|scales| scales.is_contiguous());
    if !suits(gpu, &matrix) || !can_be_read || !usable(gpu, config, wide.device())? {
        return Ok(None);
    }
    let thin = match thin_in_tiles {
        Some(ThinInTiles { kept, is_transpose: false }) => kept,
        // The product of a matrix that does not lie in tiles itself: it is small.
        _ => &copied_to_tiles(gpu, thin, Tiles::Right(thin.shape()[1]))?,
    };
    launch_gradient(gpu, config, [&matrix, thin], gradient, row_scales, total.take()).map(Some)
}

fn launch_gradient(
    gpu: &Gpu,
    config: Config,
    [matrix, thin]: [&Tensor; 2],
    ThinGradient { shape, scale, alpha, product }: &ThinGradient<'_>,
    [first, second]: [&Tensor; 2],
    total: Option<Tensor>,
) -> Result<Tensor> {
    let ([rows, columns], rank) = ([matrix.shape()[0], matrix.shape()[1]], thin.shape()[1]);
    let accumulate = total.is_some();
    let out = match total {
        Some(mut total) => {
            total.make_unique()?;
            total
        }
        None => Tensor::uninitialised(matrix.device(), "factor_gradient", Shape::new(shape)?, DType::F32)?,
    };
    let params = Params {
        rows: rows as u32,
        columns: columns as u32,
        padded_rank: rank as u32,
        rank: shape[usize::from(!product.transposed)] as u32,
        first_offset: first.layout.offset as u32,
        second_offset: second.layout.offset as u32,
        alpha: *alpha,
        accumulate: u32::from(accumulate),
    };
    let source = || config.wgsl();
    Dispatch::new(config.name(), "main", Source::HalvedContainers(&source))
        .read_tiles(matrix, Tiles::Left(columns))
        .read_tiles(thin, Tiles::Right(rank))
        .write(&out)
        .read(first)
        .read(second)
        .read(scale)
        .params(&params)
        .run(gpu, [(columns / EXTENT) as u32, (rank / EXTENT) as u32, 1])?;
    Ok(out)
}

/// Compares the kernel with the CPU's product, of numbers so short that every sum is exact in f32.
pub(super) fn find_fault(gpu: &Gpu, config: Config, device: &Device) -> Result<Option<String>> {
    // More shares than subgroups, and not a multiple of them.
    let (short, long, rank) = (3 * EXTENT, 19 * SHARE, 2 * EXTENT);
    match config {
        Config::Projection { transposed } => {
            let (wide, expected_wide) = operand(device, [short, long], true, 3)?;
            let (thin, expected_thin) = operand(device, [long, rank], !transposed, 5)?;
            let kept = if transposed { thin.t()? } else { thin };
            let Projected { values, in_tiles } = launch_projection(gpu, config, &wide, &kept, 0.5)?;
            let found = values.cast(DType::F32)?;
            let exact = expected_wide.matmul_scaled(&expected_thin, 0.5)?.to_vec::<f32>()?;
            let seen = found.to_vec::<f32>()?;
            // A sum that is no number of f16 may be rounded either way.
            let expected = exact.into_iter().zip(seen).map(|(want, found)| {
                let is_exact = f16::from_f32(want).to_f32() == want;
                let is_near = (found - want).abs() < want.abs() * 2f32.powi(-10);
                if is_exact || !is_near { want } else { found }
            });
            let expected: Vec<f32> = expected.collect();
            for found in [Some(values), in_tiles].into_iter().flatten() {
                if let Some(fault) = first_difference(&found.cast(DType::F32)?, &expected)? {
                    return Ok(Some(fault));
                }
            }
            Ok(None)
        }
        Config::Gradient { transposed } => {
            let (matrix, expected_matrix) = operand(device, [long, short], true, 3)?;
            let (thin, expected_thin) = operand(device, [long, rank], true, 5)?;
            // Of many magnitudes, for differences between subgroups.
            let exponent = |row: usize, step: i32| row as i32 % 3 + step * (2 * row / long) as i32;
            let scales = [-3, 2].map(|step| (0..long).map(|row| 2f32.powi(exponent(row, step))).collect::<Vec<f32>>());
            let weights: Vec<f32> = scales[0].iter().zip(&scales[1]).map(|(first, second)| first * second).collect();
            let weights = Tensor::from_slice(&Device::cpu(), &[long, 1], &weights)?;
            let shown = rank - 3;
            let weighted = expected_thin.cast(DType::F32)?.mul(&weights)?.slice(1, 0, shown)?;
            let mut expected = expected_matrix.cast(DType::F32)?.t()?.matmul(&weighted)?;
            let mut shape = [short, shown];
            if transposed {
                (expected, shape) = (expected.t()?.contiguous()?, [shown, short]);
            }
            let first = Tensor::from_slice(device, &[long], &scales[0])?;
            let second = Tensor::from_slice(device, &[long], &scales[1])?;
            let (wide, scale) = (matrix.t()?, Tensor::from_slice(device, &[1], &[0.5f32])?);
            let row_scales = [&first, &second];
            let product =
                ThinProduct { wide: &wide, thin: &thin, thin_in_tiles: None, row_scales: Some(row_scales), transposed };
            let gradient = ThinGradient { product, shape, scale: &scale, alpha: 2.0 };
            for total in [None, Some(Tensor::ones(device, &shape, DType::F32)?)] {
                let before = if total.is_some() { 1.0 } else { 0.0 };
                let found = launch_gradient(gpu, config, [&matrix, &thin], &gradient, row_scales, total)?;
                let expected: Vec<f32> = expected.to_vec::<f32>()?.into_iter().map(|sum| sum + before).collect();
                if let Some(fault) = first_difference(&found, &expected)? {
                    return Ok(Some(fault));
                }
            }
            Ok(None)
        }
    }
}
