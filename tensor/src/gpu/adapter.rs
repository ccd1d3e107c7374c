//! Finding and opening adapters.

use crate::device::AdapterSummary;
use crate::error::{Result, TensorError};
use crate::trusted::adapter_memory;

/// The features the engine uses where they exist, with the names shown to users. None is required.
const USEFUL: [(wgpu::Features, &str); 8] = [
    (wgpu::Features::IMMEDIATES, "immediates"),
    (wgpu::Features::SHADER_F16, "shader-f16"),
    (wgpu::Features::SUBGROUP, "subgroup"),
    (wgpu::Features::TIMESTAMP_QUERY, "timestamp-query"),
    (wgpu::Features::PIPELINE_CACHE, "pipeline-cache"),
    (wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX, "cooperative-matrix"),
    (wgpu::Features::PASSTHROUGH_SHADERS, "passthrough-shaders"),
    (wgpu::Features::SHADER_INT64, "shader-int64"),
];

/// The subset of [`USEFUL`] that devices are opened with today.
fn wanted() -> wgpu::Features {
    wgpu::Features::IMMEDIATES
        | wgpu::Features::SHADER_F16
        | wgpu::Features::SUBGROUP
        | wgpu::Features::TIMESTAMP_QUERY
        | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
        | wgpu::Features::PASSTHROUGH_SHADERS
        | wgpu::Features::SHADER_INT64
}

/// All adapters, best first: discrete, integrated, virtual, other, software.
pub(crate) fn adapters() -> Vec<(wgpu::Adapter, AdapterSummary)> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    // The default flags add validation layers in debug builds, at a price in speed and log noise.
    descriptor.flags = wgpu::InstanceFlags::empty();
    let instance = wgpu::Instance::new(descriptor);
    let found = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    let mut adapters: Vec<_> = found
        .into_iter()
        .map(|adapter| {
            let summary = summarise(&adapter);
            (adapter, summary)
        })
        .collect();
    let rank = |kind: &str| ["discrete", "integrated", "virtual", "other", "software"].iter().position(|k| *k == kind);
    adapters.sort_by_key(|(_, summary)| rank(summary.kind));
    adapters
}

fn summarise(adapter: &wgpu::Adapter) -> AdapterSummary {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    AdapterSummary {
        name: info.name,
        kind: match info.device_type {
            wgpu::DeviceType::DiscreteGpu => "discrete",
            wgpu::DeviceType::IntegratedGpu => "integrated",
            wgpu::DeviceType::VirtualGpu => "virtual",
            wgpu::DeviceType::Cpu => "software",
            wgpu::DeviceType::Other => "other",
        },
        backend: info.backend.to_string(),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_string(),
        features: USEFUL.iter().filter(|(flag, _)| features.contains(*flag)).map(|(_, name)| *name).collect(),
        max_buffer_bytes: limits.max_buffer_size,
        max_binding_bytes: limits.max_storage_buffer_binding_size,
        workgroup_bytes: limits.max_compute_workgroup_storage_size,
        workgroup_invocations: limits.max_compute_invocations_per_workgroup,
        memory_bytes: adapter_memory(adapter),
    }
}

/// Opens an adapter with its own limits and every wanted feature that it has.
pub(super) fn request_device(adapter: &wgpu::Adapter, summary: &AdapterSummary) -> Result<(wgpu::Device, wgpu::Queue)> {
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("tensor"),
        required_features: adapter.features() & wanted(),
        required_limits: adapter.limits(),
        memory_hints: wgpu::MemoryHints::Performance,
        experimental_features: crate::trusted::experimental_features(),
        ..Default::default()
    };
    pollster::block_on(adapter.request_device(&descriptor)).map_err(|error| TensorError::Gpu {
        operation: format!("opening {}", summary.name),
        message: error.to_string(),
    })
}
