//! `world`: writes the embedded world as files.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Map, Value, json};

use crate::Common;
use crate::failure::Outcome;
use crate::interrupt;
use crate::output::Output;
use crate::output::table;
use crate::world::{
    Amounts, BaseShape, Edition, GENERATOR_VERSION, Pretraining, Recipe, Task, World, WorldModel, default_cache,
};

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
    /// Also pretrain the base and train its updates, where they are not there yet (under target/world), and tell their
    /// losses.
    #[arg(long)]
    train: bool,
}

pub fn run(arguments: &Arguments, common: &Common, output: &Output) -> Outcome<ExitCode> {
    let Arguments { out, sentences, rows, train } = arguments;
    let amounts = Amounts { sentences: *sentences, rows: *rows };
    let world = World::new(common.seed);
    world.write(out, BaseShape::SMALL, amounts)?;
    output.say(format!("world {} (generator {GENERATOR_VERSION}) written to {}", common.seed, out.display()));
    let labels: Map<_, _> = Task::ALL.iter().map(|task| (task.name().to_string(), json!(task.labels()))).collect();
    let models = if *train { models(&world, common, output)? } else { Vec::new() };
    let models: Vec<Value> = models.iter().map(|(name, model)| describe(name, model)).collect();
    output.result(
        &json!({ "models": models, "out": out, "seed": common.seed, "generator": GENERATOR_VERSION, "labels": labels }),
    );
    Ok(ExitCode::SUCCESS)
}

/// The base and its updates, told as a table.
fn models(world: &World, common: &Common, output: &Output) -> Outcome<Vec<(&'static str, WorldModel)>> {
    interrupt::watch();
    let device = common.open_device(output)?;
    let (recipe, cache) = (Recipe::SMALL, default_cache());
    let pretraining = Pretraining { world, recipe, cache: &cache, device: &device, output };
    let base = pretraining.base()?;
    let mut models = vec![(Edition::Base.name(), base.clone())];
    for edition in Edition::UPDATES {
        models.push((edition.name(), pretraining.update(&base, edition, 1.0)?));
    }
    let loss = |model: &WorldModel, edition: &str| {
        let losses = model.account.losses.get(edition);
        losses.map_or("-".into(), |(before, after)| format!("{before:.3} -> {after:.3}"))
    };
    let row = |(name, model): &(&str, WorldModel)| {
        let seconds = format!("{:.1}{}", model.account.seconds, if model.is_reused { " (reused)" } else { "" });
        let own = if *name == Edition::Base.name() { "-".into() } else { loss(model, name) };
        vec![name.to_string(), model.account.steps.to_string(), seconds, loss(model, Edition::Base.name()), own]
    };
    let rows: Vec<_> = models.iter().map(row).collect();
    output.say(table(&["model", "steps", "seconds", "loss on the base's text", "loss on its own text"], &rows));
    Ok(models)
}

fn describe(name: &str, model: &WorldModel) -> Value {
    let account = &model.account;
    json!({
        "name": name, "directory": model.directory, "steps": account.steps, "seconds": account.seconds,
        "losses": account.losses, "reused": model.is_reused,
    })
}
