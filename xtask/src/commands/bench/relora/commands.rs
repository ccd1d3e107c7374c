//! Commands as users give them, run in this process.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use lora::write_whole;
use serde_json::{Value, json};

use crate::Common;
use crate::commands::Command;
use crate::failure::{Failure, Outcome};
use crate::loading::lora_failure;
use crate::output::Output;

#[derive(Parser)]
#[command(name = "bench relora", no_binary_name = true)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

/// Runs a command and gives the object that it prints with `--json`, and whether it did what was asked.
pub fn run(words: &[String], common: &Common) -> Outcome<(Value, bool)> {
    let refused = |error: clap::Error| Failure::input(error.to_string());
    let line = Line::try_parse_from(words).map_err(refused)?;
    let output = Output::captured();
    let code = line.command.run(common, &output)?;
    Ok((output.take_result().unwrap_or(Value::Null), code == ExitCode::SUCCESS))
}

/// As [`run`], for a command that fills the directory `out`, unless the same command has done so before.
pub fn run_once(words: &[String], out: &Path, common: &Common) -> Outcome<Value> {
    let record = out.join("bench.json");
    let known: Option<Value> = fs::read_to_string(&record).ok().and_then(|text| serde_json::from_str(&text).ok());
    let identity = json!({ "words": words, "seed": common.seed });
    match known {
        Some(mut known) if known["identity"] == identity => Ok(known["result"].take()),
        _ => {
            let (result, _) = run(words, common)?;
            let text = format!("{:#}\n", json!({ "identity": identity, "result": result }));
            write_whole(&record, text.as_bytes()).map_err(lora_failure)?;
            Ok(result)
        }
    }
}

/// Words of a command line from flags and their values.
pub fn words(command: &str, flags: &[(&str, String)]) -> Vec<String> {
    let flags = flags.iter().flat_map(|(flag, value)| [format!("--{flag}"), value.clone()]);
    [command.to_string()].into_iter().chain(flags).collect()
}
