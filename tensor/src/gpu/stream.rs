//! The command stream: dispatches go into one open compute pass and are given to the sender in batches.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Gpu;
use super::dispatch::Dispatch;
use super::pipeline::{PARAMETER_BYTES, Pipeline, parameter_layout};
use super::profile::Profile;
use super::sender::{Batch, Sender};
use crate::device::GpuOptions;
use crate::error::Result;

/// Dispatches per submission: below 64 the cost of submitting shows.
const BATCH: usize = 96;

/// Dispatches in the first submission after a wait: the GPU has nothing to do until it comes. The next ones double, so that
/// each comes before the GPU is done with those before it.
const FIRST_BATCH: usize = 16;

/// Distance between parameter blocks in the buffer that stands in for immediates; the usual offset alignment.
const PARAMETER_STRIDE: usize = 256;

/// Bind groups kept at the most. A steady program needs as many as a step has dispatches; one whose shapes keep
/// changing would otherwise collect them without end.
const BIND_GROUP_LIMIT: usize = 1 << 16;

/// State of recording; behind one lock, since commands form one sequence.
pub(super) struct Stream {
    open: Option<Open>,
    recorded: usize,
    /// Dispatches with which the batch being recorded is full.
    full: usize,
    /// Serial number of the batch being recorded; buffers remember the last one that used them.
    pub batch: u64,
    /// The kernel that was recorded last.
    last_kernel: String,
    pub sender: Sender,
    pipelines: HashMap<u64, Arc<Pipeline>>,
    bind_groups: HashMap<Vec<u64>, wgpu::BindGroup>,
    key: Vec<u64>,
    parameters: ParameterBuffer,
    pub profile: Option<Profile>,
}

/// An encoder with its open compute pass. The pass is declared first, so that it ends first when dropped.
struct Open {
    pass: Option<wgpu::ComputePass<'static>>,
    encoder: wgpu::CommandEncoder,
}

/// One batch's parameter blocks, for devices without immediates.
struct ParameterBuffer {
    layout: wgpu::BindGroupLayout,
    blocks: Option<(wgpu::Buffer, wgpu::BindGroup)>,
    host: Vec<u8>,
}

impl Stream {
    pub fn new(device: &wgpu::Device, sender: Sender, options: &GpuOptions) -> Self {
        let layout = parameter_layout(device);
        let blocks = (!options.immediates).then(|| {
            let buffer = device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("parameters"),
                size: (BATCH * PARAMETER_STRIDE) as u64,
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            let size = std::num::NonZeroU64::new(PARAMETER_BYTES as u64);
            let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer: &buffer, offset: 0, size });
            let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("parameters"),
                layout: &layout,
                entries: &[wgpu::BindGroupEntry { binding: 0, resource }],
            });
            (buffer, group)
        });
        Stream {
            open: None,
            recorded: 0,
            full: FIRST_BATCH,
            batch: 1,
            last_kernel: String::new(),
            sender,
            pipelines: HashMap::new(),
            bind_groups: HashMap::new(),
            key: Vec::new(),
            parameters: ParameterBuffer { layout, blocks, host: Vec::new() },
            profile: None,
        }
    }

    /// Adds a dispatch to the open pass; sends the batch when it is full.
    pub fn record(&mut self, gpu: &Gpu, dispatch: &Dispatch<'_>, grid: [u32; 3]) -> Result<()> {
        gpu.faults.check()?;
        self.last_kernel.clear();
        self.last_kernel.push_str(dispatch.name());
        let pipeline = self.pipeline(gpu, dispatch)?;
        let group = self.bind_group(gpu, &pipeline, dispatch);
        let batch = self.batch;
        for storage in dispatch.buffers() {
            storage.buffer().last_batch.store(batch, Relaxed);
        }
        let offset = (self.recorded * PARAMETER_STRIDE) as u32;
        let open = self.open.get_or_insert_with(|| Open {
            pass: None,
            encoder: gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None }),
        });
        if let Some(profile) = &mut self.profile {
            // A pass of its own, between two timestamps.
            open.pass = None;
            let timestamp_writes = Some(profile.next(&gpu.device, dispatch.name()));
            let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
            open.pass = Some(open.encoder.begin_compute_pass(&descriptor).forget_lifetime());
        }
        let encoder = &mut open.encoder;
        let pass = open.pass.get_or_insert_with(|| {
            encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()).forget_lifetime()
        });
        pass.set_pipeline(&pipeline.raw);
        pass.set_bind_group(0, &group, &[]);
        match &self.parameters.blocks {
            None if dispatch.parameter_bytes().is_empty() => {}
            None => pass.set_immediates(0, dispatch.parameter_bytes()),
            Some((_, blocks)) => {
                self.parameters.host.resize(offset as usize, 0);
                self.parameters.host.extend_from_slice(dispatch.parameter_bytes());
                pass.set_bind_group(1, blocks, &[offset]);
            }
        }
        pass.dispatch_workgroups(grid[0], grid[1], grid[2]);
        gpu.counters.dispatches.fetch_add(1, Relaxed);
        self.recorded += 1;
        if self.recorded >= self.full { self.submit(gpu) } else { Ok(()) }
    }

    /// Sends everything recorded. Does nothing when nothing is.
    pub fn submit(&mut self, gpu: &Gpu) -> Result<()> {
        let Some(Open { pass, encoder }) = self.open.take() else {
            return gpu.faults.check();
        };
        let parameters = self.parameters.blocks.as_ref().map(|(buffer, _)| {
            let mut bytes = std::mem::take(&mut self.parameters.host);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            (buffer.clone(), bytes)
        });
        let batch = Batch { number: self.batch, encoder, pass, parameters, last_kernel: self.last_kernel.clone() };
        self.sender.send(batch)?;
        gpu.counters.submits.fetch_add(1, Relaxed);
        self.recorded = 0;
        self.full = (2 * self.full).min(BATCH);
        self.batch += 1;
        gpu.faults.check()
    }

    /// What the host does after it has waited for the GPU.
    pub fn start_again(&mut self) {
        self.full = FIRST_BATCH;
    }

    /// Forgets all bind groups, which hold on to their buffers.
    pub fn forget_bind_groups(&mut self) {
        self.bind_groups.clear();
    }

    fn pipeline(&mut self, gpu: &Gpu, dispatch: &Dispatch<'_>) -> Result<Arc<Pipeline>> {
        let variant = dispatch.variant();
        if let Some(pipeline) = self.pipelines.get(&variant) {
            return Ok(pipeline.clone());
        }
        let id = self.pipelines.len() as u64;
        let pipeline = gpu.build_pipeline(dispatch, &self.parameters.layout, id)?;
        self.pipelines.insert(variant, pipeline.clone());
        Ok(pipeline)
    }

    fn bind_group(&mut self, gpu: &Gpu, pipeline: &Pipeline, dispatch: &Dispatch<'_>) -> wgpu::BindGroup {
        self.key.clear();
        self.key.push(pipeline.id);
        self.key.extend(dispatch.buffers().map(|storage| storage.buffer().id));
        if let Some(group) = self.bind_groups.get(&self.key) {
            return group.clone();
        }
        let entries: Vec<_> = dispatch
            .buffers()
            .enumerate()
            .map(|(binding, storage)| wgpu::BindGroupEntry {
                binding: binding as u32,
                resource: storage.buffer().raw.as_entire_binding(),
            })
            .collect();
        gpu.faults.note_kernel(dispatch.name());
        let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.layout,
            entries: &entries,
        });
        gpu.counters.bind_groups_created.fetch_add(1, Relaxed);
        if self.bind_groups.len() >= BIND_GROUP_LIMIT {
            self.bind_groups.clear();
        }
        self.bind_groups.insert(self.key.clone(), group.clone());
        group
    }
}
