//! Training every parameter of a model: a set without adapters, through the same trainer; and its files.

use std::path::Path;

use tensor::Device;

use crate::adapter_set::AdapterSet;
use crate::base::Base;
use crate::error::{LoraError, Result};
use crate::peft::{TensorFile, remove_provenance, write_provenance, write_tensors};
use crate::peft_config::AdapterOrigin;

#[cfg(test)]
mod tests;

/// File with the parameters in checkpoints of such a run. Names and layout are those of a Hugging Face checkpoint, so that
/// config.json and a tokenizer beside it make one.
const MODEL_FILE: &str = "model.safetensors";

impl AdapterSet {
    /// A set that trains every parameter that the model tells of, in f32, beginning as they are; `base` must be
    /// [`Base::of`] a model. Parameters that are tied ([`crate::Model::tied_parameters`]) are one tensor. The model itself
    /// is never written: the trained parameters take the place of its own in every pass that has this set.
    ///
    /// # Errors
    /// [`LoraError::Setting`] for a base that tells of no parameters, or the device's own errors.
    pub fn full(base: impl Into<Base>, device: &Device) -> Result<Self> {
        let set = Self::build_full(&base.into(), device, |_, initial| Ok(initial))?;
        if set.parameters().is_empty() {
            let message = "the base tells of no parameters; make the set with `Base::of` the model".into();
            return Err(LoraError::Setting { setting: "base", message });
        }
        Ok(set)
    }

    /// Writes what a run needs to go on: a PEFT directory, or the parameters where all of them are trained.
    pub(crate) fn save_state(&self, directory: &Path, origin: &AdapterOrigin) -> Result<()> {
        match self.is_full() {
            true => {
                remove_provenance(directory)?;
                write_tensors(&directory.join(MODEL_FILE), self.parameters().iter())?;
                write_provenance(directory, origin, None)
            }
            false => self.save(directory, origin),
        }
    }

    /// Reads what [`AdapterSet::save_state`] of a set of this kind wrote.
    pub(crate) fn load_state(&self, directory: &Path, base: &Base) -> Result<Self> {
        if !self.is_full() {
            return Ok(Self::load(directory, base, self.device())?.0);
        }
        let path = directory.join(MODEL_FILE);
        let bytes = std::fs::read(&path).map_err(|error| LoraError::file(&path, error))?;
        let mut file = TensorFile::parse(&path, &bytes)?;
        let set =
            Self::build_full(base, self.device(), |name, initial| file.take(name, initial.shape(), self.device()))?;
        file.finish()?;
        Ok(set)
    }
}
