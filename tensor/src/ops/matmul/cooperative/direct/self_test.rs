//! The test of these kernels on the device before their first use: above all whether matrices hold their elements where the
//! kernels think.

use super::kernel::TILE;
use super::{Config, LowRank, LowRankUpdate, Results, Update, pack, write};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::f16;
use crate::gpu::Gpu;
use crate::ops::matmul::Product;
use crate::ops::matmul::cooperative::generator::DEPTH;
use crate::ops::matmul::cooperative::self_test::{first_difference, operand};
use crate::tensor::Tensor;

/// Compares the kernel with the CPU's product, of numbers so short that every sum is exact in f32.
pub(super) fn find_fault(gpu: &Gpu, config: Config, device: &Device) -> Result<Option<String>> {
    // Several tiles each way, and steps that begin and end a turn of the loop.
    let m = if config.whole_rows { 2 * TILE } else { TILE + 43 };
    let (n, k, rank) = (2 * TILE, 3 * TILE, 2 * DEPTH);
    let by_rows = !config.transposed;
    let (a, expected_a) = operand(device, [m, k], true, 3)?;
    let (b, expected_b) = operand(device, [k, n], by_rows, 5)?;
    let (left, expected_left) = operand(device, [m, rank], true, 7)?;
    let (right, expected_right) = operand(device, [rank, n], by_rows, 11)?;
    let term_scales = [Tensor::from_slice(device, &[1], &[0.5f32])?, Tensor::from_slice(device, &[1], &[4.0f32])?];
    let kept_right = if by_rows { right.clone() } else { right.t()? };
    let in_tiles = (config.low_rank == LowRank::InTiles).then_some([&left, &kept_right]);
    let term = LowRankUpdate { left: &left, right: &right, in_tiles, scales: term_scales.each_ref(), alpha: 0.25 };
    let has_term = config.low_rank != LowRank::Absent;
    let is_scaled = config.results != Results::Halves;
    let scales: Vec<f32> = (0..m).map(|row| if is_scaled { [0.25, 1.0, 8.0][row % 3] } else { 1.0 }).collect();
    let row_scales = Tensor::from_slice(device, &[m], &scales)?;
    let bias: Vec<f32> = (0..n).map(|column| if config.biased { (column % 7) as f32 } else { 0.0 }).collect();
    let on_device = Tensor::from_slice(device, &[n], &bias)?;
    let mut expected = expected_a.matmul(&expected_b)?;
    if has_term {
        expected = expected.matmul_accumulate(&expected_left, &expected_right, 0.5)?;
    }
    let mut expected = expected.to_vec::<f32>()?;
    for (row, scale) in expected.chunks_mut(n).zip(&scales) {
        row.iter_mut().zip(&bias).for_each(|(value, bias)| *value = scale * *value + bias);
    }
    if config.results == Results::Halves {
        return rounded(gpu, config, [&a, &b], has_term.then_some(&term), &expected);
    }
    let product = Product::new("self-test", &a, &b)?;
    let packed = pack(gpu, &product)?;
    let apart = config.results == Results::Apart;
    for accumulate in [false, true] {
        let update = Update {
            alpha: 1.0,
            row_scales: Some(&row_scales),
            accumulate,
            low_rank: has_term.then_some(&term),
            bias: config.biased.then_some(&on_device),
        };
        let out = Tensor::ones(device, &[m, n], DType::F32)?;
        let addend = Tensor::full(device, &[m, n], DType::F32, 3.0)?;
        write(gpu, config, &product, &packed, &out, update, apart.then_some(&addend))?;
        let before = if apart { 3.0 } else { f32::from(u8::from(accumulate)) };
        let expected: Vec<f32> = expected.iter().map(|value| value + before).collect();
        if let Some(fault) = first_difference(&out, &expected)? {
            return Ok(Some(fault));
        }
    }
    Ok(None)
}

/// The same of a kernel that rounds. Most sums are numbers of f16, in which every bit is to be right.
fn rounded(
    gpu: &Gpu,
    config: Config,
    [a, b]: [&Tensor; 2],
    low_rank: Option<&LowRankUpdate<'_>>,
    expected: &[f32],
) -> Result<Option<String>> {
    let product = Product::new("self-test", a, b)?;
    let packed = pack(gpu, &product)?;
    let out = Tensor::ones(a.device(), &product.shape, DType::F16)?;
    let update = Update { low_rank, ..Update::plain(1.0, false) };
    write(gpu, config, &product, &packed, &out, update, None)?;
    let out = out.cast(DType::F32)?;
    let found = out.to_vec::<f32>()?;
    let either_neighbour = |(&want, found): (&f32, f32)| {
        let is_exact = f16::from_f32(want).to_f32() == want;
        let is_near = (found - want).abs() < want.abs() * 2f32.powi(-10);
        if is_exact || !is_near { want } else { found }
    };
    let expected: Vec<f32> = expected.iter().zip(found).map(either_neighbour).collect();
    first_difference(&out, &expected)
}
