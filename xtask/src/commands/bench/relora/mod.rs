//! Suite `relora`: adapters of a base are restored to its updates by every method, and each is timed to readiness. Everything
//! is done by the commands that users have (`finetune`, `restore`), run in this process. `lineage` says which bases and
//! tasks, `runs` does and keeps the runs, `readiness` reads times off their curves, `summary` tells. `cost` times the stages at
//! a large model's shapes; `fleet` restores many small adapters in one run.

mod commands;
mod cost;
mod fleet;
mod lineage;
mod readiness;
mod runs;
mod summary;

use std::path::PathBuf;

use serde_json::{Map, Value, json};
use tensor::Device;

pub use readiness::{Before, points};
pub use runs::{METHODS, Run};
pub use summary::cells;

use crate::Common;
use crate::commands::finetune::positive;
use crate::failure::Outcome;
use crate::output::Output;
use lineage::Lineage;
use runs::Runs;

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
    /// Suite relora: the base that adapters were trained on; default: a small one, pretrained here on the embedded world.
    #[arg(long, value_name = "DIR")]
    old_model: Option<PathBuf>,
    /// Suite relora: an update of it, by a name of yours.
    #[arg(long, value_name = "NAME=DIR")]
    update: Vec<String>,
    /// Suite relora: what adapters are trained for: data for training and for validation, and a --task that is not causal.
    #[arg(long, value_name = "NAME=TRAINING,VALIDATION[,TASK]")]
    adapter_task: Vec<String>,
    /// Suite relora, the embedded world: training rows of each task.
    #[arg(long, default_value_t = 2_000)]
    world_rows: usize,
    /// Suite relora, the embedded world: steps of the base's pretraining, on 512 tokens each.
    #[arg(long, default_value_t = 400)]
    world_steps: u64,
    /// Suite relora: where adapters and finished runs are kept; what is there is not done again.
    #[arg(long, value_name = "DIR", default_value = "target/bench-relora")]
    work: PathBuf,
    /// Suite relora: seeds, each with an adapter of its own.
    #[arg(long, default_value_t = 5)]
    restore_seeds: u64,
    /// Suite relora: steps of training the old adapters, and of retraining.
    #[arg(long, default_value_t = 400)]
    adapter_steps: u64,
    /// Suite relora: steps of the methods that start from something.
    #[arg(long, default_value_t = 200)]
    restore_steps: u64,
    /// Suite relora: steps between evaluations, which are not counted as time.
    #[arg(long, default_value_t = 5)]
    restore_eval_every: u64,
    /// Suite relora: sequences in a batch.
    #[arg(long, default_value_t = 32, value_parser = positive)]
    restore_batch: usize,
    /// Suite relora: tokens in a sequence.
    #[arg(long, default_value_t = 64, value_parser = positive)]
    restore_seq: usize,
    /// Suite relora: learning rates to choose from for retraining, by its lowest loss.
    #[arg(long, value_delimiter = ',', default_value = "1e-3,3e-3,1e-2")]
    retrain_rates: Vec<f32>,
    /// Suite relora: learning rates to choose from for each of the others, by its time to 98 % of what retraining gains.
    #[arg(long, value_delimiter = ',', default_value = "3e-4,1e-3,3e-3")]
    restore_rates: Vec<f32>,
    /// Suite relora: further flags of `restore`, for every run, as one text.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    restore_flags: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Every method on every update and task, timed to readiness.
    Readiness,
    /// Seconds of each stage at a large model's shapes, with random weights.
    Cost,
    /// Many adapters in one run, beside the sum of their own work.
    Fleet,
}

pub fn run(options: &Options, quick: bool, device: &Device, common: &Common, output: &Output) -> Outcome<Value> {
    let mut options = options.clone();
    if quick {
        options.restore_seeds = options.restore_seeds.min(1);
        options.adapter_steps = options.adapter_steps.min(100);
        options.restore_steps = options.restore_steps.min(60);
        options.world_steps = options.world_steps.min(200);
    }
    let parts = if options.parts.is_empty() { &[Part::Readiness][..] } else { &options.parts };
    let mut results = Map::new();
    for part in parts {
        let (name, value) = match part {
            Part::Readiness => ("readiness", readiness_of_methods(&options, device, common, output)?),
            Part::Cost => ("cost", cost::run(&options, device, common.seed, output)?),
            Part::Fleet => {
                let lineage = lineage(&options, device, common, output)?;
                ("fleet", fleet::run(&options, &lineage, common, output)?)
            }
        };
        results.insert(name.into(), value);
    }
    Ok(Value::Object(results))
}

fn lineage(options: &Options, device: &Device, common: &Common, output: &Output) -> Outcome<Lineage> {
    match Lineage::given(options)? {
        Some(given) => Ok(given),
        None => Lineage::of_world(options, device, common.seed, output),
    }
}

fn readiness_of_methods(options: &Options, device: &Device, common: &Common, output: &Output) -> Outcome<Value> {
    let lineage = lineage(options, device, common, output)?;
    let mut runs = Runs::open(options, common, output)?;
    for task in &lineage.tasks {
        for seed in common.seed..common.seed + options.restore_seeds {
            let (_, loss) = runs.adapter(&lineage, task, seed)?;
            output.say(format!("adapter for {}, seed {seed}: validation loss {loss:.4}", task.name));
        }
    }
    for update in &lineage.updates {
        for task in &lineage.tasks {
            runs.of_update(&lineage, update, task)?;
        }
    }
    let summary = summary::report(runs.finished(), options, output);
    Ok(json!({ "device": device.to_string(), "runs": runs.finished(), "summary": summary }))
}
