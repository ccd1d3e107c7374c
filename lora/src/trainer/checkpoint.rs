//! Resumable checkpoints: a directory that appears whole, under its final name, or not at all.
//!
//! `checkpoint-<steps>/` is a PEFT directory with `optimizer.safetensors` (the optimizer's state) and `trainer.json`
//! (where the run stands) beside the adapter, so that it can also be used as an adapter; and `method.safetensors`,
//! `regulariser.safetensors` where the method that changes gradients or the regulariser has a state.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{LoraError, Result};
use crate::files::{sync_directory, write_whole};

const PROGRESS_FILE: &str = "trainer.json";
pub(super) const OPTIMIZER_FILE: &str = "optimizer.safetensors";
pub(super) const TRANSFORM_FILE: &str = "method.safetensors";
pub(super) const REGULARISER_FILE: &str = "regulariser.safetensors";
const NAME: &str = "checkpoint-";

/// Where a run stands, and the settings that must stay the same for the rest of it to be the same run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Steps done.
    pub step: u64,
    pub seed: u64,
    pub gradient_accumulation: u64,
    /// The lowest validation loss so far and the steps done before it.
    pub best: Option<(u64, f64)>,
}

impl Progress {
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(PROGRESS_FILE);
        let text = fs::read_to_string(&path).map_err(|error| LoraError::file(&path, error))?;
        serde_json::from_str(&text).map_err(|error| LoraError::format(&path, error))
    }

    pub fn write(&self, directory: &Path) -> Result<()> {
        let path = directory.join(PROGRESS_FILE);
        let text = serde_json::to_string_pretty(self).map_err(|error| LoraError::format(&path, error))?;
        write_whole(&path, text.as_bytes())
    }

    /// # Errors
    /// [`LoraError::Format`] when the checkpoint belongs to a run with other settings.
    pub fn check_same_run(&self, directory: &Path, seed: u64, gradient_accumulation: u64) -> Result<()> {
        let settings =
            [("seed", self.seed, seed), ("gradient_accumulation", self.gradient_accumulation, gradient_accumulation)];
        match settings.into_iter().find(|(_, found, wanted)| found != wanted) {
            Some((setting, found, wanted)) => Err(LoraError::format(
                &directory.join(PROGRESS_FILE),
                format!("the run had {setting} {found} and cannot be resumed with {wanted}"),
            )),
            None => Ok(()),
        }
    }
}

/// Fills a new directory under a temporary name, gives it its name, then removes older checkpoints beside it.
pub(super) fn write_checkpoint(output: &Path, step: u64, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let directory = output.join(format!("{NAME}{step}"));
    let temporary = output.join(format!(".{NAME}{step}.{}.tmp", std::process::id()));
    remove(&temporary)?;
    fs::create_dir_all(&temporary).map_err(|error| LoraError::file(&temporary, error))?;
    if let Err(error) = fill(&temporary) {
        // The error that stopped the writing is the one worth reporting.
        let _ = remove(&temporary);
        return Err(error);
    }
    remove(&directory)?;
    let renamed = fs::rename(&temporary, &directory).and_then(|()| sync_directory(output));
    renamed.map_err(|error| LoraError::file(&directory, error))?;
    for (other, path) in checkpoints(output)? {
        if other != step {
            remove(&path)?;
        }
    }
    Ok(directory)
}

/// The newest resumable checkpoint of an output directory, if it has one.
///
/// # Errors
/// [`LoraError::File`] when the directory cannot be read.
pub fn latest_checkpoint(output: &Path) -> Result<Option<PathBuf>> {
    if !output.exists() {
        return Ok(None);
    }
    Ok(checkpoints(output)?.into_iter().max_by_key(|&(step, _)| step).map(|(_, path)| path))
}

fn checkpoints(output: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let failed = |error| LoraError::file(output, error);
    let mut found = Vec::new();
    for entry in fs::read_dir(output).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(step) = name.and_then(|name| name.strip_prefix(NAME)).and_then(|step| step.parse().ok()) {
            found.push((step, path));
        }
    }
    Ok(found)
}

fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(LoraError::file(directory, error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_checkpoints_appear_and_the_newest_stays() {
        let output = tempfile::tempdir().unwrap();
        let output = output.path();
        assert_eq!(latest_checkpoint(&output.join("absent")).unwrap(), None);
        let progress = Progress { step: 9, seed: 4, gradient_accumulation: 2, best: Some((3, 1.5)) };
        write_checkpoint(output, 9, |directory| progress.write(directory)).unwrap();
        let failed = write_checkpoint(output, 10, |directory| {
            progress.write(directory)?;
            Err(LoraError::format(directory, "interrupted"))
        });
        assert!(failed.is_err());
        let latest = latest_checkpoint(output).unwrap().unwrap();
        assert!(latest.ends_with("checkpoint-9"));
        assert_eq!(Progress::read(&latest).unwrap(), progress);
        let error = progress.check_same_run(&latest, 5, 2).unwrap_err().to_string();
        assert!(error.contains("seed 4"), "{error}");
        progress.check_same_run(&latest, 4, 2).unwrap();

        write_checkpoint(output, 10, |directory| progress.write(directory)).unwrap();
        write_checkpoint(output, 10, |directory| progress.write(directory)).unwrap();
        let names: Vec<_> = fs::read_dir(output).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["checkpoint-10"]);
    }
}
