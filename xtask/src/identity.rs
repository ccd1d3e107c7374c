//! Which base and which run an adapter belongs to: what is written beside it, and the refusal of another base.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use lora::{BaseIdentity, Fingerprint, Provenance, RunIdentity, read_adapter_origin};
use models::Checkpoint;
use serde_json::{Map, Value};
use tensor::Device;

use crate::failure::{Failure, Outcome};
use crate::loading::{lora_failure, model_failure};
use crate::output::Output;

/// The flag of every command that puts an adapter onto a base.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct BaseCheck {
    /// Use an adapter though its provenance.json says that it was trained on other weights.
    #[arg(long)]
    pub allow_base_mismatch: bool,
}

impl BaseCheck {
    /// Refuses an adapter whose files name another base than the checkpoint in `model`. Those without provenance, as from
    /// Python, pass.
    pub fn check(self, adapter: &Path, model: &Path, output: &Output) -> Outcome<()> {
        let origin = read_adapter_origin(adapter).map_err(lora_failure)?;
        let Some(trained_on) = origin.provenance.and_then(|provenance| provenance.base) else { return Ok(()) };
        let here = Checkpoint::open(model).and_then(|checkpoint| checkpoint.identity()).map_err(model_failure)?;
        let name = origin.base_model.unwrap_or_else(|| "a base without name".into());
        match mismatch(adapter, &name, &trained_on, model, &here) {
            None => Ok(()),
            Some(message) => self.judge(message, output),
        }
    }

    /// Fails with the message, or says it where the mismatch is allowed.
    pub fn judge(self, message: String, output: &Output) -> Outcome<()> {
        if self.allow_base_mismatch {
            output.say(format!("warning: {message}"));
            return Ok(());
        }
        Err(Failure::input(format!("{message}; or --allow-base-mismatch to use it as it is")))
    }
}

/// Why the adapter does not belong to the base that is here, and the way out.
fn mismatch(
    adapter: &Path,
    name: &str,
    trained_on: &BaseIdentity,
    model: &Path,
    here: &BaseIdentity,
) -> Option<String> {
    if trained_on.contents == here.contents {
        return None;
    }
    let (adapter, model) = (adapter.display(), model.display());
    let (theirs, ours) = (&trained_on.architecture, &here.architecture);
    Some(if trained_on.structure == here.structure && theirs == ours {
        format!(
            "adapter {adapter}: was trained on {name}; {model} has tensors of the same names and shapes with other contents. \
             Restore it for this base: cargo xtask restore --old-model {name} --new-model {model} --adapter {adapter} \
             --data DATA --out RESTORED"
        )
    } else {
        format!(
            "adapter {adapter}: was trained on {name} ({theirs}), and {model} ({ours}) has other tensors; give --model {name}. If \
             only the vocabulary grew: cargo xtask restore --old-model {name} --new-model {model} --adapter {adapter} --data \
             DATA --out RESTORED"
        )
    })
}

/// What a run of a command writes beside its adapter.
pub fn provenance(
    base: Option<BaseIdentity>,
    command: &str,
    device: &Device,
    seed: u64,
    data: &[PathBuf],
    settings: Map<String, Value>,
) -> Outcome<Provenance> {
    let engine = env!("CARGO_PKG_VERSION").to_string();
    let (command, device) = (command.to_string(), device.to_string());
    let data = fingerprints(data)?;
    Ok(Provenance { base, run: RunIdentity { engine, command, device, seed, data, settings }, weights: None })
}

/// Fingerprints of files, and of the files in directories, by path.
fn fingerprints(paths: &[PathBuf]) -> Outcome<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for path in paths {
        let unreadable = |error: std::io::Error| Failure::input(format!("{} cannot be read: {error}", path.display()));
        let files = match path.is_dir() {
            false => vec![path.clone()],
            true => std::fs::read_dir(path)
                .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>())
                .map_err(unreadable)?,
        };
        for file in files.into_iter().filter(|file| file.is_file()) {
            found.insert(file.display().to_string(), fingerprint(&file).map_err(unreadable)?);
        }
    }
    Ok(found)
}

/// Of a file's whole contents, a piece at a time.
pub fn fingerprint(file: &Path) -> std::io::Result<String> {
    const PIECE: u64 = 1 << 20;
    let mut file = std::fs::File::open(file)?;
    let (mut fingerprint, mut piece) = (Fingerprint::new(), Vec::new());
    loop {
        piece.clear();
        // `take` reads until the piece is full or the file ends, so that pieces are the same every time.
        if file.by_ref().take(PIECE).read_to_end(&mut piece)? == 0 {
            return Ok(fingerprint.to_string());
        }
        fingerprint.add(&piece);
    }
}

/// For settings that are serialised as they are displayed.
pub fn as_text<T: std::fmt::Display, S: serde::Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_known_by_contents() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("a"), vec![7u8; (1 << 20) + 3]).unwrap();
        std::fs::write(path("b"), vec![7u8; (1 << 20) + 3]).unwrap();
        std::fs::write(path("c"), vec![7u8; (1 << 20) + 4]).unwrap();
        let found = fingerprints(&[directory.path().to_path_buf()]).unwrap();
        let of: Vec<&String> = found.values().collect();
        assert_eq!((of.len(), of[0] == of[1], of[1] == of[2]), (3, true, false), "{found:?}");
        assert_eq!(fingerprints(&[path("a")]).unwrap().values().next(), Some(of[0]));
    }
}
