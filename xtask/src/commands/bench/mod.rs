//! `bench`: measurements. Each suite prints tables, adds an object to the JSON result and a section to the report. What is
//! done and about how long it takes is `plan`'s; what is trained on is `lineage`'s; `session` goes from suite to
//! suite; `compare` and `readme_table` read reports.

mod about;
mod compare;
mod figures;
mod kernels;
mod lineage;
mod peers;
mod plan;
mod progress;
mod readme_table;
mod reflora;
mod relora;
mod results;
mod session;
mod statistics;
mod step;
mod subject;
mod timing;
mod training_step;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tensor::Device;

use crate::Common;
use crate::failure::Outcome;
use crate::output::Output;
use plan::Plan;
use results::Results;

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    tool: Option<Tool>,
    /// The suites to run; default: all but peers.
    #[arg(value_enum)]
    suites: Vec<Suite>,
    /// Everything in three minutes on two CPU cores.
    #[arg(long)]
    quick: bool,
    /// Where results.json and report.html go; what is there is replaced. They are written anew after each suite.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    lineage: lineage::Options,
    #[command(flatten)]
    step: step::Options,
    #[command(flatten)]
    reflora: reflora::Options,
    #[command(flatten)]
    relora: relora::Options,
    #[command(flatten)]
    peers: peers::Options,
}

/// What is done with reports.
#[derive(clap::Subcommand)]
enum Tool {
    /// Put two reports side by side and tell what became worse beyond noise.
    Compare(compare::Arguments),
    /// Draw what reports found as a table for a page of text.
    Table(readme_table::Arguments),
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
    /// The LoRA steps of suite step beside those of PyTorch and PEFT, where a Python has them.
    Peers,
}

impl Suite {
    /// What needs nothing but Rust.
    const ALL: [Suite; 4] = [Suite::Kernels, Suite::Step, Suite::Reflora, Suite::Relora];

    fn name(self) -> &'static str {
        match self {
            Suite::Kernels => "kernels",
            Suite::Step => "step",
            Suite::Reflora => "reflora",
            Suite::Relora => "relora",
            Suite::Peers => "peers",
        }
    }
}

/// What all suites share.
struct Bench<'a> {
    device: &'a Device,
    common: &'a Common,
    plan: &'a Plan,
    output: &'a Output,
    /// A directory for what suites write beside the report.
    work: &'a Path,
}

impl Arguments {
    /// The arguments that are directories of models, or their names on the hub.
    pub fn models(&mut self) -> Vec<&mut PathBuf> {
        self.lineage.model.iter_mut().chain(&mut self.lineage.new_model).collect()
    }
}

pub fn run(arguments: &Arguments, common: &Common, output: &Output) -> Outcome<ExitCode> {
    match &arguments.tool {
        Some(Tool::Compare(arguments)) => compare::run(arguments, output),
        Some(Tool::Table(arguments)) => readme_table::run(arguments, output),
        None => session::run(arguments, common, output),
    }
}
