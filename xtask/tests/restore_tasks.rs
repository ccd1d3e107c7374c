//! `restore` of an adapter of a task with labels: a tiny DeBERTa that tells two words apart, and its update.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{result, run, text};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

struct World(TempDir);

impl World {
    fn new() -> Self {
        let world = World(tempfile::tempdir().unwrap());
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures");
        let model = fixtures.join("deberta_v3_tiny_cls/model");
        for base in ["old", "new"] {
            fs::create_dir(world.path(base)).unwrap();
            fs::copy(model.join("config.json"), world.path(base).join("config.json")).unwrap();
            fs::copy(fixtures.join("sentencepiece/deberta/spm.model"), world.path(base).join("spm.model")).unwrap();
        }
        fs::copy(model.join("model.safetensors"), world.path("old/model.safetensors")).unwrap();
        let bytes = fs::read(model.join("model.safetensors")).unwrap();
        let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = SafeTensors::deserialize(&bytes)
            .unwrap()
            .iter()
            .map(|(name, view)| {
                let mut values: Vec<f32> = bytemuck::pod_collect_to_vec(view.data());
                if name.contains("_proj.weight") {
                    let columns = view.shape()[1];
                    let wave = |index: usize| ((index * 37 % 101) as f32 / 50.0) - 1.0;
                    let moved = |(index, value): (usize, &mut f32)| {
                        *value += 0.1 * wave(index / columns) * wave(index % columns + 5)
                    };
                    values.iter_mut().enumerate().for_each(moved);
                }
                (name.to_string(), view.shape().to_vec(), bytemuck::cast_slice(&values).to_vec())
            })
            .collect();
        let views = tensors
            .iter()
            .map(|(name, shape, bytes)| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
        fs::write(world.path("new/model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a command; paths of this world are written as @name.
    fn succeed(&self, words: &[&str]) -> Value {
        let words: Vec<String> = words
            .iter()
            .map(|word| match word.strip_prefix('@') {
                Some(name) => self.path(name).to_string_lossy().into_owned(),
                None => word.to_string(),
            })
            .chain(["--device", "cpu", "--json"].map(String::from))
            .collect();
        let output = run(&words.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(output.status.success(), "{}", text(&output.stderr));
        result(&output)
    }
}

/// Rows whose label is whether the king speaks, as the task needs them.
fn rows(count: usize, label: fn(bool) -> Value) -> String {
    let row = |row: usize| {
        let king = row.is_multiple_of(3);
        let subject = if king { "king" } else { "lady" };
        let end = ["now", "here", "of love", "again", "to them"][row % 5];
        json!({ "text": format!("the {subject} speaks {end}"), "label": label(king) }).to_string() + "\n"
    };
    (0..count).map(row).collect()
}

const COMMON: [&str; 10] =
    ["--batch", "8", "--max-length", "16", "--lr", "0.02", "--validation", "@held.jsonl", "--data", "@rows.jsonl"];

#[test]
fn classifiers_are_restored_with_their_heads() {
    let world = World::new();
    let name = |king: bool| json!(if king { "king" } else { "lady" });
    fs::write(world.path("rows.jsonl"), rows(64, name)).unwrap();
    fs::write(world.path("held.jsonl"), rows(22, name)).unwrap();
    let task = ["--task", "classify", "--labels", "lady,king"];
    let train = ["finetune", "--model", "@old", "--out", "@adapter", "--steps", "40"];
    let more = ["--targets", "query_proj,value_proj", "--hidden-dropout", "0", "--attention-dropout", "0"];
    let trained = world.succeed(&[&train[..], &more, &task, &COMMON].concat());
    let restore =
        ["restore", "--old-model", "@old", "--new-model", "@new", "--adapter", "@adapter", "--out", "@restored"];
    let small = ["--search-examples", "16", "--search-steps", "2", "--steps", "10"];
    let report = world.succeed(&[&restore[..], &small, &task, &COMMON].concat())["adapters"][0].clone();
    let loss = |name: &str| report[name].as_f64().unwrap_or_else(|| panic!("no {name} in {report}"));
    assert!((loss("old_base_loss") - trained["metrics"]["validation"]["loss"].as_f64().unwrap()).abs() < 1e-5);
    assert!(loss("final_loss") <= loss("reuse_loss").min(loss("start_loss")));
    assert_eq!(report["metrics"]["validation"]["accuracy"], 1.0, "{report}");
    assert!(report["remarks"].to_string().contains("classifier.weight"), "{report}");
    let evaluate = ["evaluate", "--model", "@new", "--adapter", "@restored", "--max-length", "16", "--batch", "8"];
    let judged = world.succeed(&[&evaluate[..], &task, &["--data", "@held.jsonl"]].concat());
    assert!((judged["metrics"]["validation"]["loss"].as_f64().unwrap() - loss("final_loss")).abs() < 1e-5);
}
