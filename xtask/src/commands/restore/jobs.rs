//! Which adapters are restored, with which data and for which target: from the flags, or from a manifest.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use lora::{CONFIG_FILE, WEIGHTS_FILE};
use serde::Deserialize;

use super::arguments::{Arguments, Target};
use crate::data::task::Task;
use crate::failure::{Failure, Outcome};

/// One adapter to restore.
#[derive(Clone, Debug)]
pub struct Job {
    /// What it is called in tables.
    pub name: String,
    pub adapter: PathBuf,
    pub data: Vec<PathBuf>,
    pub validation: Vec<PathBuf>,
    pub task: Task,
    pub labels: Vec<String>,
    pub target: Target,
    /// Where the result goes.
    pub out: PathBuf,
}

/// A line of a manifest.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    adapter: PathBuf,
    data: Option<Paths>,
    validation: Option<Paths>,
    task: Option<String>,
    labels: Option<Vec<String>>,
    target: Option<TargetValue>,
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Paths {
    One(PathBuf),
    Several(Vec<PathBuf>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TargetValue {
    Loss(f64),
    Word(String),
}

/// The jobs of a run, each with a name of its own.
pub fn jobs(arguments: &Arguments) -> Outcome<Vec<Job>> {
    let mut jobs: Vec<Job> = arguments.adapter.iter().map(|adapter| job(arguments, adapter.clone())).collect();
    if let Some(file) = &arguments.manifest {
        jobs.extend(read_manifest(arguments, file)?);
    }
    if jobs.is_empty() {
        return Err(Failure::input("there is no adapter to restore; name some with --adapter or --manifest"));
    }
    let alone = jobs.len() == 1;
    let mut taken = BTreeSet::new();
    for job in &mut jobs {
        let plain = std::mem::take(&mut job.name);
        job.name = (1..)
            .map(|n| if n == 1 { plain.clone() } else { format!("{plain}-{n}") })
            .find(|name| !taken.contains(name))
            .unwrap_or(plain);
        taken.insert(job.name.clone());
        job.out = if alone { arguments.out.clone() } else { arguments.out.join(&job.name) };
    }
    Ok(jobs)
}

fn job(arguments: &Arguments, adapter: PathBuf) -> Job {
    let name = adapter.file_name().map_or_else(|| "adapter".into(), |name| name.to_string_lossy().into_owned());
    Job {
        name,
        adapter,
        data: arguments.data.clone(),
        validation: arguments.validation.clone(),
        task: arguments.task,
        labels: arguments.labels.clone(),
        target: arguments.target,
        out: PathBuf::new(),
    }
}

fn read_manifest(arguments: &Arguments, file: &Path) -> Outcome<Vec<Job>> {
    let wrong = |message: String| Failure::input(format!("--manifest {}: {message}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    let base = file.parent().unwrap_or(Path::new(""));
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            let place = |message: String| wrong(format!("line {}: {message}", index + 1));
            let line: Line = serde_json::from_str(line).map_err(|error| place(error.to_string()))?;
            from_line(arguments, base, line).map_err(place)
        })
        .collect()
}

fn from_line(arguments: &Arguments, base: &Path, line: Line) -> Result<Job, String> {
    let paths = |paths: Option<Paths>, default: Vec<PathBuf>| match paths {
        None => default,
        Some(Paths::One(path)) => vec![base.join(path)],
        Some(Paths::Several(paths)) => paths.into_iter().map(|path| base.join(path)).collect(),
    };
    let default = job(arguments, base.join(line.adapter));
    let task = match line.task {
        None => default.task,
        Some(name) => {
            Task::from_str(&name, false).map_err(|_| format!("`{name}` is no task; see `finetune --help`"))?
        }
    };
    let target = match line.target {
        None => default.target,
        Some(TargetValue::Loss(loss)) => Target::Loss(loss),
        Some(TargetValue::Word(word)) => word.parse().map_err(|message| format!("`target` {message}"))?,
    };
    let name = line.name.unwrap_or_else(|| default.name.clone());
    let plain = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', ':', '\0']);
    if !plain {
        return Err(format!("`name` {name:?} is no name of a directory"));
    }
    let data = paths(line.data, default.data.clone());
    if data.is_empty() {
        return Err("there is neither `data` nor --data".into());
    }
    let validation = paths(line.validation, default.validation.clone());
    Ok(Job { name, data, validation, task, labels: line.labels.unwrap_or(default.labels.clone()), target, ..default })
}

impl Job {
    /// Refuses an adapter that is not there, or that the result would replace.
    pub fn check(&self) -> Outcome<()> {
        if !self.adapter.join(CONFIG_FILE).is_file() {
            return Err(Failure::input(format!(
                "adapter {}: no {CONFIG_FILE} here; give the directory of a PEFT adapter",
                self.adapter.display()
            )));
        }
        match (self.adapter.canonicalize(), self.out.canonicalize()) {
            (Ok(adapter), Ok(out)) if adapter == out => {
                let message = "--out: must be another directory than the adapter's; the old adapter is kept as it is";
                Err(Failure::input(message))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a place where there is an adapter that is not this run's own.
    pub fn check_place(&self, arguments: &Arguments) -> Outcome<()> {
        if !self.out.join(WEIGHTS_FILE).exists() || arguments.overwrite {
            return Ok(());
        }
        let out = self.out.display();
        Err(Failure::input(match arguments.resume {
            true => format!(
                "--out {out}: an adapter made with other settings is there; choose another directory, or --overwrite"
            ),
            false => format!(
                "--out {out}: an adapter is already there; choose another directory, or --overwrite, or --resume"
            ),
        }))
    }
}
