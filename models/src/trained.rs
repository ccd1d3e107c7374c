//! Writes a model of which every parameter was trained as a checkpoint.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use lora::{AdapterSet, little_endian_bytes};
use safetensors::Dtype;
use tensor::DType;

use crate::checkpoint::{Entry, INDEX_FILE, write_index, write_safetensors};
use crate::error::{ModelError, Result};

const SINGLE_FILE: &str = "model.safetensors";

/// Writes the parameters of a set that trains a whole model ([`AdapterSet::full`]) to the directory `out`, as
/// `dtype` (f32, f16 or bf16), under their names in Hugging Face checkpoints: one `model.safetensors`, or several files
/// and their index where they take more than `shard_bytes`. Returns the files with tensors. Parameters that are tied are
/// written once. Configuration and tokenizer are the caller's to write.
///
/// # Errors
/// [`ModelError::InvalidArgument`] for a set of adapters or another type; [`lora::LoraError::NotFinite`] naming a
/// parameter that is not finite in that type; what keeps files from being written.
pub fn write_checkpoint(trained: &AdapterSet, out: &Path, dtype: DType, shard_bytes: u64) -> Result<Vec<PathBuf>> {
    let refused = |message: String| Err(ModelError::InvalidArgument { operation: "write_checkpoint", message });
    if !trained.is_full() {
        return refused("the set holds adapters; fold them into a checkpoint with `merge_checkpoint`".into());
    }
    let stored = match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::Bf16 => Dtype::BF16,
        other => return refused(format!("weights are stored as f32, f16 or bf16, not as {other}")),
    };
    let shards = divide(trained, stored, shard_bytes);
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let (mut files, mut weight_map, mut bytes) = (Vec::new(), BTreeMap::new(), 0);
    for (number, entries) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => SINGLE_FILE.to_string(),
            count => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
        };
        let file = out.join(&name);
        write_safetensors(&file, entries, &metadata, |entry, sink| {
            match trained.rounded_parameter(&entry.name, dtype)? {
                Some(parameter) => sink(&little_endian_bytes(&parameter)?),
                None => Ok(()),
            }
        })?;
        files.push(file);
        bytes += entries.iter().map(|entry| entry.length() as u64).sum::<u64>();
        weight_map.extend(entries.iter().map(|entry| (entry.name.clone(), name.clone())));
    }
    if files.len() > 1 {
        write_index(out, bytes, &weight_map)?;
    }
    // What an earlier checkpoint of the other division left here would be read in this one's place.
    let stale = out.join(if files.len() > 1 { SINGLE_FILE } else { INDEX_FILE });
    match std::fs::remove_file(&stale) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(ModelError::io(&stale, error)),
        _ => Ok(files),
    }
}

/// The parameters in name order, in runs of at most `shard_bytes` or of one parameter that is larger.
fn divide(trained: &AdapterSet, dtype: Dtype, shard_bytes: u64) -> Vec<Vec<Entry>> {
    let mut shards: Vec<Vec<Entry>> = vec![Vec::new()];
    let mut filled = 0;
    for (name, parameter) in trained.parameters().iter() {
        let entry = Entry { name: name.into(), dtype, shape: parameter.shape().to_vec() };
        let length = entry.length() as u64;
        if filled > 0 && filled + length > shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += length;
        // There is one shard from the beginning.
        if let Some(shard) = shards.last_mut() {
            shard.push(entry);
        }
    }
    shards
}
