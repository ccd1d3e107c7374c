//! The test of a kernel on the device before its first use. Cooperative matrices are new: some drivers return wrong
//! tiles, or none. A wrong result turns them off for the device, with a warning, and ordinary kernels take over.

use super::generator::{Config, DEPTH, TILE};
use super::{Update, launch};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Result, TensorError};
use crate::f16;
use crate::gpu::Gpu;
use crate::ops::matmul::Product;
use crate::tensor::Tensor;

/// Whether the kernel may be used on this device: what its test said, which runs at the first call.
pub(super) fn passes(gpu: &Gpu, config: Config, device: &Device) -> Result<bool> {
    let name = config.name();
    if gpu.cooperative.has_passed(&name) {
        return Ok(true);
    }
    let fault = match find_fault(gpu, config, device) {
        Ok(fault) => fault,
        // Then the device is gone for every kernel, not only for this one.
        Err(error @ TensorError::DeviceLost { .. }) => return Err(error),
        Err(error) => Some(error.to_string()),
    };
    if let Some(fault) = &fault {
        gpu.cooperative.turn_off(&gpu.summary.name, &format!("{name}: {fault}"));
    } else {
        gpu.cooperative.pass(name);
    }
    Ok(fault.is_none())
}

/// Compares the kernel with the CPU's product, of numbers so short that every sum is exact in f32.
pub(super) fn find_fault(gpu: &Gpu, config: Config, device: &Device) -> Result<Option<String>> {
    // Several tiles each way.
    let (m, n) = if config.whole_tiles { (2 * TILE, TILE) } else { (TILE + 72, TILE + 4) };
    let k = 4 * DEPTH;
    let operands = |device: &Device| -> Result<[Tensor; 2]> {
        Ok([
            operand(device, [m, k], config.a_depth_contiguous, 3)?,
            operand(device, [k, n], !config.b_depth_contiguous, 5)?,
        ])
    };
    let [a, b] = operands(&Device::cpu())?;
    let expected = a.matmul(&b)?.to_vec::<f32>()?;
    let [a, b] = operands(device)?;
    let product = Product::new("self-test", &a, &b)?;
    let scales: Vec<f32> = (0..m).map(|row| [0.25, 1.0, 8.0][row % 3]).collect();
    let row_scales = Tensor::from_slice(device, &[m], &scales)?;
    let row_scales = config.row_scaled.then_some(&row_scales);
    for parts in [1, 2] {
        let out = Tensor::ones(device, &[m, n], DType::F32)?;
        launch(gpu, config, &product, parts, &out, Update { alpha: 0.5, row_scales, accumulate: true })?;
        for (index, (value, product)) in out.to_vec::<f32>()?.into_iter().zip(&expected).enumerate() {
            let scale = if config.row_scaled { scales[index / n] } else { 1.0 };
            let expected = 1.0 + 0.5 * scale * product;
            if value != expected {
                let place = format!("row {}, column {}", index / n, index % n);
                return Ok(Some(format!("{m} x {n} x {k}, {place}: {value} instead of {expected}")));
            }
        }
    }
    Ok(None)
}

/// A matrix of multiples of 1/8 between -1 and 1.
fn operand(device: &Device, [rows, columns]: [usize; 2], row_major: bool, seed: usize) -> Result<Tensor> {
    let eighth = |i: usize| f16::from_f32(((i * 37 + i / 61 * seed) % 17) as f32 / 8.0 - 1.0);
    let values = (0..rows * columns).map(eighth).collect();
    match row_major {
        true => Tensor::from_vec(device, &[rows, columns], values),
        false => Tensor::from_vec(device, &[columns, rows], values)?.t(),
    }
}
