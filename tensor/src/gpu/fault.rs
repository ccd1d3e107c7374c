//! Errors that a device raises on its own time, kept until the next call can return them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::lock;
use crate::error::{Result, TensorError};

/// The first error that arrived and was not returned yet; a lost device stays lost.
#[derive(Default)]
pub(super) struct Faults {
    raised: AtomicBool,
    first: Mutex<Option<TensorError>>,
    last_kernel: Mutex<String>,
}

impl Faults {
    /// Catches a device's uncaptured errors and its loss.
    pub fn attach(device: &wgpu::Device) -> Arc<Self> {
        let faults = Arc::new(Faults::default());
        let sink = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            let operation = format!("recording near `{}`", lock(&sink.last_kernel));
            sink.raise(match error {
                wgpu::Error::OutOfMemory { source } => {
                    TensorError::Gpu { operation, message: format!("out of memory: {source}") }
                }
                other => TensorError::Gpu { operation, message: other.to_string() },
            });
        }));
        let sink = faults.clone();
        device.set_device_lost_callback(move |reason, message| {
            if !matches!(reason, wgpu::DeviceLostReason::Destroyed) {
                sink.raise(TensorError::DeviceLost { reason: message });
            }
        });
        faults
    }

    /// Remembers which kernel was recorded last, for messages.
    pub fn note_kernel(&self, name: &str) {
        let mut last = lock(&self.last_kernel);
        last.clear();
        last.push_str(name);
    }

    /// Returns the pending error, if any. Device loss is returned every time.
    pub fn check(&self) -> Result<()> {
        if !self.raised.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut first = lock(&self.first);
        match &*first {
            Some(TensorError::DeviceLost { .. }) => Err(first.clone().expect("matched as present")),
            Some(_) => {
                self.raised.store(false, Ordering::Release);
                Err(first.take().expect("matched as present"))
            }
            None => Ok(()),
        }
    }

    fn raise(&self, error: TensorError) {
        let mut first = lock(&self.first);
        if first.is_none() || matches!(error, TensorError::DeviceLost { .. }) {
            *first = Some(error);
        }
        self.raised.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Dispatch, Gpu, Source};
    use super::*;
    use crate::device::Backend;
    use crate::testing::{gpu, open_gpu};
    use crate::{DType, Device, Tensor};

    fn backend(device: &Device) -> &Arc<Gpu> {
        let Backend::Gpu(gpu) = device.backend() else { panic!("a GPU") };
        gpu
    }

    #[test]
    #[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
    fn a_command_that_is_not_valid_is_an_error_with_its_kernel_wgsl() {
        const KERNEL: &str = "@group(0) @binding(0) var<storage, read_write> x: array<f32>;\n\
                              @compute @workgroup_size(1) fn main() { x[0] = 1.0; }";
        let device = open_gpu();
        let out = Tensor::zeros(&device, &[4], DType::F32).unwrap();
        let most = backend(&device).limits.max_compute_workgroups_per_dimension;
        let dispatch = Dispatch::new("too_many_groups", "main", Source::Wgsl(KERNEL)).write(&out);
        let recorded = dispatch.run(backend(&device), [most + 1, 1, 1]);
        let error = recorded.and_then(|()| device.synchronize()).unwrap_err();
        assert!(
            matches!(&error, TensorError::Gpu { operation, .. } if operation.contains("too_many_groups")),
            "{error}"
        );
        let sound = Tensor::full(&device, &[4], DType::F32, 2.5).unwrap();
        assert_eq!(sound.to_vec::<f32>().unwrap(), [2.5; 4], "the device goes on");
    }

    #[test]
    #[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
    fn a_lost_device_stays_lost_and_says_what_to_do_wgsl() {
        let device = open_gpu();
        let x = Tensor::ones(&device, &[4], DType::F32).unwrap();
        backend(&device).faults.raise(TensorError::DeviceLost { reason: "the cable was pulled".into() });
        for _ in 0..2 {
            let error = x.neg().and_then(|y| y.to_vec::<f32>()).unwrap_err();
            assert!(matches!(error, TensorError::DeviceLost { .. }), "{error}");
            assert!(error.to_string().contains("resume from the last checkpoint"), "{error}");
        }
        assert!(Tensor::ones(gpu(), &[4], DType::F32).unwrap().to_vec::<f32>().is_ok(), "others are not concerned");
    }

    #[test]
    fn the_first_error_is_told_and_a_loss_replaces_it() {
        let faults = Faults::default();
        let error = |operation: &str| TensorError::Gpu { operation: operation.into(), message: "refused".into() };
        faults.check().unwrap();
        faults.raise(error("first"));
        faults.raise(error("second"));
        assert!(faults.check().unwrap_err().to_string().contains("first"));
        faults.check().unwrap();
        faults.raise(error("third"));
        faults.raise(TensorError::DeviceLost { reason: "gone".into() });
        for _ in 0..2 {
            assert!(matches!(faults.check(), Err(TensorError::DeviceLost { .. })));
        }
    }
}
