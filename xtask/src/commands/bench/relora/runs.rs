//! Training the old adapters, restoring them by every method, and keeping what was seen: one line of a file for each run, so
//! that a benchmark can be done in parts.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::lineage::{Lineage, Task, Update};
use super::super::progress::Meter;
use super::commands::{run, run_once, words};
use super::readiness::{self, Before, Readiness};
use super::settings::Settings;
use crate::Common;
use crate::failure::{Failure, Outcome};

/// A method as `restore` spells it, and how its gradients are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    pub name: &'static str,
    restore: &'static str,
    gradients: &'static str,
}

const fn method(name: &'static str, restore: &'static str, gradients: &'static str) -> Method {
    Method { name, restore, gradients }
}

pub const RETRAIN: Method = method("retrain", "retrain", "lora");
pub const WARM_START: Method = method("warm start", "warm-start", "lora");
const REBASE: Method = method("rebase", "rebase", "lora");
pub const RELORA: Method = method("ReLoRA", "relora", "lora");

/// Every method, retraining first.
pub const METHODS: [Method; 6] = [
    RETRAIN,
    WARM_START,
    REBASE,
    method("Bayesian start", "bayes-only", "lora"),
    RELORA,
    method("ReLoRA + RefLoRA", "relora", "reflora"),
];

/// Those whose rate is chosen; the other variants of the full method have its rate.
const TUNED: [Method; 3] = [WARM_START, REBASE, RELORA];

/// The targets: modules of attention and feed-forward that the paper's adapters have.
const TARGETS: &str = "q_proj,k_proj,v_proj,up_proj,down_proj";

/// The loss on the validation data after a step, and the seconds of training until then, evaluations left out.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Point {
    pub step: u64,
    pub loss: f64,
    pub seconds: f64,
}

/// One finished run of `restore`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    pub update: String,
    pub task: String,
    pub method: String,
    pub rate: f32,
    pub seed: u64,
    /// The settings of the benchmark that this run belongs to.
    pub settings: String,
    /// The adapter's loss on the old base.
    pub old_loss: f64,
    /// What `restore` reports.
    pub report: Value,
    /// Training's curve, the start not included.
    pub curve: Vec<Point>,
    /// Sequences in a batch.
    pub batch: usize,
    /// Steps that training was given.
    pub budget: u64,
}

/// Steps that the runs of one update and task train: rates are tried on the first seed, which keeps its best one.
pub fn steps_of_a_cell(settings: &Settings) -> u64 {
    let more = settings.seeds.saturating_sub(1);
    let tried = |rates: &[f32]| rates.len() as u64 + more;
    let of_variants = (METHODS.len() - 1 - TUNED.len()) as u64 * settings.seeds;
    let restored = TUNED.len() as u64 * tried(&settings.restore_rates) + of_variants;
    tried(&settings.retrain_rates) * settings.adapter_steps + restored * settings.restore_steps
}

/// All runs, those of earlier invocations included.
pub struct Runs<'a> {
    settings: &'a Settings,
    common: &'a Common,
    meter: Meter<'a>,
    finished: Vec<Run>,
}

impl<'a> Runs<'a> {
    pub fn open(settings: &'a Settings, common: &'a Common, meter: Meter<'a>) -> Outcome<Self> {
        let work = &settings.work;
        fs::create_dir_all(work).map_err(|error| Failure::input(format!("--work {}: {error}", work.display())))?;
        let mut runs = Runs { settings, common, meter, finished: Vec::new() };
        let file = runs.file();
        if file.exists() {
            let refused = |error: String| Failure::input(format!("{}: {error}", file.display()));
            for (number, line) in
                fs::read_to_string(&file).map_err(|error| refused(error.to_string()))?.lines().enumerate()
            {
                let run: Run =
                    serde_json::from_str(line).map_err(|error| refused(format!("line {}: {error}", number + 1)))?;
                runs.finished.push(run);
            }
        }
        Ok(runs)
    }

    pub fn into_finished(self) -> Vec<Run> {
        self.finished
    }

    fn file(&self) -> PathBuf {
        self.settings.work.join("runs.jsonl")
    }

    fn seeds(&self) -> std::ops::Range<u64> {
        self.common.seed..self.common.seed + self.settings.seeds
    }

    /// Every method on every update and task.
    pub fn of_lineage(&mut self, lineage: &Lineage) -> Outcome<()> {
        let settings = format!("{} {}", lineage.base.display(), self.settings.identity());
        self.finished.retain(|run| run.settings == settings);
        for task in &lineage.tasks {
            for seed in self.seeds() {
                let (_, loss) = self.adapter(lineage, task, seed)?;
                let line = format!("adapter for {}, seed {seed}: validation loss {loss:.4}", task.name);
                self.meter.done(self.settings.adapter_steps, &line)?;
            }
        }
        for update in &lineage.updates {
            for task in &lineage.tasks {
                self.of_update(lineage, update, task)?;
            }
        }
        Ok(())
    }

    fn flags(&self, task: &Task, steps: u64, rate: f32, eval_every: u64) -> Vec<(&'static str, String)> {
        let mut flags = task.flags();
        flags.extend([
            ("steps", steps.to_string()),
            ("lr", rate.to_string()),
            ("batch", self.settings.batch.to_string()),
            ("seq", self.settings.sequence.to_string()),
            ("eval-every", eval_every.to_string()),
        ]);
        flags
    }

    /// Trains the adapter of one task and seed on the old base, unless it is there. Returns its directory and its validation
    /// loss.
    pub fn adapter(&self, lineage: &Lineage, task: &Task, seed: u64) -> Outcome<(PathBuf, f64)> {
        let out = self.settings.work.join("adapters").join(format!("{}-{seed}", task.name));
        let rate = self.settings.retrain_rates.get(1).or(self.settings.retrain_rates.first()).copied().unwrap_or(3e-3);
        let mut flags = self.flags(task, self.settings.adapter_steps, rate, self.settings.adapter_steps.div_ceil(20));
        flags.extend([
            ("model", lineage.base.display().to_string()),
            ("out", out.display().to_string()),
            ("targets", TARGETS.to_string()),
        ]);
        let mut words = words("finetune", &flags);
        words.push("--overwrite".into());
        let report = run_once(&words, &out, &self.common(seed))?;
        Ok((out.join("best"), report["best_validation_loss"].as_f64().unwrap_or(f64::NAN)))
    }

    fn common(&self, seed: u64) -> Common {
        Common { seed, json: false, ..self.common.clone() }
    }

    /// Every method on one update and task: rates are chosen on the first seed, then all seeds are done. The full method's
    /// rate is that of its variants, too.
    fn of_update(&mut self, lineage: &Lineage, update: &Update, task: &Task) -> Outcome<()> {
        let first = self.common.seed;
        let mut lowest = Vec::new();
        let mut nothing = f64::NAN;
        for rate in self.settings.retrain_rates.clone() {
            let run = self.restore(lineage, update, task, RETRAIN, rate, first)?;
            nothing = run.report["start_loss"].as_f64().unwrap_or(f64::NAN);
            lowest.push((readiness::lowest(run), rate));
        }
        let (best, retrain_rate) = least(lowest);
        let target = readiness::share_of_the_way(nothing, best);
        let mut rates = vec![(RETRAIN, retrain_rate)];
        for method in TUNED {
            let mut soonest = Vec::new();
            for rate in self.settings.restore_rates.clone() {
                let run = self.restore(lineage, update, task, method, rate, first)?;
                // Those that are never ready come last, by their loss. The evolution is every rate's alike, and its time
                // would make the choice depend on the machine.
                let counted = |ready: Readiness| ready.steps - Before::of(run).evolution.steps;
                let ready = readiness::ready(run, target).map_or(1e9, counted);
                soonest.push((ready + 1e-3 * readiness::lowest(run), rate));
            }
            rates.push((method, least(soonest).1));
        }
        for seed in self.seeds() {
            for method in METHODS {
                let own = rates.iter().find(|(other, _)| *other == method);
                let (_, rate) = own.unwrap_or(&rates[rates.len() - 1]);
                self.restore(lineage, update, task, method, *rate, seed)?;
            }
        }
        Ok(())
    }

    /// One run, unless it is there.
    fn restore(
        &mut self,
        lineage: &Lineage,
        update: &Update,
        task: &Task,
        method: Method,
        rate: f32,
        seed: u64,
    ) -> Outcome<&Run> {
        let is_it = |run: &Run| {
            (run.update.as_str(), run.task.as_str(), run.method.as_str()) == (&update.name, &task.name, method.name)
                && (run.rate, run.seed) == (rate, seed)
        };
        if let Some(place) = self.finished.iter().position(is_it) {
            return Ok(&self.finished[place]);
        }
        let (adapter, old_loss) = self.adapter(lineage, task, seed)?;
        let steps = if method == RETRAIN { self.settings.adapter_steps } else { self.settings.restore_steps };
        let out = self.settings.work.join("restored");
        let mut flags = self.flags(task, steps, rate, self.settings.eval_every);
        flags.extend([
            ("old-model", lineage.base.display().to_string()),
            ("new-model", update.directory.display().to_string()),
            ("adapter", adapter.display().to_string()),
            ("method", method.restore.to_string()),
            ("gradient-method", method.gradients.to_string()),
            ("target", "parity".to_string()),
            ("tolerance", readiness::TOLERANCE.to_string()),
            ("out", out.display().to_string()),
        ]);
        let mut words = words("restore", &flags);
        words.extend(self.settings.flags.split_whitespace().map(String::from));
        words.push("--overwrite".into());
        // Nothing of an earlier run may be found again: the base's change is measured, and timed, each time.
        let _ = fs::remove_dir_all(&out);
        // That a target is missed is a result.
        let (mut result, _) = run(&words, &self.common(seed))?;
        let mut report = result["adapters"][0].take();
        if let Some(object) = report.as_object_mut() {
            // A place that is gone when the report is read.
            object.remove("out");
        }
        if let Some(error) = report["error"].as_str() {
            return Err(anyhow::anyhow!("`{}` failed: {error}", words.join(" ")).into());
        }
        let done = Run {
            update: update.name.clone(),
            task: task.name.clone(),
            method: method.name.into(),
            rate,
            seed,
            settings: format!("{} {}", lineage.base.display(), self.settings.identity()),
            old_loss: report["old_base_loss"].as_f64().unwrap_or(old_loss),
            curve: curve(&out.join("metrics.jsonl"))?,
            report,
            batch: self.settings.batch,
            budget: steps,
        };
        let line = readiness::one_line(&done);
        let line = format!("{} {} {} rate {rate:.0e} seed {seed}: {line}", update.name, task.name, method.name);
        self.keep(&done)?;
        self.finished.push(done);
        self.meter.done(steps, &line)?;
        Ok(&self.finished[self.finished.len() - 1])
    }

    fn keep(&self, run: &Run) -> Outcome<()> {
        let file = self.file();
        let refused = |error: std::io::Error| Failure::input(format!("{}: {error}", file.display()));
        let mut lines = OpenOptions::new().create(true).append(true).open(&file).map_err(refused)?;
        writeln!(lines, "{}", json!(run)).map_err(refused)
    }
}

/// The lowest number and its rate.
fn least(numbers: Vec<(f64, f32)>) -> (f64, f32) {
    numbers.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((f64::NAN, 1e-3))
}

/// Evaluations and the seconds of the steps before them.
fn curve(file: &Path) -> Outcome<Vec<Point>> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        // A run without training has none.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Failure::input(format!("{}: {error}", file.display()))),
    };
    let (mut seconds, mut points) = (0.0, Vec::new());
    for line in text.lines() {
        let event: Value =
            serde_json::from_str(line).map_err(|error| Failure::input(format!("{}: {error}", file.display())))?;
        match event["event"].as_str() {
            Some("step") => seconds += event["seconds"].as_f64().unwrap_or(0.0),
            Some("evaluation") => points.push(Point {
                step: event["step"].as_u64().unwrap_or(0),
                loss: event["loss"].as_f64().unwrap_or(f64::INFINITY),
                seconds,
            }),
            _ => {}
        }
    }
    Ok(points)
}
