//! The test of the kernels on the device before their first use, for the reason that `matmul/cooperative/self_test.rs` gives.

use super::generator::ROWS;
use super::gpu::Launch;
use super::{MixedAttention, Surroundings};
use crate::device::Device;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::ops::attention::AttentionConfig;
use crate::shape::Shape;
use crate::tensor::Tensor;

/// `[batch, heads, kv_heads]`: shared key heads.
const EXTENTS: [usize; 3] = [2, 4, 2];

/// Several tiles, the last ones partly empty.
const SEQUENCE: usize = 150;

/// As many rows as whole tiles have, an odd number of them, and not as many as whole workgroups take.
pub(super) const WHOLE_TILES: usize = 144;

/// Admitted difference, of the largest element: what rounding factors to 11 bits makes of sums of many.
const TOLERANCE: f32 = 3e-3;

/// Whether these kernels for heads of this length may be used on this device: what their test said, which runs at the first call.
pub(super) fn passes(gpu: &Gpu, kernels: Kernels, head_dim: usize, device: &Device) -> Result<bool> {
    let name = match kernels {
        Kernels::InWorkgroupMemory => format!("mixed_attention_{head_dim}"),
        Kernels::Direct { masked, output_in_tiles } => {
            let flag = |wanted: bool, name: &'static str| if wanted { name } else { "" };
            format!("direct_attention_{head_dim}{}{}", flag(masked, "_masked"), flag(output_in_tiles, "_tiles"))
        }
    };
    let fault = gpu.cooperative.fault(&name, || find_fault(gpu, kernels, head_dim, device))?;
    if let Some(fault) = &fault {
        match kernels {
            Kernels::InWorkgroupMemory => gpu.cooperative.turn_off(&gpu.summary.name, fault),
            Kernels::Direct { .. } => gpu.cooperative.turn_off_direct(&gpu.summary.name, fault),
        }
    }
    Ok(fault.is_none())
}

/// What is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernels {
    /// Those of [`super::generator`], which handle masks and their absence alike.
    InWorkgroupMemory,
    /// Those of [`super::direct`].
    Direct { masked: bool, output_in_tiles: bool },
}

/// Compares the kernels with the CPU's attention.
pub(super) fn find_fault(gpu: &Gpu, kernels: Kernels, head_dim: usize, device: &Device) -> Result<Option<String>> {
    let (direct, masked, output_in_tiles) = match kernels {
        Kernels::InWorkgroupMemory => (false, true, false),
        Kernels::Direct { masked, output_in_tiles } => (true, masked, output_in_tiles),
    };
    let sequence = match (direct, output_in_tiles) {
        (false, _) => SEQUENCE,
        (true, false) => WHOLE_TILES,
        (true, true) => 2 * ROWS,
    };
    let problem = |device: &Device| {
        let (mut surroundings, operands) = problem(sequence, head_dim, device)?;
        if !masked {
            surroundings.key_mask = None;
        }
        Result::Ok((surroundings, operands))
    };
    let (want, [q, k, v, upstream]) = problem(&Device::cpu())?;
    let want = results(&MixedAttention::composed(want, [&q, &k, &v])?, |saved| saved.composed_backward(&upstream))?;
    let (surroundings, [q, k, v, upstream]) = problem(device)?;
    let launch = Launch { gpu, surroundings: &surroundings, direct, output_in_tiles };
    let got = MixedAttention::on_tensor_cores(&launch, [&q, &k, &v])?;
    let got = results(&got, |saved| saved.backward_on_tensor_cores(&launch, &upstream))?;
    for (name, (got, want)) in ["output", "log_sum_exp", "dq", "dk", "dv"].into_iter().zip(got.iter().zip(&want)) {
        let largest = want.iter().filter(|x| x.is_finite()).fold(0.0f32, |largest, x| largest.max(x.abs()));
        let near = |got: f32, want: f32| got == want || (got - want).abs() <= TOLERANCE * largest;
        if let Some(i) = got.iter().zip(want).position(|(&got, &want)| !near(got, want)) {
            return Ok(Some(format!("{name}[{i}]: {} instead of {}, {largest} at most", got[i], want[i])));
        }
    }
    Ok(None)
}

fn results(
    forward: &MixedAttention,
    backward: impl FnOnce(&MixedAttention) -> Result<[Tensor; 3]>,
) -> Result<[Vec<f32>; 5]> {
    let [dq, dk, dv] = backward(forward)?;
    let read = |tensor: &Tensor| tensor.to_vec::<f32>();
    Ok([read(&forward.output.restored()?)?, read(&forward.log_sum_exp)?, read(&dq)?, read(&dk)?, read(&dv)?])
}

/// Rows of different magnitudes, under a mask that hides some keys, and all from the second sequence's first queries.
pub(super) fn problem(sequence: usize, head_dim: usize, device: &Device) -> Result<(Surroundings, [Tensor; 4])> {
    let [batch, heads, kv_heads] = EXTENTS;
    let noise = |count: usize, seed: u32| {
        (0..count as u32)
            .map(move |i| (i.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0)
    };
    let operand = |heads: usize, seed: u32, factors: [f32; 3]| {
        let row = heads * head_dim;
        let values = noise(batch * sequence * row, seed).enumerate().map(|(i, x)| x * factors[i / row % 3]).collect();
        Tensor::from_vec(device, &[batch, sequence, heads, head_dim], values)
    };
    let angles: Vec<f32> = noise(sequence * head_dim / 2, 5).map(|x| 3.0 * x).collect();
    let table = |function: fn(f32) -> f32| {
        Tensor::from_vec(device, &[sequence, head_dim / 2], angles.iter().map(|&x| function(x)).collect())
    };
    let mask = (0..batch * sequence).map(|i| u32::from(i % 7 != 3 && !(sequence..sequence + 5).contains(&i))).collect();
    let surroundings = Surroundings {
        cosines: table(f32::cos)?,
        sines: table(f32::sin)?,
        key_mask: Some(Tensor::from_vec::<u32>(device, &[batch, sequence], mask)?),
        config: AttentionConfig { causal: true, scale: 2.0 / (head_dim as f32).sqrt(), query_offset: 0 },
        q_shape: Shape::new(&[batch, sequence, heads, head_dim])?,
        k_shape: Shape::new(&[batch, sequence, kv_heads, head_dim])?,
    };
    let upstream = operand(heads, 4242, [1.0, 1e-4, 3e-2])?.reshape(&[batch, sequence, heads * head_dim])?;
    let [q, k] = [operand(heads, 1, [3.0, 1.0, 0.1])?, operand(kv_heads, 77, [0.2, 2.0, 1.0])?];
    Ok((surroundings, [q, k, operand(kv_heads, 991, [500.0, 1.0, 20.0])?, upstream]))
}
