//! GPU buffers and the pool they return to.
//!
//! Buffers are handed out lowest id first within a size class, so a program that repeats itself gets the same buffers
//! for the same operations every time round, and the bind groups made for them stay valid. A buffer may be handed out
//! again while commands that use it are still waiting: the queue runs them in order.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::tiles::Order;
use super::{Gpu, lock};
use crate::error::{Result, TensorError};

/// A wgpu buffer with an identity that is never used again.
pub(crate) struct GpuBuffer {
    pub raw: wgpu::Buffer,
    pub id: u64,
    /// Serial number of the last batch of commands that uses it; see `Stream::batch`.
    pub last_batch: AtomicU64,
}

/// The memory behind tensors: a buffer that returns to the pool when the last tensor goes.
pub(crate) struct GpuStorage {
    // Always `Some` until `drop`.
    buffer: Option<GpuBuffer>,
    bytes: u64,
    pub(super) order: Order,
    gpu: Arc<Gpu>,
}

impl GpuStorage {
    pub fn buffer(&self) -> &GpuBuffer {
        // Proof: only `drop` takes the buffer out.
        self.buffer.as_ref().expect("a live storage has its buffer")
    }

    /// Bytes that were asked for; the buffer may have more.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }
}

impl Drop for GpuStorage {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.gpu.counters.freed(buffer.raw.size());
            self.gpu.counters.pooled_bytes.fetch_add(buffer.raw.size(), Relaxed);
            let mut pool = lock(&self.gpu.memory);
            pool.free.entry(buffer.raw.size()).or_default().insert(buffer.id, buffer);
        }
    }
}

/// Free buffers by size, each class ordered by id.
#[derive(Default)]
pub(super) struct Pool {
    free: HashMap<u64, BTreeMap<u64, GpuBuffer>>,
    next_id: u64,
}

/// Rounds a size up so that nearly equal sizes share buffers: 256 bytes at least, then four steps per power of two,
/// sixteen from one MiB on, thirty-two from 16 MiB on (at most 3 % waste where memory is dear: LLaMA 7B's matrices of
/// 4096 x 11008 waste nothing).
fn size_class(bytes: u64) -> u64 {
    let bytes = bytes.max(256);
    let steps = match bytes >> 20 {
        0 => 4,
        1..16 => 16,
        _ => 32,
    };
    let granule = (bytes.next_power_of_two() / 2 / steps).max(256);
    bytes.next_multiple_of(granule)
}

impl Gpu {
    /// Memory for an operation's result, from the pool where it has a fitting buffer.
    pub fn allocate(self: &Arc<Self>, operation: &'static str, bytes: u64) -> Result<GpuStorage> {
        let size = size_class(bytes);
        let limit = self.limits.max_storage_buffer_binding_size.min(self.limits.max_buffer_size);
        // A class may round beyond a limit that the bytes themselves keep.
        let size = if size > limit { bytes.next_multiple_of(4) } else { size };
        if size > limit {
            let reason = format!("one tensor may hold at most {limit} bytes on this device");
            return Err(self.out_of_memory(operation, bytes, reason));
        }
        let pooled = lock(&self.memory).take(size);
        let buffer = match pooled {
            Some(buffer) => {
                self.counters.pooled_bytes.fetch_sub(size, Relaxed);
                buffer
            }
            None => match self.create_buffer(size) {
                Ok(buffer) => buffer,
                Err(_) => {
                    // Free what the pool keeps in other sizes, then try once more.
                    self.trim_pool()?;
                    self.create_buffer(size).map_err(|reason| self.out_of_memory(operation, bytes, reason))?
                }
            },
        };
        self.counters.allocated(size);
        Ok(GpuStorage { buffer: Some(buffer), bytes, order: Order::default(), gpu: self.clone() })
    }

    /// Frees the pool's buffers once the GPU is done with them.
    pub fn trim_pool(&self) -> Result<()> {
        self.synchronize()?;
        lock(&self.stream).forget_bind_groups();
        let freed = std::mem::take(&mut lock(&self.memory).free);
        let bytes: u64 = freed.iter().map(|(size, buffers)| size * buffers.len() as u64).sum();
        self.counters.pooled_bytes.fetch_sub(bytes, Relaxed);
        drop(freed);
        // The driver frees memory when it is polled after the last handle has gone.
        let _ = self.device.poll(wgpu::PollType::Poll);
        Ok(())
    }

    fn create_buffer(&self, size: u64) -> Result<GpuBuffer, String> {
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let raw = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        if let Some(error) = pollster::block_on(scope.pop()) {
            return Err(error.to_string());
        }
        self.counters.buffers_created.fetch_add(1, Relaxed);
        let mut pool = lock(&self.memory);
        pool.next_id += 1;
        Ok(GpuBuffer { raw, id: pool.next_id, last_batch: AtomicU64::new(0) })
    }

    fn out_of_memory(&self, operation: &'static str, bytes: u64, reason: String) -> TensorError {
        TensorError::OutOfMemory { operation, bytes, in_use: self.counters.snapshot().bytes_in_use, reason }
    }
}

impl Pool {
    fn take(&mut self, size: u64) -> Option<GpuBuffer> {
        self.free.get_mut(&size)?.pop_first().map(|(_, buffer)| buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::size_class;

    #[test]
    fn size_classes_cover_and_waste_little() {
        for bytes in (1..5000u64).chain([1 << 20, (1 << 20) + 1, (1 << 24) + 1, 123_456_789, 1 << 31]) {
            let class = size_class(bytes);
            assert!(class >= bytes && class.is_multiple_of(256), "{bytes} got {class}");
            assert_eq!(size_class(class), class, "a class is its own class");
            if bytes > 1 << 20 {
                assert!(class as f64 <= bytes as f64 * 1.07, "{bytes} got {class}");
            }
            if bytes > 1 << 24 {
                assert!(class as f64 <= bytes as f64 * 1.04, "{bytes} got {class}");
            }
        }
    }
}
