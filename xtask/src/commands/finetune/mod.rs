//! `finetune`: trains a LoRA adapter on a checkpoint and writes it as PEFT files; or the whole model.

mod arguments;
mod full;
mod inputs;
mod memory;
mod method;
mod progress;
mod spikes;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::ValueEnum;
use lora::{
    AdapterOrigin, AdapterSet, Base, Evaluation, MetricsWriter, Model, Outcome as Trained, Provenance, Trainer,
    TrainingOptions, WEIGHTS_FILE, evaluate, latest_checkpoint,
};
use models::Checkpoint;
use serde_json::{Value, json};
use tensor::Device;

pub use arguments::{Arguments, Precision, positive};
pub use inputs::{Inputs, read as read_inputs};
pub use method::OptimizerKind;
pub use progress::Progress;

use crate::Common;
use crate::checkpoints;
use crate::data::Sources;
use crate::data::task::Task;
use crate::failure::{Failure, Outcome};
use crate::hub;
use crate::identity;
use crate::interrupt;
use crate::loading::{self, lora_failure, model_failure};
use crate::output::{Output, bytes};

/// Evaluations over a run when nothing is said.
const EVALUATIONS: u64 = 4;

pub fn run(arguments: &Arguments, common: &Common, output: &Output) -> Outcome<ExitCode> {
    interrupt::watch();
    check_output(arguments)?;
    let arguments = &full::with_own_tokenizer(arguments, output)?;
    let device = common.open_device(output)?;
    let Inputs { loaded, sources, judge } = inputs::read(arguments, common, &device, output)?;
    let model = loaded.model();
    let (adapters, task_type) = starting_point(arguments, common, model, output)?;
    let provenance = provenance(arguments, common, &device)?;
    let base_model = Some(hub::base_name(&arguments.model));
    let origin = AdapterOrigin { base_model, task_type, provenance: Some(provenance) };
    describe(&adapters, &sources, arguments.seq, output);

    let options = training_options(arguments, common, &sources, &origin)?;

    prepare_directory(&arguments.out)?;
    let started = Instant::now();
    let before = match arguments.resume {
        true => None,
        false => Some(evaluate(model, Some(&adapters), &*sources.validation).map_err(lora_failure)?),
    };
    if let Some(Evaluation { loss, .. }) = &before {
        output.say(format!("validation loss before training: {loss:.4}"));
    }
    let (trained, steps) = train(arguments, options, model, adapters, &sources, output)?;
    match arguments.full.full {
        true => full::write(arguments, &trained)?,
        false => trained.adapters.save(&arguments.out, &origin).map_err(lora_failure)?,
    }
    let scores = judge.score(&loaded, Some(&trained.adapters), output)?;
    let report = json!({
        "command": "finetune", "task": arguments.task.to_possible_value().map(|task| task.get_name().to_string()),
        "metrics": scores, "method": arguments.method.method.name(), "validation_loss_before": before.map(|evaluation| evaluation.loss),
    });
    conclude(arguments, &trained, steps, report, started, model, output)
}

/// Refuses to write over an adapter or a checkpoint, before any work is done.
fn check_output(arguments: &Arguments) -> Outcome<()> {
    let out = &arguments.out;
    if out.exists() && !out.is_dir() {
        return Err(Failure::input(format!("--out {}: this is a file, not a directory", out.display())));
    }
    let same = |a: &Path, b: &Path| matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b);
    if arguments.full.full && same(&arguments.model, out) {
        return Err(Failure::input("--out: must be another directory than --model"));
    }
    let under_way = latest_checkpoint(out).map_err(lora_failure)?;
    let occupied =
        finished(arguments).or(under_way.as_deref().and_then(|path| Some(path.file_name()?.to_string_lossy())));
    if let (Some(file), false, false) = (occupied, arguments.overwrite, arguments.resume) {
        return Err(Failure::input(format!(
            "--out {}: {file} is already there; choose another directory, or --overwrite, or --resume",
            out.display()
        )));
    }
    Ok(())
}

/// The file of weights that a run which came to its end left in --out.
fn finished(arguments: &Arguments) -> Option<Cow<'static, str>> {
    let files: &[&str] = if arguments.full.full { &checkpoints::WEIGHTS } else { &[WEIGHTS_FILE] };
    files.iter().find(|name| arguments.out.join(name).exists()).map(|&name| name.into())
}

/// What is written beside the result: the base, unless it is made from nothing, and the run.
fn provenance(arguments: &Arguments, common: &Common, device: &Device) -> Outcome<Provenance> {
    let base = match arguments.full.from_scratch {
        true => None,
        false => Some(Checkpoint::open(&arguments.model).and_then(|base| base.identity()).map_err(model_failure)?),
    };
    // By way of text, since a value would hold 0.02 as 0.019999999552965164.
    let mut settings: serde_json::Map<String, Value> = serde_json::from_str(&serde_json::to_string(arguments)?)?;
    if let Some(directory) = &arguments.init_adapter {
        settings.insert("init_adapter".into(), json!(directory));
    }
    let data = [&arguments.data[..], &arguments.validation].concat();
    identity::provenance(base, "finetune", device, common.seed, &data, settings)
}

/// The adapters that training begins with, and PEFT's word for their task.
fn starting_point(
    arguments: &Arguments,
    common: &Common,
    model: &dyn Model,
    output: &Output,
) -> Outcome<(AdapterSet, Option<String>)> {
    if arguments.full.full {
        let set = AdapterSet::full(Base::of(model), model.device()).map_err(lora_failure)?;
        return Ok((set, None));
    }
    // PEFT has no word for masked language models.
    let task_type = match arguments.task {
        Task::MaskedLm => None,
        task => Some(if task.is_language() { "CAUSAL_LM" } else { "SEQ_CLS" }.to_string()),
    };
    if let Some(directory) = &arguments.init_adapter {
        arguments.base_check.check(directory, &arguments.model, output)?;
        let (mut adapters, _) = loading::adapter(directory, model, output)?;
        adapters.set_dropout(arguments.dropout).map_err(lora_failure)?;
        return Ok((adapters, task_type));
    }
    let config = arguments.lora_config(&model.savable_modules());
    let mut adapters = AdapterSet::new(config, Base::of(model), model.device(), common.seed).map_err(lora_failure)?;
    if arguments.init_lora_weights.is_none() && arguments.method.starts_from_random_factors() {
        adapters.subtract_initial_product().map_err(lora_failure)?;
    }
    Ok((adapters, task_type))
}

fn describe(adapters: &AdapterSet, sources: &Sources, sequence: usize, output: &Output) {
    let trainable: usize = adapters.parameters().iter().map(|(_, tensor)| tensor.elements()).sum();
    output.say(match adapters.is_full() {
        true => format!("every parameter is trained: {trainable}"),
        false => {
            let (rank, modules) = (adapters.config().rank, adapters.adapters().len());
            format!("adapter: rank {rank}, {modules} modules, {trainable} trainable parameters")
        }
    });
    output.say(format!(
        "data: {} tokens for training, {} for validation",
        sources.training_tokens, sources.validation_tokens
    ));
    for (what, cut) in [("training", sources.training_cut), ("validation", sources.validation_cut)] {
        cut.warning(what, sequence).iter().for_each(|warning| output.say(warning));
    }
}

/// The directory exists and can be written to: better known now than after training.
fn prepare_directory(out: &Path) -> Outcome<()> {
    let refused = |error: std::io::Error| Failure::input(format!("--out {}: {error}", out.display()));
    std::fs::create_dir_all(out).map_err(refused)?;
    tempfile::tempfile_in(out).map_err(refused)?;
    Ok(())
}

/// The library's settings for these arguments.
fn training_options(
    arguments: &Arguments,
    common: &Common,
    sources: &Sources,
    origin: &AdapterOrigin,
) -> Outcome<TrainingOptions> {
    let mut options = TrainingOptions::new(arguments.length(), autograd::Schedule::constant(arguments.lr));
    options.gradient_accumulation = arguments.grad_accumulation;
    let steps = options.steps(&*sources.training);
    options.schedule = arguments.learning_rates(steps);
    options.max_gradient_norm = (arguments.clip != 0.0).then_some(arguments.clip);
    options.keep_activations = arguments.keep_activations;
    options.evaluate_every = Some(arguments.eval_every.unwrap_or(steps.div_ceil(EVALUATIONS).max(1)));
    options.save_every = arguments.save_every;
    options.on_nonfinite = arguments.on_nonfinite.into();
    options.seed = common.seed;
    options.output = Some(arguments.out.clone());
    options.origin = origin.clone();
    options.validate().map_err(lora_failure)?;
    Ok(options)
}

fn train(
    arguments: &Arguments,
    options: TrainingOptions,
    model: &dyn Model,
    adapters: AdapterSet,
    sources: &Sources,
    output: &Output,
) -> Outcome<(Trained, u64)> {
    let steps = options.steps(&*sources.training);
    let mut optimizer = arguments.method.optimizer.build(arguments.weight_decay);
    if adapters.is_full() {
        let vectors = adapters.parameters().iter().filter(|(_, parameter)| parameter.rank() < 2);
        vectors.for_each(|(name, _)| optimizer.exempt_from_decay(name));
    }
    let transform = arguments.method.transform(&arguments.out, arguments.resume)?;
    let trainer = Trainer::new(model, adapters, optimizer, options).map_err(lora_failure)?;
    let mut trainer = trainer.with_transform(transform);
    let metrics = arguments.out.join("metrics.jsonl");
    let metrics = match checkpoint_to_resume(arguments, output)? {
        Some(checkpoint) => {
            trainer.resume(&checkpoint).map_err(lora_failure)?;
            output.say(format!("resuming after step {}", trainer.steps_done()));
            MetricsWriter::resume(&metrics, trainer.steps_done())
        }
        None => MetricsWriter::create(&metrics),
    };
    memory::check(&trainer, &*sources.training, model.device(), arguments, output)?;
    let progress = Progress::new(output, steps, trainer.steps_done(), arguments.task.is_language());
    let trainer = trainer.with_observer(metrics.map_err(lora_failure)?).with_observer(progress);
    let trained = trainer.run(&*sources.training, Some(&*sources.validation)).map_err(lora_failure)?;
    Ok((trained, steps))
}

/// The checkpoint that --resume goes on from. A run that was ended before its first one begins again.
fn checkpoint_to_resume(arguments: &Arguments, output: &Output) -> Outcome<Option<PathBuf>> {
    if !arguments.resume {
        return Ok(None);
    }
    let out = arguments.out.display();
    let checkpoint = latest_checkpoint(&arguments.out).map_err(lora_failure)?;
    match (&checkpoint, finished(arguments)) {
        (None, Some(file)) if !arguments.overwrite => Err(Failure::input(format!(
            "--resume: {out} has {file} but no checkpoint to go on from; choose another directory, or --overwrite"
        ))),
        (None, _) => {
            output.say(format!("--resume: {out} holds no checkpoint yet; beginning at the first step"));
            Ok(None)
        }
        (Some(_), _) => Ok(checkpoint),
    }
}

fn conclude(
    arguments: &Arguments,
    trained: &Trained,
    steps: u64,
    mut report: Value,
    started: Instant,
    model: &dyn Model,
    output: &Output,
) -> Outcome<ExitCode> {
    let seconds = started.elapsed().as_secs_f64();
    let out = arguments.out.display();
    let counters = model.device().counters();
    let best = trained.best.as_ref().map(|best| (best.step, best.loss));
    let facts = json!({
        "out": arguments.out, "steps": trained.steps, "stopped": trained.stopped, "skipped_steps": trained.skipped,
        "best_step": best.map(|(step, _)| step), "best_validation_loss": best.map(|(_, loss)| loss),
        "method_report": trained.method.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        "seconds": seconds, "peak_bytes": counters.peak_bytes, "device": model.device().to_string(),
    });
    if let (Some(report), Value::Object(facts)) = (report.as_object_mut(), facts) {
        report.extend(facts);
    }
    let before = report["validation_loss_before"].as_f64();
    output.result(&report);
    if trained.stopped {
        return Err(Failure::Interrupted(format!(
            "interrupted after step {} of {steps}; what is trained so far is in {out}, and --resume goes on",
            trained.steps
        )));
    }
    let change = match (before, best) {
        (Some(before), Some((_, loss))) => format!("; validation loss {before:.4} -> {loss:.4}"),
        _ => String::new(),
    };
    output.say(format!(
        "done: {} steps in {seconds:.1} s{change}; peak memory {}",
        trained.steps,
        bytes(counters.peak_bytes)
    ));
    let kind = if trained.adapters.is_full() { "checkpoint" } else { "adapter" };
    output.say(format!("{kind}: {out}; the one with the lowest validation loss: {out}/best"));
    Ok(ExitCode::SUCCESS)
}
