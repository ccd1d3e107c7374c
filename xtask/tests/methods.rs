//! The methods of `finetune` as its users run them.

mod common;

use std::fs;
use std::path::Path;

use common::{World, assert_refused, result, run, text};
use serde_json::Value;

fn json_of(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Validation loss of the model with an adapter, by `evaluate` on a file of its own.
fn evaluated(world: &World, adapter: &str, data: &str) -> f64 {
    let (model, adapter, data) = (world.model(), world.path(adapter), world.path(data));
    let words = ["evaluate", "--model", model.to_str().unwrap(), "--adapter", adapter.to_str().unwrap(), "--data"];
    let more = [data.to_str().unwrap(), "--device", "cpu", "--seq", "32", "--batch", "2", "--json"];
    let output = run(&[&words[..], &more[..]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    result(&output)["loss"].as_f64().unwrap()
}

#[test]
fn every_method_and_optimizer_trains() {
    let world = World::new();
    for method in ["lora", "lora-plus", "scaled", "reflora", "reflora-s"] {
        for (optimizer, rate) in [("adamw", "0.02"), ("momentum", "0.002"), ("sgd", "0.01")] {
            let out = format!("{method}-{optimizer}");
            let more = ["--method", method, "--optimizer", optimizer, "--method-warmup", "2", "--lr", rate];
            let output = world.finetune("cpu", &out, &[&more[..], &["--lora-plus-ratio", "2"]].concat());
            assert!(output.status.success(), "{out}: {}", text(&output.stderr));
            let report = result(&output);
            let loss = |name: &str| report[name].as_f64().unwrap();
            assert!(loss("best_validation_loss") < loss("validation_loss_before"), "{out}: {report}");
            assert_eq!(report["method"], method);
            if method == "reflora" {
                assert_eq!(report["method_report"]["undefined_refactorings"], 0.0, "{out}");
            }
        }
    }
    let refused = world.finetune("cpu", "x", &["--method", "adalora"]);
    assert_refused(&refused, &["adalora", "lora, lora-plus, scaled, reflora, reflora-s"]);
    assert_refused(&world.finetune("cpu", "x", &["--method", "reflora", "--method-interval", "0"]), &["interval"]);
}

#[test]
fn a_run_without_warm_up_writes_an_adapter_for_the_untouched_model() {
    let world = World::new();
    fs::write(world.path("held-out.txt"), "the dog sat on the cat. the mat sat on the log. ".repeat(12)).unwrap();
    let held_out = world.path("held-out.txt");
    let more = ["--method", "reflora", "--method-warmup", "0", "--validation", held_out.to_str().unwrap()];
    let output = world.finetune("cpu", "out", &more);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report = result(&output);
    assert_eq!(report["method_report"]["undefined_refactorings"], 0.0);
    // The subtracted factors make the plain adapter twice as wide, at the same scaling.
    let config = json_of(&world.path("out").join("adapter_config.json"));
    assert_eq!((config["r"].as_u64(), config["lora_alpha"].as_f64()), (Some(16), Some(32.0)));
    let before = report["validation_loss_before"].as_f64().unwrap();
    let trained = report["best_validation_loss"].as_f64().unwrap();
    assert!(trained < before - 0.1, "{before} -> {trained}");
    // The file alone, on the checkpoint as it is, does what the run did.
    let loaded = evaluated(&world, "out/best", "held-out.txt");
    assert!((loaded - trained).abs() < 2e-4, "{loaded} instead of {trained}");
}

#[test]
fn a_resumed_run_of_a_method_ends_like_one_that_was_not_interrupted() {
    let world = World::new();
    // S̃ is computed at steps 2, 5, 8 and 11, counted from 0: the one of step 8 is in the checkpoint after step 9.
    let method = ["--method", "reflora", "--method-warmup", "2", "--method-interval", "3", "--save-every", "9"];
    assert!(world.finetune("cpu", "whole", &method).status.success());
    assert!(world.finetune("cpu", "parts", &method).status.success());
    assert!(world.path("parts").join("checkpoint-9").join("method.safetensors").exists());
    fs::remove_file(world.path("parts").join("adapter_model.safetensors")).unwrap();
    // A run that was begun with RefLoRA is not continued without it.
    assert_refused(&world.finetune("cpu", "parts", &["--resume"]), &["the run had method \"reflora\", not \"lora\""]);
    let resumed = world.finetune("cpu", "parts", &[&method[..], &["--resume"]].concat());
    assert!(resumed.status.success(), "{}", text(&resumed.stderr));
    assert!(text(&resumed.stderr).contains("resuming after step 9"));
    let read = |out: &str| fs::read(world.path(out).join("adapter_model.safetensors")).unwrap();
    assert_eq!(read("whole"), read("parts"));
}

#[test]
fn kinds_of_adapters_are_chosen_by_flags() {
    let world = World::new();
    for (out, more) in [
        ("dora", &["--use-dora"][..]),
        ("rslora", &["--use-rslora"]),
        ("pissa", &["--init-lora-weights", "pissa", "--method", "reflora", "--method-warmup", "0"]),
        ("gaussian", &["--init-lora-weights", "gaussian"]),
    ] {
        let output = world.finetune("cpu", out, more);
        assert!(output.status.success(), "{out}: {}", text(&output.stderr));
        let report = result(&output);
        assert!(report["best_validation_loss"].as_f64() < report["validation_loss_before"].as_f64(), "{report}");
        let config = json_of(&world.path(out).join("adapter_config.json"));
        assert_eq!(config["use_dora"], out == "dora");
        assert_eq!(config["use_rslora"], out == "rslora");
        assert_eq!(config["r"], if out == "pissa" { 16 } else { 8 }, "what PiSSA subtracts doubles the rank");
    }
    assert_refused(&world.finetune("cpu", "x", &["--init-lora-weights", "nonsense"]), &["nonsense", "pissa", "olora"]);
}

#[test]
fn balance_is_written_line_by_line() {
    let world = World::new();
    let output = world.finetune("cpu", "out", &["--method", "reflora-s", "--method-warmup", "1", "--log-balance", "4"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let lines = fs::read_to_string(world.path("out").join("balance.jsonl")).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps: std::collections::BTreeSet<u64> = lines.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert!(steps.into_iter().eq([4, 8, 12]));
    for line in &lines {
        let (a, b) = (line["norm_a"].as_f64().unwrap(), line["norm_b"].as_f64().unwrap());
        assert!((a / b - 1.0).abs() < 1e-4, "{line}");
        assert!(line["sharpness_bound"].as_f64().unwrap() > 0.0 && line["distance"].as_f64().unwrap() <= 1.0);
    }
}
