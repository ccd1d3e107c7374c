//! The commands, one module each.

mod bench;
mod devices;
mod evaluate;
pub mod finetune;
mod generate;
mod inspect;
mod merge;
mod restore;
mod test;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::Common;
use crate::failure::Outcome;
use crate::hub;
use crate::output::Output;

/// A command and its arguments.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Train a LoRA adapter on a checkpoint; writes PEFT files.
    Finetune(Box<finetune::Arguments>),
    /// ReLoRA (2026), not the 2023 pretraining method: bring adapters of an old base to its update.
    ///
    /// Each adapter is tried on the new base as it is; then coefficients for the old adapter and for the change of the
    /// base's weights are searched for; from the best start it is trained on, held to that start at first. What each step
    /// bought is told in a table. Example: cargo xtask restore --old-model path/to/v1 --new-model path/to/v2 --adapter
    /// my-adapter --data notes.txt --out restored
    Restore(Box<restore::Arguments>),
    /// Measure a model, with or without an adapter: loss and perplexity, or a task's own measures.
    Evaluate(evaluate::Arguments),
    /// Fold an adapter into its base and write a Hugging Face checkpoint.
    Merge(merge::Arguments),
    /// Say what a checkpoint or an adapter holds, without loading it.
    Inspect(inspect::Arguments),
    /// Continue a prompt.
    Generate(generate::Arguments),
    /// Measure matrix products, memory bandwidth and training steps.
    Bench(Box<bench::Arguments>),
    /// Write the embedded world that benchmarks train on: texts, tasks and a small model's configuration.
    ///
    /// Example: cargo xtask world --out world; then finetune --data world/tasks/format.training.jsonl
    World(world::Arguments),
    /// List the adapters found, their features and limits, and which one `auto` takes.
    Devices,
    /// Run everything CI runs: format, lints, tidy, unit, property, golden and documentation tests.
    Test(test::Arguments),
}

impl Command {
    /// Does the work.
    pub fn run(mut self, common: &Common, output: &Output) -> Outcome<ExitCode> {
        for model in self.models() {
            *model = hub::directory(model, output)?;
        }
        match self {
            Command::Finetune(arguments) => finetune::run(&arguments, common, output),
            Command::Restore(arguments) => restore::run(&arguments, common, output),
            Command::Evaluate(arguments) => evaluate::run(&arguments, common, output),
            Command::Merge(arguments) => merge::run(&arguments, common, output),
            Command::Inspect(arguments) => inspect::run(&arguments, output),
            Command::Generate(arguments) => generate::run(&arguments, common, output),
            Command::Bench(arguments) => bench::run(&arguments, common, output),
            Command::World(arguments) => world::run(&arguments, common, output),
            Command::Devices => devices::run(common, output),
            Command::Test(arguments) => test::run(&arguments, output),
        }
    }

    /// The arguments that are directories of models, or their names on the hub.
    fn models(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Command::Finetune(arguments) => vec![&mut arguments.model],
            Command::Restore(arguments) => {
                let restore::Arguments { old_model, new_model, .. } = &mut **arguments;
                vec![old_model, new_model]
            }
            Command::Evaluate(arguments) => vec![&mut arguments.model],
            Command::Merge(arguments) => vec![&mut arguments.model],
            Command::Inspect(arguments) => vec![&mut arguments.path],
            Command::Generate(arguments) => vec![&mut arguments.model],
            Command::Bench(arguments) => arguments.models(),
            Command::Devices | Command::World(_) | Command::Test(_) => Vec::new(),
        }
    }
}
