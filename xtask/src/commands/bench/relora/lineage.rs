//! A base model, its updates, and the tasks that adapters serve.

use std::path::PathBuf;

use lora::write_whole;
use tensor::Device;

use super::Options;
use crate::failure::{Failure, Outcome};
use crate::loading::lora_failure;
use crate::output::Output;
use crate::world::base::{Pretraining, Recipe, WorldModel};
use crate::world::files::json_lines;
use crate::world::{Edition, Split, Task as WorldTask, World};

/// Rows that adapters of the world are judged by.
const VALIDATION_ROWS: usize = 384;

/// Where everything is on disk.
pub struct Lineage {
    pub base: PathBuf,
    pub updates: Vec<Update>,
    pub tasks: Vec<Task>,
}

/// The base after more training.
pub struct Update {
    pub name: String,
    pub directory: PathBuf,
}

/// What an adapter is trained for.
pub struct Task {
    pub name: String,
    pub training: PathBuf,
    pub validation: PathBuf,
    /// As `--task` has it.
    pub kind: String,
}

impl Lineage {
    /// The embedded world: its base is pretrained, and trained on with each update's text; what was made before is found
    /// again.
    pub fn of_world(options: &Options, device: &Device, seed: u64, output: &Output) -> Outcome<Self> {
        let world = World::new(seed);
        let recipe = Recipe { steps: options.world_steps, ..Recipe::SMALL };
        let cache = options.work.join("world");
        let pretraining = Pretraining { world: &world, recipe, cache: &cache, device, output };
        let base = pretraining.base()?;
        let tell = |edition: Edition, model: &WorldModel| {
            let (before, after) = model.account.losses.get(edition.name()).copied().unwrap_or((f64::NAN, f64::NAN));
            let steps = model.account.steps;
            output.say(format!("{}: {steps} steps, loss on its own text {before:.3} -> {after:.3}", edition.name()));
        };
        tell(Edition::Base, &base);
        let mut updates = Vec::new();
        for edition in Edition::UPDATES {
            let update = pretraining.update(&base, edition, 1.0)?;
            tell(edition, &update);
            updates.push(Update { name: edition.name().into(), directory: update.directory });
        }
        let mut tasks = Vec::new();
        for task in WorldTask::ALL {
            let rows = |split: Split, count: usize| -> Outcome<PathBuf> {
                let path = options.work.join("tasks").join(format!("{}-{seed}.{}.jsonl", task.name(), split.name()));
                let text = json_lines(&world.rows(task, split, count));
                write_whole(&path, text.as_bytes()).map_err(lora_failure)?;
                Ok(path)
            };
            tasks.push(Task {
                name: task.name().into(),
                training: rows(Split::Training, options.world_rows)?,
                validation: rows(Split::Validation, VALIDATION_ROWS)?,
                kind: "causal".into(),
            });
        }
        Ok(Lineage { base: base.directory, updates, tasks })
    }

    /// What the flags name; `None` where they name nothing.
    pub fn given(options: &Options) -> Outcome<Option<Self>> {
        let Some(base) = &options.old_model else { return Ok(None) };
        let named = |flag: &str, text: &str| -> Outcome<(String, String)> {
            let (name, rest) = text.split_once('=').unwrap_or_default();
            match name.is_empty() || rest.is_empty() {
                true => Err(Failure::input(format!("{flag} {text}: must be a name, `=`, and a path"))),
                false => Ok((name.to_string(), rest.to_string())),
            }
        };
        let mut updates = Vec::new();
        for text in &options.update {
            let (name, directory) = named("--update", text)?;
            updates.push(Update { name, directory: directory.into() });
        }
        let mut tasks = Vec::new();
        for text in &options.adapter_task {
            let (name, files) = named("--adapter-task", text)?;
            let mut parts = files.split(',');
            let (Some(training), Some(validation)) = (parts.next(), parts.next()) else {
                return Err(Failure::input(format!(
                    "--adapter-task {text}: must name a file for training and one for validation"
                )));
            };
            let kind = parts.next().unwrap_or("causal").into();
            tasks.push(Task { name, training: training.into(), validation: validation.into(), kind });
        }
        if updates.is_empty() || tasks.is_empty() {
            return Err(Failure::input("--old-model: needs at least one --update and one --adapter-task beside it"));
        }
        Ok(Some(Lineage { base: base.clone(), updates, tasks }))
    }
}
