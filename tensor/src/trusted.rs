//! The one module of the workspace that may write `unsafe`: a few calls whose contracts the compiler cannot check,
//! each behind a safe function whose argument checks, or whose documented caller's duty, uphold the contract.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

/// Compiles a kernel of this crate. With `checks` off, indices are not bounded by the shader itself: every kernel
/// guards its own invocations against the element counts that the host-side shape checks established, and the tests
/// run all kernels with checks on as well.
pub(crate) fn shader_module(device: &wgpu::Device, label: &str, wgsl: &str, checks: bool) -> wgpu::ShaderModule {
    let descriptor = wgpu::ShaderModuleDescriptor { label: Some(label), source: wgpu::ShaderSource::Wgsl(wgsl.into()) };
    if checks {
        return device.create_shader_module(descriptor);
    }
    // SAFETY: only the crate's own WGSL comes here; its indices stay within the bound buffers for every shape that
    // passed the operation's checks, and its loops are bounded by those shapes.
    unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
}

/// A read-only memory map of a file.
pub struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps a whole file. An empty file maps to no bytes.
    ///
    /// The file must not be truncated by another process while it is mapped: reading past its new end would stop the
    /// program with a bus error, as with every memory-mapped checkpoint reader.
    ///
    /// # Errors
    /// The operating system's refusal to open or map it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the map is read-only and only ever read as plain bytes, for which every content is valid; see the
        // duty above about truncation.
        Ok(MappedFile(unsafe { memmap2::Mmap::map(&file)? }))
    }
}

impl Deref for MappedFile {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}
