//! The last stage: training from the start that was chosen, to the target or to the end of the budget.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use autograd::{AdamW, AdamWConfig};
use lora::{
    AdapterOrigin, AdapterSet, EvaluationReport, Length, MetricsWriter, Model, Observer, Outcome as Trained,
    Regulariser, Trainer, TrainingOptions, latest_checkpoint, write_whole,
};
use reflora::MethodOptions;
use serde_json::json;

use super::super::finetune::Progress;
use super::arguments::{Arguments, Method};
use crate::Common;
use crate::data::Sources;
use crate::failure::{Failure, Outcome};
use crate::interrupt;
use crate::loading::lora_failure;
use crate::output::Output;

/// When an adapter first met its target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ready {
    /// Steps of training before.
    pub step: u64,
    /// Seconds since the adapter's turn came.
    pub seconds: f64,
}

/// What training needs besides the adapters it starts from.
pub struct Training<'a> {
    pub arguments: &'a Arguments,
    pub common: &'a Common,
    pub output: &'a Output,
    pub model: &'a dyn Model,
    pub sources: &'a Sources,
    /// The job's directory.
    pub out: &'a Path,
    pub origin: &'a AdapterOrigin,
    /// Losses are those of tokens.
    pub of_tokens: bool,
    /// The validation loss to reach.
    pub target: Option<f64>,
    /// Begin of the adapter's turn, moved back by what an interrupted run had spent.
    pub clock: Instant,
}

/// The directory of checkpoints and of the best adapter so far, inside the job's; gone when the job is done.
pub const WORK: &str = "training";

const READY_FILE: &str = "ready.json";

impl Training<'_> {
    /// Trains. The second result tells when the target was met during training.
    ///
    /// # Errors
    /// [`Failure::Interrupted`] after saving a checkpoint; errors of the data, the model and the files.
    pub fn run(&self, start: AdapterSet, regulariser: Box<dyn Regulariser>) -> Outcome<(Trained, Option<Ready>)> {
        let work = self.out.join(WORK);
        let steps = self.arguments.steps;
        let options = TrainingOptions {
            max_gradient_norm: (self.arguments.clip != 0.0).then_some(self.arguments.clip),
            evaluate_every: Some(self.arguments.eval_every.unwrap_or(steps.div_ceil(10).max(1))),
            save_every: self.arguments.save_every,
            seed: self.common.seed,
            output: Some(work.clone()),
            origin: self.origin.clone(),
            ..TrainingOptions::new(Length::Steps(steps), self.arguments.learning_rates())
        };
        options.validate().map_err(lora_failure)?;
        let usual = MethodOptions::default();
        // A fresh adapter has to warm up; in all others both factors are there from the beginning.
        let warmup_steps = if self.arguments.method == Method::Retrain { usual.warmup_steps } else { 0 };
        let options_of_method = MethodOptions { warmup_steps, ..usual };
        let transform = self.arguments.gradient_method.transform(&options_of_method).map_err(lora_failure)?;
        let optimizer = AdamW::new(AdamWConfig { weight_decay: 0.0, ..AdamWConfig::default() });
        let trainer = Trainer::new(self.model, start, optimizer, options).map_err(lora_failure)?;
        let mut trainer = trainer.with_transform(transform).with_regulariser(regulariser);
        let checkpoint = match self.arguments.resume {
            true => latest_checkpoint(&work).map_err(lora_failure)?,
            false => None,
        };
        let (metrics, known) = (self.out.join("metrics.jsonl"), work.join(READY_FILE));
        let (metrics, met) = match checkpoint {
            Some(checkpoint) => {
                trainer.resume(&checkpoint).map_err(lora_failure)?;
                self.output.say(format!("resuming after step {}", trainer.steps_done()));
                (MetricsWriter::resume(&metrics, trainer.steps_done()), read_ready(&known))
            }
            None => (MetricsWriter::create(&metrics), None),
        };
        let ready = Rc::new(Cell::new(met.filter(|ready| ready.step <= trainer.steps_done())));
        let watch = Watch {
            target: self.target,
            stops: self.arguments.stop_at_target,
            clock: self.clock,
            ready: ready.clone(),
            file: &known,
        };
        let progress = Progress::new(self.output, steps, trainer.steps_done(), self.of_tokens);
        let trainer =
            trainer.with_observer(metrics.map_err(lora_failure)?).with_observer(watch).with_observer(progress);
        let trained = trainer.run(&*self.sources.training, Some(&*self.sources.validation)).map_err(lora_failure)?;
        if trained.stopped && interrupt::requested() {
            return Err(Failure::Interrupted(format!(
                "interrupted after step {} of {steps}; a checkpoint is in {}, and --resume goes on",
                trained.steps,
                work.display()
            )));
        }
        Ok((trained, ready.get()))
    }
}

fn read_ready(file: &Path) -> Option<Ready> {
    let value: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).ok()?).ok()?;
    Some(Ready { step: value["step"].as_u64()?, seconds: value["seconds"].as_f64()? })
}

/// Notes when the target is met, and ends the run there if asked.
struct Watch<'a> {
    target: Option<f64>,
    stops: bool,
    clock: Instant,
    ready: Rc<Cell<Option<Ready>>>,
    file: &'a Path,
}

impl Observer for Watch<'_> {
    fn on_evaluation(&mut self, report: &EvaluationReport) -> lora::Result<()> {
        if self.ready.get().is_none() && self.target.is_some_and(|target| report.loss <= target) {
            let ready = Ready { step: report.step, seconds: self.clock.elapsed().as_secs_f64() };
            self.ready.set(Some(ready));
            // For a run that is interrupted later.
            let text = json!({ "step": ready.step, "seconds": ready.seconds }).to_string();
            write_whole(self.file, text.as_bytes())?;
        }
        Ok(())
    }

    fn should_stop(&mut self) -> bool {
        self.stops && self.ready.get().is_some()
    }
}
