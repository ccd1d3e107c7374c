//! The test of a kernel on the device before its first use. Cooperative matrices are new: some drivers return wrong
//! tiles, or none. A wrong result turns them off for the device, with a warning, and ordinary kernels take over.

use super::batched::BatchLayout;
use super::generator::{CONTAINER, Config, DEPTH, Kind, THIN, TILE};
use super::thin::SLOTS;
use super::{BatchedProduct, LowRankUpdate, Update, launch, low_rank};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::f16;
use crate::gpu::Gpu;
use crate::ops::matmul::Product;
use crate::tensor::Tensor;

/// The kernel, or the one without containers in its place, if it may be used on this device: what its test said, which runs
/// at the first call.
pub(super) fn usable(gpu: &Gpu, config: Config, device: &Device) -> Result<Option<Config>> {
    match gpu.cooperative.fault(&config.name(), || find_fault(gpu, config, device))? {
        None => Ok(Some(config)),
        Some(fault) if config.containers => {
            gpu.cooperative.turn_off_containers(&gpu.summary.name, &fault);
            usable(gpu, config.without_containers(), device)
        }
        Some(fault) => {
            gpu.cooperative.turn_off(&gpu.summary.name, &fault);
            Ok(None)
        }
    }
}

/// Compares the kernel with the CPU's product, of numbers so short that every sum is exact in f32.
pub(super) fn find_fault(gpu: &Gpu, config: Config, device: &Device) -> Result<Option<String>> {
    for parts in [1, 2] {
        let fault = match config.kind {
            Kind::Square { row_scaled, low_rank, biased, .. } => {
                square(gpu, config, device, parts, if low_rank { 2 } else { 0 }, [row_scaled, biased])?
            }
            Kind::Large { split, .. } if split != (parts > 1) => continue,
            Kind::Large { row_scaled, low_rank_slabs, biased, .. } => {
                square(gpu, config, device, parts, low_rank_slabs, [row_scaled, biased])?
            }
            Kind::Thin { .. } => thin(gpu, config, device, parts)?,
            Kind::Batched { scales, halves, .. } => batched(gpu, config, device, scales, halves)?,
        };
        if fault.is_some() {
            return Ok(fault);
        }
    }
    Ok(None)
}

fn square(
    gpu: &Gpu,
    config: Config,
    device: &Device,
    parts: usize,
    low_rank_slabs: usize,
    [row_scaled, biased]: [bool; 2],
) -> Result<Option<String>> {
    // Several tiles each way, several turns of the loop in each part.
    let (rows, columns) = (config.tile_rows(), config.tile_columns());
    let (m, n) = if config.whole_tiles { (2 * rows, 2 * columns) } else { (TILE + 72, columns + 8) };
    let (k, rank, low_rank) = (6 * config.step(), low_rank_slabs * DEPTH, low_rank_slabs > 0);
    let (a, expected_a) = operand(device, [m, k], config.a_depth_contiguous, 3)?;
    let (b, expected_b) = operand(device, [k, n], !config.b_depth_contiguous, 5)?;
    let (left, expected_left) = operand(device, [m, rank.max(1)], true, 7)?;
    let (right, expected_right) = operand(device, [rank.max(1), n], !config.b_depth_contiguous, 11)?;
    let scales: Vec<f32> = (0..m).map(|row| if row_scaled { [0.25, 1.0, 8.0][row % 3] } else { 1.0 }).collect();
    let row_scales = Tensor::from_slice(device, &[m], &scales)?;
    let term_scales = [Tensor::from_slice(device, &[1], &[0.5f32])?, Tensor::from_slice(device, &[1], &[4.0f32])?];
    let scales_of_term = term_scales.each_ref();
    let term = LowRankUpdate { left: &left, right: &right, in_tiles: None, scales: scales_of_term, alpha: 0.25 };
    let mut expected = expected_a.matmul(&expected_b)?;
    if low_rank {
        expected = expected.matmul_accumulate(&expected_left, &expected_right, 0.5)?;
    }
    let mut expected = expected.to_vec::<f32>()?;
    let bias: Vec<f32> = (0..n).map(|column| if biased { (column % 7) as f32 } else { 0.0 }).collect();
    let on_device = Tensor::from_slice(device, &[n], &bias)?;
    // A bias is for products that are not multiplied.
    let alpha = if biased { 1.0 } else { 0.5 };
    for (row, scale) in expected.chunks_mut(n).zip(&scales) {
        row.iter_mut().zip(&bias).for_each(|(value, bias)| *value = 1.0 + alpha * scale * *value + bias);
    }
    let update = Update {
        alpha,
        row_scales: row_scaled.then_some(&row_scales),
        accumulate: true,
        low_rank: low_rank.then_some(&term),
        bias: biased.then_some(&on_device),
    };
    let out = Tensor::ones(device, &[m, n], DType::F32)?;
    launch(gpu, config, &Product::new("self-test", &a, &b)?, parts, &out, update)?;
    first_difference(&out, &expected)
}

/// Several products in a launch have operands of their own; with two parts a slot is empty.
fn thin(gpu: &Gpu, config: Config, device: &Device, parts: usize) -> Result<Option<String>> {
    let count = if config.is_several() { SLOTS + 1 - parts } else { 1 };
    let cases: Vec<Thin> = (0..count).map(|slot| Thin::of(config, device, slot)).collect::<Result<_>>()?;
    let products: Vec<_> =
        cases.iter().map(|case| (&case.product, config.is_weighted().then_some(case.scales.each_ref()))).collect();
    let sums = low_rank::launch(gpu, config, &products, parts)?.sum(&[0], false)?;
    let [rows, columns] = [1, 2].map(|axis| sums.shape()[axis]);
    let expected: Vec<f32> = cases.into_iter().flat_map(|case| case.expected).collect();
    first_difference(&sums.reshape(&[count * rows, columns])?, &expected)
}

struct Thin {
    product: Product,
    scales: [Tensor; 2],
    expected: Vec<f32>,
}

impl Thin {
    fn of(config: Config, device: &Device, slot: usize) -> Result<Self> {
        let weighted = config.is_weighted();
        let (m, n) = if config.whole_tiles { (2 * TILE, 2 * THIN) } else { (TILE + 72, 2 * THIN) };
        let k = 6 * config.step() - if weighted { 5 } else { 0 };
        // Each begins elsewhere in its buffer.
        let (begin, margin) = (CONTAINER * slot, CONTAINER * SLOTS);
        let part = |(here, there): (Tensor, Tensor), axis: usize, extent: usize| -> Result<_> {
            Ok((here.slice(axis, begin, begin + extent)?, there.slice(axis, begin, begin + extent)?))
        };
        let (a, expected_a) = part(operand(device, [m + margin, k], config.a_depth_contiguous, 3 + slot)?, 0, m)?;
        let (b, expected_b) = part(operand(device, [k, n + margin], !config.b_depth_contiguous, 5 + slot)?, 1, n)?;
        // Of many magnitudes, for differences between parts.
        let exponent = |row: usize, step: i32| (row + slot) as i32 % 3 + step * (2 * row / k) as i32;
        let scale = |row: usize, step: i32| if weighted { 2f32.powi(exponent(row, step)) } else { 1.0 };
        let scales = [-3, 2].map(|step| (0..k).map(|row| scale(row, step)).collect::<Vec<f32>>());
        let weights: Vec<f32> = scales[0].iter().zip(&scales[1]).map(|(first, second)| first * second).collect();
        let expected_b = expected_b.cast(DType::F32)?.mul(&Tensor::from_slice(&Device::cpu(), &[k, 1], &weights)?)?;
        let expected = expected_a.cast(DType::F32)?.matmul(&expected_b)?;
        let expected = if config.is_transposed() { expected.t()?.contiguous()? } else { expected };
        let stored = |scales: &[f32]| -> Result<Tensor> {
            let scales = [&vec![0.5; slot][..], scales].concat();
            Tensor::from_slice(device, &[slot + k], &scales)?.slice(0, slot, slot + k)
        };
        let scales = [stored(&scales[0])?, stored(&scales[1])?];
        Ok(Thin { product: Product::new("self-test", &a, &b)?, scales, expected: expected.to_vec()? })
    }
}

/// Six products: the right operand is shared by three, as are the scales in another way, and results are stored out of order.
fn batched(gpu: &Gpu, config: Config, device: &Device, scales: usize, halves: bool) -> Result<Option<String>> {
    let columns = config.tile_columns();
    let (m, n, k) = match config.whole_tiles {
        true => (2 * TILE, columns, 2 * DEPTH),
        false => (TILE + 72, TILE + columns - 24, 2 * DEPTH),
    };
    let (a, expected_a) = operands(device, [2, 3], [m, k], config.a_depth_contiguous, 3)?;
    let (b, expected_b) = operands(device, [2, 1], [k, n], !config.b_depth_contiguous, 5)?;
    let product = |device: &Device, a: &Tensor, b: &Tensor, then: &dyn Fn(&BatchedProduct<'_>) -> Result<Tensor>| {
        let first = Tensor::from_slice(device, &[2, 3], &[0.5f32, 1.0, 2.0, 4.0, 0.25, 1.0])?;
        let second = Tensor::from_slice(device, &[3], &[2.0f32, 0.25, 1.0])?;
        then(&BatchedProduct { a, b, alpha: 0.5, scales: &[&first, &second][..scales] })
    };
    let order = if halves { [0, 1, 2, 3] } else { [0, 2, 1, 3] };
    let stored = order.map(|axis| [2, 3, m, n][axis]);
    let found = product(device, &a, &b, &|product| {
        let out = match halves {
            true => Tensor::zeros(device, &stored, DType::F16)?,
            false => Tensor::ones(device, &stored, DType::F32)?,
        };
        // The order is its own inverse.
        let view = out.permute(&order)?;
        product.launch(gpu, config, &BatchLayout::of(product, &view)?, &view, !halves)?;
        out.cast(DType::F32)
    })?;
    let cpu = &Device::cpu();
    let expected = product(cpu, &expected_a, &expected_b, &|product| match halves {
        true => product.rounded()?.cast(DType::F32),
        false => product.sums(&order, Some(Tensor::ones(cpu, &stored, DType::F32)?)),
    })?;
    let rows = stored[..3].iter().product();
    first_difference(&found.reshape(&[rows, n])?, &expected.to_vec::<f32>()?)
}

/// As [`operand`], a matrix for each of `batch`.
fn operands(
    device: &Device,
    batch: [usize; 2],
    [rows, columns]: [usize; 2],
    row_major: bool,
    seed: usize,
) -> Result<(Tensor, Tensor)> {
    let [lines, length] = if row_major { [rows, columns] } else { [columns, rows] };
    let (here, there) = operand(device, [batch[0] * batch[1] * lines, length], true, seed)?;
    let shaped = |matrices: Tensor| -> Result<Tensor> {
        let matrices = matrices.reshape(&[batch[0], batch[1], lines, length])?;
        if row_major { Ok(matrices) } else { matrices.t() }
    };
    Ok((shaped(here)?, shaped(there)?))
}

pub(super) fn first_difference(found: &Tensor, expected: &[f32]) -> Result<Option<String>> {
    let columns = found.shape()[1];
    let difference = found.to_vec::<f32>()?.into_iter().zip(expected).enumerate().find(|(_, (x, want))| x != *want);
    Ok(difference.map(|(i, (x, want))| {
        format!("{}, row {}, column {}: {x} instead of {want}", found.shape(), i / columns, i % columns)
    }))
}

/// A matrix of multiples of 1/8 between -1 and 1, on the device and on the CPU.
pub(super) fn operand(
    device: &Device,
    [rows, columns]: [usize; 2],
    row_major: bool,
    seed: usize,
) -> Result<(Tensor, Tensor)> {
    let eighth = |i: usize| f16::from_f32(((i * 37 + i / 61 * seed) % 17) as f32 / 8.0 - 1.0);
    let values: Vec<f16> = (0..rows * columns).map(eighth).collect();
    let on = |device: &Device| match row_major {
        true => Tensor::from_slice(device, &[rows, columns], &values),
        false => Tensor::from_slice(device, &[columns, rows], &values)?.t(),
    };
    Ok((on(device)?, on(&Device::cpu())?))
}
