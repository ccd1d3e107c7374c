//! A masked language model made from nothing, with a tokenizer of its own, and classifiers made of it.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{assert_refused, result, run, text};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A directory with a DeBERTa's configuration and a text.
struct World(TempDir);

impl World {
    fn new() -> Self {
        let world = World(tempfile::tempdir().unwrap());
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures");
        let config = fs::read_to_string(fixtures.join("deberta_v3_tiny_cls/model/config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&config).unwrap();
        for (name, value) in [("hidden_size", 32), ("pooler_hidden_size", 32), ("intermediate_size", 64)] {
            config[name] = json!(value);
        }
        fs::create_dir(world.path("shape")).unwrap();
        fs::write(world.path("shape/config.json"), config.to_string()).unwrap();
        let lines = (0..300).map(|i| {
            let (who, what) = (["the cat", "a dog", "my king"][i % 3], ["sits", "sleeps", "sings", "waits"][i % 4]);
            format!("{who} {what} on the {}\n", ["mat", "log", "throne"][i % 3])
        });
        fs::write(world.path("text.txt"), lines.collect::<String>()).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Paths of this world are written as @name.
    fn run(&self, command: &str, more: &[&str]) -> std::process::Output {
        let path = |word: &&str| match word.strip_prefix('@') {
            Some(name) => self.path(name).to_string_lossy().into_owned(),
            None => word.to_string(),
        };
        let words: Vec<String> = [command, "--device", "cpu", "--json"].iter().chain(more).map(path).collect();
        run(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn succeed(&self, command: &str, more: &[&str]) -> Value {
        let output = self.run(command, more);
        assert!(output.status.success(), "{}", text(&output.stderr));
        result(&output)
    }

    fn pretrain(&self, out: &str, more: &[&str]) -> Value {
        let mut words = vec!["--model", "@shape", "--full", "--from-scratch", "--train-tokenizer", "unigram:32"];
        words.extend(["--task", "masked-lm", "--data", "@text.txt", "--validation", "@text.txt"]);
        words.extend(["--out", out, "--steps", "60", "--batch", "8"]);
        words.extend(["--seq", "24", "--lr", "0.01", "--hidden-dropout", "0", "--attention-dropout", "0"]);
        words.extend(more);
        self.succeed("finetune", &words)
    }
}

#[test]
fn a_model_and_its_tokenizer_are_made_from_a_text() {
    let world = World::new();
    let report = world.pretrain("@made", &["--save-every", "50"]);
    let loss = |name: &str| report[name].as_f64().unwrap();
    let (before, after) = (loss("validation_loss_before"), loss("best_validation_loss"));
    assert!((before - f64::from(32).ln()).abs() < 0.3, "a new model knows nothing: {before}");
    assert!(after < before - 0.5, "{before} -> {after}");
    let read = |name: &str| fs::read(world.path(name)).unwrap();
    let config: Value = serde_json::from_slice(&read("made/config.json")).unwrap();
    assert_eq!((&config["vocab_size"], &config["architectures"][0]), (&json!(32), &json!("DebertaV2ForMaskedLM")));

    // The same again, and after an interruption.
    world.pretrain("@again", &[]);
    for file in ["model.safetensors", "tokenizer.json", "config.json"] {
        assert_eq!(read(&format!("made/{file}")), read(&format!("again/{file}")), "{file}");
    }
    let whole = read("made/model.safetensors");
    fs::remove_file(world.path("made/model.safetensors")).unwrap();
    world.pretrain("@made", &["--save-every", "50", "--resume"]);
    assert_eq!(read("made/model.safetensors"), whole);

    // Validation masks are fixed: the same loss whenever it is asked for.
    let words = ["--model", "@made/best", "--task", "masked-lm", "--data", "@text.txt", "--seq", "24"];
    let evaluated = world.succeed("evaluate", &words);
    assert_eq!(evaluated["loss"], world.succeed("evaluate", &words)["loss"]);
    assert!((evaluated["loss"].as_f64().unwrap() - after).abs() < 1e-5, "{evaluated} {after}");

    // Adapters of the masked language model, and of a classifier on its encoder.
    let words = ["--model", "@made", "--task", "masked-lm", "--data", "@text.txt", "--steps", "3", "--seq", "24"];
    let adapted = world.succeed("finetune", &[&words[..], &["--out", "@adapter", "--rank", "2"]].concat());
    assert!(adapted["best_validation_loss"].as_f64().unwrap() < after + 0.1);
    let row = |i: usize| format!("{}\n", json!({"text": "the cat sits", "label": (["a", "b"])[i % 2]}));
    let rows: String = (0..30).map(row).collect();
    fs::write(world.path("rows.jsonl"), rows).unwrap();
    let words = [
        "--model",
        "@made",
        "--task",
        "classify",
        "--labels",
        "a,b",
        "--data",
        "@rows.jsonl",
        "--steps",
        "2",
        "--seq",
        "24",
    ];
    world.succeed("finetune", &[&words[..], &["--out", "@classes"]].concat());
    world.succeed("finetune", &[&words[..], &["--out", "@classifier", "--full"]].concat());
    let config: Value = serde_json::from_slice(&read("classifier/config.json")).unwrap();
    assert_eq!(config["architectures"][0], "DebertaV2ForSequenceClassification");
}

#[test]
fn what_does_not_suit_is_refused() {
    let world = World::new();
    let refused = |more: &[&str], expected: &[&str]| {
        let words = ["--model", "@shape", "--data", "@text.txt", "--out", "@out", "--full", "--from-scratch"];
        assert_refused(&world.run("finetune", &[&words[..], more].concat()), expected);
    };
    refused(&["--train-tokenizer", "unigram:32"], &["DeBERTa does not predict next tokens", "masked-lm"]);
    refused(
        &["--task", "masked-lm", "--train-tokenizer", "unigram:12"],
        &["--train-tokenizer", "12 tokens do not hold"],
    );
    refused(&["--task", "masked-lm", "--train-tokenizer", "bpe:80"], &["unigram:SIZE"]);
    refused(&["--task", "masked-lm", "--train-tokenizer", "unigram:32", "--seq", "2"], &["--seq 2 leaves no room"]);
    let llama = common::World::new();
    assert_refused(&llama.finetune("cpu", "out", &["--task", "masked-lm"]), &["masked-lm is for DeBERTa"]);
}
