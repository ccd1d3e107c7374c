//! Adapters know their base and their run.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use common::{World, assert_refused, run, text};
use serde_json::Value;

/// A world with an `adapter`, and an `update` of its model: one number of one tensor is another.
struct Updated {
    world: World,
    adapter: PathBuf,
    update: PathBuf,
}

impl Updated {
    fn new() -> Self {
        let world = World::new();
        let trained = world.finetune("cpu", "adapter", &[]);
        assert!(trained.status.success(), "{}", text(&trained.stderr));
        let (adapter, update) = (world.path("adapter"), world.path("update"));
        fs::create_dir(&update).unwrap();
        for name in ["config.json", "tokenizer.json", "model.safetensors"] {
            fs::copy(world.model().join(name), update.join(name)).unwrap();
        }
        let weights = update.join("model.safetensors");
        let mut bytes = fs::read(&weights).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(weights, bytes).unwrap();
        Updated { world, adapter, update }
    }

    fn run(&self, command: &str, model: &Path, more: &[&str]) -> Output {
        let words = [command, "--model", model.to_str().unwrap(), "--adapter", self.adapter.to_str().unwrap()];
        run(&[&words[..], &["--device", "cpu"], more].concat())
    }
}

#[test]
fn another_base_is_refused_with_the_way_out() {
    let updated = Updated::new();
    let (world, update, adapter) = (&updated.world, &updated.update, updated.adapter.to_str().unwrap());
    let (data, merged) = (world.text(), world.path("merged"));
    let commands: [(&str, Vec<&str>); 3] = [
        ("evaluate", vec!["--data", data.to_str().unwrap(), "--seq", "32"]),
        ("generate", vec!["--prompt", "the", "--max-new-tokens", "2"]),
        ("merge", vec!["--out", merged.to_str().unwrap()]),
    ];
    let restore =
        format!("--old-model {} --new-model {} --adapter {adapter}", world.model().display(), update.display());
    let expected = ["other contents", &restore, "--allow-base-mismatch"];
    for (command, words) in &commands {
        assert_refused(&updated.run(command, update, words), &expected);
        assert!(!merged.exists());
    }
    let continued = ["--model", update.to_str().unwrap(), "--init-adapter", adapter];
    assert_refused(&world.finetune("cpu", "out", &continued), &expected);
    for (command, words) in &commands {
        let overwrite = if *command == "merge" { &["--overwrite"][..] } else { &[] };
        let own = updated.run(command, &world.model(), &[&words[..], overwrite].concat());
        assert!(own.status.success(), "{command}: {}", text(&own.stderr));
        let allowed = [&words[..], &["--allow-base-mismatch"], overwrite].concat();
        let forced = updated.run(command, update, &allowed);
        assert!(forced.status.success(), "{command}: {}", text(&forced.stderr));
        assert!(text(&forced.stdout).contains("warning: adapter"), "{}", text(&forced.stdout));
    }
    // As from Python.
    fs::remove_file(updated.adapter.join("provenance.json")).unwrap();
    let (command, words) = &commands[0];
    assert!(updated.run(command, update, words).status.success());
    // Damage is not mistaken for absence.
    fs::write(updated.adapter.join("provenance.json"), "{").unwrap();
    assert_refused(&updated.run(command, update, words), &["provenance.json", "EOF", "without this file"]);
}

#[test]
fn restore_refuses_another_old_base() {
    let updated = Updated::new();
    let (world, update) = (&updated.world, updated.update.to_str().unwrap());
    let (old, data, out) = (world.model(), world.text(), world.path("restored"));
    let restore = |old: &str, new: &str, more: &[&str]| {
        let words = ["restore", "--old-model", old, "--new-model", new, "--adapter", updated.adapter.to_str().unwrap()];
        let data = ["--data", data.to_str().unwrap(), "--out", out.to_str().unwrap(), "--device", "cpu"];
        run(&[&words[..], &data, &["--method", "reuse", "--seq", "32"], more].concat())
    };
    let wrong = restore(update, old.to_str().unwrap(), &[]);
    assert_refused(&wrong, &["which is the new base already", "--allow-base-mismatch"]);
    let restored = restore(old.to_str().unwrap(), update, &[]);
    assert!(restored.status.success(), "{}", text(&restored.stderr));
    let provenance: Value = serde_json::from_slice(&fs::read(out.join("provenance.json")).unwrap()).unwrap();
    assert_eq!(provenance["run"]["command"], "restore");
    let evaluated = run(&[
        "evaluate",
        "--model",
        update,
        "--adapter",
        out.to_str().unwrap(),
        "--data",
        data.to_str().unwrap(),
        "--seq",
        "32",
        "--device",
        "cpu",
    ]);
    assert!(evaluated.status.success(), "it now belongs to the update: {}", text(&evaluated.stderr));
}

#[test]
fn provenance_names_base_and_run() {
    let updated = Updated::new();
    let read = |directory: &Path| -> Value {
        serde_json::from_slice(&fs::read(directory.join("provenance.json")).unwrap()).unwrap()
    };
    let provenance = read(&updated.adapter);
    let best = read(&updated.adapter.join("best"));
    assert_eq!((&provenance["base"], &provenance["run"]), (&best["base"], &best["run"]));
    assert_eq!(provenance["base"]["architecture"], "LlamaForCausalLM");
    let run = &provenance["run"];
    assert_eq!((&run["command"], &run["seed"], &run["device"]), (&"finetune".into(), &0.into(), &"cpu".into()));
    assert_eq!((&run["settings"]["rank"], &run["settings"]["method"]), (&8.into(), &"lora".into()));
    let data = run["data"].as_object().unwrap();
    assert!(data.len() == 1 && data.values().all(|hash| hash.as_str().unwrap().len() == 32), "{data:?}");
    let config: Value =
        serde_json::from_slice(&fs::read(updated.adapter.join("adapter_config.json")).unwrap()).unwrap();
    assert!(config.get("base").is_none() && config.get("run").is_none(), "PEFT's file stays PEFT's");
}
