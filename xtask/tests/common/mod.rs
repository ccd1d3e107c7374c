//! What the tests of the command line share: running it and reading its answers.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

pub fn run(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask")).args(words).output().unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The JSON object on the last line of standard output.
pub fn result(output: &Output) -> Value {
    let text = text(&output.stdout);
    serde_json::from_str(text.lines().last().expect("a line of JSON")).expect("JSON")
}

pub fn assert_refused(output: &Output, expected: &[&str]) {
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    let line = message.lines().find(|line| line.starts_with("error:")).unwrap_or_else(|| panic!("{message}"));
    for part in expected {
        assert!(message.contains(part), "`{part}` is not in:\n{message}");
    }
    assert!(!line.contains("panicked"), "{message}");
}

/// A directory with a tiny model, its tokenizer (one token a character) and a text.
pub struct World {
    pub directory: TempDir,
}

impl World {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let world = World { directory };
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/llama_tiny/model");
        fs::create_dir(world.model()).unwrap();
        for file in ["config.json", "model.safetensors"] {
            fs::copy(fixture.join(file), world.model().join(file)).unwrap();
        }
        let specials = ["<unk>", "<s>", "</s>"].map(String::from);
        let characters = (' '..='~').chain(['\n']).map(String::from);
        let vocabulary: serde_json::Map<String, Value> =
            specials.into_iter().chain(characters).enumerate().map(|(id, token)| (token, json!(id))).collect();
        let each_character =
            json!({ "type": "Split", "pattern": { "Regex": "[\\s\\S]" }, "behavior": "Isolated", "invert": false });
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": each_character, "post_processor": null, "decoder": { "type": "Fuse" },
            "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" },
        });
        fs::write(world.model().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        fs::write(world.text(), "the cat sat on the mat. the dog sat on the log. ".repeat(60)).unwrap();
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn model(&self) -> PathBuf {
        self.path("model")
    }

    pub fn text(&self) -> PathBuf {
        self.path("text.txt")
    }

    /// `finetune` on this world with a few short steps, writing to `out`; `more` come last and win.
    pub fn finetune(&self, device: &str, out: &str, more: &[&str]) -> Output {
        let (model, text, out) = (self.model(), self.text(), self.path(out));
        let mut words = vec!["finetune", "--model", model.to_str().unwrap(), "--data", text.to_str().unwrap()];
        words.extend(["--out", out.to_str().unwrap(), "--device", device, "--steps", "12", "--batch", "2"]);
        words.extend(["--seq", "32", "--lr", "0.02", "--json"]);
        words.extend(more);
        run(&words)
    }
}
