//! GPU time per kernel, by a pair of timestamps around every dispatch.

use std::collections::HashMap;
use std::sync::mpsc;

use super::{Gpu, lock};
use crate::device::KernelTime;
use crate::error::{Result, TensorError};

/// Timestamps in one query set; wgpu allows 4096.
const QUERIES: u32 = 4096;

/// Timestamps recorded so far.
#[derive(Default)]
pub(super) struct Profile {
    sets: Vec<wgpu::QuerySet>,
    used: u32,
    kernels: Vec<String>,
}

impl Profile {
    /// The timestamp pair for the next dispatch.
    pub fn next(&mut self, device: &wgpu::Device, kernel: &str) -> wgpu::ComputePassTimestampWrites<'_> {
        if self.sets.is_empty() || self.used == QUERIES {
            self.sets.push(device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("profile"),
                ty: wgpu::QueryType::Timestamp,
                count: QUERIES,
            }));
            self.used = 0;
        }
        self.kernels.push(kernel.to_string());
        let first = self.used;
        self.used += 2;
        wgpu::ComputePassTimestampWrites {
            query_set: self.sets.last().expect("a set was pushed if there was none"),
            beginning_of_pass_write_index: Some(first),
            end_of_pass_write_index: Some(first + 1),
        }
    }
}

impl Gpu {
    /// Starts timing; without the device feature nothing is recorded.
    pub fn start_profile(&self) -> Result<()> {
        self.synchronize()?;
        if self.features.contains(wgpu::Features::TIMESTAMP_QUERY) {
            lock(&self.stream).profile = Some(Profile::default());
        }
        Ok(())
    }

    /// Stops timing and adds up the times by kernel, longest first.
    pub fn finish_profile(&self) -> Result<Vec<KernelTime>> {
        self.synchronize()?;
        let Some(profile) = lock(&self.stream).profile.take() else {
            return Ok(Vec::new());
        };
        let mut totals: HashMap<String, (u64, f64)> = HashMap::new();
        let mut kernels = profile.kernels.into_iter();
        for (index, set) in profile.sets.iter().enumerate() {
            let count = if index + 1 == profile.sets.len() { profile.used } else { QUERIES };
            let ticks = self.read_queries(set, count)?;
            for (pair, kernel) in ticks.chunks_exact(2).zip(kernels.by_ref()) {
                let total = totals.entry(kernel).or_default();
                total.0 += 1;
                total.1 += pair[1].saturating_sub(pair[0]) as f64 * f64::from(self.queue.get_timestamp_period());
            }
        }
        let mut times: Vec<_> = totals
            .into_iter()
            .map(|(kernel, (calls, nanoseconds))| KernelTime { kernel, calls, nanoseconds })
            .collect();
        times.sort_by(|a, b| b.nanoseconds.total_cmp(&a.nanoseconds));
        Ok(times)
    }

    fn read_queries(&self, set: &wgpu::QuerySet, count: u32) -> Result<Vec<u64>> {
        let size = u64::from(count) * 8;
        let buffer = |usage| {
            self.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
        };
        let resolved = buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC);
        let staging = buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.resolve_query_set(set, 0..count, &resolved, 0);
        encoder.copy_buffer_to_buffer(&resolved, 0, &staging, 0, size);
        self.queue.submit([encoder.finish()]);
        let (sender, receiver) = mpsc::channel();
        staging.map_async(wgpu::MapMode::Read, .., move |result| {
            // The receiver only goes away when this function has already returned with an error.
            let _ = sender.send(result);
        });
        self.wait()?;
        let failed = |message: String| TensorError::Gpu { operation: "reading timestamps".into(), message };
        receiver
            .recv()
            .map_err(|_| failed("the GPU did not answer".into()))?
            .map_err(|error| failed(error.to_string()))?;
        let mapped = staging.get_mapped_range(..).map_err(|error| failed(error.to_string()))?;
        Ok(bytemuck::pod_collect_to_vec(&mapped))
    }
}
