//! Whether kernels may use cooperative matrices (tensor cores) on a device, and which of them have proved themselves.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::lock;
use crate::device::GpuOptions;
use crate::error::{Result, TensorError};

/// Invocations in a subgroup that the kernels count on.
const SUBGROUP: u32 = 32;

/// The vendor's number by which adapters tell that they are NVIDIA's.
const NVIDIA: u32 = 0x10de;

/// Cooperative matrices of 16 x 16, f16 operands and f32 sums, on one device.
pub(crate) struct CooperativeMatrices {
    usable: AtomicBool,
    /// Operands may be moved in containers of 16 bytes.
    containers: AtomicBool,
    /// Kernels may put elements of matrices where NVIDIA's devices have them.
    direct: AtomicBool,
    /// Names of the kernels whose self-test passed.
    passed: Mutex<HashSet<String>>,
}

impl CooperativeMatrices {
    /// What the adapter offers.
    pub(super) fn of(adapter: &wgpu::Adapter, options: &GpuOptions) -> Self {
        let needed =
            wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX | wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP;
        let info = adapter.get_info();
        let suits = |shape: wgpu::CooperativeMatrixProperties| {
            [shape.m_size, shape.n_size, shape.k_size] == [16; 3]
                && shape.ab_type == wgpu::CooperativeScalarType::F16
                && shape.cr_type == wgpu::CooperativeScalarType::F32
        };
        let usable = adapter.features().contains(needed)
            && [info.subgroup_min_size, info.subgroup_max_size] == [SUBGROUP; 2]
            && adapter.cooperative_matrix_properties().into_iter().any(suits);
        // Nobody checks the indices of such kernels, so they do not run where checks are wanted.
        let containers = usable
            && info.backend == wgpu::Backend::Vulkan
            && adapter.features().contains(wgpu::Features::PASSTHROUGH_SHADERS)
            && options.immediates
            && !options.shader_checks;
        CooperativeMatrices {
            usable: AtomicBool::new(usable),
            containers: AtomicBool::new(containers),
            direct: AtomicBool::new(containers && info.vendor == NVIDIA),
            passed: Mutex::default(),
        }
    }

    /// Whether the device has them and no kernel has failed.
    pub fn usable(&self) -> bool {
        self.usable.load(Relaxed)
    }

    /// Whether kernels may move their operands in containers of 16 bytes.
    pub fn containers_usable(&self) -> bool {
        self.containers.load(Relaxed)
    }

    /// Does without containers of 16 bytes from now on.
    pub fn turn_off_containers(&self, device: &str, fault: &str) {
        if self.containers.swap(false, Relaxed) {
            eprintln!("warning: {device}: slower kernels are used, since a faster one failed its test: {fault}");
        }
    }

    /// Whether kernels may tell elements of matrices their invocations.
    pub fn direct_usable(&self) -> bool {
        self.direct.load(Relaxed)
    }

    /// Does without such kernels from now on.
    pub fn turn_off_direct(&self, device: &str, fault: &str) {
        if self.direct.swap(false, Relaxed) {
            eprintln!("warning: {device}: slower kernels are used, since a faster one failed its test: {fault}");
        }
    }

    /// What is wrong with the kernels of this name according to their test, which runs until they have passed it.
    ///
    /// # Errors
    /// The loss of the device: then it is gone for every kernel, not only for these. All else is a fault.
    pub fn fault(&self, kernels: &str, test: impl FnOnce() -> Result<Option<String>>) -> Result<Option<String>> {
        if lock(&self.passed).contains(kernels) {
            return Ok(None);
        }
        let fault = match test() {
            Ok(fault) => fault,
            Err(error @ TensorError::DeviceLost { .. }) => return Err(error),
            Err(error) => Some(error.to_string()),
        };
        if fault.is_none() {
            lock(&self.passed).insert(kernels.to_string());
        }
        Ok(fault.map(|fault| format!("{kernels}: {fault}")))
    }

    /// Does without them from now on. A warning says why: it costs the user most of the device's speed.
    pub fn turn_off(&self, device: &str, fault: &str) {
        if self.usable.swap(false, Relaxed) {
            eprintln!("warning: {device}: tensor cores are not used, since a kernel failed its test: {fault}");
        }
    }

    /// Claims that the device has them.
    #[cfg(test)]
    pub fn pretend(&self) {
        self.usable.store(true, Relaxed);
    }
}
