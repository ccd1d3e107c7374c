//! `--tune FILE`: the measured choices of kernels, from one run to the next.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use tensor::{Device, Tuning};

use crate::failure::{Failure, Outcome};
use crate::loading::lora_failure;
use crate::output::Output;

/// Lets the device measure what the file, if there is one, does not tell.
pub fn start(path: &Path, device: &Device) -> Outcome<()> {
    let refused = |reason: &dyn std::fmt::Display| Failure::input(format!("--tune {}: {reason}", path.display()));
    let Some(adapter) = device.adapter() else {
        return Err(refused(&"only a GPU's kernels are measured; see --device"));
    };
    let table = match fs::read_to_string(path) {
        Ok(text) => Tuning::parse(&text, adapter)
            .map_err(|error| refused(&format!("{error}. Name another file, or delete this one.")))?,
        Err(error) if error.kind() == ErrorKind::NotFound => Tuning::new(adapter),
        Err(error) => return Err(refused(&error)),
    };
    Ok(device.tune(table)?)
}

/// Writes the file if anything was measured since [`start`].
pub fn keep(path: &Path, device: &Device, output: &Output) -> Outcome<()> {
    let Some(table) = device.tuning().filter(|table| !table.is_empty()) else { return Ok(()) };
    let text = table.to_string();
    if fs::read_to_string(path).is_ok_and(|kept| kept == text) {
        return Ok(());
    }
    lora::write_whole(path, text.as_bytes()).map_err(lora_failure)?;
    output.say(format!("{}: kernels for {} products", path.display(), table.len()));
    Ok(())
}
