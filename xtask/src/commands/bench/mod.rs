//! `bench`: measurements. Each suite prints a table and adds an object to the JSON result.

mod kernels;
mod reflora;
mod step;
mod subject;
mod timing;
mod training_step;

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use crate::Common;
use crate::failure::Outcome;
use crate::output::Output;

#[derive(clap::Args)]
pub struct Arguments {
    /// The suites to run; default: all.
    #[arg(value_enum)]
    suites: Vec<Suite>,
    /// Fewer shapes and repetitions.
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    step: step::Options,
    #[command(flatten)]
    reflora: reflora::Options,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Suite {
    /// Matrix products by shape, layout and type, and memory bandwidth.
    Kernels,
    /// One LoRA training step of a LLaMA or DeBERTaV3 with random weights.
    Step,
    /// RefLoRA: the paper's toy problem, consistency, overhead, convergence.
    Reflora,
}

pub fn run(arguments: &Arguments, common: &Common, output: &Output) -> Outcome<ExitCode> {
    let device = common.open_device(output)?;
    let all = [Suite::Kernels, Suite::Step, Suite::Reflora];
    let suites = if arguments.suites.is_empty() { &all[..] } else { &arguments.suites };
    let mut results = Map::new();
    results.insert("device".into(), json!(device.to_string()));
    results.insert("driver".into(), json!(device.adapter().map(|adapter| adapter.driver.clone())));
    results.insert("version".into(), json!(env!("CARGO_PKG_VERSION")));
    for suite in suites {
        let (name, value) = match suite {
            Suite::Kernels => ("kernels", kernels::run(&device, arguments.quick, output)?),
            Suite::Step => ("step", step::run(&arguments.step, arguments.quick, &device, common.seed, output)?),
            Suite::Reflora => ("reflora", reflora::run(&arguments.reflora, arguments.quick, &device, common, output)?),
        };
        results.insert(name.into(), value);
    }
    output.result(&Value::Object(results));
    Ok(ExitCode::SUCCESS)
}
