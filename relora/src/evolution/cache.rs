//! Evolutions on disk, a file for each module, so that the next adapter of the same update pays nothing and an
//! interrupted run goes on where it was. Nobody waits for the disk: a file holds a checksum of its numbers, and one that a
//! power cut has damaged counts as absent.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use lora::{Adapter, Fingerprint, LoraError, Result, little_endian_bytes, write_replaceable};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tensor::{DType, Device, Tensor};

use super::{ModuleEvolution, Statistics};

/// Changes when the same weights would give other numbers.
const ALGORITHM: &str = "range finder 1";

/// A directory of evolutions of one update: from the base with one fingerprint to that with the other.
#[derive(Clone, Debug)]
pub struct EvolutionCache {
    directory: PathBuf,
    update: String,
}

impl EvolutionCache {
    /// The cache of the update between two bases, inside `directory`. Nothing is read or written yet.
    pub fn new(directory: &Path, old_fingerprint: &str, new_fingerprint: &str) -> Self {
        let short = |text: &str| text.chars().take(16).collect::<String>();
        EvolutionCache {
            directory: directory.join(format!("{}-{}", short(old_fingerprint), short(new_fingerprint))),
            update: format!("{old_fingerprint} {new_fingerprint}"),
        }
    }

    fn path(&self, module: &str, rank: usize, seed: u64) -> PathBuf {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        let module: String = module.chars().map(plain).collect();
        self.directory.join(format!("{module}.rank-{rank}.seed-{seed}.safetensors"))
    }

    /// What the file says it is about.
    fn identity(&self, module: &str, rank: usize, seed: u64) -> String {
        format!("{ALGORITHM}; {}; {module}; rank {rank}; seed {seed}", self.update)
    }

    /// The evolution of a module, if it is known. A file that is damaged or about something else counts as absent: it is
    /// written again.
    pub(crate) fn load(&self, adapter: &Adapter, rank: usize, seed: u64) -> Option<ModuleEvolution> {
        let bytes = std::fs::read(self.path(&adapter.module, rank, seed)).ok()?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes).ok()?;
        let metadata = metadata.metadata().clone()?;
        if metadata.get("identity")? != &self.identity(&adapter.module, rank, seed) {
            return None;
        }
        let file = SafeTensors::deserialize(&bytes).ok()?;
        let stored = |name: &str| file.tensor(name).map(|view| view.data()).unwrap_or_default();
        if metadata.get("checksum")? != &checksum(TENSORS.map(stored)) {
            return None;
        }
        let statistics = read_statistics(&file.tensor("statistics").ok()?, rank)?;
        let tensor = |name: &str, shape: [usize; 2]| {
            let view = file.tensor(name).ok()?;
            if view.dtype() != Dtype::F32 || view.shape() != shape {
                return None;
            }
            Tensor::from_bytes(&Device::cpu(), DType::F32, &shape, view.data()).ok()
        };
        // Where a vocabulary grew, the factors have the new size, and so has the adapter.
        let left = tensor("left", [adapter.outputs, rank])?;
        let right = tensor("right", [rank, adapter.inputs])?;
        Some(ModuleEvolution { left, right, statistics })
    }

    /// Keeps the evolution of a module.
    pub(crate) fn store(&self, module: &str, rank: usize, seed: u64, evolution: &ModuleEvolution) -> Result<()> {
        let path = self.path(module, rank, seed);
        let statistics = statistics_bytes(&evolution.statistics);
        let factors = [&evolution.left, &evolution.right].map(|tensor| tensor.shape().to_vec());
        let shapes = [vec![statistics.len() / 8], factors[0].clone(), factors[1].clone()];
        let [left, right] = [little_endian_bytes(&evolution.left)?, little_endian_bytes(&evolution.right)?];
        let stored = [&statistics[..], &left, &right];
        let metadata = HashMap::from([
            ("identity".to_string(), self.identity(module, rank, seed)),
            ("checksum".to_string(), checksum(stored)),
        ]);
        let views: std::result::Result<Vec<_>, _> = TENSORS
            .iter()
            .zip([Dtype::F64, Dtype::F32, Dtype::F32])
            .zip(shapes.into_iter().zip(stored))
            .map(|((name, dtype), (shape, bytes))| Ok((*name, TensorView::new(dtype, shape, bytes)?)))
            .collect();
        let bytes = views.and_then(|views| safetensors::serialize(views, Some(metadata)));
        write_replaceable(&path, &bytes.map_err(|error| LoraError::format(&path, error))?)
    }
}

/// The tensors of a file.
const TENSORS: [&str; 3] = ["statistics", "left", "right"];

/// A checksum of the tensors' bytes, against damage, not against malice.
fn checksum(tensors: [&[u8]; 3]) -> String {
    let mut fingerprint = Fingerprint::new();
    tensors.iter().for_each(|bytes| fingerprint.add(bytes));
    fingerprint.to_string()
}

/// Numbers before the singular values.
const NUMBERS: usize = 5;

/// The statistics as f64: what a text would round.
fn statistics_bytes(statistics: &Statistics) -> Vec<u8> {
    let Statistics { norm, weight_norm, singular_values, spectral_error_bound, power_iterations, added_rows } =
        statistics;
    let numbers: [f64; NUMBERS] =
        [*norm, *weight_norm, *spectral_error_bound, *power_iterations as f64, *added_rows as f64];
    numbers.iter().chain(singular_values).flat_map(|number| number.to_le_bytes()).collect()
}

fn read_statistics(view: &TensorView<'_>, rank: usize) -> Option<Statistics> {
    if view.dtype() != Dtype::F64 || view.shape() != [NUMBERS + rank] {
        return None;
    }
    let number = |bytes: &[u8]| Some(f64::from_le_bytes(bytes.try_into().ok()?));
    let numbers: Vec<f64> = view.data().chunks_exact(8).map(number).collect::<Option<_>>()?;
    let (&[norm, weight_norm, spectral_error_bound, power_iterations, added_rows], singular_values) =
        numbers.split_first_chunk::<NUMBERS>()?;
    Some(Statistics {
        norm,
        weight_norm,
        singular_values: singular_values.to_vec(),
        spectral_error_bound,
        power_iterations: power_iterations as usize,
        added_rows: added_rows as usize,
    })
}
