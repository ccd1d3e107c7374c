//! What suites `reflora` and `relora` train on: a base model, its updates, and the tasks that adapters serve; the user's own,
//! or the embedded world's.

use std::path::{Path, PathBuf};

use lora::write_whole;
use serde_json::{Value, json};
use tensor::Device;

use super::{Bench, Results};
use crate::failure::{Failure, Outcome};
use crate::loading::lora_failure;
use crate::output::Output;
use crate::world::base::{Pretraining, Recipe, WorldModel};
use crate::world::files::json_lines;
use crate::world::{Edition, GENERATOR_VERSION, Split, Task as WorldTask, World, default_cache};

#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Options {
    /// Suites reflora and relora: the base that adapters are trained on; default: a small one, pretrained here once on the
    /// embedded world.
    #[arg(long, value_name = "DIR", requires = "material")]
    pub model: Option<PathBuf>,
    /// Suite relora: an update of --model.
    #[arg(long, value_name = "DIR", requires = "model")]
    pub new_model: Option<PathBuf>,
    /// Suites reflora and relora: a file that adapters of --model are trained on, as for `finetune`.
    #[arg(long, value_name = "FILE", requires = "model", group = "material")]
    data: Option<PathBuf>,
    /// Validation data for --data; default: as for `finetune`.
    #[arg(long, value_name = "FILE", requires = "data")]
    validation: Option<PathBuf>,
    /// What --data is for, as --task of `finetune`.
    #[arg(long, value_name = "TASK", default_value = "causal")]
    task: String,
    /// Suite relora: a further update of --model, by a name of yours.
    #[arg(long, value_name = "NAME=DIR", requires = "model")]
    update: Vec<String>,
    /// A further task: data for training and for validation, and a --task that is not causal.
    #[arg(long, value_name = "NAME=TRAINING,VALIDATION[,TASK]", requires = "model", group = "material")]
    adapter_task: Vec<String>,
    /// The embedded world: training rows of each task; default: by device.
    #[arg(long, conflicts_with = "model")]
    world_rows: Option<usize>,
    /// The embedded world: steps of the base's pretraining, on 512 tokens each; default: by device.
    #[arg(long, conflicts_with = "model")]
    world_steps: Option<u64>,
}

/// Where everything is on disk.
pub struct Lineage {
    pub base: PathBuf,
    pub updates: Vec<Update>,
    pub tasks: Vec<Task>,
}

/// The base after more training.
#[derive(Clone)]
pub struct Update {
    pub name: String,
    pub directory: PathBuf,
}

/// What an adapter is trained for.
#[derive(Clone)]
pub struct Task {
    pub name: String,
    pub training: PathBuf,
    pub validation: Option<PathBuf>,
    /// As `--task` has it.
    pub kind: String,
}

impl Task {
    /// Flags of `finetune` and `restore` that say what to train for.
    pub fn flags(&self) -> Vec<(&'static str, String)> {
        let mut flags = vec![("task", self.kind.clone()), ("data", self.training.display().to_string())];
        flags.extend(self.validation.iter().map(|path| ("validation", path.display().to_string())));
        flags
    }
}

impl Options {
    /// Whether the user gave a model.
    pub fn is_given(&self) -> bool {
        self.model.is_some()
    }

    pub fn has_update(&self) -> bool {
        self.new_model.is_some() || !self.update.is_empty()
    }

    /// How the world's base is pretrained.
    pub fn world_recipe(&self, recipe: Recipe) -> Recipe {
        Recipe { steps: self.world_steps.unwrap_or(recipe.steps), ..recipe }
    }

    /// Training rows of each of the world's tasks.
    pub fn world_rows(&self, rows: usize) -> usize {
        self.world_rows.unwrap_or(rows)
    }

    /// What the flags name; `None` where they name nothing.
    pub fn given(&self) -> Outcome<Option<Lineage>> {
        let Some(base) = &self.model else { return Ok(None) };
        let mut updates = Vec::new();
        updates.extend(self.new_model.iter().map(|path| Update { name: "update".into(), directory: path.clone() }));
        for text in &self.update {
            let (name, directory) = named("--update", text)?;
            updates.push(Update { name, directory: directory.into() });
        }
        let mut tasks = Vec::new();
        if let Some(data) = &self.data {
            let name = data.file_stem().map_or_else(|| self.task.clone(), |stem| stem.to_string_lossy().into_owned());
            let (training, validation) = (data.clone(), self.validation.clone());
            tasks.push(Task { name, training, validation, kind: self.task.clone() });
        }
        for text in &self.adapter_task {
            let (name, files) = named("--adapter-task", text)?;
            let mut parts = files.split(',');
            let (Some(training), Some(validation)) = (parts.next(), parts.next()) else {
                return Err(Failure::input(format!(
                    "--adapter-task {text}: must name a file for training and one for validation"
                )));
            };
            let kind = parts.next().unwrap_or("causal").into();
            tasks.push(Task { name, training: training.into(), validation: Some(validation.into()), kind });
        }
        Ok(Some(Lineage { base: base.clone(), updates, tasks }))
    }
}

/// A name and what follows its `=`.
fn named(flag: &str, text: &str) -> Outcome<(String, String)> {
    let (name, rest) = text.split_once('=').unwrap_or_default();
    match name.is_empty() || rest.is_empty() {
        true => Err(Failure::input(format!("{flag} {text}: must be a name, `=`, and a path"))),
        false => Ok((name.to_string(), rest.to_string())),
    }
}

/// The embedded world's base, updates and tasks, as far as suites need them.
pub struct Needs {
    pub recipe: Recipe,
    pub updates: Vec<Edition>,
    pub tasks: Vec<WorldTask>,
    /// Rows for training and for validation.
    pub rows: (usize, usize),
}

impl Needs {
    /// Steps of pretraining that were not done before.
    pub fn steps_to_do(&self, bench: &Bench<'_>) -> u64 {
        let world = World::new(bench.common.seed);
        let (device, cache) = (world_device(bench.device), default_cache());
        let pretraining = self.pretraining(&world, &cache, &device, bench.output);
        pretraining.steps_to_do(&self.updates)
    }

    fn pretraining<'a>(
        &self,
        world: &'a World,
        cache: &'a Path,
        device: &'a Device,
        output: &'a Output,
    ) -> Pretraining<'a> {
        Pretraining { world, recipe: self.recipe, cache, device, output }
    }

    /// Pretrains what is not there yet and writes the tasks' rows. What is told of the models is part `models`.
    pub fn prepare(&self, bench: &Bench<'_>, results: &mut Results) -> Outcome<Lineage> {
        let Bench { device, common, output, work, .. } = *bench;
        let world = World::new(common.seed);
        let (device, cache) = (world_device(device), default_cache());
        let pretraining = self.pretraining(&world, &cache, &device, output);
        results.set("generator", json!(GENERATOR_VERSION));
        results.set("recipe", json!(self.recipe));
        let base = pretraining.base()?;
        results.push("models", account(Edition::Base, &base, output));
        let mut updates = Vec::new();
        for &edition in &self.updates {
            let update = pretraining.update(&base, edition, 1.0)?;
            results.push("models", account(edition, &update, output));
            updates.push(Update { name: edition.name().into(), directory: update.directory });
        }
        let tasks =
            self.tasks.iter().map(|&task| self.write(&world, task, common.seed, work)).collect::<Outcome<_>>()?;
        Ok(Lineage { base: base.directory, updates, tasks })
    }

    fn write(&self, world: &World, task: WorldTask, seed: u64, work: &Path) -> Outcome<Task> {
        let rows = |split: Split, count: usize| -> Outcome<PathBuf> {
            let path = work.join("tasks").join(format!("{}-{seed}.{}.jsonl", task.name(), split.name()));
            let text = json_lines(&world.rows(task, split, count));
            write_whole(&path, text.as_bytes()).map_err(lora_failure)?;
            Ok(path)
        };
        Ok(Task {
            name: task.name().into(),
            training: rows(Split::Training, self.rows.0)?,
            validation: Some(rows(Split::Validation, self.rows.1)?),
            kind: "causal".into(),
        })
    }
}

/// Where the world's models are pretrained: a software adapter would take many times as long for the same.
fn world_device(device: &Device) -> Device {
    match device.adapter() {
        Some(adapter) if adapter.is_software() => Device::cpu(),
        _ => device.clone(),
    }
}

/// Tells of a model and gives the same for the report.
fn account(edition: Edition, model: &WorldModel, output: &Output) -> Value {
    let account = &model.account;
    let (before, after) = account.losses.get(edition.name()).copied().unwrap_or((f64::NAN, f64::NAN));
    let found = if model.is_reused { "found again" } else { "trained now" };
    output.say(format!(
        "world, {} ({found}): {} steps, loss on its own text {before:.3} -> {after:.3}",
        edition.name(),
        account.steps
    ));
    json!({ "name": edition.name(), "steps": account.steps, "losses": account.losses, "seconds": account.seconds })
}
