//! PEFT directories: `adapter_config.json` and `adapter_model.safetensors`, as Python's PEFT reads and writes them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tensor::{DType, Device, MappedFile, Tensor};

use crate::adapter::Adapter;
use crate::adapter_set::{AdapterSet, Values};
use crate::base::Base;
use crate::config::{Bias, LoraConfig};
use crate::error::{LoraError, Result};
use crate::files::write_whole;
use crate::peft_config::{
    AdapterOrigin, read_adapter_config, read_training_config, write_adapter_config, write_training_config,
};
use crate::provenance::{Fingerprint, PROVENANCE_FILE, Provenance};
use crate::subtraction::InitialFactors;

#[cfg(test)]
mod tests;

/// File with an adapter's configuration.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// File with an adapter's factors.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// What PEFT puts before a module's path.
const PREFIX: &str = "base_model.model.";

impl AdapterSet {
    /// Writes the adapter as a PEFT directory, and [`AdapterOrigin::provenance`] beside it. Each file is written whole or not
    /// at all, the configuration last.
    ///
    /// Where an initial product is subtracted, the file holds an adapter of twice the rank that does the same on the
    /// untouched base, and says so in its metadata: [`AdapterSet::load`] then gives back the set as it is here, so that
    /// training can go on.
    ///
    /// # Errors
    /// [`LoraError::File`], [`LoraError::Setting`] for a set that trains the whole model and so is no adapter, or the
    /// device's own errors.
    pub fn save(&self, directory: &Path, origin: &AdapterOrigin) -> Result<()> {
        if self.is_full() {
            return Err(LoraError::Setting {
                setting: "adapter",
                message: "every parameter of the model is trained, which is no adapter; write a checkpoint instead \
                          (`models::write_checkpoint`)"
                    .into(),
            });
        }
        let mut named = Vec::new();
        for adapter in self.adapters() {
            let Some(factors) = self.plain_factors(&adapter.module) else { continue };
            let (a, b) = factors?;
            named.extend([(format!("{PREFIX}{}", adapter.a), a), (format!("{PREFIX}{}", adapter.b), b)]);
            let magnitude = adapter.magnitude.as_ref().and_then(|name| Some((name, self.parameters().get(name)?)));
            named.extend(magnitude.map(|(name, magnitude)| (format!("{PREFIX}{name}"), magnitude.clone())));
        }
        for name in self.whole_parameters() {
            let (Some(tensor), Some((module, parameter))) = (self.whole_parameter(name), name.rsplit_once('.')) else {
                continue;
            };
            let name = stored_name(module, parameter, self.adapter(module).is_some());
            named.push((format!("{PREFIX}{name}"), tensor.clone()));
        }
        let mut metadata = BTreeMap::new();
        if self.inner.subtracted.is_some() {
            metadata.insert(TRAINING_CONFIG.to_string(), write_training_config(self.config(), origin)?);
        }
        let tensors = named.iter().map(|(name, tensor)| (name, tensor));
        remove_provenance(directory)?;
        let weights = write_tensors_with(&directory.join(WEIGHTS_FILE), tensors, metadata)?;
        write_provenance(directory, origin, Some(weights))?;
        write_whole(&directory.join(CONFIG_FILE), write_adapter_config(&self.plain_config(), origin)?.as_bytes())
    }

    /// Reads a PEFT directory as adapters of a model. Every tensor of the file must be used, every adapter must find its
    /// two factors, every module trained as a whole its parameters, and all shapes must be right. Tensors stored as f16 or
    /// bf16 become f32. `base` may be a list of modules where none is trained as a whole.
    ///
    /// # Errors
    /// [`LoraError::File`], [`LoraError::Format`], [`LoraError::Unsupported`], [`LoraError::Target`],
    /// [`LoraError::MissingTensor`], [`LoraError::UnexpectedTensor`], [`LoraError::TensorShape`], or the device's own
    /// errors.
    pub fn load(directory: &Path, base: impl Into<Base>, device: &Device) -> Result<(Self, AdapterOrigin)> {
        let (config, mut origin) = read_adapter_config(&directory.join(CONFIG_FILE))?;
        let path = directory.join(WEIGHTS_FILE);
        let bytes = open_weights(&path)?;
        origin.provenance = Provenance::read(directory)?;
        check_weights(&path, &bytes, origin.provenance.as_ref())?;
        let file = TensorFile::parse(&path, &bytes)?;
        // A configuration that was changed since no longer belongs to what the metadata says.
        let training = training_config(&path, &bytes)?;
        let training =
            training.filter(|training| 2 * training.rank == config.rank && training.targets == config.targets);
        let mut stored = StoredValues { file, device, initial: training.is_some().then(InitialFactors::new) };
        if config.bias == Bias::All {
            stored.file.drop_copies_of_biases();
        }
        let mut set = Self::build(training.unwrap_or(config), &base.into(), device, &mut stored)?;
        stored.file.finish()?;
        Arc::make_mut(&mut set.inner).subtracted = stored.initial;
        Ok((set, origin))
    }
}

/// Entry of the file's metadata with the configuration of a set whose initial product is subtracted.
const TRAINING_CONFIG: &str = "subtracted_initial_product";

/// What a PEFT directory says about an adapter's origin, without a model.
///
/// # Errors
/// As [`AdapterSet::load`] for files that cannot be read.
pub fn read_adapter_origin(directory: &Path) -> Result<AdapterOrigin> {
    let (_, origin) = read_adapter_config(&directory.join(CONFIG_FILE))?;
    Ok(AdapterOrigin { provenance: Provenance::read(directory)?, ..origin })
}

/// Removes what the files that are about to be replaced said of themselves: whenever writing stops, the rest holds together.
pub(crate) fn remove_provenance(directory: &Path) -> Result<()> {
    let path = directory.join(PROVENANCE_FILE);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(LoraError::file(&path, error)),
        _ => Ok(()),
    }
}

/// Writes where something comes from, and the fingerprint of an adapter's weights.
pub(crate) fn write_provenance(directory: &Path, origin: &AdapterOrigin, weights: Option<String>) -> Result<()> {
    match &origin.provenance {
        Some(provenance) => Provenance { weights, ..provenance.clone() }.write(directory),
        None => Ok(()),
    }
}

/// Refuses weights that are not those which the provenance was written with.
fn check_weights(path: &Path, bytes: &[u8], provenance: Option<&Provenance>) -> Result<()> {
    match provenance.and_then(|provenance| provenance.weights.as_deref()) {
        Some(written) if written != Fingerprint::of(bytes) => {
            let message = format!(
                "its contents are not those that were written; it is damaged, or was changed: then remove {PROVENANCE_FILE} \
                 beside it, which is no longer true"
            );
            Err(LoraError::format(path, message))
        }
        _ => Ok(()),
    }
}

fn training_config(path: &Path, bytes: &[u8]) -> Result<Option<LoraConfig>> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| damaged(path, error))?;
    let text = metadata.metadata().as_ref().and_then(|entries| entries.get(TRAINING_CONFIG));
    text.map(|text| read_training_config(path, text)).transpose()
}

/// Name of a parameter that is trained as a whole. PEFT has the frozen layer of an adapted module inside the adapter's.
fn stored_name(module: &str, parameter: &str, adapted: bool) -> String {
    if adapted { format!("{module}.base_layer.{parameter}") } else { format!("{module}.{parameter}") }
}

/// The values of an adapter that was saved.
struct StoredValues<'a> {
    file: TensorFile<'a>,
    device: &'a Device,
    /// Gathers the second halves of the factors, where these hold a subtracted product.
    initial: Option<InitialFactors>,
}

impl Values for StoredValues<'_> {
    fn factors(&mut self, adapter: &Adapter) -> Result<(Tensor, Tensor)> {
        // Where the output head or an embedding is adapted, PEFT stores its frozen weight as well.
        let base = format!("{PREFIX}{}", stored_name(&adapter.module, "weight", true));
        self.file.ignore(&base, &adapter.weight_shape())?;
        let rank = adapter.rank;
        let stored = if self.initial.is_some() { 2 * rank } else { rank };
        let a = self.file.take(&format!("{PREFIX}{}", adapter.a), &[stored, adapter.inputs], self.device)?;
        let b = self.file.take(&format!("{PREFIX}{}", adapter.b), &[adapter.outputs, stored], self.device)?;
        let Some(initial) = &mut self.initial else {
            return Ok((a, b));
        };
        let frozen = (a.slice(0, rank, stored)?.contiguous()?, b.slice(1, rank, stored)?.neg()?.contiguous()?);
        initial.insert(adapter.module.clone(), frozen);
        Ok((a.slice(0, 0, rank)?.contiguous()?, b.slice(1, 0, rank)?.contiguous()?))
    }

    fn magnitude(&mut self, adapter: &Adapter, _: &dyn Fn() -> Result<Tensor>) -> Result<Tensor> {
        let name = adapter.magnitude.as_deref().unwrap_or_default();
        self.file.take(&format!("{PREFIX}{name}"), &[adapter.outputs], self.device)
    }

    fn whole(&mut self, module: &str, parameter: &str, initial: Tensor) -> Result<Tensor> {
        let [plain, inside] =
            [false, true].map(|adapted| format!("{PREFIX}{}", stored_name(module, parameter, adapted)));
        let name = if self.file.tensors.contains_key(&inside) { inside } else { plain };
        self.file.take(&name, initial.shape(), self.device)
    }
}

/// Maps an adapter's file of weights: what its header does not name takes no memory.
fn open_weights(path: &Path) -> Result<MappedFile> {
    MappedFile::open(path).map_err(|error| match path.with_file_name("adapter_model.bin") {
        pickled if error.kind() == std::io::ErrorKind::NotFound && pickled.exists() => {
            let message = "is missing, and pickled adapters are not read; save it again with `safe_serialization=True`";
            LoraError::format(path, message)
        }
        _ => LoraError::file(path, error),
    })
}

fn damaged(path: &Path, error: safetensors::SafeTensorError) -> LoraError {
    LoraError::format(path, format!("not a valid safetensors file: {error}; download or save it again"))
}

/// The tensors of a safetensors file, taken out one by one until none is left.
pub(crate) struct TensorFile<'a> {
    path: &'a Path,
    tensors: HashMap<String, TensorView<'a>>,
}

impl<'a> TensorFile<'a> {
    pub(crate) fn parse(path: &'a Path, bytes: &'a [u8]) -> Result<Self> {
        let file = SafeTensors::deserialize(bytes).map_err(|error| damaged(path, error))?;
        Ok(TensorFile { path, tensors: file.tensors().into_iter().collect() })
    }

    /// Takes a tensor out as f32, checking its shape.
    pub(crate) fn take(&mut self, name: &str, shape: &[usize], device: &Device) -> Result<Tensor> {
        let view = self.tensors.remove(name).ok_or_else(|| LoraError::MissingTensor {
            path: self.path.to_path_buf(),
            tensor: name.into(),
            expected: shape.to_vec(),
        })?;
        self.check_shape(name, &view, shape)?;
        let tensor = self.build(name, &view, device)?;
        if tensor.dtype().is_float() {
            return Ok(tensor.cast(DType::F32)?);
        }
        Err(LoraError::format(self.path, format!("tensor `{name}` is of type {}, not of a float type", tensor.dtype())))
    }

    /// Takes all tensors out as they are.
    pub(crate) fn into_tensors(self, device: &Device) -> Result<Vec<(String, Tensor)>> {
        let build = |(name, view)| Ok((String::clone(name), self.build(name, view, device)?));
        self.tensors.iter().map(build).collect()
    }

    fn build(&self, name: &str, view: &TensorView<'_>, device: &Device) -> Result<Tensor> {
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::Bf16,
            Dtype::U32 => DType::U32,
            Dtype::I32 => DType::I32,
            other => {
                let message = format!("tensor `{name}` is of type {other:?}, which is not read here");
                return Err(LoraError::format(self.path, message));
            }
        };
        Ok(Tensor::from_bytes(device, dtype, view.shape(), view.data())?)
    }

    /// Drops what PEFT stores under `bias: all` besides the biases themselves: those of frozen originals of modules trained as a
    /// whole, second copies of the trained ones, and the tied bias of a masked language model.
    fn drop_copies_of_biases(&mut self) {
        let copies = [".original_module.bias", ".modules_to_save.bias", ".predictions.decoder.bias"];
        self.tensors.retain(|name, _| !copies.iter().any(|copy| name.ends_with(copy)));
    }

    /// Drops a tensor that may be there and is not needed, checking its shape.
    fn ignore(&mut self, name: &str, shape: &[usize]) -> Result<()> {
        match self.tensors.remove(name) {
            Some(view) => self.check_shape(name, &view, shape),
            None => Ok(()),
        }
    }

    fn check_shape(&self, name: &str, view: &TensorView<'_>, shape: &[usize]) -> Result<()> {
        if view.shape() == shape {
            return Ok(());
        }
        Err(LoraError::TensorShape {
            path: self.path.to_path_buf(),
            tensor: name.into(),
            expected: shape.to_vec(),
            found: view.shape().to_vec(),
        })
    }

    /// Checks that nothing is left.
    pub(crate) fn finish(self) -> Result<()> {
        let Some((name, view)) = self.tensors.iter().min_by_key(|(name, _)| name.as_str()) else {
            return Ok(());
        };
        let advice = if name.contains(".lora_magnitude_vector") {
            "it is part of a DoRA adapter, and `use_dora` of the configuration is not set"
        } else if name.contains(".lora_embedding_") {
            "the model has no such embedding, or the configuration does not target it"
        } else if name.contains(".lora_") {
            "the model has no such linear module, or the configuration does not target it"
        } else {
            "the model has no such module, or `modules_to_save` of the configuration does not name it"
        };
        Err(LoraError::UnexpectedTensor {
            path: self.path.to_path_buf(),
            tensor: name.clone(),
            found: view.shape().to_vec(),
            advice,
        })
    }
}

/// Writes tensors as a safetensors file, whole or not at all; [`LoraError::NotFinite`] for values that nobody could use.
pub(crate) fn write_tensors<'t, S>(path: &Path, named: impl IntoIterator<Item = (S, &'t Tensor)>) -> Result<()>
where
    S: AsRef<str> + Ord + std::fmt::Display,
{
    write_tensors_with(path, named, BTreeMap::new()).map(drop)
}

/// As [`write_tensors`], with entries for the file's metadata. Gives the file's fingerprint.
fn write_tensors_with<'t, S>(
    path: &Path,
    named: impl IntoIterator<Item = (S, &'t Tensor)>,
    mut metadata: BTreeMap<String, String>,
) -> Result<String>
where
    S: AsRef<str> + Ord + std::fmt::Display,
{
    let mut stored = Vec::new();
    for (name, tensor) in named {
        let bytes = little_endian_bytes(tensor)?;
        if !is_finite(tensor.dtype(), &bytes) {
            let message = format!("holds NaN or infinity; {} is not written", path.display());
            return Err(LoraError::NotFinite { tensor: name.to_string(), message });
        }
        stored.push((name, tensor.shape().to_vec(), stored_type(tensor.dtype()), bytes));
    }
    let views = stored.iter().map(|(name, shape, dtype, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes)?;
        Ok((name.as_ref(), view))
    });
    let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>();
    // Python's loaders ask for this entry to know which framework's layout it is.
    metadata.insert("format".to_string(), "pt".to_string());
    let bytes = views.and_then(|views| safetensors::serialize(views, None));
    let bytes = bytes.map_err(|error| LoraError::format(path, error))?;
    let metadata = serde_json::to_string(&metadata).map_err(|error| LoraError::format(path, error))?;
    let file = with_metadata(&bytes, &metadata);
    write_whole(path, &file)?;
    Ok(Fingerprint::of(&file))
}

/// Whether no element is NaN or infinite: in each float type that is all exponent bits set.
fn is_finite(dtype: DType, bytes: &[u8]) -> bool {
    let halves = |exponent: u16| {
        let mut halves = bytes.chunks_exact(2).map(|half| u16::from_le_bytes([half[0], half[1]]));
        halves.all(|bits| bits & exponent != exponent)
    };
    match dtype {
        DType::F32 => {
            let mut words = bytes.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
            words.all(|bits| bits & 0x7f80_0000 != 0x7f80_0000)
        }
        DType::F16 => halves(0x7c00),
        DType::Bf16 => halves(0x7f80),
        DType::U32 | DType::I32 => true,
    }
}

/// A safetensors file without metadata, with some. (The library writes its entries in an order that differs from run to
/// run.)
fn with_metadata(file: &[u8], metadata: &str) -> Vec<u8> {
    let length = file.first_chunk().map_or(0, |length| u64::from_le_bytes(*length)) as usize;
    let (header, tensors) = file[8..].split_at(length);
    // A header is an object, whose first character is a brace; padded by spaces to a multiple of eight.
    let rest = header[1..].trim_ascii();
    let comma = if rest.starts_with(b"}") { "" } else { "," };
    let mut header = format!("{{\"__metadata__\":{metadata}{comma}").into_bytes();
    header.extend_from_slice(rest);
    header.resize(header.len().next_multiple_of(8), b' ');
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], &header, tensors].concat()
}

fn stored_type(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::Bf16 => Dtype::BF16,
        DType::U32 => Dtype::U32,
        DType::I32 => Dtype::I32,
    }
}

/// The elements as safetensors files store them. Tensors are little-endian in memory wherever this engine runs, as WGSL's
/// buffers are.
///
/// # Errors
/// The device's own errors.
pub fn little_endian_bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    Ok(match tensor.dtype() {
        DType::F32 => bytemuck::cast_slice(&tensor.to_vec::<f32>()?).to_vec(),
        DType::F16 => bytemuck::cast_slice(&tensor.to_vec::<half::f16>()?).to_vec(),
        DType::Bf16 => bytemuck::cast_slice(&tensor.to_vec::<half::bf16>()?).to_vec(),
        DType::U32 => bytemuck::cast_slice(&tensor.to_vec::<u32>()?).to_vec(),
        DType::I32 => bytemuck::cast_slice(&tensor.to_vec::<i32>()?).to_vec(),
    })
}
