//! Folds an adapter into a checkpoint, file by file and tensor by tensor: the model is never in memory whole.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use lora::{
    AdapterSet, Base, Bias, CONFIG_FILE, ModuleShape, Targets, WEIGHTS_FILE, little_endian_bytes, read_adapter_config,
};
use safetensors::Dtype;
use tensor::{DType, Device, Tensor};

use crate::checkpoint::{Checkpoint, Entry, write_index, write_safetensors};
use crate::error::{ModelError, Result};
use crate::weights::float_type;

/// What [`merge_checkpoint`] wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergedCheckpoint {
    /// The files with tensors, in order.
    pub files: Vec<PathBuf>,
    /// Tensors that the adapter changed.
    pub changed: usize,
    /// Tensors that the adapter added, such as the head of a classifier, with their shapes.
    pub added: Vec<(String, Vec<usize>)>,
    /// Bytes of all tensors.
    pub bytes: u64,
}

/// Reads a PEFT adapter for the modules of a checkpoint, without loading the checkpoint.
///
/// # Errors
/// As [`AdapterSet::load`], and what keeps the checkpoint's tensors from being read.
pub fn load_adapter(checkpoint: &Checkpoint, directory: &Path, device: &Device) -> Result<AdapterSet> {
    let (config, _) = read_adapter_config(&directory.join(CONFIG_FILE))?;
    let contents = Contents::read(directory)?;
    let modules = checkpoint.tensors().filter_map(|(name, stored)| {
        let (Some(module), &[rows, columns]) = (name.strip_suffix(".weight"), &*stored.shape) else { return None };
        if contents.embeddings.contains(module) {
            return Some(ModuleShape::new(module, rows, columns).embedding());
        }
        // Which matrices are those of linear modules, only the adapter tells.
        let linear = config.targets != Targets::AllLinear || contents.linears.contains(module);
        linear.then(|| ModuleShape::new(module, columns, rows))
    });
    let modules = modules.collect();
    let mut parameters: BTreeMap<String, Vec<(String, Tensor)>> = BTreeMap::new();
    if config.bias != Bias::None {
        parameters.extend(contents.linears.iter().map(|module| (module.clone(), Vec::new())));
    }
    for (name, shape) in &contents.whole {
        let Some((module, parameter)) = name.rsplit_once('.') else { continue };
        // Only the shape counts: the adapter's file holds the values.
        let value = Tensor::zeros(device, shape, DType::F32)?;
        parameters.entry(module.into()).or_default().push((parameter.into(), value));
    }
    Ok(AdapterSet::load(directory, Base::from_parts(modules, parameters), device)?.0)
}

/// What an adapter's file is about.
#[derive(Default)]
struct Contents {
    /// Linear modules with factors.
    linears: BTreeSet<String>,
    /// Embeddings with factors.
    embeddings: BTreeSet<String>,
    /// Names and shapes of the parameters that are held whole.
    whole: Vec<(String, Vec<usize>)>,
}

impl Contents {
    fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(WEIGHTS_FILE);
        let file = crate::checkpoint::open_safetensors(&path)?;
        let mut contents = Contents::default();
        for (name, stored) in &file.tensors {
            let name = name.strip_prefix("base_model.model.").unwrap_or(name);
            if let Some(module) = name.strip_suffix(".lora_A.weight") {
                contents.linears.insert(module.into());
            } else if let Some(module) = name.strip_suffix(".lora_embedding_A") {
                contents.embeddings.insert(module.into());
            } else if let Some(module) = name.strip_suffix(".base_layer.bias") {
                contents.whole.push((format!("{module}.bias"), stored.shape.clone()));
            } else if !name.contains(".lora_") && !name.contains(".base_layer.") && !is_copy(name) {
                contents.whole.push((name.into(), stored.shape.clone()));
            }
        }
        Ok(contents)
    }
}

/// What PEFT stores under `bias: all` besides the biases themselves.
fn is_copy(name: &str) -> bool {
    name.contains(".original_module.") || name.contains(".modules_to_save.") || name == "cls.predictions.decoder.bias"
}

/// Writes `checkpoint` with the adapter folded in to `out`, as safetensors of the same division into files. Weights keep
/// their element type; parameters that the checkpoint lacks are added to the last file in f32. Configuration and
/// tokenizer are the caller's to copy.
///
/// # Errors
/// As [`AdapterSet::merge`], or what keeps files from being written; [`ModelError::InvalidArgument`] for an adapter that
/// changes nothing.
pub fn merge_checkpoint(checkpoint: &Checkpoint, adapters: &AdapterSet, out: &Path) -> Result<MergedCheckpoint> {
    let added = added(checkpoint, adapters);
    let names: Vec<PathBuf> = checkpoint.files().map(Path::to_path_buf).collect();
    let mut merged = MergedCheckpoint { files: Vec::new(), changed: 0, added: Vec::new(), bytes: 0 };
    let mut weight_map = BTreeMap::new();
    for (number, source) in names.iter().enumerate() {
        let mut entries = stored_in(checkpoint, source);
        if number + 1 == names.len() {
            merged.added = added.iter().map(|entry| (entry.name.clone(), entry.shape.clone())).collect();
            entries.extend(added.iter().map(|e| Entry {
                name: e.name.clone(),
                dtype: e.dtype,
                shape: e.shape.clone(),
            }));
        }
        let file = out.join(safetensors_name(source));
        let mut metadata = checkpoint.metadata(source).cloned().unwrap_or_default();
        metadata.entry("format".into()).or_insert_with(|| "pt".into());
        write_safetensors(&file, &entries, &metadata, |entry, sink| {
            let stored = checkpoint.bytes(&entry.name);
            let (bytes, changed) = merge_tensor(entry, stored, adapters)?;
            merged.changed += usize::from(changed);
            sink(&bytes)
        })?;
        for entry in &entries {
            merged.bytes += entry.length() as u64;
            weight_map.insert(entry.name.clone(), safetensors_name(source));
        }
        merged.files.push(file);
    }
    if names.len() > 1 {
        write_index(out, merged.bytes, &weight_map)?;
    }
    if merged.changed + merged.added.len() == 0 {
        let message = "the adapter changes no tensor of the checkpoint".into();
        return Err(ModelError::InvalidArgument { operation: "merge", message });
    }
    Ok(merged)
}

/// The tensors of one file, in name order.
fn stored_in(checkpoint: &Checkpoint, file: &Path) -> Vec<Entry> {
    let stored = checkpoint.tensors().filter(|(name, _)| checkpoint.file_of(name) == Some(file));
    stored.map(|(name, info)| Entry { name: name.into(), dtype: info.dtype, shape: info.shape.clone() }).collect()
}

/// Parameters that the adapter holds whole and the checkpoint does not.
fn added(checkpoint: &Checkpoint, adapters: &AdapterSet) -> Vec<Entry> {
    let missing = adapters.whole_parameters().filter(|name| checkpoint.get(name).is_none());
    let entry = |name: &str| {
        let shape = adapters.whole_parameter(name)?.shape().to_vec();
        Some(Entry { name: name.into(), dtype: Dtype::F32, shape })
    };
    missing.filter_map(entry).collect()
}

/// The bytes of one tensor of the output, and whether the adapter had a part in them.
fn merge_tensor<'a>(
    entry: &Entry,
    stored: Option<Cow<'a, [u8]>>,
    adapters: &AdapterSet,
) -> Result<(Cow<'a, [u8]>, bool)> {
    let device = adapters.device();
    let Some(stored) = stored else {
        let trained = adapters.whole_parameter(&entry.name).ok_or_else(|| missing(&entry.name))?;
        return Ok((Cow::Owned(little_endian_bytes(trained)?), true));
    };
    let module = entry.name.strip_suffix(".weight").filter(|module| adapters.adapter(module).is_some());
    if module.is_none() && adapters.whole_parameter(&entry.name).is_none() {
        return Ok((stored, false));
    }
    let Some(dtype) = float_type(entry.dtype) else {
        let message =
            format!("`{}` has element type {:?}; F32, F16 and BF16 can be merged into", entry.name, entry.dtype);
        return Err(ModelError::InvalidArgument { operation: "merge", message });
    };
    let weight = Tensor::from_bytes(device, dtype, &entry.shape, &stored)?;
    let result = match module {
        Some(module) => adapters.merge(module, &weight)?,
        None => adapters.merge_parameter(&entry.name, &weight)?,
    };
    let bytes = little_endian_bytes(&result)?;
    drop((weight, result));
    device.trim_pool()?;
    Ok((Cow::Owned(bytes), true))
}

fn missing(name: &str) -> ModelError {
    ModelError::InvalidArgument { operation: "merge", message: format!("no value for `{name}`") }
}

/// The name of a source file in the output: PyTorch's files become safetensors.
fn safetensors_name(source: &Path) -> String {
    let name = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match name.strip_suffix(".bin") {
        Some(stem) => format!("{}.safetensors", stem.replace("pytorch_model", "model")),
        None => name,
    }
}
