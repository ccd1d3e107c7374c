//! Tasks with labels as users run them: a tiny DeBERTa learns to tell two words apart; its adapter is evaluated, merged
//! and inspected.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use common::{assert_refused, result, run, text};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A directory with a tiny classifier, its tokenizer, and files of SST-2.
struct World(TempDir);

impl World {
    fn new() -> Self {
        let world = World(tempfile::tempdir().unwrap());
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures");
        fs::create_dir(world.path("model")).unwrap();
        for file in ["deberta_v3_tiny_cls/model/config.json", "deberta_v3_tiny_cls/model/model.safetensors"] {
            let file = fixtures.join(file);
            fs::copy(&file, world.path("model").join(file.file_name().unwrap())).unwrap();
        }
        fs::copy(fixtures.join("sentencepiece/deberta/spm.model"), world.path("model/spm.model")).unwrap();
        fs::create_dir_all(world.path("glue/SST-2")).unwrap();
        fs::write(world.path("glue/SST-2/train.tsv"), sentences(64)).unwrap();
        fs::write(world.path("glue/SST-2/dev.tsv"), sentences(22)).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn words(&self, command: &str, more: &[&str]) -> Vec<String> {
        let mut words: Vec<String> = [command, "--device", "cpu", "--json"].map(String::from).to_vec();
        // Paths of this world are written as @name.
        words.extend(more.iter().map(|word| match word.strip_prefix('@') {
            Some(name) => self.path(name).to_string_lossy().into_owned(),
            None => word.to_string(),
        }));
        words
    }

    fn run(&self, command: &str, more: &[&str]) -> Output {
        let words = self.words(command, more);
        run(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn succeed(&self, command: &str, more: &[&str]) -> Value {
        let output = self.run(command, more);
        assert!(output.status.success(), "{}", text(&output.stderr));
        result(&output)
    }

    fn finetune(&self, data: &str, more: &[&str]) -> Value {
        let mut words = vec!["--model", "@model", "--task", "sst2", "--data", data, "--out", "@adapter"];
        words.extend(["--steps", "40", "--batch", "8", "--lr", "0.02", "--max-length", "16", "--hidden-dropout", "0"]);
        words.extend(["--attention-dropout", "0", "--targets", "query_proj,value_proj"]);
        words.extend(more);
        self.succeed("finetune", &words)
    }
}

/// Rows whose label is whether the king speaks.
fn sentences(count: usize) -> String {
    let rows = (0..count).map(|row| {
        let (subject, label) = if row % 3 == 0 { ("king", 1) } else { ("lady", 0) };
        format!("the {subject} speaks {} \t{label}\n", ["now", "here", "of love", "again", "to them"][row % 5])
    });
    std::iter::once("sentence\tlabel\n".to_string()).chain(rows).collect()
}

fn accuracy(report: &Value) -> f64 {
    report["metrics"]["validation"]["accuracy"].as_f64().expect("an accuracy")
}

fn loss(report: &Value) -> f64 {
    report["metrics"]["validation"]["loss"].as_f64().expect("a loss")
}

#[test]
fn a_classifier_is_trained_evaluated_merged_and_inspected() {
    let world = World::new();
    let trained = world.finetune("@glue", &[]);
    assert_eq!((accuracy(&trained), trained["task"].as_str()), (1.0, Some("sst2")), "{trained}");
    assert!(loss(&trained) < trained["validation_loss_before"].as_f64().unwrap() - 0.3, "{trained}");

    let data = ["--task", "sst2", "--data", "@glue", "--max-length", "16", "--batch", "8"];
    let evaluate = |more: &[&str]| world.succeed("evaluate", &[more, &data].concat());
    let adapted = evaluate(&["--model", "@model", "--adapter", "@adapter", "--predictions", "@predictions.tsv"]);
    assert_eq!(adapted["metrics"], trained["metrics"], "the saved adapter is the trained one");
    let predictions = fs::read_to_string(world.path("predictions.tsv")).unwrap();
    assert!(predictions.starts_with("index\tprediction\n0\t1\n1\t0\n2\t0\n3\t1\n"), "{predictions}");
    assert!(accuracy(&evaluate(&["--model", "@model"])) < 1.0, "the base alone knows less");

    let merged = world.succeed("merge", &["--model", "@model", "--adapter", "@adapter", "--out", "@merged"]);
    assert_eq!((merged["changed"].as_u64(), &merged["added"]), (Some(4 + 4), &json!([])), "{merged}");
    let folded = evaluate(&["--model", "@merged"]);
    assert!((loss(&folded) - loss(&trained)).abs() < 1e-5, "{folded} against {trained}");
    let again = world.run("merge", &["--model", "@model", "--adapter", "@adapter", "--out", "@merged"]);
    assert_refused(&again, &["a checkpoint is already there", "--overwrite"]);

    let adapter = world.succeed("inspect", &["@adapter"]);
    assert_eq!((adapter["kind"].as_str(), adapter["rank"].as_u64()), (Some("adapter"), Some(8)), "{adapter}");
    // Two layers with two targets of rank 8 on 64 x 64; pooler 64 x 64 + 64; classifier of 64 + 1 for each label.
    let labels = adapter["tensors"]["base_model.model.classifier.bias"]["parameters"].as_u64().unwrap();
    assert_eq!(adapter["parameters"].as_u64(), Some(4 * 2 * 8 * 64 + 64 * 65 + labels * 65), "{adapter}");
    let model = world.succeed("inspect", &["@merged", "--tensors"]);
    assert_eq!((model["kind"].as_str(), &model["problem"]), (Some("checkpoint"), &Value::Null), "{model}");
    let shape = &model["tensors"]["deberta.embeddings.word_embeddings.weight"]["shape"];
    assert_eq!(shape, &json!([300, 64]));
}

#[test]
fn a_checkpoint_without_a_head_gets_one_and_the_merged_one_keeps_it() {
    let world = World::new();
    strip_head(&world.path("model/model.safetensors"));
    let trained = world.finetune("@glue", &["--steps", "10", "--seed", "7"]);
    let merged = world.succeed("merge", &["--model", "@model", "--adapter", "@adapter", "--out", "@merged"]);
    let added = json!(["classifier.bias", "classifier.weight", "pooler.dense.bias", "pooler.dense.weight"]);
    assert_eq!(merged["added"], added);
    let data = ["--task", "sst2", "--data", "@glue", "--max-length", "16"];
    let folded = world.succeed("evaluate", &[&["--model", "@merged"][..], &data].concat());
    assert!((loss(&folded) - loss(&trained)).abs() < 1e-5, "{folded} against {trained}");
    let config: Value = serde_json::from_str(&fs::read_to_string(world.path("merged/config.json")).unwrap()).unwrap();
    assert_eq!(config["architectures"], json!(["DebertaV2ForSequenceClassification"]));
}

/// Takes pooler and classifier out of a safetensors file, as the hub's checkpoints lack them.
fn strip_head(path: &Path) {
    let bytes = fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let (mut kept, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, info) in header {
        if name == "__metadata__" || name.starts_with("pooler") || name.starts_with("classifier") {
            continue;
        }
        let offset = |index: usize| info["data_offsets"][index].as_u64().unwrap() as usize;
        let start = data.len();
        data.extend_from_slice(&bytes[8 + length + offset(0)..8 + length + offset(1)]);
        let entry = json!({"dtype": info["dtype"], "shape": info["shape"], "data_offsets": [start, data.len()]});
        kept.insert(name, entry);
    }
    let header = Value::Object(kept).to_string();
    let length = (header.len() as u64).to_le_bytes();
    fs::write(path, [&length[..], header.as_bytes(), &data].concat()).unwrap();
}

#[test]
fn rows_of_json_are_classified_and_scored() {
    let world = World::new();
    let rows: String = sentences(60)
        .lines()
        .skip(1)
        .map(|line| {
            let (sentence, label) = line.split_once('\t').unwrap();
            let name = if label == "1" { "king" } else { "lady" };
            format!("{}\n", json!({"text": sentence, "label": name}))
        })
        .collect();
    fs::write(world.path("rows.jsonl"), &rows).unwrap();
    let classes = ["--task", "classify", "--labels", "lady,king"];
    assert!(accuracy(&world.finetune("@rows.jsonl", &classes)) > 0.9);
    let scores = rows.replace("\"king\"", "4.5").replace("\"lady\"", "1");
    fs::write(world.path("scores.jsonl"), scores).unwrap();
    strip_head(&world.path("model/model.safetensors"));
    let report = world.finetune("@scores.jsonl", &["--task", "regress", "--overwrite"]);
    assert!(report["metrics"]["validation"]["pearson"].as_f64().unwrap() > 0.5, "{report}");
}

#[test]
fn wrong_tasks_and_files_are_refused_with_the_way_out() {
    let world = World::new();
    let refused = |more: &[&str], expected: &[&str]| {
        let mut words = vec!["--model", "@model", "--out", "@none", "--data", "@glue", "--task", "sst2"];
        words.extend(["--max-length", "16"]);
        words.extend(more);
        // Later values replace earlier ones.
        assert_refused(&world.run("finetune", &words), expected);
        assert!(!world.path("none").exists(), "nothing is written");
    };
    refused(&["--task", "rte"], &["neither train.tsv nor RTE/train.tsv is there"]);
    refused(&["--labels", "a,b"], &["--labels belongs to --task classify"]);
    refused(&["--task", "classify"], &["needs --labels"]);
    refused(&["--task", "causal"], &["does not predict next tokens"]);
    refused(&["--max-length", "1000"], &["the model has 64 positions"]);
    refused(&["--max-length", "2"], &["leaves no room beside 2 special tokens"]);
    refused(&["--modules-to-save", "nothing"], &["`nothing` names no module"]);
    fs::write(world.path("glue/SST-2/dev.tsv"), "sentence\tlabel\nfine\t2\n").unwrap();
    refused(&[], &["dev.tsv line 2: `2` is not one of 0, 1"]);
}
