//! Suite `reflora`: what RefLoRA promises, measured beside plain LoRA and other methods.

mod consistency;
mod convergence;
mod overhead;
mod summary;
mod toy;

pub use convergence::Run;
use serde_json::{Map, Value};
pub use summary::final_loss;
use tensor::Device;

use crate::Common;
use crate::failure::Outcome;
use crate::output::Output;

#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Options {
    /// Suite reflora: the parts to run; default: toy, consistency and overhead.
    #[arg(long, value_enum, value_delimiter = ',')]
    part: Vec<Part>,
    #[command(flatten)]
    overhead: overhead::Options,
    #[command(flatten)]
    convergence: convergence::Options,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// The paper's matrix factorisation, every method at both learning rates over 20 seeds.
    Toy,
    /// The weight's update from two factorisations of the same weight.
    Consistency,
    /// Time of a step beside plain LoRA's.
    Overhead,
    /// Loss, measures and good learning rates on a fine-tune given after `--`.
    Convergence,
}

pub fn run(options: &Options, quick: bool, device: &Device, common: &Common, output: &Output) -> Outcome<Value> {
    let default = [Part::Toy, Part::Consistency, Part::Overhead];
    let parts = if options.part.is_empty() { &default[..] } else { &options.part };
    let (mut results, seed) = (Map::new(), common.seed);
    for part in parts {
        let (name, value) = match part {
            Part::Toy => ("toy", toy::run(quick, device, seed, output)?),
            Part::Consistency => ("consistency", consistency::run(device, seed, output)?),
            Part::Overhead => ("overhead", overhead::run(&options.overhead, quick, device, seed, output)?),
            Part::Convergence => ("convergence", convergence::run(&options.convergence, common, device, output)?),
        };
        results.insert(name.into(), value);
    }
    Ok(Value::Object(results))
}
