//! Measures which of several kernels for the same result is the fastest, once for each product; see [`Tuning`].
//!
//! Off unless asked for: the choice depends on time then, and with it the order of sums.

use std::fmt::Display;
use std::time::{Duration, Instant};

use super::{Gpu, lock};
use crate::error::Result;
use crate::tuning::Tuning;

/// A measurement takes about this long, so that starting and waiting does not count.
const ROUND: Duration = Duration::from_millis(3);

/// Launches in a measurement at the most, and measurements, of which the shortest counts.
const MAX_LAUNCHES: u32 = 100;
const ROUNDS: usize = 3;

/// Another candidate than the first must take at most this much of its time: what is nearer may be chance.
const CLEARLY_LESS: f64 = 0.97;

impl Gpu {
    /// Measures from now on, except for what the table has.
    pub fn tune(&self, table: Tuning) {
        *lock(&self.tuning) = Some(table);
    }

    /// The table as it stands, if this device measures.
    pub fn tuning(&self) -> Option<Tuning> {
        lock(&self.tuning).clone()
    }

    /// Whether this device measures.
    pub fn is_tuned(&self) -> bool {
        lock(&self.tuning).is_some()
    }

    /// The candidate that the table names for a product, or the fastest. `launch` records one, and says whether the device can
    /// use it at all. The first candidate is what is used otherwise.
    pub fn fastest<C: Display + Copy>(
        &self,
        product: String,
        candidates: &[C],
        launch: impl Fn(C) -> Result<bool>,
    ) -> Result<C> {
        let known = lock(&self.tuning).as_ref().and_then(|table| table.choice(&product).map(str::to_string));
        // A table of an earlier version may name what is no candidate any more.
        let known = known.and_then(|known| candidates.iter().find(|candidate| candidate.to_string() == known));
        if let Some(&known) = known {
            return Ok(known);
        }
        let (mut best, mut shortest) = (candidates[0], f64::INFINITY);
        for (index, &candidate) in candidates.iter().enumerate() {
            if let Some(time) = self.seconds(&|| launch(candidate))?
                && time < shortest
            {
                best = candidate;
                shortest = if index == 0 { time * CLEARLY_LESS } else { time };
            }
        }
        if let Some(table) = lock(&self.tuning).as_mut() {
            table.choose(product, best.to_string());
        }
        Ok(best)
    }

    /// Seconds of a launch; `None` where the device cannot use the kernel.
    fn seconds(&self, launch: &dyn Fn() -> Result<bool>) -> Result<Option<f64>> {
        // The first launch builds the kernel.
        if !launch()? {
            return Ok(None);
        }
        let time = |launches: u32| {
            self.synchronize()?;
            let started = Instant::now();
            for _ in 0..launches {
                launch()?;
            }
            self.synchronize()?;
            Ok(started.elapsed().as_secs_f64() / f64::from(launches))
        };
        let launches = (ROUND.as_secs_f64() / time(1)?).clamp(1.0, f64::from(MAX_LAUNCHES)) as u32;
        let times: Result<Vec<f64>> = (0..ROUNDS).map(|_| time(launches)).collect();
        Ok(times?.into_iter().min_by(f64::total_cmp))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::device::Backend;
    use crate::testing::open_gpu;
    use crate::{DType, Device, Tensor};

    /// Candidates that launch as many kernels as their number says, none of which can be used if it is 0.
    fn choose(device: &Device, candidates: &[usize], launched: &RefCell<Vec<usize>>) -> usize {
        let Backend::Gpu(gpu) = device.backend() else { panic!("a GPU") };
        let x = Tensor::ones(device, &[1 << 16], DType::F32).unwrap();
        let launch = |times: usize| {
            launched.borrow_mut().push(times);
            for _ in 0..times {
                x.exp()?;
            }
            Ok(times > 0)
        };
        gpu.fastest("a product".into(), candidates, launch).unwrap()
    }

    #[test]
    #[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
    fn the_fastest_is_found_once_and_kept_wgsl() {
        let device = open_gpu();
        let launched = RefCell::default();
        device.tune(Tuning::new(device.adapter().unwrap())).unwrap();
        assert_eq!(choose(&device, &[40, 0, 1, 20], &launched), 1);
        assert!(launched.borrow().len() > 4 * ROUNDS);
        launched.borrow_mut().clear();
        assert_eq!(choose(&device, &[40, 0, 1, 20], &launched), 1);
        let kept = device.tuning().unwrap();
        assert_eq!((kept.len(), kept.choice("a product")), (1, Some("1")));
        device.tune(kept).unwrap();
        assert_eq!(choose(&device, &[30, 1], &launched), 1);
        assert!(launched.borrow().is_empty());
        // What the table names is no candidate.
        assert_eq!(choose(&device, &[2, 60], &launched), 2);
        assert_eq!(device.tuning().unwrap().choice("a product"), Some("2"));
    }
}
