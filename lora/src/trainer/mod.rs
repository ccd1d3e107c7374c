//! The training loop: [`Trainer::step`] is the step, the rest is data, evaluation, checkpoints and reports.

mod checkpoint;
mod evaluation;
mod hooks;
mod observer;
mod options;
mod pending;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::Path;

use autograd::{Gradients, Optimizer, Tape, clip_by_global_norm};
use tensor::{Device, Tensor};

use crate::adapter_set::AdapterSet;
use crate::base::Base;
use crate::batch::{BatchSource, HostBatch};
use crate::error::{LoraError, Result};
use crate::forward::{DropoutSource, Forward, Model};
use crate::peft::{TensorFile, write_tensors};
pub use checkpoint::latest_checkpoint;
use checkpoint::{OPTIMIZER_FILE, Progress, REGULARISER_FILE, TRANSFORM_FILE, write_checkpoint};
pub use evaluation::{Evaluation, evaluate};
pub use hooks::{GradientTransform, Regulariser, Unchanged};
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
    /// [`LoraError::NotFinite`] when the loss is no longer a number; errors of the data, the model, the files, the
    /// observers and the device.
    pub fn run(mut self, training: &dyn BatchSource, validation: Option<&dyn BatchSource>) -> Result<Outcome> {
        let steps = self.options.steps(training);
        let report_every = self.options.report_interval(self.model.device());
        let due = |interval: Option<u64>, step: u64| interval.is_some_and(|interval| step.is_multiple_of(interval));
        let mut stopped = false;
        self.prepare_transform()?;
        self.pending.restart_clock();
        while self.progress.step < steps && !stopped {
            let first = self.progress.step * self.options.gradient_accumulation;
            let batches = (first..first + self.options.gradient_accumulation).map(|index| training.batch(index));
            let pending = self.step(&batches.collect::<Result<Vec<_>>>()?)?;
            self.pending.push(pending);
            let step = self.progress.step;
            if self.pending.len() as u64 >= report_every {
                self.report()?;
            } else {
                self.model.device().flush()?;
            }
            stopped = step < steps && self.observers.iter_mut().any(|observer| observer.should_stop());
            if let Some(validation) = validation
                && (due(self.options.evaluate_every, step) || step == steps)
            {
                self.evaluate(validation)?;
            }
            if stopped || due(self.options.save_every, step) {
                self.save()?;
            }
        }
        self.report()?;
        let best = self.best.zip(self.progress.best);
        let best = best.map(|(adapters, (step, loss))| Best { adapters, step, loss });
        let mut method = self.transform.report()?;
        method.extend(self.regulariser.report(&self.adapters)?);
        Ok(Outcome { adapters: self.adapters, best, steps: self.progress.step, stopped, method })
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
        let (loss, mut gradients) = self.gradients(batches)?;
        let norm = self.options.max_gradient_norm.map(|norm| clip_by_global_norm(&mut gradients, norm)).transpose()?;
        self.transform.apply(&mut self.adapters, &mut gradients, step)?;
        self.optimizer.step(self.adapters.parameters_mut(), &gradients, learning_rate)?;
        self.transform.after_update(&mut self.adapters, &mut *self.optimizer, step)?;
        self.regulariser.after_step(&mut self.adapters, step, learning_rate)?;
        self.progress.step += 1;
        let tokens = batches.iter().map(HostBatch::valid).sum();
        Ok(PendingStep { step: step + 1, loss, gradient_norm: norm, learning_rate, tokens })
    }

    /// Loss and gradients, averaged over all valid labels of the micro-batches. When this returns, no tape and no
    /// variable holds a parameter, so that the optimizer can update them where they are.
    fn gradients(&self, batches: &[HostBatch]) -> Result<(Tensor, Gradients)> {
        let valid: usize = batches.iter().map(HostBatch::valid).sum();
        let (mut total, mut gradients) = (None::<Tensor>, Gradients::new());
        for (position, host) in batches.iter().enumerate().filter(|(_, host)| host.valid() > 0) {
            let pass = self.progress.step * self.options.gradient_accumulation + position as u64;
            let dropout = DropoutSource { seed: self.options.seed, step: pass };
            let tape = Tape::new();
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
            message: format!("no label counts towards the loss of step {}", self.progress.step + 1),
        })?;
        Ok((loss, gradients))
    }

    /// Hands the losses that wait to the observers.
    fn report(&mut self) -> Result<()> {
        for report in self.pending.read()? {
            self.observers.iter_mut().try_for_each(|observer| observer.on_step(&report))?;
        }
        Ok(())
    }

    fn evaluate(&mut self, validation: &dyn BatchSource) -> Result<()> {
        self.report()?;
        let Evaluation { loss, tokens, seconds } = evaluate(self.model, Some(&self.adapters), validation)?;
        let step = self.progress.step;
        let best = self.progress.best.is_none_or(|(_, lowest)| loss < lowest);
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
        self.report()?;
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

/// Where the adapter with the lowest validation loss is written, inside the output directory.
const BEST_DIRECTORY: &str = "best";
