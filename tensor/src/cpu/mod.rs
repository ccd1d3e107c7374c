//! The CPU backend's memory: typed vectors and the pool they return to.
//! What lives here: buffers, their reuse, strided iteration. The operations are in `ops/*/cpu.rs`.

pub(crate) mod math;
pub(crate) mod rows;
mod strided;

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, OnceLock};

use half::{bf16, f16};

use crate::counters::CounterCells;
use crate::dtype::{DType, Element};

pub(crate) use strided::{RowWalk, gather_strided};

/// Work below this many elements is done by one thread: handing it to the pool costs more than it saves.
pub(crate) const PARALLEL_THRESHOLD: usize = 1 << 14;

/// Elements one parallel task handles at least. Fixed, never derived from the number of threads, so that
/// results do not depend on how many threads there are.
pub(crate) const CHUNK: usize = 1 << 13;

/// A typed vector of elements.
#[derive(Debug, Clone)]
pub enum CpuBuffer {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
}

impl CpuBuffer {
    pub fn dtype(&self) -> DType {
        match self {
            CpuBuffer::F32(_) => DType::F32,
            CpuBuffer::F16(_) => DType::F16,
            CpuBuffer::Bf16(_) => DType::Bf16,
            CpuBuffer::U32(_) => DType::U32,
            CpuBuffer::I32(_) => DType::I32,
        }
    }

    pub fn len(&self) -> usize {
        match self {
            CpuBuffer::F32(values) => values.len(),
            CpuBuffer::F16(values) => values.len(),
            CpuBuffer::Bf16(values) => values.len(),
            CpuBuffer::U32(values) => values.len(),
            CpuBuffer::I32(values) => values.len(),
        }
    }

    pub fn bytes(&self) -> u64 {
        (self.len() * self.dtype().bytes()) as u64
    }
}

/// Pooled vectors and counters of the one CPU device of the process.
#[derive(Debug, Default)]
pub(crate) struct Cpu {
    free: Mutex<HashMap<(DType, usize), Class>>,
    pub counters: CounterCells,
}

/// The vectors of one type and length.
#[derive(Debug, Default)]
struct Class {
    free: Vec<CpuBuffer>,
    /// Vectors that the pool had to make. No more are kept: others were made elsewhere, and whoever made them makes new ones
    /// the next time round, so that a pool that kept them would grow for ever.
    made: usize,
}

/// Vectors smaller than this go back to the allocator, which is as fast as a pool for them.
const POOLED_FROM_BYTES: u64 = 4096;

/// The pool never holds more than this beside what live tensors use; beyond it vectors are freed.
const POOL_LIMIT_BYTES: u64 = 4 << 30;

/// Bytes that the system could still give this process, as Linux tells; `None` elsewhere.
pub(crate) fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The CPU device of this process.
pub(crate) fn cpu() -> &'static Cpu {
    static CPU: OnceLock<Cpu> = OnceLock::new();
    CPU.get_or_init(Cpu::default)
}

impl Cpu {
    /// A vector of `len` elements with unspecified (but initialised) contents: write every element before reading.
    pub fn scratch<T: Element>(&self, len: usize) -> Vec<T> {
        let bytes = (len * size_of::<T>()) as u64;
        if bytes >= POOLED_FROM_BYTES {
            // A poisoned lock only means another thread panicked between two whole operations on the map.
            let mut free = self.free.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let class = free.entry((T::DTYPE, len)).or_default();
            if let Some(buffer) = class.free.pop() {
                self.counters.pooled_bytes.fetch_sub(bytes, Relaxed);
                if let Some(values) = T::unwrap(buffer) {
                    return values;
                }
            }
            class.made += 1;
            self.counters.buffers_created.fetch_add(1, Relaxed);
        }
        vec![T::zeroed(); len]
    }

    /// Takes back a vector that no tensor uses any more.
    pub fn recycle(&self, buffer: CpuBuffer) {
        let bytes = buffer.bytes();
        if bytes < POOLED_FROM_BYTES {
            return;
        }
        let mut free = self.free.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // Counted under the lock, so that the count is that of what is there, also when another thread empties the pool.
        let full = self.counters.pooled_bytes.load(Relaxed) + bytes > POOL_LIMIT_BYTES;
        if let Some(class) = free.get_mut(&(buffer.dtype(), buffer.len()))
            && class.free.len() < class.made
            && !full
        {
            self.counters.pooled_bytes.fetch_add(bytes, Relaxed);
            class.free.push(buffer);
        }
    }

    /// Frees everything the pool holds.
    pub fn trim(&self) {
        let mut free = self.free.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        free.clear();
        self.counters.pooled_bytes.store(0, Relaxed);
    }
}

/// A buffer owned by tensors; returns to the pool when the last of them goes.
#[derive(Debug)]
pub(crate) struct CpuStorage {
    // Always `Some` until `drop`.
    buffer: Option<CpuBuffer>,
}

impl CpuStorage {
    pub fn new(buffer: CpuBuffer) -> Self {
        cpu().counters.allocated(buffer.bytes());
        CpuStorage { buffer: Some(buffer) }
    }

    pub fn buffer(&self) -> &CpuBuffer {
        // Proof: only `drop` takes the buffer out.
        self.buffer.as_ref().expect("a live storage has its buffer")
    }

    pub fn buffer_mut(&mut self) -> &mut CpuBuffer {
        // Proof: only `drop` takes the buffer out.
        self.buffer.as_mut().expect("a live storage has its buffer")
    }
}

impl Clone for CpuStorage {
    fn clone(&self) -> Self {
        CpuStorage::new(self.buffer().clone())
    }
}

impl Drop for CpuStorage {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            cpu().counters.freed(buffer.bytes());
            cpu().recycle(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::dtype::DType;
    use crate::{Device, Tensor};

    #[test]
    fn vectors_from_elsewhere_do_not_gather_in_the_pool() {
        // A length that no other test has.
        const LENGTH: usize = 5003;
        let free = || {
            let free = super::cpu().free.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            free.get(&(DType::F32, LENGTH)).map_or(0, |class| class.free.len())
        };
        for _ in 0..10 {
            let x = Tensor::from_vec(&Device::cpu(), &[LENGTH], vec![1.0f32; LENGTH]).unwrap();
            drop(x.neg().unwrap());
        }
        assert!(free() <= 1, "one result at a time is asked for, and {} vectors are kept", free());
    }

    #[test]
    fn the_pool_may_be_emptied_while_others_use_it() {
        let device = Device::cpu();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..3000).for_each(|_| drop(Tensor::zeros(&device, &[1 << 11], DType::F32))));
            }
            (0..3000).for_each(|_| device.trim_pool().unwrap());
        });
        // A count that fell below what is there has wrapped around.
        assert!(super::cpu().counters.pooled_bytes.load(std::sync::atomic::Ordering::Relaxed) < 1 << 40);
    }
}
