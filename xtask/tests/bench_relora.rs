//! `bench relora` as its users run it, on bases of their own.

mod common;

use std::fs;

use common::{World, assert_refused, result, run, text};

#[test]
fn every_method_is_timed_once_and_kept() {
    let world = World::new();
    let update = world.path("updated");
    let made = world.finetune("cpu", "updated", &["--full"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let path = |path: std::path::PathBuf| path.to_str().unwrap().to_string();
    let (base, update) = (path(world.model()), format!("told={}", path(update)));
    let (task, work) = (format!("mats={0},{0}", path(world.text())), path(world.path("work")));
    let out = path(world.path("report"));
    let sizes = "--restore-seeds 1 --adapter-steps 6 --restore-steps 4 --restore-batch 2 --restore-seq 32 \
        --restore-eval-every 2 --retrain-rates 1e-2 --restore-rates 1e-3,1e-2";
    let mut words = vec!["bench", "relora", "--device", "cpu", "--json", "--out", &out, "--work", &work];
    words.extend(["--model", &base, "--update", &update, "--adapter-task", &task]);
    words.extend(sizes.split_whitespace());
    let output = run(&words);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report = &result(&output)["relora"]["readiness"];
    let runs = report["runs"].as_array().unwrap();
    // Retraining once; warm start, rebase and the full method at two rates each; its two variants at the chosen one.
    assert_eq!(runs.len(), 9);
    for run in runs {
        assert!(run["old_loss"].as_f64().unwrap() > 0.0);
        assert_eq!(run["curve"].as_array().unwrap().len(), if run["method"] == "retrain" { 3 } else { 2 });
    }
    let rows = report["summary"]["tables"][0]["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 6);
    assert!(text(&output.stderr).contains("how many times sooner"));

    let section = fs::read_to_string(world.path("report/results.json")).unwrap();
    let section = &serde_json::from_str::<serde_json::Value>(&section).unwrap()["sections"][0];
    assert_eq!(section["findings"].as_array().unwrap().len(), 2);
    let titles: Vec<&str> =
        section["figures"].as_array().unwrap().iter().map(|figure| figure["title"].as_str().unwrap()).collect();
    for title in
        ["Times sooner than retraining, target 98 %", "Time to readiness, target parity, in steps", "told, mats"]
    {
        assert!(titles.contains(&title), "{title} is not in {titles:?}");
    }
    assert!(fs::read_to_string(world.path("report/report.html")).unwrap().contains("told, mats"));

    let kept = fs::read_to_string(world.path("work/runs.jsonl")).unwrap();
    let again = run(&words);
    assert_alike(&result(&again)["relora"]["readiness"]["summary"], &report["summary"]);
    assert_eq!(fs::read_to_string(world.path("work/runs.jsonl")).unwrap(), kept);
}

/// Checks that nothing was done twice: the same values, numbers but for the last bit, which times may lose in a file.
fn assert_alike(found: &serde_json::Value, expected: &serde_json::Value) {
    use serde_json::Value;
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            assert!(found.keys().eq(expected.keys()));
            found.values().zip(expected.values()).for_each(|(found, expected)| assert_alike(found, expected));
        }
        (Value::Array(found), Value::Array(expected)) => {
            assert_eq!(found.len(), expected.len());
            found.iter().zip(expected).for_each(|(found, expected)| assert_alike(found, expected));
        }
        (Value::Number(found), Value::Number(expected)) => {
            let (found, expected) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
            assert!((found - expected).abs() <= 1e-12 * expected.abs(), "{found} instead of {expected}");
        }
        _ => assert_eq!(found, expected),
    }
}

#[test]
fn a_lineage_has_to_be_whole() {
    let words = ["bench", "relora", "--device", "cpu", "--model", "here"];
    assert_refused(&run(&words), &["--data", "--adapter-task"]);
    let words = [&words[..], &["--data", "texts.txt"]].concat();
    assert_refused(&run(&words), &["--model", "--new-model"]);
    let words = [&words[..], &["--update", "nameless"]].concat();
    assert_refused(&run(&words), &["--update nameless", "a name"]);
}
