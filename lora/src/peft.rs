//! PEFT directories: `adapter_config.json` and `adapter_model.safetensors`, as Python's PEFT reads and writes them.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tensor::{DType, Device, Tensor};

use crate::adapter_set::{Adapter, AdapterSet, Values};
use crate::base::Base;
use crate::error::{LoraError, Result};
use crate::files::write_whole;
use crate::peft_config::{AdapterOrigin, read_adapter_config, write_adapter_config};

#[cfg(test)]
mod tests;

/// File with an adapter's configuration.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// File with an adapter's factors.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// What PEFT puts before a module's path.
const PREFIX: &str = "base_model.model.";

impl AdapterSet {
    /// Writes the adapter as a PEFT directory. Each file is written whole or not at all, the configuration last.
    ///
    /// # Errors
    /// [`LoraError::File`], or the device's own errors.
    pub fn save(&self, directory: &Path, origin: &AdapterOrigin) -> Result<()> {
        let named = self.parameters().iter().map(|(name, tensor)| (format!("{PREFIX}{name}"), tensor));
        write_tensors(&directory.join(WEIGHTS_FILE), named)?;
        write_whole(&directory.join(CONFIG_FILE), write_adapter_config(self.config(), origin)?.as_bytes())
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
        let (config, origin) = read_adapter_config(&directory.join(CONFIG_FILE))?;
        let path = directory.join(WEIGHTS_FILE);
        let bytes = read_weights(&path)?;
        let mut stored = StoredValues { file: TensorFile::parse(&path, &bytes)?, device };
        let set = Self::build(config, &base.into(), device, &mut stored)?;
        stored.file.finish()?;
        Ok((set, origin))
    }
}

/// The values of an adapter that was saved.
struct StoredValues<'a> {
    file: TensorFile<'a>,
    device: &'a Device,
}

impl Values for StoredValues<'_> {
    fn factors(&mut self, adapter: &Adapter) -> Result<(Tensor, Tensor)> {
        // Where the output head or an embedding is adapted, PEFT stores its frozen weight as well.
        let base = format!("{PREFIX}{}.base_layer.weight", adapter.module);
        self.file.ignore(&base, &[adapter.outputs, adapter.inputs])?;
        let a = self.file.take(&format!("{PREFIX}{}", adapter.a), &[adapter.rank, adapter.inputs], self.device)?;
        let b = self.file.take(&format!("{PREFIX}{}", adapter.b), &[adapter.outputs, adapter.rank], self.device)?;
        Ok((a, b))
    }

    fn whole(&mut self, name: &str, initial: Tensor) -> Result<Tensor> {
        self.file.take(&format!("{PREFIX}{name}"), initial.shape(), self.device)
    }
}

fn read_weights(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| match path.with_file_name("adapter_model.bin") {
        pickled if error.kind() == std::io::ErrorKind::NotFound && pickled.exists() => {
            let message = "is missing, and pickled adapters are not read; save it again with `safe_serialization=True`";
            LoraError::format(path, message)
        }
        _ => LoraError::file(path, error),
    })
}

/// The tensors of a safetensors file, taken out one by one until none is left.
pub(crate) struct TensorFile<'a> {
    path: &'a Path,
    tensors: HashMap<String, TensorView<'a>>,
}

impl<'a> TensorFile<'a> {
    pub(crate) fn parse(path: &'a Path, bytes: &'a [u8]) -> Result<Self> {
        let file = SafeTensors::deserialize(bytes).map_err(|error| LoraError::format(path, error))?;
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
            "it is part of a DoRA adapter, which is not supported"
        } else if name.contains(".lora_embedding_") {
            "adapters of embeddings are not supported"
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

/// Writes tensors as a safetensors file, whole or not at all.
pub(crate) fn write_tensors<'t, S>(path: &Path, named: impl IntoIterator<Item = (S, &'t Tensor)>) -> Result<()>
where
    S: AsRef<str> + Ord + std::fmt::Display,
{
    let mut stored = Vec::new();
    for (name, tensor) in named {
        stored.push((name, tensor.shape().to_vec(), stored_type(tensor.dtype()), little_endian_bytes(tensor)?));
    }
    let views = stored.iter().map(|(name, shape, dtype, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes)?;
        Ok((name.as_ref(), view))
    });
    let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>();
    // Python's loaders ask for this entry to know which framework's layout it is.
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let bytes = views.and_then(|views| safetensors::serialize(views, Some(metadata)));
    write_whole(path, &bytes.map_err(|error| LoraError::format(path, error))?)
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
