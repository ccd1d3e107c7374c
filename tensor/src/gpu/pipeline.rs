//! Building compute pipelines from WGSL, once per kernel variant.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::dispatch::Dispatch;
use super::{Gpu, containers};
use crate::error::{Result, TensorError};
use crate::trusted;

/// Functions that every kernel may call; appended to its source (WGSL needs no order of declaration).
const PRELUDE: &str = include_str!("prelude.wgsl");

/// Bytes reserved for a kernel's parameters: what every device that has immediates offers.
pub(super) const PARAMETER_BYTES: usize = 128;

/// A compiled kernel variant and the layout its bind groups follow.
pub(super) struct Pipeline {
    pub raw: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
    /// Identity for bind group cache keys.
    pub id: u64,
}

/// The high half of a product of two words: from pieces, or of the 64-bit product that few devices lack.
const MULTIPLY_HIGH: [&str; 2] = [include_str!("multiply_high.wgsl"), include_str!("multiply_high_wide.wgsl")];

/// The WGSL that is compiled for a kernel: its own text, the prelude, and, without immediates, the parameter block
/// declared as a buffer instead. Kernels declare it as `var<immediate> params: Params;`. `wide` integers are those of 64 bits.
pub(crate) fn complete_source(wgsl: &str, immediates: bool, wide: bool) -> String {
    let text = if immediates {
        wgsl.to_string()
    } else {
        wgsl.replace("var<immediate> params", "@group(1) @binding(0) var<storage, read> params")
    };
    // Only where it is called: a kernel with 64-bit integers is none for devices without.
    let multiply_high = if wgsl.contains("multiply_high(") { MULTIPLY_HIGH[usize::from(wide)] } else { "" };
    [&text, "\n", PRELUDE, multiply_high].concat()
}

fn entry(binding: u32, read_only: bool, has_dynamic_offset: bool) -> wgpu::BindGroupLayoutEntry {
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Storage { read_only },
            has_dynamic_offset,
            min_binding_size: None,
        },
        count: None,
    }
}

fn build_error(kernel: &str, message: String) -> TensorError {
    TensorError::Gpu { operation: format!("building kernel {kernel}"), message }
}

/// The layout of the parameter buffer that stands in for immediates.
pub(super) fn parameter_layout(device: &wgpu::Device) -> wgpu::BindGroupLayout {
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: Some("parameters"),
        entries: &[entry(0, true, true)],
    })
}

impl Gpu {
    /// Builds the pipeline of a dispatch. Errors carry naga's or the driver's words.
    pub(super) fn build_pipeline(
        &self,
        dispatch: &Dispatch<'_>,
        parameters: &wgpu::BindGroupLayout,
        id: u64,
    ) -> Result<Arc<Pipeline>> {
        let name = dispatch.name();
        let wide = self.features.contains(wgpu::Features::SHADER_INT64);
        let wgsl = complete_source(&dispatch.wgsl(), self.options.immediates, wide);
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let module = if dispatch.has_containers() {
            let words = containers::compile(&wgsl, dispatch.entry()).map_err(|message| build_error(name, message))?;
            trusted::spirv_module(&self.device, name, dispatch.entry(), &words)
        } else {
            trusted::shader_module(&self.device, name, &wgsl, self.options.shader_checks)
        };
        let entries: Vec<_> =
            dispatch.accesses().enumerate().map(|(binding, write)| entry(binding as u32, !write, false)).collect();
        let layout = self
            .device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(name), entries: &entries });
        let immediates = self.options.immediates;
        let groups = [Some(&layout), Some(parameters)];
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(name),
            bind_group_layouts: if immediates { &groups[..1] } else { &groups },
            immediate_size: if immediates { PARAMETER_BYTES as u32 } else { 0 },
        });
        let raw = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(name),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(dispatch.entry()),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: dispatch.constants(),
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        if let Some(error) = pollster::block_on(scope.pop()) {
            return Err(build_error(name, error.to_string()));
        }
        self.counters.pipelines_built.fetch_add(1, Relaxed);
        Ok(Arc::new(Pipeline { raw, layout, id }))
    }
}
