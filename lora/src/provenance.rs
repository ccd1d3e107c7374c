//! `provenance.json`, beside the PEFT files: which base an adapter was trained on, and by which run.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{LoraError, Result};
use crate::files::{read_small, write_whole};

/// File with an adapter's provenance. Adapters from elsewhere have none.
pub const PROVENANCE_FILE: &str = "provenance.json";

/// More than this is damage or malice.
const MAX_BYTES: u64 = 1 << 20;

/// Where an adapter comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// The model that it was trained on.
    pub base: Option<BaseIdentity>,
    /// The run that made it.
    pub run: RunIdentity,
    /// Fingerprint of the file with its weights; filled in when that is written.
    pub weights: Option<String>,
}

/// What tells one base model from another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseIdentity {
    /// The class that its config.json names, such as `LlamaForCausalLM`.
    pub architecture: String,
    /// Fingerprint of names, types and shapes of its tensors.
    pub structure: String,
    /// Fingerprint of names, types, shapes and a sample of the contents of its tensors.
    pub contents: String,
}

/// What a run would have to repeat to give the same adapter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunIdentity {
    /// Version of the engine.
    pub engine: String,
    /// The command, such as `finetune`.
    pub command: String,
    /// The device that it ran on.
    pub device: String,
    /// Its seed.
    pub seed: u64,
    /// Fingerprints of the files of data, by path.
    pub data: BTreeMap<String, String>,
    /// All settings that change its result.
    pub settings: Map<String, Value>,
}

impl Provenance {
    /// Reads `provenance.json` in the directory of an adapter; `None` where there is no such file.
    ///
    /// # Errors
    /// [`LoraError::File`], [`LoraError::Format`].
    pub fn read(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(PROVENANCE_FILE);
        if !path.exists() {
            return Ok(None);
        }
        let text = read_small(&path, MAX_BYTES)?;
        let wrong = |error| {
            let message = format!("{error}; without this file the adapter loads, and its base is not compared");
            LoraError::format(&path, message)
        };
        serde_json::from_slice(&text).map(Some).map_err(wrong)
    }

    /// Writes `provenance.json` into a directory, whole or not at all.
    ///
    /// # Errors
    /// [`LoraError::File`].
    pub fn write(&self, directory: &Path) -> Result<()> {
        let path = directory.join(PROVENANCE_FILE);
        let text = serde_json::to_string_pretty(self).map_err(|error| LoraError::format(&path, error))?;
        write_whole(&path, format!("{text}\n").as_bytes())
    }

    /// The first thing by which a run that goes on (`self`) is not the run that was interrupted, in words.
    pub(crate) fn difference(&self, interrupted: &Provenance) -> Option<String> {
        let contents = |provenance: &Provenance| provenance.base.as_ref().map(|base| base.contents.clone());
        if contents(self) != contents(interrupted) {
            return Some("the run had another base model".into());
        }
        let (run, other) = (&self.run, &interrupted.run);
        if run.seed != other.seed {
            return Some(format!("the run had seed {}, not {}", other.seed, run.seed));
        }
        if !run.data.values().eq(other.data.values()) {
            return Some("the run had other data".into());
        }
        let names = run.settings.keys().chain(other.settings.keys());
        let differing = names.map(|name| (name, run.settings.get(name), other.settings.get(name)));
        differing.into_iter().find(|(_, now, before)| now != before).map(|(name, now, before)| {
            let text = |value: Option<&Value>| value.map_or_else(|| "nothing".into(), Value::to_string);
            format!("the run had {name} {}, not {}", text(before), text(now))
        })
    }
}

/// A hash of 128 bits of a sequence of texts, which displays as 32 hexadecimal digits. Words of 16 bytes are mixed in one after
/// the other, by steps that lose nothing: texts that differ in one word always have different fingerprints, others unless chance
/// wills it. It is no protection against someone who wants two of them to look alike.
#[derive(Clone, Debug)]
pub struct Fingerprint(u128);

/// 2¹²⁸ divided by the golden ratio: odd, with bits everywhere.
const MULTIPLIER: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;

impl Fingerprint {
    /// Of nothing.
    pub fn new() -> Self {
        Fingerprint(MULTIPLIER)
    }

    /// Adds bytes and their number, so that neighbouring texts cannot flow into each other.
    pub fn add(&mut self, bytes: &[u8]) {
        let words = bytes.chunks(size_of::<u128>()).map(|piece| {
            let mut word = [0; size_of::<u128>()];
            word[..piece.len()].copy_from_slice(piece);
            u128::from_le_bytes(word)
        });
        for word in words.chain([bytes.len() as u128]) {
            self.0 = (self.0 ^ word).wrapping_mul(MULTIPLIER).rotate_left(61);
        }
    }

    /// Of one text.
    pub fn of(bytes: &[u8]) -> String {
        let mut fingerprint = Self::new();
        fingerprint.add(bytes);
        fingerprint.to_string()
    }
}

impl Default for Fingerprint {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn provenance() -> Provenance {
        let base =
            BaseIdentity { architecture: "LlamaForCausalLM".into(), structure: "1".into(), contents: "2".into() };
        let Value::Object(settings) = json!({ "lr": 0.1, "rank": 8 }) else { unreachable!("an object") };
        let data = [("a.txt".to_string(), "3".to_string())].into();
        let run = RunIdentity {
            engine: "0".into(),
            command: "finetune".into(),
            device: "cpu".into(),
            seed: 4,
            data,
            settings,
        };
        Provenance { base: Some(base), run, weights: None }
    }

    #[test]
    fn fingerprints_tell_texts_apart() {
        let texts: [&[u8]; 7] = [b"", b"\0", b"\0\0", b"ab", b"ba", &[1; 16], &[1; 17]];
        let mut found: Vec<String> = texts.iter().map(|text| Fingerprint::of(text)).collect();
        assert!(found.iter().all(|text| text.len() == 32));
        found.sort();
        found.dedup();
        assert_eq!(found.len(), texts.len());
        let of = |parts: [&[u8]; 2]| {
            let mut fingerprint = Fingerprint::new();
            parts.iter().for_each(|part| fingerprint.add(part));
            fingerprint.to_string()
        };
        assert_ne!(of([b"ab", b"c"]), of([b"a", b"bc"]), "texts do not flow into each other");
        // Signs alone: the highest bits of neighbouring words must not cancel out.
        let mut signs = [0u8; 64];
        (15..64).step_by(16).for_each(|at| signs[at] = 0x80);
        assert_ne!(Fingerprint::of(&signs), Fingerprint::of(&[0; 64]));
    }

    #[test]
    fn what_is_written_is_read_and_damage_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Provenance::read(directory.path()).unwrap(), None);
        provenance().write(directory.path()).unwrap();
        assert_eq!(Provenance::read(directory.path()).unwrap(), Some(provenance()));
        std::fs::write(directory.path().join(PROVENANCE_FILE), "{\"base\": 3}").unwrap();
        let message = Provenance::read(directory.path()).unwrap_err().to_string();
        assert!(message.contains(PROVENANCE_FILE) && message.contains("its base is not compared"), "{message}");
        std::fs::write(directory.path().join(PROVENANCE_FILE), vec![b' '; MAX_BYTES as usize + 1]).unwrap();
        let message = Provenance::read(directory.path()).unwrap_err().to_string();
        assert!(message.contains("beyond reason"), "{message}");
    }

    #[test]
    fn the_first_difference_between_two_runs_is_named() {
        type Change = fn(&mut Provenance);
        let cases: [(Change, &str); 5] = [
            (|other| other.base = None, "another base model"),
            (|other| other.run.seed = 5, "seed 5, not 4"),
            (|other| other.run.data = [("b.txt".to_string(), "6".to_string())].into(), "other data"),
            (|other| other.run.settings["lr"] = json!(0.2), "lr 0.2, not 0.1"),
            (|other| drop(other.run.settings.remove("rank")), "rank nothing, not 8"),
        ];
        for (change, expected) in cases {
            let mut other = provenance();
            change(&mut other);
            let difference = provenance().difference(&other).unwrap();
            assert!(difference.contains(expected), "{difference}");
        }
        let mut same = provenance();
        same.run.device = "gpu".into();
        same.run.data = [("moved/a.txt".to_string(), "3".to_string())].into();
        assert_eq!(provenance().difference(&same), None, "names of files and devices may change");
    }
}
