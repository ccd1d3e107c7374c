//! Readable counters of memory and work, one set per device.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A snapshot of a device's counters; see [`crate::Device::counters`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes held by live tensors.
    pub bytes_in_use: u64,
    /// The largest `bytes_in_use` since the device was opened or [`crate::Device::reset_peak`] was called.
    pub peak_bytes: u64,
    /// Bytes kept in the pool for reuse, not held by any tensor.
    pub pooled_bytes: u64,
    /// Buffers created so far (pool misses); constant in a steady state. CPU vectors too small for the pool are not
    /// counted.
    pub buffers_created: u64,
    /// GPU dispatches recorded; 0 on the CPU.
    pub dispatches: u64,
    /// GPU command buffers submitted; 0 on the CPU.
    pub submits: u64,
    /// Times the host waited for the GPU; 0 on the CPU.
    pub host_waits: u64,
    /// GPU bind groups created; constant in a steady state.
    pub bind_groups_created: u64,
    /// GPU pipelines built.
    pub pipelines_built: u64,
}

#[derive(Debug, Default)]
pub(crate) struct CounterCells {
    pub bytes_in_use: AtomicU64,
    pub peak_bytes: AtomicU64,
    pub pooled_bytes: AtomicU64,
    pub buffers_created: AtomicU64,
    pub dispatches: AtomicU64,
    pub submits: AtomicU64,
    pub host_waits: AtomicU64,
    pub bind_groups_created: AtomicU64,
    pub pipelines_built: AtomicU64,
}

impl CounterCells {
    pub fn allocated(&self, bytes: u64) {
        let now = self.bytes_in_use.fetch_add(bytes, Relaxed) + bytes;
        self.peak_bytes.fetch_max(now, Relaxed);
    }

    pub fn freed(&self, bytes: u64) {
        self.bytes_in_use.fetch_sub(bytes, Relaxed);
    }

    pub fn reset_peak(&self) {
        self.peak_bytes.store(self.bytes_in_use.load(Relaxed), Relaxed);
    }

    pub fn snapshot(&self) -> Counters {
        Counters {
            bytes_in_use: self.bytes_in_use.load(Relaxed),
            peak_bytes: self.peak_bytes.load(Relaxed),
            pooled_bytes: self.pooled_bytes.load(Relaxed),
            buffers_created: self.buffers_created.load(Relaxed),
            dispatches: self.dispatches.load(Relaxed),
            submits: self.submits.load(Relaxed),
            host_waits: self.host_waits.load(Relaxed),
            bind_groups_created: self.bind_groups_created.load(Relaxed),
            pipelines_built: self.pipelines_built.load(Relaxed),
        }
    }
}
