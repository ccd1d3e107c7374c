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
