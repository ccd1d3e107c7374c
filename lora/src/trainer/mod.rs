//! The training loop: [`Trainer::step`] is the step, the rest is data, evaluation, checkpoints and reports.

mod checkpoint;
mod evaluation;
mod guards;
mod hooks;
mod memory;
mod observer;
mod options;
mod pending;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::Path;

use autograd::{Gradients, Optimizer, Tape, clip_by_global_norm, first_non_finite};
use tensor::{Device, Tensor};

use crate::adapter_set::AdapterSet;
use crate::base::Base;
use crate::batch::{BatchSource, HostBatch};
use crate::error::{LoraError, Result};
use crate::forward::{DropoutSource, Forward, Model};
use crate::peft::{TensorFile, write_tensors};
use crate::provenance::Provenance;
pub use checkpoint::latest_checkpoint;
use checkpoint::{
    OPTIMIZER_FILE, Progress, REGULARISER_FILE, TRANSFORM_FILE, remove_checkpoints, remove_leftovers, write_checkpoint,
};
pub use evaluation::{Evaluation, evaluate};
use guards::{FirstGradients, check_all_reached};
pub use guards::{MOST_SKIPPED, OnNonFinite};
pub use hooks::{GradientTransform, Regulariser, Unchanged};
pub use memory::MemoryEstimate;
pub use observer::{CheckpointReport, EvaluationReport, Observer, StepReport};
pub use options::{Length, TrainingOptions};
use pending::{PendingStep, PendingSteps};

/// Trains the adapters of one model.
pub struct Trainer<'a> {
    model: &'a dyn Model,
    adapters: AdapterSet,
    optimizer: Box<dyn Optimizer + 'a>,
    transform: Box<dyn GradientTransform + 'a>,
    regulariser: Box<dyn Regulariser + 'a>,
    observers: Vec<Box<dyn Observer + 'a>>,
    options: TrainingOptions,
    progress: Progress,
    best: Option<AdapterSet>,
    pending: PendingSteps,
    /// Of the first step since the run began or was resumed, until they are looked at.
    first_gradients: Option<FirstGradients>,
    /// Steps in a row whose gradients could not be used.
    skipped_in_a_row: u64,
    /// Whether the transform knows of the run.
    prepared: bool,
}

/// What a run ends with.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The adapters after the last step.
    pub adapters: AdapterSet,
    /// The adapters with the lowest validation loss, and the steps and loss they had; `None` without validation data.
    pub best: Option<Best>,
    /// Steps done.
    pub steps: u64,
    /// Whether an observer ended the run before its end.
    pub stopped: bool,
    /// Steps whose gradients were left out under [`OnNonFinite::Skip`].
    pub skipped: u64,
    /// What the method that changed gradients and the regulariser had to tell, see [`GradientTransform::report`] and
    /// [`Regulariser::report`].
    pub method: Vec<(String, f64)>,
}

/// The adapters with the lowest validation loss of a run.
#[derive(Clone, Debug)]
pub struct Best {
    /// The adapters as they were.
    pub adapters: AdapterSet,
    /// Training steps done before.
    pub step: u64,
    /// The validation loss.
    pub loss: f64,
}

impl<'a> Trainer<'a> {
    /// A run of plain LoRA from its beginning.
    ///
    /// # Errors
    /// [`LoraError::Setting`] for options out of range.
    pub fn new(
        model: &'a dyn Model,
        adapters: AdapterSet,
        optimizer: impl Optimizer + 'a,
        options: TrainingOptions,
    ) -> Result<Self> {
        options.validate()?;
        let progress = Progress {
            seed: options.seed,
            gradient_accumulation: options.gradient_accumulation,
            ..Progress::default()
        };
        Ok(Trainer {
            model,
            adapters,
            optimizer: Box::new(optimizer),
            transform: Box::new(Unchanged),
            regulariser: Box::new(Unchanged),
            observers: Vec::new(),
            options,
            progress,
            best: None,
            pending: PendingSteps::new(),
            first_gradients: None,
            skipped_in_a_row: 0,
            prepared: false,
        })
    }

    /// Sets the method that changes gradients; before [`Trainer::resume`], which reads its state.
    #[must_use]
    pub fn with_transform(self, transform: impl GradientTransform + 'a) -> Self {
        Trainer { transform: Box::new(transform), prepared: false, ..self }
    }

    /// Sets the method that changes factors after the step; before [`Trainer::resume`], which reads its state.
    #[must_use]
    pub fn with_regulariser(self, regulariser: impl Regulariser + 'a) -> Self {
        Trainer { regulariser: Box::new(regulariser), ..self }
    }

    /// Adds one who watches.
    #[must_use]
    pub fn with_observer(mut self, observer: impl Observer + 'a) -> Self {
        self.observers.push(Box::new(observer));
        self
    }

    /// Goes on from a resumable checkpoint: the rest of the run is bit for bit what it would have been.
    ///
    /// # Errors
    /// Files that are missing or belong to a run with other settings.
    pub fn resume(&mut self, checkpoint: &Path) -> Result<()> {
        let progress = Progress::read(checkpoint)?;
        progress.check_same_run(checkpoint, self.options.seed, self.options.gradient_accumulation)?;
        self.check_same_provenance(checkpoint)?;
        let (device, base) = (self.adapters.device().clone(), Base::of(self.model));
        let adapters = self.adapters.load_state(checkpoint, &base)?;
        let path = checkpoint.join(OPTIMIZER_FILE);
        let bytes = fs::read(&path).map_err(|error| LoraError::file(&path, error))?;
        self.optimizer.load_state(TensorFile::parse(&path, &bytes)?.into_tensors(&device)?)?;
        self.prepare_transform()?;
        self.transform.load_state(read_state(&checkpoint.join(TRANSFORM_FILE), &device)?)?;
        self.regulariser.load_state(read_state(&checkpoint.join(REGULARISER_FILE), &device)?)?;
        let best = self.options.output.as_ref().map(|output| output.join(BEST_DIRECTORY));
        self.best = match (progress.best, best) {
            (Some(_), Some(directory)) => Some(self.adapters.load_state(&directory, &base)?),
            _ => None,
        };
        self.adapters = adapters;
        self.progress = progress;
        Ok(())
    }

    fn check_same_provenance(&self, checkpoint: &Path) -> Result<()> {
        let (Some(now), Some(before)) = (&self.options.origin.provenance, Provenance::read(checkpoint)?) else {
            return Ok(());
        };
        let way_out = "resume with the same settings, or begin another run from the adapter in the checkpoint";
        match now.difference(&before) {
            None => Ok(()),
            Some(difference) => Err(LoraError::format(checkpoint, format!("{difference}; {way_out}"))),
        }
    }

    /// Steps done so far.
    pub fn steps_done(&self) -> u64 {
        self.progress.step
    }

    /// The adapters as they stand.
    pub fn adapters(&self) -> &AdapterSet {
        &self.adapters
    }

    /// Trains to the end, evaluating on `validation` where there is one.
    ///
    /// # Errors
    /// [`LoraError::NotFinite`] when the loss or a gradient is no longer a number, as [`TrainingOptions::on_nonfinite`] says;
    /// [`LoraError::Setting`] for parameters that the loss does not depend on; errors of the data, the model, the files, the
    /// observers and the device.
    pub fn run(mut self, training: &dyn BatchSource, validation: Option<&dyn BatchSource>) -> Result<Outcome> {
        let steps = self.options.steps(training);
        let report_every = self.options.report_interval(self.model.device());
        let due = |interval: Option<u64>, step: u64| interval.is_some_and(|interval| step.is_multiple_of(interval));
        let mut stopped = false;
        self.prepare_output()?;
        self.prepare_transform()?;
        self.pending.restart_clock();
        while self.progress.step < steps && !stopped {
            let pending = self.step(&self.batches(training, self.progress.step)?)?;
            self.pending.push(pending);
            let step = self.progress.step;
            if self.pending.len() as u64 >= report_every {
                self.report(training)?;
            } else {
                self.model.device().flush()?;
            }
            stopped = step < steps && self.observers.iter_mut().any(|observer| observer.should_stop());
            if let Some(validation) = validation
                && (due(self.options.evaluate_every, step) || step == steps)
            {
                self.report(training)?;
                self.evaluate(validation)?;
            }
            if stopped || due(self.options.save_every, step) {
                self.report(training)?;
                self.save()?;
            }
        }
        self.report(training)?;
        let best = self.best.zip(self.progress.best);
        let best = best.map(|(adapters, (step, loss))| Best { adapters, step, loss });
        let mut method = self.transform.report()?;
        method.extend(self.regulariser.report(&self.adapters)?);
        let Progress { step: steps, skipped, .. } = self.progress;
        Ok(Outcome { adapters: self.adapters, best, steps, stopped, skipped, method })
    }

    /// Clears the output of what earlier runs left and this one must not mistake for its own.
    fn prepare_output(&self) -> Result<()> {
        let Some(output) = &self.options.output else { return Ok(()) };
        remove_leftovers(output)?;
        remove_leftovers(&output.join(BEST_DIRECTORY))?;
        if self.progress.step == 0 { remove_checkpoints(output) } else { Ok(()) }
    }

    fn prepare_transform(&mut self) -> Result<()> {
        if !self.prepared {
            self.transform.prepare(&self.adapters, &mut *self.optimizer)?;
            self.prepared = true;
        }
        Ok(())
    }

    /// One optimizer step over its micro-batches. The loss stays on the device.
    fn step(&mut self, batches: &[HostBatch]) -> Result<PendingStep> {
        let step = self.progress.step;
        let learning_rate = self.options.schedule.at(step);
        let (loss, mut gradients) = self.gradients(step, batches)?;
        if self.pending.is_first() {
            check_all_reached(&self.adapters, &gradients)?;
            self.first_gradients = Some(FirstGradients::of(&gradients)?);
        }
        let norm = clip_by_global_norm(&mut gradients, self.options.max_gradient_norm.unwrap_or(UNCLIPPED))?;
        self.transform.apply(&mut self.adapters, &mut gradients, step)?;
        self.optimizer.step(self.adapters.parameters_mut(), &gradients, learning_rate)?;
        self.transform.after_update(&mut self.adapters, &mut *self.optimizer, step)?;
        self.regulariser.after_step(&mut self.adapters, step, learning_rate)?;
        self.progress.step += 1;
        let tokens = batches.iter().map(HostBatch::valid).sum();
        Ok(PendingStep { step: step + 1, loss, gradient_norm: norm, learning_rate, tokens })
    }

    /// The micro-batches of a step, counting from 0.
    fn batches(&self, training: &dyn BatchSource, step: u64) -> Result<Vec<HostBatch>> {
        let first = step * self.options.gradient_accumulation;
        (first..first + self.options.gradient_accumulation).map(|index| training.batch(index)).collect()
    }

    /// Loss and gradients of a step, averaged over all valid labels of the micro-batches. When this returns, no tape and
    /// no variable holds a parameter, so that the optimizer can update them where they are.
    fn gradients(&self, step: u64, batches: &[HostBatch]) -> Result<(Tensor, Gradients)> {
        let valid: usize = batches.iter().map(HostBatch::valid).sum();
        let (mut total, mut gradients) = (None::<Tensor>, Gradients::new());
        for (position, host) in batches.iter().enumerate().filter(|(_, host)| host.valid() > 0) {
            let pass = step * self.options.gradient_accumulation + position as u64;
            let dropout = DropoutSource { seed: self.options.seed, step: pass };
            let tape = Tape::new().keeping_activations(self.options.keep_activations);
            let batch = host.to_device(self.model.device())?;
            let mut loss = self.model.loss(&Forward::training(&tape, &self.adapters, dropout), &batch)?;
            if host.valid() < valid {
                loss = loss.affine((host.valid() as f64 / valid as f64) as f32, 0.0)?;
            }
            gradients.accumulate(tape.backward(&loss)?)?;
            total = Some(match total {
                Some(total) => total.add(loss.tensor())?,
                None => loss.into_tensor(),
            });
        }
        let loss = total.ok_or_else(|| LoraError::Setting {
            setting: "data",
            message: format!("no label counts towards the loss of step {}", step + 1),
        })?;
        Ok((loss, gradients))
    }

    /// Hands the losses that wait to the observers, and judges those that are no numbers.
    fn report(&mut self, training: &dyn BatchSource) -> Result<()> {
        let reports = self.pending.read()?;
        let warning = self.first_gradients.take().map(|first| first.warning()).transpose()?.flatten();
        warning.map_or(Ok(()), |warning| self.warn(&warning))?;
        for report in reports {
            self.observers.iter_mut().try_for_each(|observer| observer.on_step(&report))?;
            if report.is_finite() {
                self.skipped_in_a_row = 0;
            } else {
                self.skip(&report, training)?;
            }
        }
        Ok(())
    }

    /// Ends the run for a step that was no number, or warns of it, as the options say.
    fn skip(&mut self, report: &StepReport, training: &dyn BatchSource) -> Result<()> {
        self.progress.skipped += 1;
        self.skipped_in_a_row += 1;
        let StepReport { step, loss, gradient_norm, .. } = *report;
        let message = format!(
            "{loss} at step {step}, with a gradient norm of {gradient_norm}; {}",
            self.origin_of_non_finite(step - 1, training)?
        );
        if self.options.on_nonfinite == OnNonFinite::Skip && self.skipped_in_a_row < MOST_SKIPPED {
            return self.warn(&format!("loss: {message}; the step's gradients were left out"));
        }
        let message = format!("{message}; try a lower learning rate or a longer warm-up");
        Err(LoraError::NotFinite { tensor: "loss".into(), message })
    }

    /// Where a step first left the numbers: a debugging run of it with the parameters as they are now.
    fn origin_of_non_finite(&self, step: u64, training: &dyn BatchSource) -> Result<String> {
        let batches = self.batches(training, step)?;
        let (gradients, found) = first_non_finite(|| self.gradients(step, &batches));
        gradients?;
        Ok(match found {
            Some(found) => format!("the first operation to give NaN or infinity is {found}"),
            None => "computed again with the parameters as they are now, every number is finite".into(),
        })
    }

    fn warn(&mut self, message: &str) -> Result<()> {
        self.observers.iter_mut().try_for_each(|observer| observer.on_warning(message))
    }

    fn evaluate(&mut self, validation: &dyn BatchSource) -> Result<()> {
        let Evaluation { loss, tokens, seconds } = evaluate(self.model, Some(&self.adapters), validation)?;
        let step = self.progress.step;
        let best = loss.is_finite() && self.progress.best.is_none_or(|(_, lowest)| loss < lowest);
        let report = EvaluationReport { step, loss, tokens, seconds, best };
        self.observers.iter_mut().try_for_each(|observer| observer.on_evaluation(&report))?;
        if best {
            self.progress.best = Some((step, loss));
            self.best = Some(self.adapters.clone());
            if let Some(output) = &self.options.output {
                let directory = output.join(BEST_DIRECTORY);
                self.adapters.save_state(&directory, &self.options.origin)?;
                let report = CheckpointReport { step, directory, resumable: false };
                self.observers.iter_mut().try_for_each(|observer| observer.on_checkpoint(&report))?;
            }
        }
        self.pending.restart_clock();
        Ok(())
    }

    /// Writes a resumable checkpoint where there is a directory for one.
    fn save(&mut self) -> Result<()> {
        let (step, Some(output)) = (self.progress.step, &self.options.output) else {
            return Ok(());
        };
        let directory = write_checkpoint(output, step, |directory| {
            let state = self.optimizer.state()?;
            write_tensors(&directory.join(OPTIMIZER_FILE), state.iter().map(|(name, tensor)| (name, tensor)))?;
            for (file, state) in
                [(TRANSFORM_FILE, self.transform.state()?), (REGULARISER_FILE, self.regulariser.state()?)]
            {
                if !state.is_empty() {
                    write_tensors(&directory.join(file), state.iter().map(|(name, tensor)| (name, tensor)))?;
                }
            }
            self.progress.write(directory)?;
            self.adapters.save_state(directory, &self.options.origin)
        })?;
        let report = CheckpointReport { step, directory, resumable: true };
        self.observers.iter_mut().try_for_each(|observer| observer.on_checkpoint(&report))?;
        self.pending.restart_clock();
        Ok(())
    }
}

/// The tensors of a method's state; none where the method wrote no file.
fn read_state(path: &Path, device: &Device) -> Result<Vec<(String, Tensor)>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let bytes = fs::read(path).map_err(|error| LoraError::file(path, error))?;
    TensorFile::parse(path, &bytes)?.into_tensors(device)
}

/// A norm so large that it clips nothing; gradients that are not finite still become zero.
const UNCLIPPED: f32 = 1e30;

/// Where the adapter with the lowest validation loss is written, inside the output directory.
const BEST_DIRECTORY: &str = "best";
