//! Suite `reflora`: what RefLoRA promises, measured beside plain LoRA and other methods.

mod consistency;
mod convergence;
mod overhead;
mod summary;
mod toy;

pub use convergence::Run;
pub use summary::{Setting, Told, final_loss};

use super::lineage::Lineage;
use super::plan::Reflora;
use super::{Bench, Results};
use crate::failure::Outcome;

#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Options {
    /// Suite reflora: the parts to run; default: all.
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
    /// Loss, measures and good learning rates on a fine-tune.
    Convergence,
}

impl Options {
    /// Whether a base and a task are needed.
    pub fn needs_lineage(&self) -> bool {
        self.parts().contains(&Part::Convergence) && self.convergence.needs_lineage()
    }

    /// Steps of fine-tuning, all runs together.
    pub fn steps(&self, plan: &Reflora) -> u64 {
        if self.parts().contains(&Part::Convergence) { self.convergence.runs(plan) * plan.steps } else { 0 }
    }

    fn parts(&self) -> &[Part] {
        if self.part.is_empty() {
            &[Part::Toy, Part::Consistency, Part::Overhead, Part::Convergence]
        } else {
            &self.part
        }
    }
}

pub fn run(options: &Options, lineage: Option<&Lineage>, bench: &Bench<'_>, results: &mut Results) -> Outcome<()> {
    for part in options.parts() {
        match part {
            Part::Toy => toy::run(bench, results)?,
            Part::Consistency => consistency::run(bench, results)?,
            Part::Overhead => overhead::run(&options.overhead, bench, results)?,
            Part::Convergence => convergence::run(&options.convergence, lineage, bench, results)?,
        }
    }
    Ok(())
}
