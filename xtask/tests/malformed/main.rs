//! Files made by hand to be wrong: each is refused, and what the user is told is under review in `messages.txt`.
//! Run with `UPDATE_SNAPSHOTS=1` to write the messages anew.

mod adapters;
mod checkpoints;
mod configurations;
mod data;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use lora::{AdapterSet, Base};
use models::{Checkpoint, Llama, ModelConfig, Tokenizer, WeightType};
use serde_json::json;
use tensor::Device;

/// A malformed input: what is done to a directory with a good model, tokenizer and adapter, and who then reads it.
struct Case {
    name: String,
    change: Box<dyn Fn(&Path)>,
    read: fn(&Path) -> Result<(), String>,
}

fn case(name: &str, read: fn(&Path) -> Result<(), String>, change: impl Fn(&Path) + 'static) -> Case {
    Case { name: name.into(), change: Box::new(change), read }
}

/// A file that is replaced by some bytes.
fn file(name: &str, read: fn(&Path) -> Result<(), String>, path: &'static str, contents: impl Into<Vec<u8>>) -> Case {
    let contents = contents.into();
    case(name, read, move |directory| fs::write(directory.join(path), &contents).unwrap())
}

/// A file in which a text is replaced by another.
fn edit(
    name: &str,
    read: fn(&Path) -> Result<(), String>,
    path: &'static str,
    from: &'static str,
    to: impl Into<String>,
) -> Case {
    let to = to.into();
    case(name, read, move |directory| {
        let text = fs::read_to_string(directory.join(path)).unwrap();
        assert!(text.contains(from), "{path} has no {from}");
        fs::write(directory.join(path), text.replacen(from, &to, 1)).unwrap();
    })
}

/// Opens the tensors, and reads each of them.
fn tensors(directory: &Path) -> Result<(), String> {
    let checkpoint = Checkpoint::open(directory).map_err(|error| error.to_string())?;
    checkpoint.tensors().for_each(|(name, _)| drop(checkpoint.bytes(name)));
    Ok(())
}

fn configuration(directory: &Path) -> Result<(), String> {
    ModelConfig::read(directory).map(drop).map_err(|error| error.to_string())
}

fn model(directory: &Path) -> Result<(), String> {
    Llama::from_directory(directory, &Device::cpu(), WeightType::F32).map(drop).map_err(|error| error.to_string())
}

fn adapter(directory: &Path) -> Result<(), String> {
    let model = Llama::from_directory(directory, &Device::cpu(), WeightType::F32).unwrap();
    let loaded = AdapterSet::load(&directory.join("adapter"), Base::of(&model), &Device::cpu());
    loaded.map(drop).map_err(|error| error.to_string())
}

fn tokenizer(directory: &Path) -> Result<(), String> {
    Tokenizer::read(directory).map(drop).map_err(|error| error.to_string())
}

/// A good model, tokenizer and adapter.
fn good() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/llama_tiny");
    fs::create_dir(directory.path().join("adapter")).unwrap();
    for (from, to) in [
        ("model/config.json", "config.json"),
        ("model/model.safetensors", "model.safetensors"),
        ("adapter/adapter_config.json", "adapter/adapter_config.json"),
        ("adapter/adapter_model.safetensors", "adapter/adapter_model.safetensors"),
    ] {
        fs::copy(fixture.join(from), directory.path().join(to)).unwrap();
    }
    let words = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": { "<unk>": 0, "a": 1, "b": 2 }, "unk_token": "<unk>" },
    });
    fs::write(directory.path().join("tokenizer.json"), words.to_string()).unwrap();
    directory
}

fn snapshot() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/malformed/messages.txt")
}

#[test]
fn good_files_are_read() {
    let directory = good();
    for read in [tensors, configuration, model, adapter, tokenizer] {
        read(directory.path()).unwrap();
    }
}

#[test]
fn every_malformed_file_is_refused_in_words_that_help() {
    let cases = [checkpoints::cases(), configurations::cases(), adapters::cases(), data::cases()];
    let cases: Vec<Case> = cases.into_iter().flatten().collect();
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names.len(), cases.len(), "two cases have one name");
    let mut messages = String::new();
    for case in &cases {
        let directory = good();
        (case.change)(directory.path());
        let Err(message) = (case.read)(directory.path()) else { panic!("{}: was accepted", case.name) };
        let message = message.replace(directory.path().to_str().unwrap(), "@").replace('\0', "\\0");
        assert!(message.len() < 1000, "{}: a message of {} bytes", case.name, message.len());
        messages.push_str(&format!("{}\n    {}\n", case.name, message.replace('\n', "\n    ")));
    }
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::write(snapshot(), &messages).unwrap();
    }
    let kept = fs::read_to_string(snapshot()).unwrap();
    for (now, kept) in messages.lines().zip(kept.lines()) {
        assert_eq!(now, kept, "see messages.txt");
    }
    assert_eq!(messages.lines().count(), kept.lines().count());
}
