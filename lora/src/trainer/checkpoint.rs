//! Resumable checkpoints: a directory that appears whole, under its final name, or not at all.
//!
//! `checkpoint-<steps>/` is a PEFT directory with `optimizer.safetensors` (the optimizer's state) and `trainer.json`
//! (where the run stands) beside the adapter, so that it can also be used as an adapter; and `method.safetensors`,
//! `regulariser.safetensors` where the method that changes gradients or the regulariser has a state. Of the schedule, the
//! data and the random numbers the count of steps is all the state there is. What begins with a dot and ends in `.tmp` was
//! under way when a run was killed.

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
const TEMPORARY: &str = ".tmp";

/// Checkpoints that stay: should the disk lose the newest, there is the one before.
const KEPT: usize = 2;

/// Where a run stands, and the settings that must stay the same for the rest of it to be the same run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Steps done.
    pub step: u64,
    pub seed: u64,
    pub gradient_accumulation: u64,
    /// The lowest validation loss so far and the steps done before it.
    pub best: Option<(u64, f64)>,
    /// Steps whose gradients could not be used.
    pub skipped: u64,
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

/// Fills a new directory under a temporary name, gives it its name, then removes the oldest of the checkpoints beside it.
pub(super) fn write_checkpoint(output: &Path, step: u64, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let directory = output.join(format!("{NAME}{step}"));
    let temporary = temporary(output, step);
    remove(&temporary)?;
    fs::create_dir_all(&temporary).map_err(|error| LoraError::file(&temporary, error))?;
    if let Err(error) = fill(&temporary) {
        // The error that stopped the writing is the one worth reporting.
        let _ = remove(&temporary);
        return Err(error);
    }
    withdraw(output, step, &directory)?;
    let renamed = fs::rename(&temporary, &directory).and_then(|()| sync_directory(output));
    renamed.map_err(|error| LoraError::file(&directory, error))?;
    let mut others = checkpoints(output)?;
    others.sort_by_key(|&(step, _)| std::cmp::Reverse(step));
    for (step, path) in others.into_iter().skip(KEPT) {
        withdraw(output, step, &path)?;
    }
    Ok(directory)
}

fn temporary(output: &Path, step: u64) -> PathBuf {
    output.join(format!(".{NAME}{step}.{}{TEMPORARY}", std::process::id()))
}

/// Removes a checkpoint, if it is there: it loses its name first, so that half of one never bears it.
fn withdraw(output: &Path, step: u64, directory: &Path) -> Result<()> {
    let nameless = temporary(output, step).with_extension("old.tmp");
    match fs::rename(directory, &nameless) {
        Ok(()) => remove(&nameless),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(LoraError::file(directory, error)),
    }
}

/// Removes the checkpoints of an earlier run: they would be taken for this one's.
pub(super) fn remove_checkpoints(output: &Path) -> Result<()> {
    if !output.exists() {
        return Ok(());
    }
    checkpoints(output)?.into_iter().try_for_each(|(step, path)| withdraw(output, step, &path))
}

/// Removes what a run that was killed had under way in a directory.
pub(super) fn remove_leftovers(directory: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
    for entry in entries.filter_map(std::result::Result::ok) {
        let (name, path) = (entry.file_name(), entry.path());
        if !name.to_string_lossy().starts_with('.') || !name.to_string_lossy().ends_with(TEMPORARY) {
            continue;
        }
        match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => remove(&path)?,
            false => fs::remove_file(&path).map_err(|error| LoraError::file(&path, error))?,
        }
    }
    Ok(())
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
    fn only_whole_checkpoints_appear_and_the_last_two_stay() {
        let output = tempfile::tempdir().unwrap();
        let output = output.path();
        assert_eq!(latest_checkpoint(&output.join("absent")).unwrap(), None);
        let progress = Progress { step: 9, seed: 4, gradient_accumulation: 2, best: Some((3, 1.5)), skipped: 0 };
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

        let names = || {
            let names = fs::read_dir(output).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.collect::<std::collections::BTreeSet<_>>()
        };
        for step in [10, 10, 12] {
            write_checkpoint(output, step, |directory| progress.write(directory)).unwrap();
        }
        assert!(names().into_iter().eq(["checkpoint-10", "checkpoint-12"]), "the last two: {:?}", names());

        fs::create_dir(output.join(".checkpoint-13.77.tmp")).unwrap();
        fs::write(output.join(".adapter_model.safetensors.77.tmp"), "half").unwrap();
        remove_leftovers(output).unwrap();
        assert_eq!(names().len(), 2, "{:?}", names());
        remove_checkpoints(output).unwrap();
        assert!(names().is_empty(), "{:?}", names());
        remove_checkpoints(&output.join("absent")).unwrap();
        remove_leftovers(&output.join("absent")).unwrap();
    }
}
