//! Timing device work: warmed up, repeated, the median reported with the fastest and the slowest sample.

use std::time::Instant;

use tensor::Device;

use crate::failure::Outcome;

/// Seconds that one call takes: the median of several samples and their ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Spread {
    /// Of at least one sample.
    pub fn of(mut samples: Vec<f64>) -> Self {
        let median = median(&mut samples);
        Spread { median, low: samples[0], high: samples[samples.len() - 1] }
    }
}

/// Seconds that one call of `work` takes, from several samples, each long enough to hide the cost of waiting for the device.
/// Calls are not waited for one by one.
pub fn seconds_per_call(
    device: &Device,
    budget_seconds: f64,
    mut work: impl FnMut() -> tensor::Result<()>,
) -> Outcome<Spread> {
    const SAMPLES: usize = 5;
    // The first call builds kernels; the second tells how many calls make a sample.
    for _ in 0..2 {
        work()?;
        device.synchronize()?;
    }
    let started = Instant::now();
    work()?;
    device.synchronize()?;
    let once = started.elapsed().as_secs_f64().max(1e-7);
    let calls = ((budget_seconds / SAMPLES as f64 / once) as usize).clamp(1, 2000);
    let mut samples = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        let started = Instant::now();
        for _ in 0..calls {
            work()?;
        }
        device.synchronize()?;
        samples.push(started.elapsed().as_secs_f64() / calls as f64);
    }
    Ok(Spread::of(samples))
}

/// The middle of the sorted samples; the upper one of two.
pub fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}
