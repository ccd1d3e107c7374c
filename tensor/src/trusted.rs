//! The one module of the workspace that may write `unsafe`: a few calls whose contracts the compiler cannot check,
//! each behind a safe function whose argument checks, or whose documented caller's duty, uphold the contract.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;

use rayon::prelude::*;

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

/// A kernel of this crate as SPIR-V, for Vulkan.
pub(crate) fn spirv_module(device: &wgpu::Device, label: &str, entry: &str, words: &[u32]) -> wgpu::ShaderModule {
    let entry = wgpu::PassthroughShaderEntryPoint { name: entry.into(), workgroup_size: (0, 0, 0) };
    let descriptor = wgpu::ShaderModuleDescriptorPassthrough {
        label: Some(label),
        entry_points: std::slice::from_ref(&entry).into(),
        spirv: Some(words.into()),
        ..Default::default()
    };
    // SAFETY: the words are naga's, of the crate's own WGSL that passed naga's validation, with one type exchanged for
    // another that the same instructions take, and with the bodies of functions that move elements between words and matrices
    // written by the crate, which touch no memory but their own variable; the rules for indices and loops are those of `shader_module`, and every such
    // kernel must pass a test on the device before its first use.
    unsafe { device.create_shader_module_passthrough(descriptor) }
}

/// Leave to use wgpu's experimental features, of which devices are opened with one: cooperative matrices.
pub(crate) fn experimental_features() -> wgpu::ExperimentalFeatures {
    // SAFETY: what is asked for is to know that such features may have bugs. Kernels that use one are the crate's own,
    // keep to the same rules as all others, and must pass a test on the device before their first use.
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}

/// Bytes of the largest heap of memory that is the adapter's own; `None` where the backend does not tell.
#[cfg(not(target_vendor = "apple"))]
pub(crate) fn adapter_memory(adapter: &wgpu::Adapter) -> Option<u64> {
    const DEVICE_LOCAL: u32 = 1;
    // SAFETY: the handles are used only while `adapter` keeps them alive, none is destroyed, and the query changes nothing.
    let memory = unsafe {
        let adapter = adapter.as_hal::<wgpu::hal::api::Vulkan>()?;
        let instance = adapter.shared_instance().raw_instance();
        instance.get_physical_device_memory_properties(adapter.raw_physical_device())
    };
    let heaps = memory.memory_heaps_as_slice().iter();
    heaps.filter(|heap| heap.flags.as_raw() & DEVICE_LOCAL != 0).map(|heap| heap.size).max()
}

/// Metal does not tell.
#[cfg(target_vendor = "apple")]
pub(crate) fn adapter_memory(_: &wgpu::Adapter) -> Option<u64> {
    None
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
    /// The operating system's refusal to open or map it; [`io::ErrorKind::InvalidInput`] for what is no plain file, such as a
    /// pipe, whose opening would wait for ever.
    pub fn open(path: &Path) -> io::Result<Self> {
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a plain file"));
        }
        let file = File::open(path)?;
        // SAFETY: the map is read-only and only ever read as plain bytes, for which every content is valid; see the
        // duty above about truncation.
        Ok(MappedFile(unsafe { memmap2::Mmap::map(&file)? }))
    }

    /// Says that all bytes of `range` are about to be read, so that the system fetches them ahead. Only ever a hint: a
    /// range outside the file, a refusal and a system without such hints change nothing.
    pub fn will_need(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Some(bytes) = self.0.get(range.clone()).filter(|bytes| !bytes.is_empty()) {
            let _ = self.0.advise_range(memmap2::Advice::WillNeed, range.start, bytes.len());
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Says whether small parts all over the file are about to be read, so that the system does not fetch their surroundings.
    /// A hint as [`will_need`](Self::will_need) is.
    pub fn reads_are_scattered(&self, scattered: bool) {
        #[cfg(unix)]
        let _ = self.0.advise(if scattered { memmap2::Advice::Random } else { memmap2::Advice::Normal });
        #[cfg(not(unix))]
        let _ = scattered;
    }

    /// Says that nothing of `range` will be read soon, so that it no longer counts as this process's memory; reading it
    /// again fetches it again. A hint as [`will_need`](Self::will_need) is.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Some(bytes) = self.0.get(range.clone()).filter(|bytes| !bytes.is_empty()) {
            // SAFETY: this advice may lose what was written through a private map; this map is of a file and never
            // written, so that every byte reads the same afterwards.
            let _ =
                unsafe { self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, bytes.len()) };
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

impl Deref for MappedFile {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// A matrix within a slice: element `(row, column)` is `values[offset + row·row_stride + column·column_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub values: &'a [f32],
    pub offset: usize,
    pub rows: usize,
    pub columns: usize,
    pub row_stride: usize,
    pub column_stride: usize,
}

impl Matrix<'_> {
    /// Panics unless every element lies within the slice.
    fn check(&self) {
        if self.rows > 0 && self.columns > 0 {
            let down = (self.rows - 1).checked_mul(self.row_stride);
            let across = (self.columns - 1).checked_mul(self.column_stride);
            let last = down.zip(across).and_then(|(down, across)| down.checked_add(across)?.checked_add(self.offset));
            assert!(last.is_some_and(|last| last < self.values.len()), "the matrix reaches past its slice");
        }
    }
}

/// Who computes a product.
#[derive(Clone, Copy)]
pub(crate) enum Division {
    /// The calling thread.
    One,
    /// All threads of the current rayon pool, divided by the crate `gemm`.
    Threads,
    /// The same, but this many columns of the result are one thread's task, which is at least 1.
    Columns(usize),
}

/// Where the rows of a result begin, shared by tasks that write different columns of them.
struct Columns(*mut f32);

// SAFETY: a task writes its own columns only, see `gemm`.
unsafe impl Sync for Columns {}

impl Columns {
    /// The start of a column that the rows have.
    fn at(&self, column: usize) -> *mut f32 {
        self.0.wrapping_add(column)
    }
}

/// `out = alpha·(a x b)`, plus `out` itself if `accumulate`, where row `i` of the result begins at `out[i·out_stride]`.
/// `b` has at least one row.
///
/// # Panics
/// When the extents do not fit each other or a matrix does not fit its slice.
pub(crate) fn gemm(
    out: &mut [f32],
    out_stride: usize,
    a: Matrix<'_>,
    b: Matrix<'_>,
    alpha: f32,
    accumulate: bool,
    division: Division,
) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    assert!(b.rows == k && k > 0 && out_stride >= n, "the extents of a product do not fit each other");
    if m == 0 || n == 0 {
        return;
    }
    let last = (m - 1).checked_mul(out_stride).and_then(|start| start.checked_add(n - 1));
    assert!(last.is_some_and(|last| last < out.len()), "the result reaches past its slice");
    a.check();
    b.check();
    let out_stride = out_stride.min(out.len()) as isize;
    let out = Columns(out.as_mut_ptr());
    let stride = |extent: usize, stride: usize| if extent > 1 { stride as isize } else { 0 };
    let product = |first: usize, columns: usize, parallelism: gemm::Parallelism| {
        // SAFETY: the checks above keep every element that the strides address within its slice, of which `first` and
        // `columns` choose some of the columns; `out` is borrowed mutably, so it overlaps neither operand, and its rows
        // do not overlap since `out_stride >= n`; no two tasks have a column in common. Slices of f32 are at most
        // `isize::MAX` bytes long, so that offsets and strides within them fit `isize`; a stride that exceeds the slice
        // belongs to an axis of extent 1 and is replaced.
        unsafe {
            gemm::gemm(
                m,
                columns,
                k,
                out.at(first),
                1,
                out_stride,
                accumulate,
                a.values.as_ptr().add(a.offset),
                stride(k, a.column_stride),
                stride(m, a.row_stride),
                b.values.as_ptr().add(b.offset + first * b.column_stride),
                stride(n, b.column_stride),
                stride(k, b.row_stride),
                1.0,
                alpha,
                false,
                false,
                false,
                parallelism,
            );
        }
    };
    match division {
        Division::One => product(0, n, gemm::Parallelism::None),
        Division::Threads => product(0, n, gemm::Parallelism::Rayon(0)),
        Division::Columns(columns) => (0..n.div_ceil(columns)).into_par_iter().for_each(|task| {
            let first = task * columns;
            product(first, columns.min(n - first), gemm::Parallelism::None);
        }),
    }
}
