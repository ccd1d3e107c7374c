//! `test`: everything CI runs, in the order of what fails fastest.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::Context;
use serde_json::json;

use crate::check::tidy;
use crate::failure::{Failure, Outcome};
use crate::output::{Output, table};

/// Crates whose tests have a part that needs a GPU adapter.
const GPU_CRATES: [&str; 6] = ["tensor", "autograd", "lora", "reflora", "relora", "models"];

#[derive(clap::Args)]
pub struct Arguments {
    /// Skip the documentation build and the second run of the GPU tests with shader checks off.
    #[arg(long)]
    fast: bool,
    /// Tests that need a GPU adapter (software ones count): run them if one is there, always, or never.
    #[arg(long, value_enum, default_value_t = Gpu::Auto)]
    gpu: Gpu,
    /// Directory with the pretrained checkpoints that the real-weight tests read; default: the environment variable
    /// ENGINE_WEIGHTS. Without either those tests are listed as ignored.
    #[arg(long)]
    weights: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Gpu {
    Auto,
    Required,
    Off,
}

/// One line of the closing table.
struct Stage {
    name: &'static str,
    passed: bool,
    seconds: f64,
}

pub fn run(arguments: &Arguments, output: &Output) -> Outcome<ExitCode> {
    let root = workspace_root()?;
    let adapters = tensor::list_adapters();
    let gpu = match arguments.gpu {
        Gpu::Off => false,
        Gpu::Auto => !adapters.is_empty(),
        Gpu::Required if adapters.is_empty() => {
            return Err(Failure::input(
                "--gpu required: no GPU adapter found, not even a software one. On Debian or Ubuntu: \
                 apt-get install mesa-vulkan-drivers",
            ));
        }
        Gpu::Required => true,
    };
    match adapters.first() {
        Some(adapter) if gpu => output.say(format!("GPU tests run on {} ({})", adapter.name, adapter.kind)),
        _ => output.say("GPU tests are SKIPPED: they are listed as ignored below (see --gpu)"),
    }
    let weights = weights_directory(arguments)?;
    if weights.is_none() {
        output.say("real-weight tests are SKIPPED: they are listed as ignored below (see --weights)");
    }
    let mut features = vec!["xtask/hub".to_string()];
    if gpu {
        features.extend(GPU_CRATES.iter().map(|name| format!("{name}/gpu-tests")));
        features.push("xtask/gpu-tests".into());
    }
    if weights.is_some() {
        features.extend(["models/real-weights".to_string(), "xtask/real-weights".to_string()]);
    }
    let features = features.join(",");

    let mut stages = Vec::new();
    let mut cargo = |name: &'static str, words: &[&str], environment: &[(&str, &str)]| -> Outcome<()> {
        output.say(format!("\n== {name}: cargo {}", words.join(" ")));
        let started = Instant::now();
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(words).current_dir(&root).envs(environment.iter().copied());
        if let Some(weights) = &weights {
            command.env("ENGINE_WEIGHTS", weights);
        }
        let status = command.status().context("starting cargo")?;
        stages.push(Stage { name, passed: status.success(), seconds: started.elapsed().as_secs_f64() });
        Ok(())
    };
    cargo("format", &["fmt", "--all", "--check"], &[])?;
    let lint = ["clippy", "--workspace", "--all-targets", "--features", &features, "--", "-D", "warnings"];
    cargo("lints", &lint, &[])?;
    cargo("tests", &["test", "--workspace", "--no-fail-fast", "--features", &features], &[])?;
    if !arguments.fast {
        if gpu {
            // As users run them: shaders without index checks. The same test programs, told so by the environment.
            let words = ["test", "--workspace", "--no-fail-fast", "--lib", "--tests", "--features", &features];
            let words = [&words[..], &["--", "wgsl"]].concat();
            cargo("GPU tests without shader checks", &words, &[("TENSOR_SHADER_CHECKS", "0")])?;
        }
        let doc = ["doc", "--workspace", "--no-deps", "--document-private-items"];
        cargo("documentation", &doc, &[("RUSTDOCFLAGS", "-D warnings")])?;
    }
    let root = &root;
    match dependency_checks(root) {
        Ok(checks) => {
            cargo("dependencies", &[&["deny", "--all-features", "check"], checks].concat(), &[])?;
            if checks != DEPENDENCY_CHECKS {
                output.say("advisories are SKIPPED: their database cannot be reached");
            }
        }
        Err(reason) => output.say(format!("\n== dependencies are SKIPPED: {reason}")),
    }
    let started = Instant::now();
    output.say("\n== tidy");
    let findings = tidy::check(root)?;
    findings.iter().for_each(|finding| output.say(format!("tidy: {finding}")));
    stages.push(Stage { name: "tidy", passed: findings.is_empty(), seconds: started.elapsed().as_secs_f64() });
    conclude(&stages, gpu, weights.is_some(), output)
}

/// What is asked of the crates that we depend on; the last needs a database that is fetched.
const DEPENDENCY_CHECKS: &[&str] = &["bans", "licenses", "sources", "advisories"];

/// The checks that can be made here, or why none can.
fn dependency_checks(root: &Path) -> Result<&'static [&'static str], &'static str> {
    let succeeds = |words: &[&str]| {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        let silent = command.arg("deny").args(words).current_dir(root).stdout(Stdio::null()).stderr(Stdio::null());
        silent.status().is_ok_and(|status| status.success())
    };
    if !succeeds(&["--version"]) {
        return Err("cargo-deny is not installed (cargo install cargo-deny)");
    }
    let reachable = succeeds(&["fetch", "db"]);
    Ok(if reachable { DEPENDENCY_CHECKS } else { &DEPENDENCY_CHECKS[..DEPENDENCY_CHECKS.len() - 1] })
}

fn conclude(stages: &[Stage], gpu: bool, weights: bool, output: &Output) -> Outcome<ExitCode> {
    let word = |passed: bool| if passed { "passed" } else { "FAILED" };
    let rows: Vec<_> = stages
        .iter()
        .map(|stage| vec![stage.name.to_string(), word(stage.passed).into(), format!("{:.1} s", stage.seconds)])
        .collect();
    output.say(format!("\n{}", table(&["stage", "result", "time"], &rows)));
    if !gpu {
        output.say("GPU tests were skipped.");
    }
    if !weights {
        output.say("real-weight tests were skipped.");
    }
    let failed = stages.iter().filter(|stage| !stage.passed).count();
    output.result(&json!({
        "stages": stages.iter().map(|stage| json!({
            "name": stage.name, "passed": stage.passed, "seconds": stage.seconds
        })).collect::<Vec<_>>(),
        "gpu_tests": gpu, "real_weight_tests": weights, "passed": failed == 0,
    }));
    // The plain closing line that continuous-integration tools look for.
    output.say(format!("{} passed, {failed} failed", stages.len() - failed));
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn workspace_root() -> Outcome<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(here.parent().context("the xtask crate lies in the workspace")?.to_path_buf())
}

fn weights_directory(arguments: &Arguments) -> Outcome<Option<PathBuf>> {
    let given = arguments.weights.clone().or_else(|| std::env::var_os("ENGINE_WEIGHTS").map(PathBuf::from));
    match given {
        None => Ok(None),
        Some(path) if path.is_dir() => Ok(Some(path.canonicalize()?)),
        Some(path) => Err(Failure::input(format!("the weights directory {} does not exist", path.display()))),
    }
}
