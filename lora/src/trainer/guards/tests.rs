use autograd::Var;
use tensor::testing::on_each_backend;
use tensor::{DType, Device, Tensor};

use super::super::tests::{Bigram, Recorder, adamw, options, training, validation, values};
use super::super::{Trainer, TrainingOptions};
use super::*;
use crate::batch::{Batch, BatchSource};
use crate::forward::{Forward, Model};
use crate::targets::ModuleShape;

/// Multiplies the losses of some of the batches by a number.
struct Faulty {
    model: Bigram,
    factor: f32,
    /// Token ids of the batches.
    batches: Vec<Vec<u32>>,
}

impl Faulty {
    /// Faulty at these steps.
    fn at(device: &Device, steps: impl IntoIterator<Item = u64>, factor: f32) -> Self {
        let ids = |step: u64| training().batch(step).unwrap().to_device(device).unwrap().ids.to_vec().unwrap();
        Faulty { model: Bigram::new(device), factor, batches: steps.into_iter().map(ids).collect() }
    }
}

impl Model for Faulty {
    fn modules(&self) -> Vec<ModuleShape> {
        self.model.modules()
    }

    fn loss(&self, forward: &Forward, batch: &Batch) -> Result<Var> {
        let loss = self.model.loss(forward, batch)?;
        let faulty = self.batches.contains(&batch.ids.to_vec()?);
        Ok(if faulty { loss.affine(self.factor, 0.0)? } else { loss })
    }

    fn device(&self) -> &Device {
        self.model.device()
    }
}

/// Six steps, reported together; the best adapters and checkpoints go to `output`.
fn run(
    model: &Faulty,
    on_nonfinite: OnNonFinite,
    recorder: &Recorder,
    output: &std::path::Path,
) -> Result<crate::Outcome> {
    let options = TrainingOptions {
        on_nonfinite,
        report_every: Some(6),
        save_every: Some(6),
        output: Some(output.into()),
        ..options(6, 0.05)
    };
    let trainer = Trainer::new(model, model.model.adapters(0.1), adamw(), options)?;
    trainer.with_observer(recorder.clone()).run(&training(), Some(&validation()))
}

on_each_backend! {
    fn a_step_without_numbers_ends_the_run_and_nothing_is_saved(device) {
        let (output, recorder) = (tempfile::tempdir().unwrap(), Recorder::default());
        let model = Faulty::at(device, [2], f32::NAN);
        let error = run(&model, OnNonFinite::Stop, &recorder, output.path()).unwrap_err();
        assert!(matches!(error, LoraError::NotFinite { .. }), "{error}");
        let message = error.to_string();
        assert!(message.starts_with("loss: NaN at step 3, with a gradient norm of NaN; the first operation"), "{message}");
        assert!(message.contains("is `affine`, whose result has the shape []"), "{message}");
        assert_eq!(recorder.steps.borrow().len(), 3, "those before it are reported");
        assert_eq!(std::fs::read_dir(output.path()).unwrap().count(), 0);
    }

    fn a_step_without_numbers_can_be_left_out(device) {
        let (output, recorder) = (tempfile::tempdir().unwrap(), Recorder::default());
        let model = Faulty::at(device, [2], f32::INFINITY);
        let outcome = run(&model, OnNonFinite::Skip, &recorder, output.path()).unwrap();
        assert_eq!((outcome.steps, outcome.skipped), (6, 1));
        let warnings = recorder.warnings.borrow();
        assert!(warnings.len() == 1 && warnings[0].contains("at step 3"), "{warnings:?}");
        assert!(warnings[0].ends_with("the step's gradients were left out"), "{warnings:?}");
        let finite = |values: Vec<Vec<f32>>| values.iter().flatten().all(|value| value.is_finite());
        assert!(finite(values(&outcome.adapters)) && finite(values(&outcome.best.unwrap().adapters)));
        let well = run(&Faulty::at(device, [], 1.0), OnNonFinite::Skip, &Recorder::default(), output.path()).unwrap();
        assert_ne!(values(&outcome.adapters), values(&well.adapters));
        assert_eq!(well.skipped, 0);
    }

    fn a_run_that_learns_nothing_any_more_ends(device) {
        let recorder = Recorder::default();
        let model = Faulty::at(device, 0..100, f32::NAN);
        let options = TrainingOptions { on_nonfinite: OnNonFinite::Skip, report_every: Some(4), ..options(50, 0.05) };
        let trainer = Trainer::new(&model, model.model.adapters(0.0), adamw(), options).unwrap();
        let message = trainer.with_observer(recorder.clone()).run(&training(), None).unwrap_err().to_string();
        assert!(message.contains("at step 10,"), "{message}");
        assert_eq!(recorder.warnings.borrow().len() as u64, MOST_SKIPPED - 1);
    }

    fn parameters_that_are_no_numbers_are_found_where_they_are_used(device) {
        let model = Bigram::new(device);
        let mut adapters = model.adapters(0.0);
        let b = Tensor::full(device, &[7, 3], DType::F32, f32::NAN).unwrap();
        let a = adapters.factors("output").unwrap().a.clone();
        adapters.set_factors("output", a, b).unwrap();
        let message = Trainer::new(&model, adapters, adamw(), options(3, 0.1)).unwrap();
        let message = message.run(&training(), None).unwrap_err().to_string();
        assert!(message.contains("step 1") && message.contains("after `output.lora_"), "{message}");
    }

    fn parameters_without_a_gradient_are_named(device) {
        struct Headless(Bigram);
        impl Model for Headless {
            fn modules(&self) -> Vec<ModuleShape> {
                self.0.modules()
            }
            fn loss(&self, forward: &Forward, batch: &Batch) -> Result<Var> {
                self.0.hidden_loss(forward, batch)
            }
            fn device(&self) -> &Device {
                self.0.device()
            }
        }
        let model = Headless(Bigram::new(device));
        let trainer = Trainer::new(&model, model.0.adapters(0.0), adamw(), options(3, 0.1)).unwrap();
        let message = trainer.run(&training(), None).unwrap_err().to_string();
        let expected = "the loss of the first step does not depend on `output.lora_A.weight`, `output.lora_B.weight`;";
        assert!(message.contains(expected), "{message}");
    }

    fn gradients_of_zero_are_told(device) {
        let (model, recorder) = (Faulty::at(device, 0..9, 0.0), Recorder::default());
        let trainer = Trainer::new(&model, model.model.adapters(0.0), adamw(), options(2, 0.1)).unwrap();
        trainer.with_observer(recorder.clone()).run(&training(), None).unwrap();
        let expected = "the gradients of `layers.0.hidden`, `output` are exactly zero at the first step";
        assert_eq!(*recorder.warnings.borrow(), [expected]);
    }
}

#[test]
fn long_lists_of_names_are_cut() {
    assert_eq!(in_short(&["a", "b", "c", "d", "e", "f", "g"]), "`a`, `b`, `c`, `d`, `e` and 2 more");
}
