//! Suite `relora`: adapters of a base are restored to its updates by every method, and each is timed to readiness. Everything
//! is done by the commands that users have (`finetune`, `restore`), run in this process. `runs` does and keeps the runs, `readiness` reads times off their curves, `summary` tells. `cost` times the stages at
//! a large model's shapes; `fleet` restores many small adapters in one run.

mod commands;
mod cost;
mod fleet;
mod readiness;
mod runs;
mod settings;
mod summary;

use serde_json::{Value, json};

pub use readiness::{Before, points};
pub use runs::{METHODS, Run};
pub use settings::Options;
pub use summary::cells;

use super::lineage::Lineage;
use super::progress::Meter;
use super::{Bench, Results};
use crate::failure::{Failure, Outcome};
use runs::Runs;
use settings::Part;
pub use settings::Settings;

pub fn run(options: &Options, lineage: Option<&Lineage>, bench: &Bench<'_>, results: &mut Results) -> Outcome<()> {
    let settings = options.settings(bench);
    for part in options.parts() {
        match part {
            Part::Readiness => readiness_of_methods(&settings, whole(lineage)?, bench, results)?,
            Part::Cost => results.set("cost", cost::run(&settings, bench.device, bench.common.seed, bench.output)?),
            Part::Fleet => results.set("fleet", fleet::run(&settings, whole(lineage)?, bench)?),
        }
    }
    Ok(())
}

/// The lineage, if it has what an adapter can be restored to.
pub fn whole(lineage: Option<&Lineage>) -> Outcome<&Lineage> {
    let whole = lineage.filter(|lineage| !lineage.updates.is_empty() && !lineage.tasks.is_empty());
    whole.ok_or_else(|| Failure::input("suite relora: --model needs --new-model (or --update) beside it"))
}

/// What was done is told and kept even if the rest fails.
fn readiness_of_methods(
    settings: &Settings,
    lineage: &Lineage,
    bench: &Bench<'_>,
    results: &mut Results,
) -> Outcome<()> {
    bench.output.say("\nreadiness: every method on every update and task");
    let meter = Meter::new(bench.output, settings.steps(lineage.updates.len(), lineage.tasks.len()));
    let mut runs = Runs::open(settings, bench.common, meter)?;
    let outcome = runs.of_lineage(lineage);
    let finished = runs.into_finished();
    let summary = if finished.is_empty() { Value::Null } else { summary::report(&finished, settings, bench.output) };
    // Settings tell the runs of a directory apart by the paths of this machine, which are nobody's result.
    let finished: Vec<Run> = finished.into_iter().map(|run| Run { settings: String::new(), ..run }).collect();
    results.set("readiness", json!({ "runs": finished, "summary": summary }));
    outcome
}
