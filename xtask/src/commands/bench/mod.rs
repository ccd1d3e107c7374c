//! `bench`: measurements. Each suite prints a table, adds an object to the JSON result and a section to the report.

mod about;
mod figures;
mod kernels;
mod reflora;
mod relora;
mod statistics;
mod step;
mod subject;
mod timing;
mod training_step;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use serde_json::{Map, Value, json};

use crate::Common;
use crate::failure::Outcome;
use crate::output::Output;
use crate::report::{Report, SCHEMA};

#[derive(clap::Args)]
pub struct Arguments {
    /// The suites to run; default: all.
    #[arg(value_enum)]
    suites: Vec<Suite>,
    /// Fewer shapes and repetitions.
    #[arg(long)]
    quick: bool,
    /// Where results.json and report.html go; what is there is replaced. They are written anew after each suite.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    step: step::Options,
    #[command(flatten)]
    reflora: reflora::Options,
    #[command(flatten)]
    relora: relora::Options,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Suite {
    /// Matrix products by shape, layout and type, and memory bandwidth.
    Kernels,
    /// One LoRA training step of a LLaMA or DeBERTaV3 with random weights.
    Step,
    /// RefLoRA: the paper's toy problem, consistency, overhead, convergence.
    Reflora,
    /// ReLoRA: how soon adapters are ready again after their base was updated.
    Relora,
}

pub fn run(arguments: &Arguments, common: &Common, output: &Output) -> Outcome<ExitCode> {
    let started = Instant::now();
    let device = common.open_device(output)?;
    let all = [Suite::Kernels, Suite::Step, Suite::Reflora];
    let suites = if arguments.suites.is_empty() { &all[..] } else { &arguments.suites };
    let mut results = Map::new();
    results.insert("device".into(), json!(device.to_string()));
    results.insert("driver".into(), json!(device.adapter().map(|adapter| adapter.driver.clone())));
    results.insert("version".into(), json!(env!("CARGO_PKG_VERSION")));
    let title = "Fine-tuning benchmarks".into();
    let mut report = Report { schema: SCHEMA, title, about: about::about(&device, common), sections: Vec::new() };
    // Better known before the work than after it that the directory cannot be written to.
    write(&report, arguments)?;
    for (index, suite) in suites.iter().enumerate() {
        let (name, value) = match suite {
            Suite::Kernels => ("kernels", kernels::run(&device, arguments.quick, output)?),
            Suite::Step => ("step", step::run(&arguments.step, arguments.quick, &device, common.seed, output)?),
            Suite::Relora => ("relora", relora::run(&arguments.relora, arguments.quick, &device, common, output)?),
            Suite::Reflora => ("reflora", reflora::run(&arguments.reflora, arguments.quick, &device, common, output)?),
        };
        results.insert(name.into(), value.clone());
        report.sections.push(figures::section(name, value)?);
        report.about.seconds = started.elapsed().as_secs_f64();
        report.about.complete = index + 1 == suites.len();
        write(&report, arguments)?;
    }
    output.say(format!("\n{}", report.summary().trim_end()));
    if let Some(out) = &arguments.out {
        output.say(format!("report: {}", out.join("report.html").display()));
    }
    output.result(&Value::Object(results));
    Ok(ExitCode::SUCCESS)
}

fn write(report: &Report, arguments: &Arguments) -> Outcome<()> {
    arguments.out.as_ref().map_or(Ok(()), |out| report.write(out))
}
