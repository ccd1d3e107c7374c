//! Writes safetensors files tensor by tensor, so that no more than one of them is in memory.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use lora::{LoraError, write_whole, write_whole_with};
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use crate::error::{ModelError, Result};

/// The index of a checkpoint of several safetensors files.
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";

/// What the header says of one tensor.
pub(crate) struct Entry {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
}

impl Entry {
    /// Length of the tensor in bytes.
    pub fn length(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

/// Writes a file whole or not at all; `contents` gives each tensor's little-endian bytes, in the order of `entries`.
pub(crate) fn write(
    path: &Path,
    entries: &[Entry],
    metadata: &HashMap<String, String>,
    mut contents: impl FnMut(&Entry, &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
) -> Result<()> {
    let failed = |source| ModelError::io(path, source);
    write_whole_with(path, |file: &mut File| {
        let mut file = BufWriter::with_capacity(1 << 20, file);
        file.write_all(&header(entries, metadata)).map_err(failed)?;
        for entry in entries {
            let mut written = 0;
            contents(entry, &mut |bytes| {
                written += bytes.len();
                file.write_all(bytes).map_err(failed)
            })?;
            if written != entry.length() {
                let message = format!("`{}` has {written} bytes instead of {}", entry.name, entry.length());
                return Err(LoraError::Setting { setting: "tensor", message }.into());
            }
        }
        file.flush().map_err(failed)
    })
}

/// Writes the index of a checkpoint of several files: which file holds which tensor.
pub(crate) fn write_index(directory: &Path, bytes: u64, weight_map: &BTreeMap<String, String>) -> Result<()> {
    let index = json!({ "metadata": { "total_size": bytes }, "weight_map": weight_map });
    Ok(write_whole(&directory.join(INDEX_FILE), format!("{index:#}\n").as_bytes())?)
}

/// Length and text of the header, filled up to a multiple of eight so that the tensors are aligned.
fn header(entries: &[Entry], metadata: &HashMap<String, String>) -> Vec<u8> {
    let mut object = Map::new();
    object.insert("__metadata__".into(), json!(metadata));
    let mut at = 0;
    for entry in entries {
        let end = at + entry.length();
        let info = json!({ "dtype": entry.dtype, "shape": entry.shape, "data_offsets": [at, end] });
        object.insert(entry.name.clone(), info);
        at = end;
    }
    let mut text = Value::Object(object).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.append(&mut text);
    header
}
