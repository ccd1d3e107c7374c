//! The flags of suite `relora`, and what they and the plan come to.

use std::path::PathBuf;

use super::super::Bench;
use super::super::plan::Relora;
use super::runs::steps_of_a_cell;
use crate::commands::finetune::positive;

#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Options {
    /// Suite relora: the parts to run; default: readiness.
    #[arg(long = "restore-part", value_enum, value_delimiter = ',')]
    parts: Vec<Part>,
    /// Suite relora, part cost: the model whose shapes are taken.
    #[arg(long, default_value = "7b")]
    cost_model: String,
    /// Suite relora, part fleet: the number of adapters.
    #[arg(long, default_value_t = 100)]
    fleet: u64,
    /// Suite relora: where adapters and finished runs are kept; what is there is not done again. Default: nowhere.
    #[arg(long, value_name = "DIR")]
    pub work: Option<PathBuf>,
    /// Suite relora: seeds, each with an adapter of its own; default for this and the next six: by device.
    #[arg(long)]
    restore_seeds: Option<u64>,
    /// Suite relora: steps of training the old adapters, and of retraining.
    #[arg(long)]
    adapter_steps: Option<u64>,
    /// Suite relora: steps of the methods that start from something.
    #[arg(long)]
    restore_steps: Option<u64>,
    /// Suite relora: steps between evaluations, which are not counted as time.
    #[arg(long)]
    restore_eval_every: Option<u64>,
    /// Suite relora: sequences in a batch.
    #[arg(long, value_parser = positive)]
    restore_batch: Option<usize>,
    /// Suite relora: tokens in a sequence.
    #[arg(long, value_parser = positive)]
    restore_seq: Option<usize>,
    /// Suite relora: learning rates to choose from for retraining, by its lowest loss.
    #[arg(long, value_delimiter = ',')]
    retrain_rates: Vec<f32>,
    /// Suite relora: learning rates to choose from for each of the others, by its time to 98 % of what retraining gains.
    #[arg(long, value_delimiter = ',')]
    restore_rates: Vec<f32>,
    /// Suite relora: further flags of `restore`, for every run, as one text.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    restore_flags: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Every method on every update and task, timed to readiness.
    Readiness,
    /// Seconds of each stage at a large model's shapes, with random weights.
    Cost,
    /// Many adapters in one run, beside the sum of their own work.
    Fleet,
}

/// What is done, the flags' way or the plan's.
#[derive(Clone, Debug)]
pub struct Settings {
    pub cost_model: String,
    pub fleet: u64,
    /// Where adapters and finished runs lie.
    pub work: PathBuf,
    pub seeds: u64,
    pub adapter_steps: u64,
    pub restore_steps: u64,
    pub eval_every: u64,
    pub batch: usize,
    pub sequence: usize,
    pub retrain_rates: Vec<f32>,
    pub restore_rates: Vec<f32>,
    /// Further flags of `restore`.
    pub flags: String,
}

impl Options {
    pub fn parts(&self) -> &[Part] {
        if self.parts.is_empty() { &[Part::Readiness] } else { &self.parts }
    }

    /// Whether a base, an update and a task are needed.
    pub fn needs_lineage(&self) -> bool {
        self.parts().iter().any(|&part| part != Part::Cost)
    }

    pub fn settings(&self, bench: &Bench<'_>) -> Settings {
        self.resolve(&bench.plan.relora, bench.work.into())
    }

    fn resolve(&self, plan: &Relora, work: PathBuf) -> Settings {
        let rates = |own: &Vec<f32>, plan: &[f32]| if own.is_empty() { plan.to_vec() } else { own.clone() };
        Settings {
            cost_model: self.cost_model.clone(),
            fleet: self.fleet,
            work,
            seeds: self.restore_seeds.unwrap_or(plan.seeds),
            adapter_steps: self.adapter_steps.unwrap_or(plan.adapter_steps),
            restore_steps: self.restore_steps.unwrap_or(plan.restore_steps),
            eval_every: self.restore_eval_every.unwrap_or(plan.eval_every),
            batch: self.restore_batch.unwrap_or(plan.batch),
            sequence: self.restore_seq.unwrap_or(plan.sequence),
            retrain_rates: rates(&self.retrain_rates, plan.retrain_rates),
            restore_rates: rates(&self.restore_rates, plan.restore_rates),
            flags: self.restore_flags.clone(),
        }
    }
}

impl Settings {
    /// Steps of training in all: adapters, and every method on every update and task.
    pub fn steps(&self, updates: usize, tasks: usize) -> u64 {
        let adapters = tasks as u64 * self.seeds * self.adapter_steps;
        adapters + (updates * tasks) as u64 * steps_of_a_cell(self)
    }

    /// What two runs of the same lineage, update, task, method, rate and seed may differ by.
    pub fn identity(&self) -> String {
        let Settings { adapter_steps, restore_steps, eval_every, batch, sequence, flags, .. } = self;
        format!("{adapter_steps} {restore_steps} {eval_every} {batch} {sequence} {flags}")
    }
}
