//! Short names for a checkpoint's contents, to tell one base model from another.

use lora::{BaseIdentity, Fingerprint};
use serde_json::Value;

use super::Checkpoint;
use crate::error::Result;
use crate::json::Object;

/// Stretches of a tensor that are read; smaller tensors are read whole.
const STRETCHES: usize = 16;

/// Bytes of a stretch: half a page, since the disk is asked for whole ones.
const STRETCH: usize = 2048;

impl Checkpoint {
    /// What tells this model from others: its architecture as config.json names it, and the fingerprints of its tensors'
    /// descriptions and contents.
    ///
    /// # Errors
    /// As [`crate::ModelConfig::read`] for a directory whose config.json cannot be read.
    pub fn identity(&self) -> Result<BaseIdentity> {
        let config = Object::read(&self.directory.join("config.json"))?;
        let class = config.get("architectures").and_then(|names| names.get(0)).or_else(|| config.get("model_type"));
        let mut structure = Fingerprint::new();
        for (name, tensor) in self.tensors() {
            structure.add(name.as_bytes());
            structure.add(format!("{:?}{:?}", tensor.dtype, tensor.shape).as_bytes());
        }
        Ok(BaseIdentity {
            architecture: class.and_then(Value::as_str).unwrap_or_default().to_string(),
            structure: structure.to_string(),
            contents: self.fingerprint(),
        })
    }

    /// 32 hexadecimal digits from names, types, shapes and a sample of every tensor's bytes (32 KiB evenly spread). The
    /// same contents in other files give the same. Versions of a model differ everywhere; that a few numbers of a large
    /// tensor were changed may go unseen.
    pub fn fingerprint(&self) -> String {
        let mut fingerprint = Fingerprint::new();
        self.files.iter().for_each(|file| file.map.reads_are_scattered(true));
        for (name, tensor) in self.tensors() {
            fingerprint.add(name.as_bytes());
            fingerprint.add(format!("{:?}{:?}", tensor.dtype, tensor.shape).as_bytes());
            // Every name of `tensors` has bytes.
            let Some(bytes) = self.bytes(name) else { continue };
            if bytes.len() <= STRETCHES * STRETCH {
                fingerprint.add(&bytes);
                continue;
            }
            let last = bytes.len() - STRETCH;
            for stretch in 0..STRETCHES {
                // The product of a length in memory and a small count fits 128 bits.
                let start = (last as u128 * stretch as u128 / (STRETCHES - 1) as u128) as usize;
                fingerprint.add(&bytes[start..start + STRETCH]);
            }
        }
        self.files.iter().for_each(|file| file.map.reads_are_scattered(false));
        fingerprint.to_string()
    }
}
