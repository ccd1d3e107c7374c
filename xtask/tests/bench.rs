//! `bench` as its users run it: what its files hold, and how it ends.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{World, assert_refused, result, run, text};
use serde_json::Value;

/// All suites in a few steps, on a model of the test's own.
fn words(world: &World, out: &Path) -> Vec<String> {
    let path = |path: std::path::PathBuf| path.to_str().unwrap().to_string();
    let mut words: Vec<String> = ["bench", "--quick", "--device", "cpu", "--json", "--out"].map(String::from).into();
    words.push(out.to_str().unwrap().into());
    words.extend(["--model".into(), path(world.model()), "--new-model".into(), path(world.path("updated"))]);
    words.extend(["--data".into(), path(world.text()), "--validation".into(), path(world.text())]);
    let sizes = "--steps 2 --warmup 1 --rounds 1 --seeds 2 --rates 1e-3,1e-2 --restore-seeds 1 --adapter-steps 4 \
        --restore-steps 4 --restore-batch 2 --restore-seq 32 --restore-eval-every 2 --retrain-rates 1e-2 \
        --restore-rates 1e-3,1e-2 -- --steps 4 --batch 2 --seq 32";
    words.extend(sizes.split_whitespace().map(String::from));
    words
}

fn bench(world: &World, out: &Path) -> Value {
    let words = words(world, out);
    let output = run(&words.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(output.status.success(), "{}", text(&output.stderr));
    read(out)
}

fn read(out: &Path) -> Value {
    serde_json::from_slice(&fs::read(out.join("results.json")).unwrap()).unwrap()
}

/// A result without what depends on the clock, as the schema says it.
fn without_times(value: &Value) -> Value {
    let is_timed = |value: &Value| value["timed"] == true;
    let is_time = |key: &str| ["time", "date", "seconds"].contains(&key) || key.ends_with("_seconds");
    match value {
        Value::Array(list) => list.iter().filter(|value| !is_timed(value)).map(without_times).collect(),
        Value::Object(object) => {
            let kept = object.iter().filter(|(key, value)| !is_time(key) && !is_timed(value));
            kept.map(|(key, value)| (key.clone(), without_times(value))).collect()
        }
        value => value.clone(),
    }
}

/// Fails with the first place where two values differ.
fn assert_same(place: &str, one: &Value, two: &Value) {
    match (one, two) {
        (Value::Array(one), Value::Array(two)) if one.len() == two.len() => {
            one.iter().zip(two).enumerate().for_each(|(n, (one, two))| assert_same(&format!("{place}[{n}]"), one, two));
        }
        (Value::Object(one), Value::Object(two)) if one.keys().eq(two.keys()) => {
            one.iter().for_each(|(key, value)| assert_same(&format!("{place}.{key}"), value, &two[key]));
        }
        _ => assert_eq!(one, two, "{place}"),
    }
}

/// Every series and bar of every figure is in the page, once.
fn assert_drawn(results: &Value, page: &str) {
    for (number, section) in results["sections"].as_array().unwrap().iter().enumerate() {
        for (index, figure) in section["figures"].as_array().unwrap().iter().enumerate() {
            let drawn = |key: &str, name: &str| {
                let name = name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
                let mark = format!("data-figure=\"figure-{number}-{index}\" {key}=\"{name}\"");
                assert_eq!(page.matches(&mark).count(), 1, "{mark} of {}", figure["title"]);
            };
            for series in figure["series"].as_array().into_iter().flatten() {
                drawn("data-series", series["name"].as_str().unwrap());
            }
            for bar in figure["bars"].as_array().into_iter().flatten() {
                drawn("data-bar", &format!("{}/{}", bar["group"].as_str().unwrap(), bar["name"].as_str().unwrap()));
            }
        }
    }
}

#[test]
fn one_seed_gives_one_result_apart_from_times_and_everything_is_drawn() {
    let world = World::new();
    assert!(world.finetune("cpu", "updated", &["--full"]).status.success());
    let out = world.path("report");
    let first = bench(&world, &out);
    let names: Vec<&str> =
        first["sections"].as_array().unwrap().iter().map(|section| section["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["kernels", "step", "reflora", "relora"]);
    assert_eq!(first["about"]["complete"], true);
    assert_drawn(&first, &fs::read_to_string(out.join("report.html")).unwrap());
    let second = bench(&world, &out);
    assert_ne!(first, second, "times differ");
    assert_same("", &without_times(&first), &without_times(&second));
    let reflora = &without_times(&first)["sections"][2];
    assert!(
        reflora["raw"]["convergence"].as_array().unwrap().len() == 12
            && !reflora["figures"].as_array().unwrap().is_empty()
    );

    // The tools that read results: nothing is worse than itself; a step three times as slow is.
    let (file, slow) = (out.join("results.json"), world.path("slow.json"));
    let compare = |new: &Path| run(&["bench", "compare", file.to_str().unwrap(), new.to_str().unwrap(), "--json"]);
    assert_eq!(compare(&out).status.code(), Some(0));
    let mut changed = second.clone();
    let bar = &mut changed["sections"][1]["figures"][0]["bars"][0];
    for field in ["value", "low", "high"] {
        bar[field] = (3.0 * bar[field].as_f64().unwrap()).into();
    }
    fs::write(&slow, changed.to_string()).unwrap();
    let worse = compare(&slow);
    assert_eq!(worse.status.code(), Some(1), "{}", text(&worse.stderr));
    assert_eq!(result(&worse)["worse"].as_array().unwrap().len(), 1);
    fs::write(&slow, "{\"schema\": 1}").unwrap();
    assert_refused(&compare(&slow), &["slow.json", "schema"]);

    let page = world.path("page.md");
    fs::write(&page, "top\n<!-- bench table -->\nold\n<!-- end of bench table -->\nbottom\n").unwrap();
    let table = run(&["bench", "table", out.to_str().unwrap(), "--into", page.to_str().unwrap()]);
    assert!(table.status.success(), "{}", text(&table.stderr));
    let page = fs::read_to_string(page).unwrap();
    assert!(page.starts_with("top\n") && page.ends_with("\nbottom\n") && !page.contains("old"), "{page}");
    assert!(page.contains("| RefLoRA, overhead | "), "{page}");
}

#[test]
fn a_directory_that_cannot_be_written_to_is_told_before_the_work() {
    let world = World::new();
    let inside_a_file = world.text().join("report");
    let words = ["bench", "kernels", "--quick", "--device", "cpu", "--out", inside_a_file.to_str().unwrap()];
    let output = run(&words);
    assert_refused(&output, &["--out", "text.txt"]);
    assert!(!text(&output.stdout).contains("TFLOP/s"), "nothing was measured");
}

#[test]
fn a_python_without_peers_is_told_how_to_get_them() {
    let words = ["bench", "peers", "--quick", "--device", "cpu", "--python", "no-such-python"];
    assert_refused(&run(&words), &["--python no-such-python", "pip install -r", "requirements.txt"]);
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_leaves_what_it_finished() {
    let world = World::new();
    let out = world.path("report");
    let mut words = words(&world, &out);
    // Long enough to be interrupted.
    words.extend(["--steps", "100000"].map(String::from));
    words.insert(1, "reflora".into());
    let mut child = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(&words)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("convergence")));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let told: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{told:?}");
    assert!(told.iter().any(|line| line.starts_with("error: interrupted") && line.contains("report.html")), "{told:?}");
    let results = read(&out);
    assert_eq!(results["about"]["complete"], false);
    let raw = &results["sections"][0]["raw"];
    assert_eq!(raw["toy"].as_array().unwrap().len(), 10);
    assert!(!raw["overhead"].as_array().unwrap().is_empty() && raw["convergence"].as_array().unwrap().is_empty());
    assert_drawn(&results, &fs::read_to_string(out.join("report.html")).unwrap());
}
