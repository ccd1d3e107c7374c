//! Stage 2 in the training loop, on a model that predicts the next of seven tokens from the current one.

use std::path::Path;

use autograd::{AdamW, AdamWConfig, Gradients, Schedule, Var};
use lora::{
    AdapterSet, Batch, Forward, GradientTransform, IGNORED, Length, Linear, LoraConfig, LoraError, Model, ModuleShape,
    PackedTokens, Regulariser, Result, Targets, Trainer, TrainingOptions, latest_checkpoint,
};
use relora::{AnchoredRegulariser, RegularisationSchedule, Relaxation, strong_regularisation};
use tensor::testing::on_each_backend;
use tensor::{DType, Device, RandomKey, Tensor};

const VOCABULARY: usize = 7;
const HIDDEN: usize = 8;

struct Bigram {
    embedding: Tensor,
    output: Linear,
}

fn normal(device: &Device, name: &str, shape: &[usize], deviation: f32) -> Tensor {
    let key = RandomKey::named(1, name, 0);
    Tensor::random_normal(&Device::cpu(), shape, 0.0, deviation, key).unwrap().to_device(device).unwrap()
}

impl Bigram {
    fn new(device: &Device) -> Self {
        let output = normal(device, "output", &[VOCABULARY, HIDDEN], 0.5);
        Bigram {
            embedding: normal(device, "embedding", &[VOCABULARY, HIDDEN], 1.0),
            output: Linear::new("output", output, None).unwrap(),
        }
    }

    /// Adapters that are not zero, as a restored one is.
    fn start(&self) -> AdapterSet {
        let config = LoraConfig { rank: 3, alpha: 6.0, targets: Targets::names(["output"]), ..LoraConfig::default() };
        AdapterSet::from_factors(config, &self.modules()[..], self.device(), |adapter| {
            let device = self.device();
            let a = normal(device, "a", &[adapter.rank, adapter.inputs], 0.3);
            Ok((a, normal(device, "b", &[adapter.outputs, adapter.rank], 0.3)))
        })
        .unwrap()
    }
}

impl Model for Bigram {
    fn modules(&self) -> Vec<ModuleShape> {
        vec![self.output.shape()]
    }

    fn loss(&self, forward: &Forward, batch: &Batch) -> Result<Var> {
        let x = Var::constant(self.embedding.embedding(&batch.ids)?);
        let rows = batch.ids.elements();
        let logits = self.output.forward(forward, &x)?.reshape(&[rows, VOCABULARY])?;
        Ok(autograd::cross_entropy(&logits, &batch.labels.reshape(&[rows])?, IGNORED, batch.valid)?)
    }

    fn device(&self) -> &Device {
        self.embedding.device()
    }
}

fn training() -> PackedTokens {
    let text: Vec<u32> = (0..241).map(|i| [0, 3, 6, 2, 5, 1, 4][i % VOCABULARY]).collect();
    PackedTokens::shuffled(text, 6, 4, 9).unwrap()
}

fn options(steps: u64, rate: f32) -> TrainingOptions {
    TrainingOptions { seed: 5, ..TrainingOptions::new(Length::Steps(steps), Schedule::constant(rate)) }
}

fn adamw() -> AdamW {
    AdamW::new(AdamWConfig { weight_decay: 0.0, ..AdamWConfig::default() })
}

fn values(adapters: &AdapterSet) -> Vec<f32> {
    adapters.parameters().iter().flat_map(|(_, tensor)| tensor.to_vec::<f32>().unwrap()).collect()
}

fn constant(strength: f64) -> RegularisationSchedule {
    RegularisationSchedule::new(strength, strength, 0, 1, Relaxation::Step).unwrap()
}

fn anchored(model: &Bigram, schedule: RegularisationSchedule, steps: u64, rate: f32) -> lora::Outcome {
    let regulariser = AnchoredRegulariser::new(schedule, &model.start()).unwrap();
    let trainer = Trainer::new(model, model.start(), adamw(), options(steps, rate)).unwrap();
    trainer.with_regulariser(regulariser).run(&training(), None).unwrap()
}

/// A method that changes gradients, in the place that RefLoRA has.
struct Halve;

impl GradientTransform for Halve {
    fn apply(&mut self, _: &mut AdapterSet, gradients: &mut Gradients, _: u64) -> Result<()> {
        for (_, gradient) in gradients.iter_mut() {
            *gradient = gradient.affine(0.5, 0.0)?;
        }
        Ok(())
    }
}

on_each_backend! {
    fn without_strength_the_run_is_the_plain_one(device) {
        let model = Bigram::new(device);
        let plain = Trainer::new(&model, model.start(), adamw(), options(12, 0.02)).unwrap();
        let plain = values(&plain.run(&training(), None).unwrap().adapters);
        assert_eq!(values(&anchored(&model, constant(0.0), 12, 0.02).adapters), plain);
        assert_eq!(values(&anchored(&model, RegularisationSchedule::none(), 12, 0.02).adapters), plain);
        assert_ne!(values(&anchored(&model, constant(1.0), 12, 0.02).adapters), plain);
    }

    fn a_strength_without_end_keeps_the_start(device) {
        let model = Bigram::new(device);
        let outcome = anchored(&model, constant(1e12), 9, 0.02);
        assert_eq!(values(&outcome.adapters), values(&model.start()));
        assert_eq!(outcome.method, [("relative_deviation_from_start".to_string(), 0.0)]);
    }

    fn the_distance_is_bounded_by_the_strength(device) {
        let model = Bigram::new(device);
        let start = values(&model.start());
        let mut last = f32::INFINITY;
        for strength in [3.0, 10.0, 30.0, 90.0] {
            let outcome = anchored(&model, constant(strength), 60, 0.01);
            let distances = values(&outcome.adapters).into_iter().zip(&start).map(|(now, start)| (now - start).abs());
            let farthest = distances.fold(0.0, f32::max);
            // Adam's steps are at most (1 − β₁)/√(1 − β₂) = 3.17 learning rates.
            assert!(farthest <= 3.17 / strength as f32 + 1e-6, "{strength}: {farthest}");
            assert!(farthest > 0.0 && farthest < last, "{strength}: {farthest} after {last}");
            last = farthest;
            assert!(outcome.method[0].1 > 0.0 && outcome.method[0].1 < 1.0, "{:?}", outcome.method);
        }
    }

    fn one_step_is_the_equation(device) {
        let model = Bigram::new(device);
        let start = model.start();
        let schedule = RegularisationSchedule::new(20.0, 5.0, 3, 10, Relaxation::Step).unwrap();
        let mut regulariser = AnchoredRegulariser::new(schedule, &start).unwrap();
        let mut adapters = start.clone();
        let moved = normal(device, "elsewhere", &[VOCABULARY, 3], 1.0);
        let a = start.factors("output").unwrap().a.clone();
        adapters.set_factors("output", a, moved.clone()).unwrap();
        for (step, rate, share) in [(0, 0.01, 0.2), (2, 0.0, 0.0), (3, 0.01, 0.05)] {
            let before = values(&adapters);
            regulariser.after_step(&mut adapters, step, rate).unwrap();
            for ((now, before), start) in values(&adapters).into_iter().zip(before).zip(values(&start)) {
                assert!((now - (before - share * (before - start))).abs() < 1e-6, "step {step}: {now} {before} {start}");
            }
        }
        assert_eq!(values(&start), values(&model.start()), "the start itself stays");
    }

    fn accumulation_transforms_and_resume_compose(device) {
        let (model, output) = (Bigram::new(device), tempfile::tempdir().unwrap());
        let strength = strong_regularisation(&model.start(), 0.2).unwrap();
        let schedule = RegularisationSchedule::new(strength, 0.0, 2, 8, Relaxation::Cosine).unwrap();
        let with = |output: Option<&Path>, steps: u64| TrainingOptions {
            gradient_accumulation: 2,
            save_every: output.map(|_| 4),
            output: output.map(Path::to_path_buf),
            ..options(steps, 0.02)
        };
        let new = |output: Option<&Path>, steps: u64, start: &AdapterSet| {
            let regulariser = AnchoredRegulariser::new(schedule, start).unwrap();
            let trainer = Trainer::new(&model, start.clone(), adamw(), with(output, steps)).unwrap();
            trainer.with_transform(Halve).with_regulariser(regulariser)
        };
        let whole = new(None, 8, &model.start()).run(&training(), None).unwrap().adapters;
        new(Some(output.path()), 4, &model.start()).run(&training(), None).unwrap();
        let checkpoint = latest_checkpoint(output.path()).unwrap().unwrap();
        // The start comes from the checkpoint, whatever the new process thinks it is.
        let mut elsewhere = model.start();
        let b = elsewhere.factors("output").unwrap().b.affine(1.5, 0.0).unwrap();
        let a = elsewhere.factors("output").unwrap().a.clone();
        elsewhere.set_factors("output", a, b).unwrap();
        let mut resumed = new(None, 8, &elsewhere);
        resumed.resume(&checkpoint).unwrap();
        assert_eq!(values(&resumed.run(&training(), None).unwrap().adapters), values(&whole));

        let refused = |schedule| {
            let regulariser = AnchoredRegulariser::new(schedule, &model.start()).unwrap();
            let trainer = Trainer::new(&model, model.start(), adamw(), with(None, 8)).unwrap();
            trainer.with_regulariser(regulariser).resume(&checkpoint).unwrap_err().to_string()
        };
        assert!(refused(constant(2.0)).contains("another schedule"), "{}", refused(constant(2.0)));
        let mut plain = Trainer::new(&model, model.start(), adamw(), with(None, 8)).unwrap();
        let error = plain.resume(&checkpoint).unwrap_err().to_string();
        assert!(error.contains("another regulariser"), "{error}");
        let plain_output = tempfile::tempdir().unwrap();
        let options = TrainingOptions { gradient_accumulation: 2, ..with(Some(plain_output.path()), 4) };
        Trainer::new(&model, model.start(), adamw(), options).unwrap().run(&training(), None).unwrap();
        let mut anchored = new(None, 8, &model.start());
        let error = anchored.resume(&latest_checkpoint(plain_output.path()).unwrap().unwrap()).unwrap_err().to_string();
        assert!(error.contains("without this regulariser"), "{error}");
    }

    fn the_frozen_weight_is_not_written(device) {
        let model = Bigram::new(device);
        let before = model.output.weight().to_vec::<f32>().unwrap();
        anchored(&model, constant(10.0), 5, 0.05);
        assert_eq!(model.output.weight().to_vec::<f32>().unwrap(), before);
    }
}

#[test]
fn the_strong_phase_is_a_fifth_of_the_start() {
    let model = Bigram::new(&Device::cpu());
    let start = model.start();
    let all = values(&start);
    let rms = (all.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / all.len() as f64).sqrt();
    assert!((strong_regularisation(&start, 0.2).unwrap() * 0.2 * rms - 1.0).abs() < 1e-12);
    let filled = |value: f32| {
        let mut set = model.start();
        let full = |shape: &[usize]| Tensor::full(&Device::cpu(), shape, DType::F32, value).unwrap();
        set.set_factors("output", full(&[3, HIDDEN]), full(&[VOCABULARY, 3])).unwrap();
        strong_regularisation(&set, 0.2)
    };
    assert!(filled(0.0).unwrap_err().to_string().contains("idle directions"));
    assert!(matches!(filled(f32::NAN), Err(LoraError::NotFinite { .. })));
}

#[test]
fn other_adapters_are_refused_by_name() {
    let model = Bigram::new(&Device::cpu());
    let regulariser = AnchoredRegulariser::new(constant(1.0), &model.start()).unwrap();
    let state = regulariser.state().unwrap();
    let refused = |state: Vec<(String, Tensor)>| {
        AnchoredRegulariser::new(constant(1.0), &model.start()).unwrap().load_state(state).unwrap_err().to_string()
    };
    let without: Vec<_> = state.iter().filter(|(name, _)| !name.contains("lora_A")).cloned().collect();
    assert!(refused(without).contains("`output.lora_A.weight` is [3, 8] here and nothing there"));
    let scalar = Tensor::scalar(&Device::cpu(), 1.0f32).unwrap();
    let more = [state.clone(), vec![("relora.start.x.lora_A.weight".into(), scalar.clone())]].concat();
    assert!(refused(more).contains("`x.lora_A.weight`, which the adapters lack"));
    assert!(refused([state, vec![("momentum".into(), scalar)]].concat()).contains("`momentum`"));
}
