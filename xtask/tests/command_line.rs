//! The program as its users run it: exit codes, messages, files.

mod common;

use std::fs;
use std::path::Path;

use common::{World, assert_refused, result, run, text};
use serde_json::{Value, json};

fn train_twice(device: &str) {
    let world = World::new();
    let first = world.finetune(device, "first", &[]);
    assert!(first.status.success(), "{}", text(&first.stderr));
    let second = world.finetune(device, "second", &["--threads", "1"]);
    let read = |out: &str| fs::read(world.path(out).join("adapter_model.safetensors")).unwrap();
    assert_eq!(read("first"), read("second"), "the same seed gives the same bits on any number of threads");
    let other = world.finetune(device, "other", &["--seed", "1"]);
    assert!(other.status.success());
    assert_ne!(read("first"), read("other"), "another seed gives another adapter");

    let result = result(&second);
    let (before, after) =
        (result["validation_loss_before"].as_f64().unwrap(), result["best_validation_loss"].as_f64().unwrap());
    assert!(after < before - 0.3, "validation loss {before} -> {after}");
    let metrics = fs::read_to_string(world.path("first").join("metrics.jsonl")).unwrap();
    let steps = metrics.lines().filter(|line| line.contains(r#""event":"step""#)).count();
    assert_eq!(steps, 12, "{metrics}");
    let names: Vec<_> = fs::read_dir(world.path("first")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 5, "configuration, weights, provenance, metrics, best and nothing else: {names:?}");
}

#[test]
fn training_lowers_the_loss_and_repeats_bit_for_bit_on_the_cpu() {
    train_twice("cpu");
}

#[test]
#[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
fn training_lowers_the_loss_and_repeats_bit_for_bit_on_wgsl() {
    train_twice("gpu:0");
}

#[test]
fn an_adapter_can_be_continued_and_generates() {
    let world = World::new();
    assert!(world.finetune("cpu", "first", &[]).status.success());
    let first = world.path("first");
    let continued = world.finetune("cpu", "second", &["--init-adapter", first.to_str().unwrap()]);
    let start = result(&continued)["validation_loss_before"].as_f64().unwrap();
    let end = result(&world.finetune("cpu", "third", &[]))["best_validation_loss"].as_f64().unwrap();
    assert!((start - end).abs() < 1e-4, "the continued run starts where the first ended: {start} and {end}");

    let model = world.model();
    let words = ["generate", "--model", model.to_str().unwrap(), "--adapter", first.to_str().unwrap()];
    let more = ["--prompt", "the ", "--max-new-tokens", "5", "--device", "cpu", "--json"];
    let generated = run(&[&words[..], &more].concat());
    assert!(generated.status.success(), "{}", text(&generated.stderr));
    assert_eq!(result(&generated)["ids"].as_array().unwrap().len(), 5);
}

#[test]
fn a_resumed_run_ends_like_one_that_was_not_interrupted() {
    let world = World::new();
    assert!(world.finetune("cpu", "whole", &[]).status.success());
    // A run of the same length that keeps a checkpoint at step 8; its later files are taken away.
    assert!(world.finetune("cpu", "parts", &["--save-every", "8"]).status.success());
    fs::remove_file(world.path("parts").join("adapter_model.safetensors")).unwrap();
    let resumed = world.finetune("cpu", "parts", &["--save-every", "8", "--resume"]);
    assert!(resumed.status.success(), "{}", text(&resumed.stderr));
    assert!(text(&resumed.stderr).contains("resuming after step 8"));
    let read = |out: &str| fs::read(world.path(out).join("adapter_model.safetensors")).unwrap();
    assert_eq!(read("whole"), read("parts"));
}

#[test]
fn wrong_arguments_are_refused_with_the_way_out() {
    let world = World::new();
    let refused = |more: &[&str], expected: &[&str]| {
        assert_refused(&world.finetune("cpu", "out", more), expected);
        assert!(!world.path("out").exists(), "nothing half-written is left behind after {more:?}");
    };
    refused(&["--model", "no/such/model"], &["no/such/model", "no such directory"]);
    refused(&["--data", "missing.txt"], &["missing.txt", "cannot be read"]);
    refused(&["--targets", "q_proj,nonsense"], &["nonsense", "q_proj", "down_proj"]);
    refused(&["--seq", "100000"], &["--seq 100000", "512 positions"]);
    refused(&["--rank", "0"], &["rank"]);
    refused(&["--device", "gpu:99"], &["gpu:99", "available"]);
    refused(&["--device", "abacus"], &["abacus", "auto, cpu, gpu"]);
    refused(&["--init-adapter", "nowhere"], &["nowhere", "adapter_config.json"]);
    refused(&["--lr", "nan"], &["learning_rate"]);
    let table = world.path("data.csv");
    fs::write(&table, "a,b").unwrap();
    refused(&["--data", table.to_str().unwrap()], &["data.csv", ".jsonl"]);
    let rows = world.path("rows.jsonl");
    fs::write(&rows, "{\"text\": \"fine\"}\n{\"label\": 1}\n").unwrap();
    refused(&["--data", rows.to_str().unwrap()], &["rows.jsonl line 2", "prompt"]);
    let bytes = world.path("bytes.txt");
    fs::write(&bytes, [0x61, 0xff, 0xfe]).unwrap();
    refused(&["--data", bytes.to_str().unwrap()], &["bytes.txt", "UTF-8"]);
}

#[test]
fn damaged_checkpoints_are_refused_with_the_way_out() {
    type Damage = fn(&Path);
    let truncate: Damage = |model| {
        let file = model.join("model.safetensors");
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    };
    let missing_shard: Damage = |model| {
        fs::remove_file(model.join("model.safetensors")).unwrap();
        let map = json!({ "metadata": {}, "weight_map": { "model.norm.weight": "model-00001-of-00002.safetensors" } });
        fs::write(model.join("model.safetensors.index.json"), map.to_string()).unwrap();
    };
    let edit = |model: &Path, from: &str, to: &str| {
        let file = model.join("config.json");
        let config = fs::read_to_string(&file).unwrap();
        assert!(config.contains(from));
        fs::write(&file, config.replace(from, to)).unwrap();
    };
    type Case = (&'static str, Box<dyn Fn(&Path)>, Vec<&'static str>);
    let cases: Vec<Case> = vec![
        ("truncated", Box::new(truncate), vec!["model.safetensors", "truncated"]),
        ("shard", Box::new(missing_shard), vec!["model-00001-of-00002.safetensors", "missing"]),
        (
            "shape",
            Box::new(move |model| edit(model, r#""intermediate_size": 128"#, r#""intermediate_size": 96"#)),
            vec!["gate_proj", "[96, 64]", "[128, 64]"],
        ),
        (
            "architecture",
            Box::new(move |model| {
                edit(model, r#""model_type": "llama""#, r#""model_type": "gpt9""#);
                edit(model, "LlamaForCausalLM", "GPT9");
            }),
            vec!["config.json"],
        ),
        (
            "unused",
            Box::new(move |model| edit(model, r#""num_hidden_layers": 2"#, r#""num_hidden_layers": 1"#)),
            vec!["model.layers.1."],
        ),
    ];
    for (name, damage, expected) in cases {
        let world = World::new();
        damage(&world.model());
        let output = world.finetune("cpu", "out", &[]);
        assert_refused(&output, &expected);
        assert!(!world.path("out").exists(), "nothing half-written is left behind: {name}");
    }
}

#[test]
fn an_adapter_is_not_written_over_unasked() {
    let world = World::new();
    assert!(world.finetune("cpu", "out", &[]).status.success());
    assert_refused(&world.finetune("cpu", "out", &[]), &["already there", "--overwrite"]);
    assert!(world.finetune("cpu", "out", &["--overwrite"]).status.success());
}

#[test]
fn devices_and_quick_benchmarks_answer_in_json() {
    let devices = run(&["devices", "--json"]);
    assert!(devices.status.success());
    assert!(result(&devices)["cpu_threads"].as_u64().unwrap() > 0);
    let bench = run(&["bench", "kernels", "step", "--quick", "--device", "cpu", "--steps", "2", "--json"]);
    assert!(bench.status.success(), "{}", text(&bench.stderr));
    let result = result(&bench);
    let steps = result["step"]["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 2, "a LLaMA and a DeBERTa");
    assert!(steps.iter().all(|step| step["time"]["tokens_per_second"].as_f64().unwrap() > 0.0));
    assert!(result["kernels"]["products"].as_array().unwrap().len() >= 6);
}

#[test]
fn multiple_choice_is_judged_by_likelihood() {
    let world = World::new();
    let row = |index: usize| {
        let (word, answer) = if index.is_multiple_of(2) { ("cat", "true") } else { ("dog", "false") };
        json!({ "instruction": format!("the {word} {index}? Answer format: true/false"), "input": "",
            "output": format!("the correct answer is {answer}"), "answer": answer })
    };
    let file = world.path("questions.json");
    fs::write(&file, Value::Array((0..6).map(row).collect()).to_string()).unwrap();
    let (model, file) = (world.model(), file.to_str().unwrap().to_string());
    let words = ["--model", model.to_str().unwrap(), "--data", &file, "--task", "commonsense", "--device", "cpu"];
    let judged = run(&[&["evaluate"], &words[..], &["--seq", "64", "--json"]].concat());
    let report = result(&judged);
    let facts = &report["metrics"][&file];
    assert_eq!((facts["questions"].as_u64(), facts["cut"].as_u64()), (Some(6), Some(6)), "{report}");
    let accuracy = facts["accuracy"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&accuracy) && (accuracy * 6.0).fract().abs() < 1e-9, "{report}");
    let generated = run(&[&["evaluate"], &words[..], &["--seq", "64", "--answer-by", "generation", "--json"]].concat());
    let report = result(&generated);
    let count = |name: &str| report["metrics"][&file][name].as_u64().unwrap();
    assert_eq!((count("questions"), count("unanswered")), (6, 6), "an untrained model names no option: {report}");
    fs::write(world.path("questions.json"), "[{\"instruction\": \"x\", \"answer\": \"true\"}]").unwrap();
    let refused = run(&[&["evaluate"], &words[..], &["--seq", "64"]].concat());
    assert_refused(&refused, &["questions.json row 1: the instruction has no `Answer format:`"]);
}

#[test]
fn rows_may_be_padded_on_the_left_and_met_by_length() {
    let world = World::new();
    let row = |index: usize| {
        let completion = "sat on the mat. ".repeat(1 + index % 5);
        json!({ "prompt": "the cat ", "completion": completion }).to_string() + "\n"
    };
    let rows = world.path("rows.jsonl");
    fs::write(&rows, (0..60).map(row).collect::<String>()).unwrap();
    let train = |out: &str, more: &[&str]| {
        let (model, out) = (world.model(), world.path(out));
        let words = ["finetune", "--model", model.to_str().unwrap(), "--data", rows.to_str().unwrap(), "--out"];
        let short = [out.to_str().unwrap(), "--steps", "12", "--batch", "2", "--seq", "32", "--lr", "0.02"];
        let output = run(&[&words[..], &short, &["--device", "cpu", "--json"], more].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        output
    };
    let output = train("left", &["--padding-side", "left", "--group-by-length", "--loss-on", "all"]);
    let warning = "training rows are longer than --seq 32 and are cut";
    let said = text(&output.stderr);
    assert!(said.lines().any(|line| line.starts_with("warning: ") && line.ends_with(warning)), "{said}");
    let report = result(&output);
    let loss = |name: &str| report[name].as_f64().unwrap();
    assert!(loss("best_validation_loss") < loss("validation_loss_before") - 0.3, "{report}");
    let plain = result(&train("right", &[]));
    assert_ne!(plain["validation_loss_before"], report["validation_loss_before"], "the answers alone");
}
