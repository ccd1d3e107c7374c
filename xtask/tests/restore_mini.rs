//! `restore` over a real update of a real, small model. The files are not part of the repository; the feature
//! `real-weights` says that they are there.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{result, run, text};
use serde_json::Value;

/// Where the real checkpoints are.
fn weights(name: &str) -> String {
    let weights = std::env::var_os("ENGINE_WEIGHTS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/weights"), PathBuf::from);
    let directory = weights.join(name);
    assert!(directory.is_dir(), "{}: not there; set ENGINE_WEIGHTS", directory.display());
    directory.to_string_lossy().into_owned()
}

fn succeed(words: &[&str]) -> Value {
    let output = run(&[words, &["--device", "cpu", "--batch", "4", "--seq", "64", "--json"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    result(&output)
}

#[test]
#[cfg_attr(not(feature = "real-weights"), ignore = "needs real weights: --features xtask/real-weights")]
fn an_adapter_of_the_first_version_is_restored_for_the_second() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    let (old, new, data, adapter) =
        (weights("mini-llama-v1"), weights("mini-llama-v2"), path("text.txt"), path("adapter"));
    fs::write(&data, concat!(include_str!("../../README.md"), include_str!("../../ARCHITECTURE.md"))).unwrap();
    succeed(&["finetune", "--model", &old, "--data", &data, "--out", &adapter, "--steps", "8", "--lr", "0.005"]);
    let restore = |out: &str| {
        let bases = ["restore", "--old-model", &old, "--new-model", &new, "--adapter", &adapter, "--data", &data];
        let more = ["--steps", "4", "--search-examples", "8", "--score-examples", "8", "--search-steps", "2"];
        let report = succeed(&[&bases[..], &more, &["--out", &path(out)]].concat())["adapters"][0].clone();
        (report, fs::read(directory.path().join(out).join("adapter_model.safetensors")).unwrap())
    };
    let (report, bits) = restore("first");
    let number = |name: &str| report[name].as_f64().unwrap_or_else(|| panic!("no {name} in {report}"));
    assert!(number("final_loss") <= number("reuse_loss"));
    // 500 steps of continued training moved the weights by some per cent, in more directions than are kept.
    assert!((0.01..0.5).contains(&number("relative_size")), "{report}");
    let modules = report["evolution"].as_object().unwrap();
    assert_eq!(modules.len(), 42);
    assert!(modules.values().all(|module| (0.1..1.0).contains(&module["captured"].as_f64().unwrap())), "{report}");
    assert!(restore("second").1 == bits, "the same seed gives the same bits");
}
