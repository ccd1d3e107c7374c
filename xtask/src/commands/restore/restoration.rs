//! One adapter's turn: gate, evolution, search, training; and what is kept on disk between them, so that an interrupted
//! run goes on where it was.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use lora::{AdapterOrigin, AdapterSet, Base, Best, Provenance, Regulariser, Unchanged, WEIGHTS_FILE, write_whole};
use models::Side;
use relora::{
    AnchoredRegulariser, DataAmount, Evolution, EvolutionCache, EvolutionOptions, Fusion, Objective,
    RegularisationSchedule, UNCHANGED, fill_idle_directions, strong_regularisation,
};
use serde_json::{Value, json};

use super::OldBase;
use super::arguments::{Arguments, Method, Regularisation, Target};
use super::bases::{Bases, SideWeights};
use super::jobs::Job;
use super::objective::ValidationLosses;
use super::report::{self, Report, Stages};
use super::search::{self, Found, losses_until_clear};
use super::training::{Ready, Training, WORK};
use crate::Common;
use crate::failure::{Failure, Outcome};
use crate::identity::fingerprint;
use crate::inputs::TaskData;
use crate::loading::{Loaded, lora_failure};
use crate::output::Output;

/// The report of a finished adapter, inside its directory.
const REPORT_FILE: &str = "restore.json";

/// The adapter that training starts from, and how it was found.
const START: &str = "start";
const START_FILE: &str = "start.json";

/// One adapter's turn.
pub struct Restoration<'a> {
    pub arguments: &'a Arguments,
    pub common: &'a Common,
    pub output: &'a Output,
    pub bases: &'a Bases<'a>,
    pub job: &'a Job,
    pub data: Rc<TaskData>,
    /// The old adapter on the old base, where that was measured.
    pub old_base: Option<&'a OldBase>,
}

/// What training starts from.
struct Start {
    adapters: AdapterSet,
    /// Its losses on the first validation examples, as far as they are known; the same of the old adapter.
    losses: Vec<f64>,
    reuse_losses: Vec<f64>,
    report: Report,
}

/// What a run with the same settings would do again, to know whether its files can be used.
pub fn identity(arguments: &Arguments, common: &Common, bases: &Bases<'_>, job: &Job) -> Outcome<Value> {
    let path = job.adapter.join(WEIGHTS_FILE);
    let adapter = fingerprint(&path).map_err(|error| Failure::input(format!("{}: {error}", path.display())))?;
    let settings = format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        job.task,
        job.labels,
        job.data,
        job.validation,
        job.target,
        arguments.dtype,
        arguments.gradient_method,
        arguments.search,
        arguments.regularisation,
        arguments.trust_radius
    );
    Ok(json!({
        "old": bases.old.contents, "new": bases.new.contents, "adapter": adapter,
        "settings": settings, "method": arguments.method.name(), "seed": common.seed,
        "tolerance": arguments.tolerance, "stop_at_target": arguments.stop_at_target, "steps": arguments.steps,
        "lr": arguments.lr, "warmup": arguments.warmup, "clip": arguments.clip, "batch": arguments.batch,
        "seq": arguments.seq, "eval_every": arguments.eval_every, "evolution_ranks": arguments.evolution_ranks,
    }))
}

/// The report of an adapter that an earlier run with the same settings finished.
pub fn finished(job: &Job, identity: &Value) -> Option<Value> {
    if !job.out.join(WEIGHTS_FILE).exists() {
        return None;
    }
    read(&job.out.join(REPORT_FILE), identity)
}

/// Whether an earlier run with the same settings was interrupted here.
pub fn under_way(job: &Job, identity: &Value) -> bool {
    read(&job.out.join(START_FILE), identity).is_some()
}

fn read(file: &Path, identity: &Value) -> Option<Value> {
    let mut value: Value = serde_json::from_str(&std::fs::read_to_string(file).ok()?).ok()?;
    (value["identity"] == *identity).then(|| value["report"].take())
}

impl Restoration<'_> {
    /// Restores the adapter and writes it.
    ///
    /// # Errors
    /// [`Failure::Interrupted`], files that are wrong, or what fails on the way; the old adapter is untouched.
    pub fn run(self, identity: &Value) -> Outcome<Value> {
        let loaded = self.bases.loaded()?;
        let (old, origin) = self.bases.adapter(Side::New, &self.job.adapter)?;
        let origin = AdapterOrigin {
            base_model: Some(crate::hub::base_name(&self.arguments.new_model)),
            task_type: origin.task_type,
            provenance: Some(self.provenance(identity)?),
        };
        let target = self.target();
        if !self.arguments.resume {
            self.clean(&[START_FILE, REPORT_FILE])?;
        }
        let mut start = match self.resumed_start(identity, loaded)? {
            Some(start) => start,
            None => self.start(&old, loaded, target, &origin, identity)?,
        };
        start.report.remarks = report::carried_over(&old, &self.bases.update);
        start.report.remarks.extend(self.bases.check_origin(&self.job.adapter)?);
        let (result, mut report) = self.train(start, old, target, &origin, loaded)?;
        result.save(&self.job.out, &origin).map_err(lora_failure)?;
        report.metrics = self.data.judge.score(loaded, Some(&result), self.output)?;
        let report = report.json();
        self.write(REPORT_FILE, identity, &report)?;
        self.clean(&[START_FILE])?;
        Ok(report)
    }

    /// What is written beside the result.
    fn provenance(&self, identity: &Value) -> Outcome<Provenance> {
        let settings = identity.as_object().cloned().unwrap_or_default();
        let data = [&self.job.data[..], &self.job.validation].concat();
        let (base, device) = (Some(self.bases.new.clone()), self.bases.device());
        crate::identity::provenance(base, "restore", device, self.common.seed, &data, settings)
    }

    fn target(&self) -> Option<f64> {
        match self.job.target {
            Target::None => None,
            Target::Loss(loss) => Some(loss),
            Target::Parity => self.old_base.map(|old| old.mean + self.arguments.tolerance * old.mean.abs()),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.job.out.join(name)
    }

    fn write(&self, name: &str, identity: &Value, report: &Value) -> Outcome<()> {
        let text = format!("{:#}\n", json!({ "identity": identity, "report": report }));
        write_whole(&self.path(name), text.as_bytes()).map_err(lora_failure)
    }

    /// Removes what belongs to a run under way.
    fn clean(&self, files: &[&str]) -> Outcome<()> {
        let gone = |result: std::io::Result<()>, path: &Path| match result {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Failure::input(format!("{}: {error}", path.display())))
            }
            _ => Ok(()),
        };
        for name in files {
            gone(std::fs::remove_file(self.path(name)), &self.path(name))?;
        }
        for name in [START, WORK] {
            gone(std::fs::remove_dir_all(self.path(name)), &self.path(name))?;
        }
        Ok(())
    }

    /// The start that an interrupted run with the same settings had found.
    fn resumed_start(&self, identity: &Value, loaded: &Loaded) -> Outcome<Option<Start>> {
        if !self.arguments.resume {
            return Ok(None);
        }
        let Some(known) = read(&self.path(START_FILE), identity) else {
            self.clean(&[START_FILE])?;
            return Ok(None);
        };
        let model = loaded.model();
        let (adapters, _) =
            AdapterSet::load(&self.path(START), Base::of(model), model.device()).map_err(lora_failure)?;
        self.output.say("going on from the start that was found before");
        let number = |name: &str| known[name].as_f64();
        let ready = known["ready_step"].as_u64().zip(number("ready_seconds"));
        let report = Report {
            method: self.arguments.method.name(),
            old_base_loss: number("old_base_loss"),
            reuse_loss: number("reuse_loss"),
            start_loss: number("start_loss"),
            target: number("target"),
            ready: ready.map(|(step, seconds)| Ready { step, seconds }),
            alpha: number("alpha"),
            beta: number("beta"),
            relative_size: number("relative_size"),
            stages: Stages::from_json(&known["seconds"]),
            gate_examples: known["gate_examples"].as_u64().unwrap_or(0) as usize,
            search_examples: known["search_examples"].as_u64().unwrap_or(0) as usize,
            search: known["search"].clone(),
            ..Report::default()
        };
        Ok(Some(Start { adapters, losses: Vec::new(), reuse_losses: Vec::new(), report }))
    }

    /// Gate and search: everything before training.
    fn start(
        &self,
        old: &AdapterSet,
        loaded: &Loaded,
        target: Option<f64>,
        origin: &AdapterOrigin,
        identity: &Value,
    ) -> Outcome<Start> {
        let method = self.arguments.method;
        let clock = Instant::now();
        let mut report = Report {
            method: method.name(),
            old_base_loss: self.old_base.map(|old| old.mean),
            target,
            search: Value::Null,
            ..Report::default()
        };
        let mut losses = self.validation(loaded)?;
        // Retraining asks nothing of the old adapter.
        let known = if method == Method::Retrain { Vec::new() } else { self.gate(old, &mut losses, &mut report)? };
        let enough = report.ready.is_some() && self.arguments.stop_at_target;
        let other = match method {
            Method::Retrain => {
                let (config, base) = (old.config().clone(), Base::of(loaded.model()));
                let fresh = AdapterSet::new(config, base, loaded.model().device(), self.common.seed);
                Some((fresh.map_err(lora_failure)?, Vec::new()))
            }
            _ if method.fuses() && !enough => self.fused(old, &mut losses, &known, &mut report)?,
            _ => None,
        };
        let fused = other.is_some() && method.fuses();
        let (adapters, start_losses) = match other {
            Some((fresh, _)) if !fused => (fresh, Vec::new()),
            Some((fused, seen)) => {
                let least = seen.len().max(self.first_look());
                let seen = losses_until_clear(&mut losses, &fused, seen, least, target)?;
                (fused, seen)
            }
            None => (old.clone(), known.clone()),
        };
        report.start_loss = (!start_losses.is_empty()).then(|| losses.mean(&start_losses));
        if let (Some(loss), true) = (report.start_loss, fused) {
            let coefficients = match (report.alpha, report.beta) {
                (Some(alpha), Some(beta)) => format!(" at alpha {alpha:.3}, beta {beta:.3}"),
                _ => String::new(),
            };
            self.output.say(format!("start{coefficients}: validation loss {loss:.4}"));
        }
        let met = target.zip(report.start_loss).is_some_and(|(target, loss)| loss <= target);
        if met && report.ready.is_none() {
            report.ready = Some(Ready { step: 0, seconds: clock.elapsed().as_secs_f64() });
        }
        let spent = report.stages.gate + report.stages.evolution + report.stages.search;
        report.stages.search += clock.elapsed().saturating_sub(spent);
        adapters.save(&self.path(START), origin).map_err(lora_failure)?;
        self.write(START_FILE, identity, &report.json())?;
        Ok(Start { adapters, losses: start_losses, reuse_losses: known, report })
    }

    /// Examples after which it is asked for the first time whether a target is met. Without one an adapter is measured on as
    /// many as candidates are.
    fn first_look(&self) -> usize {
        if self.target().is_some() { self.arguments.first_look() } else { self.arguments.examples().0 }
    }

    /// The old adapter's losses, as many as it takes to know whether it meets the target.
    fn gate(&self, old: &AdapterSet, losses: &mut ValidationLosses<'_>, report: &mut Report) -> Outcome<Vec<f64>> {
        let clock = Instant::now();
        let known = losses_until_clear(losses, old, Vec::new(), self.first_look(), report.target)?;
        let reuse = losses.mean(&known);
        self.output.say(format!(
            "the old adapter on the new base: validation loss {reuse:.4} on {} of {} examples",
            known.len(),
            losses.examples()
        ));
        (report.reuse_loss, report.gate_examples) = (Some(reuse), known.len());
        report.stages.gate = clock.elapsed();
        if report.target.is_some_and(|target| reuse <= target) {
            report.ready = Some(Ready { step: 0, seconds: clock.elapsed().as_secs_f64() });
            self.output.say("it meets the target as it is");
        }
        Ok(known)
    }

    fn validation<'l>(&'l self, loaded: &'l Loaded) -> Outcome<ValidationLosses<'l>> {
        let validation = ValidationLosses::new(loaded, &*self.data.sources.validation, self.common.seed)
            .map_err(|error| Failure::input(format!("validation: {error}")))?;
        Ok(validation.with_reference(self.old_base.map(|old| old.losses.as_slice())))
    }

    /// The base's evolution, and the start that comes of it; none where the old adapter stays.
    fn fused(
        &self,
        old: &AdapterSet,
        losses: &mut ValidationLosses<'_>,
        reuse: &[f64],
        report: &mut Report,
    ) -> Outcome<Option<(AdapterSet, Vec<f64>)>> {
        let clock = Instant::now();
        let evolution = self.evolution(old)?;
        report.stages.evolution = clock.elapsed();
        report.relative_size = Some(evolution.relative_size());
        self.output.say(format!("the adapted weights changed by ‖E‖/‖W‖ = {:.2e}", evolution.relative_size()));
        if evolution.relative_size() < UNCHANGED && self.arguments.method.searches() {
            self.output.say("the adapted weights did not change; the old adapter stays");
            return Ok(None);
        }
        let fusion = Fusion::new(old, &evolution).map_err(lora_failure)?;
        let clock = Instant::now();
        let (alpha, beta, fused) = match self.arguments.method.searches() {
            false => (Some(1.0), Some(-1.0), None),
            true => {
                let Found { alpha, beta, adapters, losses, forward_passes, details } =
                    search::search(self.arguments, self.common.seed, old, losses, &fusion, reuse, report.target)?;
                report.search_examples = forward_passes;
                report.search = details;
                (alpha, beta, Some((adapters, losses)))
            }
        };
        let (fused, losses) = match fused {
            Some(fused) => fused,
            None => (fusion.at(1.0, -1.0).map_err(lora_failure)?, Vec::new()),
        };
        report.stages.search = clock.elapsed();
        (report.alpha, report.beta) = (alpha, beta);
        Ok(Some((fill_idle_directions(&fused, self.common.seed).map_err(lora_failure)?, losses)))
    }

    fn evolution(&self, old: &AdapterSet) -> Outcome<Evolution> {
        let Bases { update, old: before, new: after, .. } = self.bases;
        let directory = self.arguments.evolution_cache.clone();
        let directory = directory.unwrap_or_else(|| self.arguments.out.join("evolution"));
        let cache = EvolutionCache::new(&directory, &before.contents, &after.contents);
        let options =
            EvolutionOptions { ranks_per_adapter_rank: self.arguments.evolution_ranks, seed: self.common.seed };
        let (before, after) = (SideWeights(update, Side::Old), SideWeights(update, Side::New));
        Evolution::measure(old, &before, &after, &options, Some(&cache), self.bases.device()).map_err(lora_failure)
    }

    /// Training, where the method has it and something is left to do; returns the best adapter of all.
    fn train(
        &self,
        start: Start,
        old: AdapterSet,
        target: Option<f64>,
        origin: &AdapterOrigin,
        loaded: &Loaded,
    ) -> Outcome<(AdapterSet, Report)> {
        let Start { adapters: start, losses, reuse_losses, mut report } = start;
        let spent = report.stages.total();
        let clock = Instant::now().checked_sub(spent).unwrap_or_else(Instant::now);
        let enough = report.ready.is_some() && self.arguments.stop_at_target;
        let mut best = None;
        if self.arguments.method.trains() && self.arguments.steps > 0 && !enough {
            let training = Training {
                arguments: self.arguments,
                common: self.common,
                output: self.output,
                model: loaded.model(),
                sources: &self.data.sources,
                out: &self.job.out,
                origin,
                of_tokens: matches!(loaded, Loaded::Language(_)),
                target,
                clock,
            };
            let begun = Instant::now();
            let (trained, ready) = training.run(start.clone(), self.regulariser(&start)?)?;
            report.stages.training = begun.elapsed();
            report.steps = trained.steps;
            report.training = json!(trained.method.iter().cloned().collect::<std::collections::BTreeMap<_, _>>());
            report.ready = report.ready.or(ready);
            best = trained.best;
        }
        let start = Start { adapters: start, losses, reuse_losses, report };
        self.judge(start, old, best, loaded)
    }

    /// Completes what was only estimated while somebody waited for the adapter, and takes the best one.
    fn judge(
        &self,
        start: Start,
        old: AdapterSet,
        best: Option<Best>,
        loaded: &Loaded,
    ) -> Outcome<(AdapterSet, Report)> {
        let Start { adapters: start, losses, reuse_losses, mut report } = start;
        let method = self.arguments.method;
        let mut validation = self.validation(loaded)?;
        let clock = Instant::now();
        let mut complete = |adapters: &AdapterSet, known: Vec<f64>| -> Outcome<f64> {
            let losses = losses_until_clear(&mut validation, adapters, known, usize::MAX, None)?;
            Ok(validation.mean(&losses))
        };
        report.start_loss = Some(complete(&start, losses)?);
        let is_start = method.keeps_the_old_adapter();
        report.reuse_loss = if is_start { report.start_loss } else { Some(complete(&old, reuse_losses)?) };
        if report.relative_size.is_some() {
            let (text, numbers) = report::evolution(&self.evolution(&old)?, &old)?;
            report.evolution = numbers;
            self.output.say(format!("how the base changed:\n{text}"));
        }
        report.stages.judging = clock.elapsed();
        let mut results = vec![("start".to_string(), report.start_loss, start)];
        if method != Method::Retrain {
            results.push(("old adapter".to_string(), report.reuse_loss, old));
        }
        results.extend(best.map(|best| (format!("step {}", best.step), Some(best.loss), best.adapters)));
        let of = |loss: &Option<f64>| loss.filter(|loss| loss.is_finite()).unwrap_or(f64::INFINITY);
        // The first of equals: the earlier, the less was changed.
        let best = results.into_iter().reduce(|best, next| if of(&next.1) < of(&best.1) { next } else { best });
        let (result, loss, adapters) = best.ok_or_else(|| Failure::input("there is no result"))?;
        self.output.say(format!("result: {result}, validation loss {:.4}", loss.unwrap_or(f64::NAN)));
        (report.result, report.final_loss) = (result, loss);
        Ok((adapters, report))
    }

    /// What holds training to its start.
    fn regulariser(&self, start: &AdapterSet) -> Outcome<Box<dyn Regulariser>> {
        let steps = self.arguments.steps;
        if self.arguments.method != Method::Relora || self.arguments.regularisation == Regularisation::None {
            return Ok(Box::new(Unchanged));
        }
        let high = strong_regularisation(start, self.arguments.trust_radius).map_err(lora_failure)?;
        let schedule = match self.arguments.regularisation {
            Regularisation::Cosine => RegularisationSchedule::untuned(high, steps),
            Regularisation::Data => {
                let parameters: usize =
                    start.adapters().map(|adapter| adapter.rank * (adapter.inputs + adapter.outputs)).sum();
                let amount = DataAmount::of(self.data.sources.training_tokens as u64, parameters as u64);
                RegularisationSchedule::two_phases(high, amount, steps)
            }
            Regularisation::None => Ok(RegularisationSchedule::none()),
        };
        let regulariser = AnchoredRegulariser::new(schedule.map_err(lora_failure)?, start).map_err(lora_failure)?;
        Ok(Box::new(regulariser))
    }
}
