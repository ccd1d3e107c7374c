//! `restore`: brings adapters of an old base model to its update (ReLoRA). What each file holds: `arguments` the flags,
//! `jobs` which adapters, `bases` the two checkpoints, `restoration` one adapter's turn, `objective` and `search` its
//! second stage, `training` its third, `report` what is told.

mod arguments;
mod bases;
mod jobs;
mod objective;
mod report;
mod restoration;
mod search;
mod training;

use std::process::ExitCode;
use std::rc::Rc;

use lora::write_whole;
use models::Side;
use serde_json::{Value, json};

pub use arguments::Arguments;
use arguments::Target;
use bases::Bases;
use jobs::Job;
use objective::ValidationLosses;
use restoration::{Restoration, finished, identity, under_way};
use search::losses_until_clear;

use crate::Common;
use crate::data::Shape;
use crate::data::task::Task;
use crate::failure::{Failure, Outcome};
use crate::inputs::{DataRequest, TaskData};
use crate::interrupt;
use crate::loading::lora_failure;
use crate::output::Output;

pub fn run(arguments: &Arguments, common: &Common, output: &Output) -> Outcome<ExitCode> {
    interrupt::watch();
    if !(arguments.tolerance.is_finite() && arguments.tolerance >= 0.0) {
        return Err(Failure::input("--tolerance: must be a number that is not negative, such as 0.01"));
    }
    let jobs = jobs::jobs(arguments)?;
    let mut bases = Bases::open(arguments, common, output)?;
    let mut results: Vec<Option<Outcome<Value>>> =
        jobs.iter().map(|job| check(arguments, common, &bases, job)).collect();
    let old_losses = losses_on_the_old_base(arguments, common, &mut bases, &jobs, &mut results, output)?;
    // Jobs with the same head follow each other, so that each kind of model is loaded once; so do those with the same data.
    let mut order: Vec<usize> = (0..jobs.len()).filter(|&index| results[index].is_none()).collect();
    order.sort_by_key(|&index| (outputs(&jobs[index]), &jobs[index].data, &jobs[index].validation, index));
    let mut at_hand = None;
    for index in order {
        let job = &jobs[index];
        output.say(format!("\n{} ({} of {})", job.name, index + 1, jobs.len()));
        let old_base = old_losses[index].as_ref();
        let result = restore(arguments, common, &mut bases, job, old_base, &mut at_hand, output);
        if let Err(Failure::Interrupted(message)) = result {
            return Err(Failure::Interrupted(message));
        }
        if interrupt::requested() {
            return Err(Failure::Interrupted("interrupted; what is finished is kept, and --resume goes on".into()));
        }
        if let Err(failure) = &result {
            output.say(format!("{}: {failure}", job.name));
        }
        results[index] = Some(result);
    }
    conclude(arguments, &jobs, results, output)
}

/// Numbers that the job's model gives for each sequence; none for a language model. Tasks that are wrong are told later.
fn outputs(job: &Job) -> Option<usize> {
    job.task.target(&job.labels).ok().flatten().map(|target| target.outputs())
}

/// What is known of a job before anything is loaded: a mistake, or the report of an earlier run.
fn check(arguments: &Arguments, common: &Common, bases: &Bases<'_>, job: &Job) -> Option<Outcome<Value>> {
    let known = || -> Outcome<Option<Value>> {
        job.check()?;
        job.task.target(&job.labels)?;
        if job.task == Task::MaskedLm {
            return Err(Failure::input("--task masked-lm: adapters of masked language models are not restored"));
        }
        bases.check_origin(&job.adapter)?;
        let identity = identity(arguments, common, bases, job)?;
        let known = if arguments.resume { finished(job, &identity) } else { None };
        let other = known.is_none() && !(arguments.resume && under_way(job, &identity));
        if other { job.check_place(arguments).map(|()| None) } else { Ok(known) }
    };
    known().transpose()
}

/// The losses that parity asks for, measured on the old base before the new one is loaded.
fn losses_on_the_old_base(
    arguments: &Arguments,
    common: &Common,
    bases: &mut Bases<'_>,
    jobs: &[Job],
    results: &mut [Option<Outcome<Value>>],
    output: &Output,
) -> Outcome<Vec<Option<OldBase>>> {
    let mut losses = vec![None; jobs.len()];
    for (index, job) in jobs.iter().enumerate() {
        if results[index].is_some() || job.target != Target::Parity {
            continue;
        }
        if interrupt::requested() {
            return Err(Failure::Interrupted("interrupted before anything was done".into()));
        }
        match loss_on_the_old_base(arguments, common, bases, job) {
            Ok(old) => {
                output.say(format!("{} on the old base: validation loss {:.4}", job.name, old.mean));
                losses[index] = Some(old);
            }
            Err(failure) => {
                output.say(format!("{}: {failure}", job.name));
                results[index] = Some(Err(failure));
            }
        }
    }
    Ok(losses)
}

/// The old adapter's losses on the old base.
#[derive(Clone)]
pub struct OldBase {
    mean: f64,
    losses: Vec<f64>,
}

fn loss_on_the_old_base(arguments: &Arguments, common: &Common, bases: &mut Bases<'_>, job: &Job) -> Outcome<OldBase> {
    let data = load(arguments, common, bases, job, Side::Old)?;
    let (adapter, _) = bases.adapter(Side::Old, &job.adapter)?;
    let wrong = |error: lora::LoraError| Failure::input(format!("validation: {error}"));
    let mut validation =
        ValidationLosses::new(bases.loaded()?, &*data.sources.validation, common.seed).map_err(wrong)?;
    let losses = losses_until_clear(&mut validation, &adapter, Vec::new(), usize::MAX, None)?;
    Ok(OldBase { mean: validation.mean(&losses), losses })
}

/// Loads the model of one side for a job, and the job's data in its tokens.
fn load(arguments: &Arguments, common: &Common, bases: &mut Bases<'_>, job: &Job, side: Side) -> Outcome<TaskData> {
    let target = job.task.target(&job.labels)?;
    let request = DataRequest {
        task: job.task,
        target: target.as_ref(),
        data: &job.data,
        validation: &job.validation,
        shape: Shape { sequence: arguments.seq, batch: arguments.batch, seed: common.seed, rows: arguments.rows },
    };
    let tokenizer = bases.tokenizer(side)?;
    let rows = request.rows()?;
    bases.load(side, target.as_ref())?;
    request.batches(rows, &tokenizer, bases.loaded()?.positions())
}

/// Data in tokens of the new base, and the job that it was read for.
struct AtHand {
    job: Job,
    data: Rc<TaskData>,
}

impl AtHand {
    fn serves(&self, other: &Job) -> bool {
        let reads = |job: &Job| (job.task, job.labels.clone(), job.data.clone(), job.validation.clone());
        reads(&self.job) == reads(other)
    }
}

fn restore(
    arguments: &Arguments,
    common: &Common,
    bases: &mut Bases<'_>,
    job: &Job,
    old_base: Option<&OldBase>,
    at_hand: &mut Option<AtHand>,
    output: &Output,
) -> Outcome<Value> {
    let identity = identity(arguments, common, bases, job)?;
    let data = match at_hand.take().filter(|known| known.serves(job)) {
        Some(known) => known.data,
        None => Rc::new(load(arguments, common, bases, job, Side::New)?),
    };
    *at_hand = Some(AtHand { job: job.clone(), data: Rc::clone(&data) });
    Restoration { arguments, common, output, bases, job, data, old_base }.run(&identity)
}

/// The table, the report of the whole run, and the exit code.
fn conclude(
    arguments: &Arguments,
    jobs: &[Job],
    results: Vec<Option<Outcome<Value>>>,
    output: &Output,
) -> Outcome<ExitCode> {
    let (rows, mut failures) = sorted(jobs, results);
    if jobs.len() == 1
        && let Some(failure) = failures.pop()
    {
        return Err(failure);
    }
    output.say(format!("\n{}", report::summary(&rows)));
    for (name, report) in &rows {
        for remark in report["remarks"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            output.say(format!("{name}: {remark}"));
        }
    }
    let adapters: Vec<Value> = rows
        .iter()
        .map(|(name, report)| {
            let mut report = report.clone();
            report["adapter"] = json!(name);
            report
        })
        .collect();
    let summary = json!({ "command": "restore", "out": arguments.out, "adapters": adapters });
    if jobs.len() > 1 {
        write_whole(&arguments.out.join("report.json"), format!("{summary:#}\n").as_bytes()).map_err(lora_failure)?;
    }
    output.result(&summary);
    let missed = missed_targets(arguments, jobs, &rows, output);
    if missed || !failures.is_empty() {
        return Ok(ExitCode::from(1));
    }
    output.say(format!("adapters: {}", arguments.out.display()));
    Ok(ExitCode::SUCCESS)
}

/// Each adapter's name and report, a failure being one too; and the failures.
fn sorted(jobs: &[Job], results: Vec<Option<Outcome<Value>>>) -> (Vec<(String, Value)>, Vec<Failure>) {
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    for (job, result) in jobs.iter().zip(results) {
        match result {
            Some(Ok(mut report)) => {
                report["out"] = json!(job.out);
                rows.push((job.name.clone(), report));
            }
            Some(Err(failure)) => {
                rows.push((job.name.clone(), json!({ "outcome": "failed", "error": failure.to_string() })));
                failures.push(failure);
            }
            // Every job was checked, and restored unless that failed.
            None => rows.push((job.name.clone(), json!({ "outcome": "not reached" }))),
        }
    }
    (rows, failures)
}

/// Names the adapters whose target was asked for by number or as the end, and was not reached: work that was not done.
fn missed_targets(arguments: &Arguments, jobs: &[Job], rows: &[(String, Value)], output: &Output) -> bool {
    let mut missed = false;
    for (job, (_, report)) in jobs.iter().zip(rows) {
        let asked = arguments.stop_at_target || matches!(job.target, Target::Loss(_));
        if asked && report["outcome"] == "target missed" {
            missed = true;
            output.say(format!(
                "{}: the target was not reached within {} steps; the best adapter is in {}",
                job.name,
                arguments.steps,
                job.out.display()
            ));
        }
    }
    missed
}
