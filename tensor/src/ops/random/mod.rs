//! Tensors of random numbers. Every number is a function of a [`RandomKey`] and of the element's row-major index alone.

mod cpu;
mod gpu;
pub(crate) mod philox;
#[cfg(test)]
mod tests;

use crate::device::{Backend, Device};
use crate::error::{Result, TensorError};
use crate::shape::Shape;
use crate::tensor::Tensor;

/// What a random tensor or a dropout mask depends on, beside each element's row-major index. Two draws are independent
/// when any of the three numbers differs; a draw with the same key repeats its numbers, also through another operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RandomKey {
    /// The run's seed.
    pub seed: u64,
    /// Which of the run's uses of randomness this is, for instance one layer's dropout.
    pub stream: u64,
    /// Which repetition of that use this is, for instance the training step. Steps from 2³² on may repeat earlier ones.
    pub step: u64,
}

impl RandomKey {
    /// A key whose stream is the FNV-1a hash (64 bits) of a name's UTF-8 bytes: offset basis `0xcbf29ce484222325`,
    /// prime `0x100000001b3`. The hash is part of this function's contract, so results stay the same across versions
    /// and platforms.
    pub fn named(seed: u64, name: &str, step: u64) -> Self {
        let stream = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        RandomKey { seed, stream, step }
    }
}

/// What the words become; the host has worked out the numbers.
#[derive(Clone, Copy, Debug)]
enum Distribution {
    /// `min(low + u·width, largest)` for u in [0, 1).
    Uniform { low: f32, width: f32, largest: f32 },
    /// `mean + deviation·z` for a standard normal z.
    Normal { mean: f32, deviation: f32 },
}

impl Tensor {
    /// Independent f32 numbers, uniform in `[low, high)`: `low + u·(high − low)`, where u has 24 random bits.
    /// The same bits on every device (as long as none of the numbers is subnormal). `low = high` gives that number.
    ///
    /// # Errors
    /// [`TensorError::InvalidArgument`] when `low > high` or the range is not finite, or the device's own errors.
    pub fn random_uniform(device: &Device, shape: &[usize], low: f32, high: f32, key: RandomKey) -> Result<Tensor> {
        let width = high - low;
        if !(low <= high && width.is_finite()) {
            return Err(TensorError::InvalidArgument {
                operation: "random_uniform",
                message: format!("[{low}, {high}) is not a range of finite width"),
            });
        }
        // The sum may round up to `high`, which the range excludes.
        let largest = high.next_down().max(low);
        random(device, "random_uniform", shape, Distribution::Uniform { low, width, largest }, key)
    }

    /// Independent f32 numbers from the normal distribution with the given mean and standard deviation, by the
    /// transform of Box and Muller from 24-bit uniform numbers, so at most 5.8 deviations from the mean. Devices agree
    /// to a few units in the last place.
    ///
    /// # Errors
    /// [`TensorError::InvalidArgument`] for a negative deviation or numbers that are not finite, or the device's own
    /// errors.
    pub fn random_normal(
        device: &Device,
        shape: &[usize],
        mean: f32,
        deviation: f32,
        key: RandomKey,
    ) -> Result<Tensor> {
        if !(mean.is_finite() && deviation.is_finite() && deviation >= 0.0) {
            return Err(TensorError::InvalidArgument {
                operation: "random_normal",
                message: format!("mean {mean} and standard deviation {deviation} do not describe a distribution"),
            });
        }
        random(device, "random_normal", shape, Distribution::Normal { mean, deviation }, key)
    }
}

/// Checks that every element has a 32-bit index, as the counter and the kernels need.
pub(crate) fn check_count(operation: &'static str, shape: &Shape) -> Result<()> {
    if u32::try_from(shape.elements()).is_ok() {
        return Ok(());
    }
    Err(TensorError::Shape { operation, expected: "fewer than 2^32 elements".into(), found: *shape })
}

fn random(
    device: &Device,
    name: &'static str,
    shape: &[usize],
    distribution: Distribution,
    key: RandomKey,
) -> Result<Tensor> {
    let shape = Shape::new(shape)?;
    check_count(name, &shape)?;
    match device.backend() {
        Backend::Cpu => Ok(cpu::random(shape, distribution, key)),
        Backend::Gpu(gpu) => gpu::random(gpu, device, name, shape, distribution, key),
    }
}
