//! The wgpu backend: opening adapters, memory, the command stream, pipelines, transfers, timing and faults.
//! What does not live here: kernels. Those are in `ops/*/kernel.wgsl`, called through [`Dispatch`].

mod adapter;
mod containers;
mod cooperative;
mod dispatch;
mod fault;
mod memory;
mod pipeline;
mod profile;
mod registers;
mod rows;
mod sender;
pub(crate) mod spirv;
mod stream;
mod tiles;
mod transfer;
mod tuner;
#[cfg(test)]
mod validate;

use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use crate::counters::CounterCells;
use crate::device::{AdapterSummary, GpuOptions};
use crate::error::Result;
use crate::tuning::Tuning;

pub(crate) use adapter::adapters;
#[cfg(test)]
pub(crate) use containers::compile as compile_with_containers;
pub(crate) use dispatch::{Dispatch, Source, linear_grid};
pub(crate) use memory::GpuStorage;
#[cfg(test)]
pub(crate) use pipeline::complete_source;
pub(crate) use registers::DECLARATIONS as REGISTERS;
pub(crate) use rows::{ROW_WORKGROUP, reduction_splits, row_grid, row_team};
pub(crate) use tiles::{LEFT_CHUNK, RIGHT_CHUNK, Tiles, copied_to_tiles};
#[cfg(test)]
pub(crate) use validate::{assert_as_reviewed, validate};

/// An opened GPU. One per [`crate::Device::open`]; tensors keep it alive.
pub(crate) struct Gpu {
    pub summary: AdapterSummary,
    pub counters: CounterCells,
    pub cooperative: cooperative::CooperativeMatrices,
    device: wgpu::Device,
    queue: wgpu::Queue,
    options: GpuOptions,
    limits: wgpu::Limits,
    features: wgpu::Features,
    faults: Arc<fault::Faults>,
    memory: Mutex<memory::Pool>,
    stream: Mutex<stream::Stream>,
    staging: Mutex<Option<wgpu::Buffer>>,
    /// Taken for reading while a kernel is recorded, for writing while storages change their order.
    orders: RwLock<()>,
    /// `None` while nothing is measured.
    tuning: Mutex<Option<Tuning>>,
}

impl Gpu {
    /// Opens an adapter with the features and limits the engine can use.
    pub fn open(adapter: wgpu::Adapter, summary: AdapterSummary, options: GpuOptions) -> Result<Arc<Self>> {
        let (device, queue) = adapter::request_device(&adapter, &summary)?;
        let faults = fault::Faults::attach(&device);
        let features = device.features();
        let limits = device.limits();
        let options =
            GpuOptions { immediates: options.immediates && features.contains(wgpu::Features::IMMEDIATES), ..options };
        let sender = sender::Sender::start(&device, &queue, &faults)?;
        let stream = stream::Stream::new(&device, sender, &options);
        let cooperative = cooperative::CooperativeMatrices::of(&adapter, &options);
        Ok(Arc::new(Gpu {
            summary,
            counters: CounterCells::default(),
            cooperative,
            device,
            queue,
            options,
            limits,
            features,
            faults,
            memory: Mutex::default(),
            stream: Mutex::new(stream),
            staging: Mutex::default(),
            orders: RwLock::default(),
            tuning: Mutex::default(),
        }))
    }

    /// Storage buffers that one kernel can bind at the most.
    pub fn max_storage_buffers(&self) -> usize {
        self.limits.max_storage_buffers_per_shader_stage as usize
    }

    /// Sends what is recorded and waits until the GPU is done with it.
    pub fn synchronize(&self) -> Result<()> {
        self.drain()?;
        self.wait()
    }

    /// Sends what is recorded.
    pub fn flush(&self) -> Result<()> {
        lock(&self.stream).submit(self)
    }

    /// Sends what is recorded; it is with the queue afterwards.
    fn drain(&self) -> Result<()> {
        let mut stream = lock(&self.stream);
        stream.submit(self)?;
        stream.sender.drain()?;
        self.faults.check()
    }

    /// Waits until the GPU is done with what the queue was given.
    fn wait(&self) -> Result<()> {
        self.counters.host_waits.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let polled = self.device.poll(wgpu::PollType::wait_indefinitely());
        lock(&self.stream).start_again();
        self.faults.check()?;
        polled.map(|_| ()).map_err(|error| crate::TensorError::DeviceLost { reason: error.to_string() })
    }
}

/// A poisoned lock only says that another thread panicked; the guarded state changes in whole steps, so go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::gpu;
    use crate::{DType, Tensor, TensorError};

    #[test]
    #[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
    fn what_the_device_cannot_hold_is_an_error_wgsl() {
        let limit = gpu().adapter().unwrap().max_binding_bytes as usize;
        match Tensor::zeros(gpu(), &[limit / 4 + 1], DType::F32) {
            Err(TensorError::OutOfMemory { operation: "full", bytes, reason, .. }) => {
                assert!(bytes as usize > limit && reason.contains("at most"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
        assert!(Tensor::zeros(gpu(), &[4], DType::F32).unwrap().to_vec::<f32>().is_ok(), "the device goes on");
    }

    #[test]
    #[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
    fn a_kernel_that_does_not_compile_is_an_error_wgsl() {
        let out = Tensor::zeros(gpu(), &[4], DType::F32).unwrap();
        let crate::device::Backend::Gpu(device) = gpu().backend() else { panic!("a GPU") };
        let wrong = Dispatch::new("broken", "main", Source::Wgsl("fn main( {")).write(&out).run(device, [1, 1, 1]);
        let message = wrong.unwrap_err().to_string();
        assert!(message.contains("building kernel broken"), "{message}");
        assert_eq!(out.to_vec::<f32>().unwrap(), [0.0; 4], "the device goes on");
    }

    /// The pieces, which devices with 64-bit integers do without otherwise.
    #[test]
    #[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
    fn high_halves_from_pieces_are_those_of_the_whole_product_wgsl() {
        let words: Vec<u32> =
            (0..512u32).map(|i| i.wrapping_mul(0x9e37_79b9) ^ (i << 27)).chain([0, u32::MAX]).collect();
        let text = "@group(0) @binding(0) var<storage, read_write> words: array<u32>;
            @compute @workgroup_size(1) fn main(@builtin(workgroup_id) group: vec3<u32>) {
                words[group.x] = high_half(words[group.x], 0xcd9e8d57u);
            }";
        let pieces = || [text, include_str!("multiply_high.wgsl")].concat().replace("multiply_high", "high_half");
        let out = Tensor::from_slice(gpu(), &[words.len()], &words).unwrap();
        let crate::device::Backend::Gpu(device) = gpu().backend() else { panic!("a GPU") };
        let dispatch = Dispatch::new("high_half", "main", Source::Generated(&pieces)).write(&out);
        dispatch.run(device, [words.len() as u32, 1, 1]).unwrap();
        let want: Vec<u32> = words.iter().map(|&word| ((u64::from(word) * 0xcd9e_8d57) >> 32) as u32).collect();
        assert_eq!(out.to_vec::<u32>().unwrap(), want);
    }
}
