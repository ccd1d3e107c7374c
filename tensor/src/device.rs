//! Devices: the CPU, and GPUs through wgpu. What can be listed, selected and counted.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::counters::Counters;
use crate::cpu::cpu;
use crate::error::{Result, TensorError};
use crate::gpu::{self, Gpu};
use crate::tuning::Tuning;

/// Where tensors live and operations run. Cloning is cheap; two handles are equal when they are the same device.
#[derive(Clone)]
pub struct Device {
    backend: Backend,
}

#[derive(Clone)]
pub(crate) enum Backend {
    Cpu,
    Gpu(Arc<Gpu>),
}

/// Which device is wanted; parsed from `auto`, `cpu`, `gpu`, `gpu:N` or `gpu:NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum DeviceRequest {
    /// The best real GPU, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The best real GPU; an error where there is none.
    Gpu,
    /// The adapter with this position in [`list_adapters`], software adapters included.
    Index(usize),
    /// The first adapter whose name contains this text, letter case ignored, software adapters included.
    Name(String),
}

impl FromStr for DeviceRequest {
    type Err = TensorError;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(DeviceRequest::Auto),
            "cpu" => Ok(DeviceRequest::Cpu),
            "gpu" => Ok(DeviceRequest::Gpu),
            _ => match text.strip_prefix("gpu:") {
                Some(rest) if !rest.is_empty() => {
                    Ok(rest.parse().map_or_else(|_| DeviceRequest::Name(rest.to_string()), DeviceRequest::Index))
                }
                _ => Err(TensorError::InvalidArgument {
                    operation: "device",
                    message: format!("`{text}` is not one of auto, cpu, gpu, gpu:N, gpu:NAME"),
                }),
            },
        }
    }
}

impl fmt::Display for DeviceRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceRequest::Auto => f.write_str("auto"),
            DeviceRequest::Cpu => f.write_str("cpu"),
            DeviceRequest::Gpu => f.write_str("gpu"),
            DeviceRequest::Index(index) => write!(f, "gpu:{index}"),
            DeviceRequest::Name(name) => write!(f, "gpu:{name}"),
        }
    }
}

/// What a GPU adapter is, before it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterSummary {
    /// The driver's name for it.
    pub name: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: &'static str,
    /// `vulkan`, `metal` or `dx12`.
    pub backend: String,
    /// Driver name and version.
    pub driver: String,
    /// Features the engine can use, by name.
    pub features: Vec<&'static str>,
    /// Largest buffer in bytes.
    pub max_buffer_bytes: u64,
    /// Largest part of a buffer that one kernel can bind, in bytes: the limit on one tensor.
    pub max_binding_bytes: u64,
    /// Workgroup memory in bytes.
    pub workgroup_bytes: u32,
    /// Invocations in a workgroup.
    pub workgroup_invocations: u32,
    /// Memory of its own in bytes, of a software adapter that of the system; `None` where the backend does not tell.
    pub memory_bytes: Option<u64>,
}

impl AdapterSummary {
    /// True for an adapter that runs on the CPU, such as lavapipe or WARP.
    pub fn is_software(&self) -> bool {
        self.kind == "software"
    }
}

/// How a GPU is opened; the defaults suit every user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuOptions {
    /// Let shaders check every index. Default: on in debug builds, off in release builds, where the host-side
    /// shape checks alone guard the kernels. The environment variable `TENSOR_SHADER_CHECKS=0|1` decides if set.
    pub shader_checks: bool,
    /// Pass parameters as immediates where the device has them; off forces the buffer path. Default: on.
    pub immediates: bool,
}

impl Default for GpuOptions {
    fn default() -> Self {
        let shader_checks = match std::env::var("TENSOR_SHADER_CHECKS").as_deref() {
            Ok("0") => false,
            Ok("1") => true,
            _ => cfg!(debug_assertions),
        };
        GpuOptions { shader_checks, immediates: true }
    }
}

/// All GPU adapters of this machine, best first, software ones last. `gpu:N` counts in this order.
pub fn list_adapters() -> Vec<AdapterSummary> {
    gpu::adapters().into_iter().map(|(_, summary)| summary).collect()
}

/// Time that one kind of kernel took while [`Device::profile`] was on.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelTime {
    /// The kernel's name.
    pub kernel: String,
    /// How often it ran.
    pub calls: u64,
    /// Nanoseconds of GPU time in all.
    pub nanoseconds: f64,
}

impl Device {
    /// The CPU.
    pub fn cpu() -> Self {
        Device { backend: Backend::Cpu }
    }

    /// The best real GPU, never a software one; where there is none, the CPU.
    pub fn auto() -> Self {
        Self::open(&DeviceRequest::Gpu).unwrap_or_else(|_| Self::cpu())
    }

    /// Opens the device that a request names.
    ///
    /// # Errors
    /// [`TensorError::NoDevice`], listing what there is, or the driver's refusal.
    pub fn open(request: &DeviceRequest) -> Result<Self> {
        Self::open_with(request, GpuOptions::default())
    }

    /// As [`Device::open`], with explicit options for a GPU.
    ///
    /// # Errors
    /// As [`Device::open`].
    pub fn open_with(request: &DeviceRequest, options: GpuOptions) -> Result<Self> {
        match request {
            DeviceRequest::Cpu => return Ok(Self::cpu()),
            DeviceRequest::Auto => {
                return Ok(Self::open_with(&DeviceRequest::Gpu, options).unwrap_or_else(|_| Self::cpu()));
            }
            _ => {}
        }
        let adapters = gpu::adapters();
        let chosen = match request {
            DeviceRequest::Index(index) => (*index < adapters.len()).then_some(*index),
            DeviceRequest::Name(name) => {
                adapters.iter().position(|(_, a)| a.name.to_lowercase().contains(&name.to_lowercase()))
            }
            _ => adapters.iter().position(|(_, adapter)| !adapter.is_software()),
        };
        let Some(chosen) = chosen else {
            let mut names = vec!["cpu".to_string()];
            let describe = |(index, a): (usize, &AdapterSummary)| format!("gpu:{index} ({}, {})", a.name, a.kind);
            names.extend(adapters.iter().map(|(_, a)| a).enumerate().map(describe));
            return Err(TensorError::NoDevice { request: request.to_string(), available: names.join(", ") });
        };
        let (adapter, summary) = adapters.into_iter().nth(chosen).expect("the position was found in this list");
        Ok(Device { backend: Backend::Gpu(Gpu::open(adapter, summary, options)?) })
    }

    /// True for the CPU backend.
    pub fn is_cpu(&self) -> bool {
        matches!(self.backend, Backend::Cpu)
    }

    /// The adapter's description; `None` for the CPU.
    pub fn adapter(&self) -> Option<&AdapterSummary> {
        match &self.backend {
            Backend::Cpu => None,
            Backend::Gpu(gpu) => Some(&gpu.summary),
        }
    }

    /// Bytes that there are for tensors, those in use included: an adapter's own memory; for the CPU what the system has
    /// available. `None` where nobody tells.
    pub fn memory_bytes(&self) -> Option<u64> {
        match &self.backend {
            Backend::Gpu(gpu) => gpu.summary.memory_bytes,
            Backend::Cpu => {
                let Counters { bytes_in_use, pooled_bytes, .. } = self.counters();
                Some(crate::cpu::available_memory()? + bytes_in_use + pooled_bytes)
            }
        }
    }

    /// Waits until everything recorded so far is done, and reports any error the device raised meanwhile.
    ///
    /// # Errors
    /// Device loss, out of memory or a validation error of an earlier command.
    pub fn synchronize(&self) -> Result<()> {
        match &self.backend {
            Backend::Cpu => Ok(()),
            Backend::Gpu(gpu) => gpu.synchronize(),
        }
    }

    /// Sends recorded commands to the GPU without waiting. Useful before the host turns to other work.
    ///
    /// # Errors
    /// Errors the device raised meanwhile.
    pub fn flush(&self) -> Result<()> {
        match &self.backend {
            Backend::Cpu => Ok(()),
            Backend::Gpu(gpu) => gpu.flush(),
        }
    }

    /// Frees the memory that the pool keeps for reuse.
    ///
    /// # Errors
    /// Errors the device raised meanwhile.
    pub fn trim_pool(&self) -> Result<()> {
        match &self.backend {
            Backend::Cpu => cpu().trim(),
            Backend::Gpu(gpu) => gpu.trim_pool()?,
        }
        Ok(())
    }

    /// The counters as they stand.
    pub fn counters(&self) -> Counters {
        match &self.backend {
            Backend::Cpu => cpu().counters.snapshot(),
            Backend::Gpu(gpu) => gpu.counters.snapshot(),
        }
    }

    /// Starts `peak_bytes` again from the bytes in use now.
    pub fn reset_peak(&self) {
        match &self.backend {
            Backend::Cpu => cpu().counters.reset_peak(),
            Backend::Gpu(gpu) => gpu.counters.reset_peak(),
        }
    }

    /// Runs `work` and returns, beside its result, the GPU time of each kernel it recorded, longest first.
    /// Every dispatch is timed in a pass of its own, so the run as a whole is slower than without. Empty on the CPU
    /// and on devices without timestamps.
    ///
    /// # Errors
    /// Errors the device raised meanwhile.
    pub fn profile<T>(&self, work: impl FnOnce() -> T) -> Result<(T, Vec<KernelTime>)> {
        match &self.backend {
            Backend::Cpu => Ok((work(), Vec::new())),
            Backend::Gpu(gpu) => {
                gpu.start_profile()?;
                let result = work();
                Ok((result, gpu.finish_profile()?))
            }
        }
    }

    /// From now on measures, for each shape and layout of a matrix product that `table` does not have, which kernel and split
    /// of its inner extent is the fastest on this device, and adds the choice to the table. The first product of a shape
    /// takes a while. Another choice sums in another order, so results are the same bits again only with the same table.
    ///
    /// # Errors
    /// [`TensorError::InvalidArgument`] on the CPU, which has nothing to choose from.
    pub fn tune(&self, table: Tuning) -> Result<()> {
        match &self.backend {
            Backend::Cpu => Err(TensorError::InvalidArgument {
                operation: "tuning",
                message: "only a GPU's kernels are measured, and this device is the CPU".into(),
            }),
            Backend::Gpu(gpu) => {
                gpu.tune(table);
                Ok(())
            }
        }
    }

    /// The table of [`Device::tune`] as it stands; `None` where nothing is measured.
    pub fn tuning(&self) -> Option<Tuning> {
        match &self.backend {
            Backend::Cpu => None,
            Backend::Gpu(gpu) => gpu.tuning(),
        }
    }

    pub(crate) fn backend(&self) -> &Backend {
        &self.backend
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        match (&self.backend, &other.backend) {
            (Backend::Cpu, Backend::Cpu) => true,
            (Backend::Gpu(a), Backend::Gpu(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl Eq for Device {}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.backend {
            Backend::Cpu => f.write_str("cpu"),
            Backend::Gpu(gpu) => write!(f, "gpu ({})", gpu.summary.name),
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({self})")
    }
}
