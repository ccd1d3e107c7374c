//! `restore` as its users run it: a tiny model, an adapter of it, an update of the model's weights.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{assert_refused, result, run, text};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A directory with the two bases `old` and `new`, their tokenizer (one token a character), a text, and an `adapter`.
struct World(TempDir);

impl World {
    fn new() -> Self {
        let world = World(tempfile::tempdir().unwrap());
        fs::create_dir(world.path("old")).unwrap();
        let fixture = fixtures().join("llama_tiny/model");
        for file in ["config.json", "model.safetensors"] {
            fs::copy(fixture.join(file), world.path("old").join(file)).unwrap();
        }
        fs::write(world.path("old/tokenizer.json"), tokenizer().to_string()).unwrap();
        fs::write(world.path("text.txt"), "the cat sat on the mat. the dog sat on the log. ".repeat(150)).unwrap();
        world.update("new", |name, shape, values| moved(name, shape, values));
        world.finetune("adapter", &[]);
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A copy of the old base with its tensors changed.
    fn update(&self, name: &str, change: impl Fn(&str, &mut Vec<usize>, &mut Vec<f32>)) {
        fs::create_dir(self.path(name)).unwrap();
        for file in ["config.json", "tokenizer.json"] {
            fs::copy(self.path("old").join(file), self.path(name).join(file)).unwrap();
        }
        let bytes = fs::read(self.path("old/model.safetensors")).unwrap();
        let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = SafeTensors::deserialize(&bytes)
            .unwrap()
            .iter()
            .map(|(name, view)| {
                let mut values: Vec<f32> = bytemuck::pod_collect_to_vec(view.data());
                let mut shape = view.shape().to_vec();
                change(name, &mut shape, &mut values);
                (name.to_string(), shape, bytemuck::cast_slice(&values).to_vec())
            })
            .collect();
        let views = tensors
            .iter()
            .map(|(name, shape, bytes)| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
        fs::write(self.path(name).join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    }

    fn edit_config(&self, base: &str, from: &str, to: &str) {
        let path = self.path(base).join("config.json");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from));
        fs::write(path, text.replace(from, to)).unwrap();
    }

    /// Words for the program; paths of this world are written as @name.
    fn words(&self, words: &[&str]) -> Vec<String> {
        words
            .iter()
            .map(|word| match word.strip_prefix('@') {
                Some(name) => self.path(name).to_string_lossy().into_owned(),
                None => word.to_string(),
            })
            .collect()
    }

    fn run(&self, words: &[&str]) -> Output {
        run(&self.words(words).iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn finetune(&self, out: &str, more: &[&str]) {
        let out = format!("@{out}");
        let mut words = vec!["finetune", "--model", "@old", "--data", "@text.txt", "--out", &out, "--device", "cpu"];
        words.extend(["--steps", "30", "--batch", "4", "--seq", "32", "--lr", "0.02", "--rank", "4"]);
        words.extend(more);
        let output = self.run(&words);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }

    fn restore_words<'w>(&self, out: &'w str, more: &[&'w str]) -> Vec<&'w str> {
        let mut words = vec!["restore", "--old-model", "@old", "--new-model", "@new", "--data", "@text.txt", "--json"];
        words.extend(["--out", out, "--device", "cpu", "--steps", "12", "--batch", "4", "--seq", "32", "--lr", "0.01"]);
        words.extend(["--search-examples", "16", "--score-examples", "32", "--search-steps", "3"]);
        words.extend(more);
        words
    }

    /// `restore` of the world's adapter unless `more` names others.
    fn restore(&self, out: &str, more: &[&str]) -> Output {
        let mut words = self.restore_words(out, more);
        if !more.contains(&"--manifest") && !more.contains(&"--adapter") {
            words.extend(["--adapter", "@adapter"]);
        }
        self.run(&words)
    }

    fn succeed(&self, out: &str, more: &[&str]) -> Value {
        let output = self.restore(out, more);
        assert!(output.status.success(), "{}\n{}", text(&output.stderr), text(&output.stdout));
        result(&output)
    }

    fn weights(&self, directory: &str) -> Vec<u8> {
        fs::read(self.path(directory).join("adapter_model.safetensors")).unwrap()
    }

    fn loss(&self, model: &str, adapter: &str) -> f64 {
        let words = ["evaluate", "--model", model, "--adapter", adapter, "--data", "@held.txt", "--device", "cpu"];
        let output =
            self.run(&[&words[..], &["--batch", "4", "--seq", "32", "--json", "--allow-base-mismatch"]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        result(&output)["loss"].as_f64().unwrap()
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures")
}

fn tokenizer() -> Value {
    let specials = ["<unk>", "<s>", "</s>"].map(String::from);
    let characters = (' '..='~').chain(['\n']).map(String::from);
    let vocabulary: serde_json::Map<String, Value> =
        specials.into_iter().chain(characters).enumerate().map(|(id, token)| (token, json!(id))).collect();
    let each_character =
        json!({ "type": "Split", "pattern": { "Regex": "[\\s\\S]" }, "behavior": "Isolated", "invert": false });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": each_character, "post_processor": null, "decoder": { "type": "Fuse" },
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" },
    })
}

/// A change of rank one and some noise on every matrix of the blocks.
fn moved(name: &str, shape: &[usize], values: &mut [f32]) {
    if shape.len() != 2 || !name.contains("proj") {
        return;
    }
    let wave = |index: usize| ((index * 37 % 101) as f32 / 50.0) - 1.0;
    let columns = shape[1];
    for (index, value) in values.iter_mut().enumerate() {
        *value += 0.03 * wave(index / columns) * wave(index % columns + 11) + 0.002 * wave(index);
    }
}

fn number(report: &Value, name: &str) -> f64 {
    report[name].as_f64().unwrap_or_else(|| panic!("no `{name}` in {report}"))
}

#[test]
fn all_stages_lead_from_files_to_an_adapter_bit_for_bit() {
    let world = World::new();
    // The same held-out part as a file, to check the figures by `evaluate`.
    fs::write(world.path("held.txt"), "the cat sat on the mat. the dog sat on the log. ".repeat(20)).unwrap();
    let before = fs::read(world.path("new/model.safetensors")).unwrap();
    let held = ["--validation", "@held.txt"];
    let report = world.succeed("@first", &held)["adapters"][0].clone();
    let [reuse, start, end] = ["reuse_loss", "start_loss", "final_loss"].map(|name| number(&report, name));
    assert!(end <= reuse.min(start), "{report}");
    assert!(end < reuse - 0.01, "training is worth something: {reuse} -> {end}");
    assert!((world.loss("@old", "@adapter") - number(&report, "old_base_loss")).abs() < 1e-5);
    assert!((world.loss("@new", "@adapter") - reuse).abs() < 1e-5);
    assert!((world.loss("@new", "@first") - end).abs() < 1e-5);
    assert!(report["search"]["candidates"].as_array().unwrap().len() >= 8, "{report}");
    assert!(number(&report, "relative_size") > 0.01);
    let module = &report["evolution"]["model.layers.0.self_attn.q_proj"];
    assert!(number(module, "captured") > 0.5 && number(module, "effective_rank") < 3.0, "{module}");
    assert_eq!(fs::read(world.path("new/model.safetensors")).unwrap(), before, "the base is never written");
    let names = |directory: &str| -> Vec<String> {
        let entries = fs::read_dir(world.path(directory)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let expected = [
        "adapter_config.json",
        "adapter_model.safetensors",
        "evolution",
        "metrics.jsonl",
        "provenance.json",
        "restore.json",
    ];
    assert_eq!(names("first"), expected, "nothing of the work is left behind");
    world.succeed("@second", &held);
    assert_eq!(world.weights("first"), world.weights("second"), "the same seed gives the same bits");
    assert_refused(&world.restore("@first", &held), &["already there", "--overwrite", "--resume"]);
    let other = ["--validation", "@held.txt", "--resume", "--lr", "0.5"];
    assert_refused(&world.restore("@first", &other), &["made with other settings", "--overwrite"]);
    assert_refused(&world.restore("@adapter", &["--overwrite"]), &["the old adapter is kept as it is"]);
    assert_eq!(world.weights("first"), world.weights("second"));
}

#[test]
fn every_method_can_be_chosen() {
    let world = World::new();
    let losses = |method: &str| {
        let out = format!("@out-{method}");
        let report = world.succeed(&out, &["--method", method, "--target", "none"])["adapters"][0].clone();
        assert_eq!(report["outcome"], "restored");
        (number(&report, "reuse_loss"), number(&report, "start_loss"), number(&report, "final_loss"), report)
    };
    let (reuse, start, end, report) = losses("reuse");
    assert_eq!((reuse, start, report["steps"].as_u64()), (end, end, Some(0)));
    let (_, start, end, _) = losses("warm-start");
    assert!(start == reuse && end < start);
    let (_, start, end, _) = losses("retrain");
    assert!(start > reuse && end < start, "a fresh adapter starts from the base: {start} -> {end}");
    let (_, start, _, report) = losses("rebase");
    assert!((number(&report, "alpha"), number(&report, "beta")) == (1.0, -1.0) && start != reuse);
    for method in ["bayes-only", "relora"] {
        let (_, _, end, report) = losses(method);
        assert!(end <= reuse && report["search_examples"].as_u64().unwrap() > 0);
    }
}

#[test]
fn targets_are_met_missed_and_stopped_at() {
    let world = World::new();
    let easy = world.succeed("@easy", &["--target", "100", "--stop-at-target"])["adapters"][0].clone();
    assert_eq!((easy["outcome"].as_str(), easy["ready_step"].as_u64()), (Some("ready"), Some(0)), "{easy}");
    assert_eq!((easy["search_examples"].as_u64(), easy["steps"].as_u64()), (Some(0), Some(0)), "the gate is enough");
    let output = world.restore("@hard", &["--target", "0.0001"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("was not reached within 12 steps"), "{}", text(&output.stderr));
    assert_eq!(result(&output)["adapters"][0]["outcome"], "target missed");
    assert!(!world.weights("hard").is_empty(), "the best adapter is written nevertheless");
    let plain = world.succeed("@plain", &["--target", "none"])["adapters"][0].clone();
    let halfway = (number(&plain, "start_loss") + number(&plain, "final_loss")) / 2.0;
    let target = format!("{halfway}");
    let words = ["--target", &target, "--stop-at-target", "--eval-every", "1"];
    let stopped = world.succeed("@stopped", &words)["adapters"][0].clone();
    let (ready, steps) = (stopped["ready_step"].as_u64().unwrap(), stopped["steps"].as_u64().unwrap());
    assert!(ready >= 1 && steps <= ready + 1 && steps < 12, "{stopped}");
}

#[test]
fn a_fleet_shares_the_base_and_survives_the_failure_of_one() {
    let world = World::new();
    world.finetune("second", &["--seed", "5", "--rank", "2", "--targets", "q_proj,v_proj"]);
    let lines = [
        json!({ "adapter": "adapter", "data": "text.txt", "name": "a" }),
        json!({ "adapter": "missing", "data": "text.txt" }),
        json!({ "adapter": "second", "data": ["text.txt"], "target": "none" }),
        json!({ "adapter": "adapter", "data": "nothing.txt" }),
    ];
    fs::write(world.path("fleet.jsonl"), lines.map(|line| line.to_string() + "\n").concat()).unwrap();
    let output = world.restore("@fleet", &["--manifest", "@fleet.jsonl"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let report = result(&output);
    let outcomes: Vec<_> = report["adapters"].as_array().unwrap().iter().map(|row| row["outcome"].as_str()).collect();
    assert_eq!(outcomes[1], Some("failed"));
    assert_eq!((outcomes[2], outcomes[3]), (Some("restored"), Some("failed")));
    assert!(report["adapters"][1]["error"].as_str().unwrap().contains("no adapter_config.json"));
    assert!(report["adapters"][3]["error"].as_str().unwrap().contains("nothing.txt"));
    let kept: Value = serde_json::from_str(&fs::read_to_string(world.path("fleet/report.json")).unwrap()).unwrap();
    assert_eq!(kept, report);
    world.succeed("@alone", &[]);
    assert_eq!(world.weights("alone"), world.weights("fleet/a"), "company changes nothing");

    // What is finished is not done again.
    fs::remove_dir_all(world.path("fleet/second")).unwrap();
    let first = fs::metadata(world.path("fleet/a/restore.json")).unwrap().modified().unwrap();
    let output = world.restore("@fleet", &["--manifest", "@fleet.jsonl", "--resume"]);
    assert_eq!(result(&output)["adapters"][0], report["adapters"][0]);
    assert_eq!(fs::metadata(world.path("fleet/a/restore.json")).unwrap().modified().unwrap(), first);
    assert!(world.path("fleet/second/restore.json").exists());
}

#[test]
fn wrong_manifests_are_refused_by_line() {
    let world = World::new();
    let refused = |line: Value, expected: &[&str]| {
        let first = json!({ "adapter": "adapter", "data": "text.txt" });
        fs::write(world.path("fleet.jsonl"), format!("{first}\n\n{line}\n")).unwrap();
        let words =
            ["restore", "--old-model", "@old", "--new-model", "@new", "--manifest", "@fleet.jsonl", "--out", "@out"];
        assert_refused(&world.run(&words), &[&["fleet.jsonl", "line 3"], expected].concat());
        assert!(!world.path("out").exists());
    };
    refused(json!({ "adapter": "adapter", "dataset": "text.txt" }), &["unknown field `dataset`"]);
    refused(json!({ "data": "text.txt" }), &["missing field `adapter`"]);
    refused(json!({ "adapter": "adapter" }), &["neither `data` nor --data"]);
    refused(json!({ "adapter": "adapter", "data": "text.txt", "task": "chess" }), &["`chess` is no task"]);
    refused(json!({ "adapter": "adapter", "data": "text.txt", "target": "soon" }), &["`target` must be parity"]);
    refused(json!({ "adapter": "adapter", "data": "text.txt", "name": "../up" }), &["is no name of a directory"]);
}

#[test]
fn a_killed_run_goes_on_to_the_same_bits() {
    let world = World::new();
    let more = ["--steps", "40", "--save-every", "5", "--adapter", "@adapter"];
    world.succeed("@whole", &more);
    let words = world.words(&world.restore_words("@parts", &more));
    let mut child = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(&words)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let work = world.path("parts/training");
    let saved = || {
        fs::read_dir(&work).is_ok_and(|mut entries| {
            entries.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("checkpoint-")))
        })
    };
    while !saved() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let output = world.restore("@parts", &[&more[..], &["--resume"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    if !text(&output.stderr).contains("resuming after step") {
        // The program was quicker than the kill; then everything was there already.
        assert!(!work.exists());
    }
    assert_eq!(world.weights("whole"), world.weights("parts"));
}

#[test]
fn bases_that_are_no_update_are_refused_by_name() {
    let world = World::new();
    let refused = |base: &str, expected: &[&str]| {
        let new = format!("@{base}");
        assert_refused(&world.restore("@out", &["--new-model", &new]), expected);
        assert!(!world.path("out").exists(), "nothing is written");
    };
    refused("nowhere", &["--new-model", "no such directory"]);
    let down = "model.layers.1.mlp.down_proj.weight";
    world.update("reshaped", |name, shape, _| {
        if name == down {
            shape.swap(0, 1);
        }
    });
    refused("reshaped", &[down, "[64, 128]", "[128, 64]"]);
    world.update("same", |_, _, _| ());
    world.edit_config("same", "\"num_attention_heads\": 4", "\"num_attention_heads\": 2");
    refused("same", &["num_attention_heads", "4", "2"]);
    fs::remove_dir_all(world.path("same")).unwrap();
    fs::create_dir(world.path("same")).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixtures().join("deberta_v3_tiny_cls/model").join(file), world.path("same").join(file)).unwrap();
    }
    refused("same", &["model_type"]);
    let words = ["--old-model", "@new", "--new-model", "@old"];
    assert_refused(&world.restore("@out", &words), &["which is the new base already"]);
    world.update("third", |_, _, values| values[0] += 1.0);
    let words = ["--old-model", "@third"];
    assert_refused(&world.restore("@out", &words), &["whose weights are not those of --old-model"]);
    fs::write(world.path("empty.txt"), "").unwrap();
    assert_refused(&world.restore("@out", &["--validation", "@empty.txt"]), &["--data", "0 tokens"]);
    assert_refused(&world.restore("@out", &["--target", "soon"]), &["parity, none"]);
}

#[test]
fn an_unchanged_base_keeps_the_old_adapter() {
    let world = World::new();
    world.update("same", |_, _, _| ());
    // An adapter by another program, whose base cannot be compared.
    let config = world.path("adapter/adapter_config.json");
    let mut value: Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
    value["base_model_name_or_path"] = json!("somewhere/else");
    fs::write(&config, value.to_string()).unwrap();
    fs::remove_file(world.path("adapter/provenance.json")).unwrap();
    let report = world.succeed("@out", &["--new-model", "@same", "--steps", "0"])["adapters"][0].clone();
    assert_eq!((report["outcome"].as_str(), report["search_examples"].as_u64()), (Some("ready"), Some(0)), "{report}");
    assert_eq!(number(&report, "relative_size"), 0.0);
    assert_eq!(world.weights("adapter"), world.weights("out"));
    assert!(report["remarks"].to_string().contains("somewhere/else"), "{report}");
}

#[test]
fn vocabularies_may_grow_under_adapters_of_every_kind() {
    let world = World::new();
    let targets = ["--targets", "q_proj,embed_tokens,lm_head"];
    world.finetune("wide", &targets);
    world.finetune("head", &["--targets", "q_proj", "--modules-to-save", "lm_head"]);
    world.update("grown", |name, shape, values| {
        moved(name, shape, values);
        if name.contains("embed_tokens") || name.contains("lm_head") {
            shape[0] += 4;
            values.extend(vec![0.01; 4 * shape[1]]);
        }
    });
    world.edit_config("grown", "\"vocab_size\": 300", "\"vocab_size\": 304");
    for adapter in ["@wide", "@head"] {
        let out = format!("{adapter}-out");
        let report = world.succeed(&out, &["--new-model", "@grown", "--adapter", adapter])["adapters"][0].clone();
        assert!(number(&report, "final_loss") <= number(&report, "reuse_loss"));
        assert!(report["remarks"].to_string().contains("4 new tokens"), "{report}");
        let words = ["evaluate", "--model", "@grown", "--adapter", &out, "--data", "@text.txt", "--device", "cpu"];
        let output = world.run(&words);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
}

#[test]
fn magnitudes_and_whole_modules_are_carried_over_and_told() {
    let world = World::new();
    let dora = fixtures().join("llama_tiny/adapter_dora");
    let report = world.succeed("@dora", &["--adapter", dora.to_str().unwrap(), "--steps", "3"])["adapters"][0].clone();
    assert!(report["remarks"].to_string().contains("DoRA's magnitudes"), "{report}");
    assert!(number(&report, "final_loss") <= number(&report, "reuse_loss"));
    let file = world.weights("dora");
    let file = SafeTensors::deserialize(&file).unwrap();
    assert!(file.names().iter().any(|name| name.contains("lora_magnitude_vector")));
}

#[test]
fn the_help_says_which_relora_it_is() {
    let help = run(&["restore", "--help"]);
    let text = text(&help.stdout);
    let first = text.lines().next().unwrap();
    assert!(first.contains("ReLoRA") && first.contains("not the 2023"), "{first}");
}
