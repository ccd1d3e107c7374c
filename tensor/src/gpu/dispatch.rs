//! One kernel launch, described by the operation that wants it.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::memory::GpuStorage;
use super::pipeline::PARAMETER_BYTES;
use super::{Gpu, Tiles, lock, tiles};
use crate::error::{Result, TensorError};
use crate::tensor::{Storage, Tensor};

/// Where a kernel's WGSL comes from.
pub(crate) enum Source<'a> {
    /// The text of a `.wgsl` file.
    Wgsl(&'static str),
    /// Made on first use by a generator; the kernel's name must name the configuration completely.
    Generated(&'a dyn Fn() -> String),
    /// As `Generated`, with cooperative matrices and their vectors declared of f32 that are to be of f16 in containers of 16
    /// bytes; only where [`super::cooperative::CooperativeMatrices::containers_usable`] says so.
    HalvedContainers(&'a dyn Fn() -> String),
}

/// A kernel launch under construction: `Dispatch::new(…).constant(…).read(…).write(…).params(…).run(grid)`.
/// Buffers are bound in the order of the calls, as `@group(0) @binding(0)`, `(1)`, …
pub(crate) struct Dispatch<'a> {
    name: Cow<'a, str>,
    entry: &'a str,
    source: Source<'a>,
    constants: Vec<(&'a str, f64)>,
    buffers: Vec<Binding<'a>>,
    /// No storage changes its order for this one.
    as_it_is: bool,
    params: [u8; PARAMETER_BYTES],
    params_len: usize,
    invalid: Option<TensorError>,
}

#[derive(Clone, Copy)]
struct Binding<'a> {
    wanted: tiles::Wanted<'a>,
    write: bool,
}

impl<'a> Dispatch<'a> {
    /// A launch of the entry point `entry`. `name` identifies the source text in caches, timings and messages.
    pub fn new(name: impl Into<Cow<'a, str>>, entry: &'a str, source: Source<'a>) -> Self {
        Dispatch {
            name: name.into(),
            entry,
            source,
            constants: Vec::new(),
            buffers: Vec::with_capacity(8),
            as_it_is: false,
            params: [0; PARAMETER_BYTES],
            params_len: 0,
            invalid: None,
        }
    }

    /// Sets a pipeline constant (`override NAME: …;` in the WGSL).
    pub fn constant(mut self, name: &'a str, value: f64) -> Self {
        self.constants.push((name, value));
        self
    }

    /// Binds a tensor's whole storage for reading; the kernel adds the tensor's offset itself.
    pub fn read(self, tensor: &'a Tensor) -> Self {
        self.bind(tensor, false, None)
    }

    /// Binds a matrix that fills its whole storage for writing all its elements, in tiles, see [`super::tiles`]; both extents
    /// are multiples of theirs.
    pub fn write_tiles(mut self, tensor: &'a Tensor, tiles: Tiles) -> Self {
        self = self.bind(tensor, true, Some(tiles));
        if let Some(binding) = self.buffers.last_mut() {
            binding.wanted.overwritten = true;
        }
        self
    }

    /// Binds a matrix that fills its whole storage for reading in tiles, see [`super::tiles`]; both extents are multiples of
    /// theirs.
    pub fn read_tiles(self, tensor: &'a Tensor, tiles: Tiles) -> Self {
        self.bind(tensor, false, Some(tiles))
    }

    /// Binds two storages in whatever order they are, one for reading, one for writing.
    pub(super) fn between(mut self, from: &'a GpuStorage, to: &'a GpuStorage) -> Self {
        self.as_it_is = true;
        self.buffers.extend([(from, false), (to, true)].map(|(storage, write)| Binding {
            wanted: tiles::Wanted { storage, tiles: None, overwritten: false },
            write,
        }));
        self
    }

    /// Binds a tensor's whole storage for reading and writing.
    pub fn write(self, tensor: &'a Tensor) -> Self {
        self.bind(tensor, true, None)
    }

    /// Sets the parameter block; its layout is the WGSL `struct Params`.
    pub fn params<P: bytemuck::NoUninit>(mut self, params: &P) -> Self {
        let bytes = bytemuck::bytes_of(params);
        debug_assert!(bytes.len() <= PARAMETER_BYTES && bytes.len().is_multiple_of(4), "{}", self.name);
        self.params[..bytes.len()].copy_from_slice(bytes);
        self.params_len = bytes.len();
        self
    }

    /// Records the launch. A grid with a zero extent records nothing.
    pub fn run(self, gpu: &Gpu, grid: [u32; 3]) -> Result<()> {
        if let Some(error) = self.invalid {
            return Err(error);
        }
        if grid.contains(&0) {
            return Ok(());
        }
        let orders = self.buffers.iter().map(|binding| binding.wanted);
        let _guard = if self.as_it_is { None } else { Some(tiles::arrange(gpu, orders)?) };
        lock(&gpu.stream).record(gpu, &self, grid)
    }

    fn bind(mut self, tensor: &'a Tensor, write: bool, tiles: Option<Tiles>) -> Self {
        match &tensor.storage {
            Storage::Gpu(storage) => {
                let wanted = tiles::Wanted { storage, tiles, overwritten: false };
                self.buffers.push(Binding { wanted, write });
            }
            Storage::Cpu(_) => {
                self.invalid = Some(TensorError::Gpu {
                    operation: self.name.to_string(),
                    message: format!("{tensor:?} was passed to a GPU kernel"),
                });
            }
        }
        self
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn entry(&self) -> &str {
        self.entry
    }

    pub(super) fn wgsl(&self) -> Cow<'static, str> {
        match &self.source {
            Source::Wgsl(text) => Cow::Borrowed(text),
            Source::Generated(generate) | Source::HalvedContainers(generate) => Cow::Owned(generate()),
        }
    }

    pub(super) fn has_containers(&self) -> bool {
        matches!(self.source, Source::HalvedContainers(_))
    }

    pub(super) fn constants(&self) -> &[(&'a str, f64)] {
        &self.constants
    }

    pub(super) fn accesses(&self) -> impl Iterator<Item = bool> + '_ {
        self.buffers.iter().map(|binding| binding.write)
    }

    pub(super) fn buffers(&self) -> impl Iterator<Item = &'a GpuStorage> + '_ {
        self.buffers.iter().map(|binding| binding.wanted.storage)
    }

    pub(super) fn parameter_bytes(&self) -> &[u8] {
        &self.params[..self.params_len]
    }

    /// Key of the pipeline variant: everything that decides the compiled code.
    pub(super) fn variant(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&*self.name, self.entry).hash(&mut hasher);
        for (name, value) in &self.constants {
            (name, value.to_bits()).hash(&mut hasher);
        }
        for binding in &self.buffers {
            binding.write.hash(&mut hasher);
        }
        hasher.finish()
    }
}

/// A grid of workgroups for `count` invocations in workgroups of `workgroup_size`, folded into y where x alone would
/// exceed the device's limit. The kernel finds its position with `linear_id` and returns where that is ≥ `count`.
pub(crate) fn linear_grid(count: usize, workgroup_size: usize) -> [u32; 3] {
    const LIMIT: usize = 65_535;
    let groups = count.div_ceil(workgroup_size);
    let rows = groups.div_ceil(LIMIT);
    if rows == 0 {
        return [0, 1, 1];
    }
    [groups.div_ceil(rows) as u32, rows as u32, 1]
}

#[cfg(test)]
mod tests {
    use super::linear_grid;

    #[test]
    fn grids_cover_every_element_within_the_limit() {
        for count in [0, 1, 255, 256, 257, 65_535 * 256, 65_535 * 256 + 1, (1usize << 32) - 1] {
            let [x, y, z] = linear_grid(count, 256);
            let invocations = x as usize * y as usize * 256;
            assert!(invocations >= count && z == 1 && x <= 65_535 && y <= 65_535, "{count}: {x} {y}");
            assert!(invocations < count + 256 * (y as usize + 1), "{count} wastes too many workgroups");
        }
    }
}
