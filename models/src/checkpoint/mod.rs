//! Checkpoint directories as Hugging Face lays them out: `model.safetensors`, or shards and
//! `model.safetensors.index.json`; where neither is, `pytorch_model.bin` or its shards and index. Files are mapped, never
//! read whole; every name, offset and path is checked here. Nothing in a PyTorch file is executed: its pickle goes
//! through an interpreter that knows tensors and refuses everything else.

mod fingerprint;
mod pickle;
mod safetensors_file;
mod tensor_file;
#[cfg(test)]
mod tests;
mod torch_file;
mod writer;
mod zip;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use crate::error::{ModelError, Result};
use crate::json::Object;
pub(crate) use safetensors_file::open as open_safetensors;
pub use tensor_file::StoredTensor;
use tensor_file::TensorFile;
pub(crate) use writer::{Entry, INDEX_FILE, write as write_safetensors, write_index};

/// A format: the name of a single file, the name of an index of shards, and the reader of either's files.
struct Format {
    single: &'static str,
    index: &'static str,
    open: fn(&Path) -> Result<TensorFile>,
}

/// In order of preference.
const FORMATS: [Format; 2] = [
    Format { single: "model.safetensors", index: INDEX_FILE, open: safetensors_file::open },
    Format { single: "pytorch_model.bin", index: "pytorch_model.bin.index.json", open: torch_file::open },
];

/// The tensors of a checkpoint directory, by name.
pub struct Checkpoint {
    directory: PathBuf,
    files: Vec<TensorFile>,
    /// Name to file number, in name order.
    names: BTreeMap<String, usize>,
}

impl Checkpoint {
    /// Opens `model.safetensors`, or all the shards that `model.safetensors.index.json` names, or
    /// `pytorch_model.bin`, or all the shards of `pytorch_model.bin.index.json`: the first of these that exists.
    ///
    /// # Errors
    /// [`ModelError::NoCheckpoint`] when there is none; [`ModelError::MissingShard`], [`ModelError::ShardPath`],
    /// [`ModelError::MissingTensor`] and [`ModelError::DuplicateTensor`] when the index and its shards disagree;
    /// [`ModelError::Header`], [`ModelError::Length`] and [`ModelError::TorchFile`] for damaged files.
    pub fn open(directory: &Path) -> Result<Self> {
        for format in &FORMATS {
            let (single, index) = (directory.join(format.single), directory.join(format.index));
            if single.exists() {
                return Self::from_files(directory, vec![(format.open)(&single)?]);
            }
            if index.exists() {
                return Self::open_shards(directory, &index, format.open);
            }
        }
        let hint = if directory.is_dir() { "" } else { "; there is no such directory" };
        Err(ModelError::NoCheckpoint { directory: directory.to_path_buf(), hint: hint.into() })
    }

    fn open_shards(directory: &Path, index: &Path, open: fn(&Path) -> Result<TensorFile>) -> Result<Self> {
        let object = Object::read(index)?;
        let Some(Value::Object(weight_map)) = object.get("weight_map") else {
            return Err(object.error("weight_map", "must be an object from tensor names to file names"));
        };
        let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, shard) in weight_map {
            let Some(shard) = shard.as_str() else {
                return Err(object.error(&format!("weight_map.{tensor}"), "must be a file name"));
            };
            if !is_plain_file_name(shard) {
                let (index, shard) = (index.to_path_buf(), shard.to_string());
                return Err(ModelError::ShardPath { index, shard, tensor: tensor.clone() });
            }
            shards.entry(shard).or_default().push(tensor);
        }
        let mut files = Vec::with_capacity(shards.len());
        for (shard, tensors) in shards {
            let path = directory.join(shard);
            if !path.is_file() {
                let (index, tensor) = (index.to_path_buf(), tensors[0].to_string());
                return Err(ModelError::MissingShard { index, shard: shard.into(), tensor });
            }
            let file = open(&path)?;
            if let Some(absent) = tensors.iter().find(|tensor| !file.tensors.contains_key(**tensor)) {
                let message = format!("says {shard}, but that file does not hold the tensor");
                return Err(object.error(&format!("weight_map.{absent}"), message));
            }
            files.push(file);
        }
        Self::from_files(directory, files)
    }

    fn from_files(directory: &Path, files: Vec<TensorFile>) -> Result<Self> {
        let mut names = BTreeMap::new();
        for (number, file) in files.iter().enumerate() {
            for tensor in file.tensors.keys() {
                if let Some(first) = names.insert(tensor.clone(), number) {
                    return Err(ModelError::DuplicateTensor {
                        first: files[first].path.clone(),
                        second: file.path.clone(),
                        tensor: tensor.clone(),
                    });
                }
            }
        }
        Ok(Checkpoint { directory: directory.to_path_buf(), files, names })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The files, in name order.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// Names and descriptions of all tensors, in name order.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &StoredTensor)> {
        self.names.iter().map(|(name, &file)| (name.as_str(), &self.files[file].tensors[name]))
    }

    /// The description of one tensor.
    pub fn get(&self, name: &str) -> Option<&StoredTensor> {
        Some(self.place_of(name)?.1)
    }

    /// The little-endian, row-major bytes of one tensor: straight from the map, or gathered where a PyTorch file holds
    /// a strided view.
    pub fn bytes(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let (file, tensor) = self.place_of(name)?;
        Some(file.bytes(tensor))
    }

    /// Has the system fetch a tensor's bytes, all of which are about to be read.
    pub fn will_need(&self, name: &str) {
        if let Some((file, tensor)) = self.place_of(name) {
            file.map.will_need(tensor.bytes.clone());
        }
    }

    /// Lets go of the memory behind [`bytes`](Self::bytes), so that reading a checkpoint of any size tensor by tensor
    /// takes the memory of its largest tensor. The bytes can be read again.
    pub fn release(&self, name: &str) {
        if let Some((file, tensor)) = self.place_of(name) {
            file.map.release(tensor.bytes.clone());
        }
    }

    fn place_of(&self, name: &str) -> Option<(&TensorFile, &StoredTensor)> {
        let file = &self.files[*self.names.get(name)?];
        Some((file, file.tensors.get(name)?))
    }

    /// The file that holds a tensor.
    pub fn file_of(&self, name: &str) -> Option<&Path> {
        Some(&self.files[*self.names.get(name)?].path)
    }

    /// The free-form texts in the header of one of the files.
    pub(crate) fn metadata(&self, file: &Path) -> Option<&HashMap<String, String>> {
        self.files.iter().find(|candidate| candidate.path == file).map(|file| &file.metadata)
    }

    /// The stored tensor that stands for an absent one: files that keep one of several tied tensors name the others
    /// in their metadata, as `absent name → stored name`.
    pub fn alias(&self, name: &str) -> Option<&str> {
        let stored = self.files.iter().find_map(|file| file.metadata.get(name))?;
        self.names.get_key_value(stored).map(|(stored, _)| stored.as_str())
    }
}

/// Names and descriptions of the tensors of one safetensors file, such as that of an adapter.
///
/// # Errors
/// As [`Checkpoint::open`] for that file.
pub fn read_tensor_table(path: &Path) -> Result<BTreeMap<String, StoredTensor>> {
    Ok(open_safetensors(path)?.tensors.into_iter().collect())
}

/// True for a name without directories: what an index may point at.
fn is_plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let single = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    single && !name.contains(['/', '\\', ':', '\0'])
}
