//! `world`: writes the embedded world as files.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Map, json};

use crate::Common;
use crate::failure::Outcome;
use crate::output::Output;
use crate::world::{Amounts, BaseShape, GENERATOR_VERSION, Task, World};

#[derive(clap::Args)]
pub struct Arguments {
    /// Where to write; files there are replaced.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Sentences of the base's text; the other texts in proportion.
    #[arg(long, default_value_t = 40_000)]
    sentences: usize,
    /// Training rows of each task; a quarter as many for validation and for testing.
    #[arg(long, default_value_t = 4_000)]
    rows: usize,
}

pub fn run(arguments: &Arguments, common: &Common, output: &Output) -> Outcome<ExitCode> {
    let Arguments { out, sentences, rows } = arguments;
    let amounts = Amounts { sentences: *sentences, rows: *rows };
    World::new(common.seed).write(out, BaseShape::SMALL, amounts)?;
    output.say(format!("world {} (generator {GENERATOR_VERSION}) written to {}", common.seed, out.display()));
    let labels: Map<_, _> = Task::ALL.iter().map(|task| (task.name().to_string(), json!(task.labels()))).collect();
    output.result(&json!({ "out": out, "seed": common.seed, "generator": GENERATOR_VERSION, "labels": labels }));
    Ok(ExitCode::SUCCESS)
}
