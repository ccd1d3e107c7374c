//! Training every parameter of a model, as users run it: a checkpoint continued, and one made from nothing.

mod common;

use std::fs;

use common::{World, assert_refused, result, run, text};
use serde_json::Value;

fn checkpoint(world: &World, out: &str) -> Vec<u8> {
    fs::read(world.path(out).join("model.safetensors")).unwrap()
}

/// The loss of a model on the world's text.
fn loss(world: &World, model: &str) -> f64 {
    let (model, text) = (world.path(model), world.text());
    let words = ["evaluate", "--model", model.to_str().unwrap(), "--data", text.to_str().unwrap()];
    let output = run(&[&words[..], &["--seq", "32", "--device", "cpu", "--json"]].concat());
    assert!(output.status.success(), "{}", common::text(&output.stderr));
    result(&output)["loss"].as_f64().unwrap()
}

fn train_twice(device: &str) {
    let world = World::new();
    let first = world.finetune(device, "first", &["--full", "--lr", "0.005"]);
    assert!(first.status.success(), "{}", text(&first.stderr));
    let report = result(&first);
    let (before, after) =
        (report["validation_loss_before"].as_f64().unwrap(), report["best_validation_loss"].as_f64().unwrap());
    assert!(after < before - 1.0, "validation loss {before} -> {after}");
    assert!(world.finetune(device, "second", &["--full", "--lr", "0.005"]).status.success());
    assert_eq!(checkpoint(&world, "first"), checkpoint(&world, "second"), "the same seed gives the same bits");
}

#[test]
fn a_model_is_trained_and_repeats_bit_for_bit_on_the_cpu() {
    train_twice("cpu");
}

#[test]
#[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
fn a_model_is_trained_and_repeats_bit_for_bit_on_wgsl() {
    train_twice("gpu:0");
}

#[test]
fn a_resumed_run_ends_as_an_unbroken_one_and_is_a_checkpoint() {
    let world = World::new();
    let full = ["--full", "--lr", "0.005", "--eval-every", "4"];
    let whole = world.finetune("cpu", "whole", &full);
    assert!(whole.status.success(), "{}", text(&whole.stderr));
    let saving = [&full[..], &["--save-every", "8"]].concat();
    assert!(world.finetune("cpu", "parts", &saving).status.success());
    fs::remove_file(world.path("parts/model.safetensors")).unwrap();
    let resumed = world.finetune("cpu", "parts", &[&saving[..], &["--resume"]].concat());
    assert!(resumed.status.success(), "{}", text(&resumed.stderr));
    assert_eq!(checkpoint(&world, "whole"), checkpoint(&world, "parts"));

    // The last state and the best one are models like any other.
    let (last, best) = (loss(&world, "whole"), loss(&world, "whole/best"));
    assert!(last < loss(&world, "model") - 1.0);
    assert!(result(&whole)["best_step"] != 12 || last == best);
    let config: Value = serde_json::from_slice(&fs::read(world.path("whole/config.json")).unwrap()).unwrap();
    assert_eq!((&config["torch_dtype"], &config["architectures"][0]), (&"float32".into(), &"LlamaForCausalLM".into()));
    let model = world.path("whole");
    let inspected = run(&["inspect", model.to_str().unwrap(), "--json"]);
    assert!(inspected.status.success(), "{}", text(&inspected.stderr));
}

#[test]
fn a_model_is_made_from_nothing() {
    let world = World::new();
    fs::remove_file(world.model().join("model.safetensors")).unwrap();
    let words = ["--full", "--from-scratch", "--lr", "0.01", "--store", "bf16"];
    let made = world.finetune("cpu", "made", &words);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let report = result(&made);
    let (before, after) =
        (report["validation_loss_before"].as_f64().unwrap(), report["best_validation_loss"].as_f64().unwrap());
    assert!((before - f64::from(300).ln()).abs() < 0.2, "a new model knows nothing: {before}");
    assert!(after < 4.0, "{after}");
    assert!((loss(&world, "made") - loss(&world, "made/best")).abs() < 0.05, "one of them is rounded to 16 bits");
    assert!(world.finetune("cpu", "other", &[&words[..], &["--seed", "1"]].concat()).status.success());
    assert_ne!(checkpoint(&world, "made"), checkpoint(&world, "other"));
}

#[test]
fn what_goes_with_adapters_only_is_refused() {
    let world = World::new();
    let refused = |more: &[&str], expected: &[&str]| {
        assert_refused(&world.finetune("cpu", "out", more), expected);
        assert!(!world.path("out").exists());
    };
    refused(&["--full", "--rank", "4"], &["--full", "--rank"]);
    refused(&["--full", "--method", "reflora"], &["--full", "--method"]);
    refused(&["--from-scratch"], &["--full"]);
    refused(&["--full", "--from-scratch", "--task", "classify", "--labels", "a,b"], &["--from-scratch"]);
    let model = world.model();
    assert_refused(&world.finetune("cpu", "model", &["--full", "--overwrite"]), &["--out", "another directory"]);
    assert!(model.join("model.safetensors").exists());
}
