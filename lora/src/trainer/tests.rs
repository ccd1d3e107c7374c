use std::cell::RefCell;
use std::rc::Rc;

use autograd::check::TestRandom;
use autograd::{AdamW, AdamWConfig, Schedule, Sgd, SgdConfig, Var};
use tensor::testing::on_each_backend;

use super::*;
use crate::batch::{Batch, IGNORED};
use crate::config::LoraConfig;
use crate::linear::Linear;
use crate::sources::PackedTokens;
use crate::targets::{ModuleShape, Targets};

const VOCABULARY: usize = 7;
const HIDDEN: usize = 8;

/// Predicts the next token from the current one: embedding, a hidden layer, an output layer.
pub(super) struct Bigram {
    embedding: Tensor,
    hidden: Linear,
    output: Linear,
}

impl Bigram {
    pub fn new(device: &Device) -> Self {
        let mut random = TestRandom::new(1);
        let mut tensor = |shape: &[usize]| random.tensor(device, shape, -1.0, 1.0).unwrap();
        Bigram {
            embedding: tensor(&[VOCABULARY, HIDDEN]),
            hidden: Linear::new("layers.0.hidden", tensor(&[HIDDEN, HIDDEN]), None).unwrap(),
            output: Linear::new("output", tensor(&[VOCABULARY, HIDDEN]), None).unwrap(),
        }
    }

    pub fn adapters(&self, dropout: f32) -> AdapterSet {
        let targets = Targets::names(["hidden", "output"]);
        let config = LoraConfig { rank: 3, alpha: 6.0, dropout, targets, ..LoraConfig::default() };
        AdapterSet::new(config, &self.modules(), self.device(), 4).unwrap()
    }

    /// The mean square of the hidden layer, for which the output layer does not matter.
    pub fn hidden_loss(&self, forward: &Forward, batch: &Batch) -> Result<Var> {
        let x = Var::constant(self.embedding.embedding(&batch.ids)?);
        Ok(self.hidden.forward(forward, &x)?.square()?.mean(&[0, 1, 2], false)?)
    }
}

impl Model for Bigram {
    fn modules(&self) -> Vec<ModuleShape> {
        vec![self.hidden.shape(), self.output.shape().head()]
    }

    fn loss(&self, forward: &Forward, batch: &Batch) -> Result<Var> {
        batch.check_vocabulary(VOCABULARY)?;
        let x = Var::constant(self.embedding.embedding(&batch.ids)?);
        let hidden = self.hidden.forward(forward, &x)?.tanh()?;
        let logits = self.output.forward(forward, &hidden)?;
        let rows = batch.ids.elements();
        let logits = logits.reshape(&[rows, VOCABULARY])?;
        Ok(autograd::cross_entropy(&logits, &batch.labels.reshape(&[rows])?, IGNORED, batch.valid)?)
    }

    fn device(&self) -> &Device {
        self.embedding.device()
    }

    fn savable_modules(&self) -> Vec<String> {
        vec!["output".into()]
    }

    fn saved_module(&self, module: &str) -> Vec<(String, Tensor)> {
        [&self.hidden, &self.output]
            .into_iter()
            .find(|l| l.name() == module)
            .map(Linear::parameters)
            .unwrap_or_default()
    }
}

/// Text in which every token decides the next.
fn text() -> Vec<u32> {
    (0..241).map(|i| [0, 3, 6, 2, 5, 1, 4][i % VOCABULARY]).collect()
}

pub(super) fn training() -> PackedTokens {
    PackedTokens::shuffled(text(), 6, 4, 9).unwrap()
}

pub(super) fn validation() -> PackedTokens {
    PackedTokens::in_order(text(), 6, 4).unwrap()
}

pub(super) fn options(steps: u64, rate: f32) -> TrainingOptions {
    TrainingOptions { seed: 5, ..TrainingOptions::new(Length::Steps(steps), Schedule::constant(rate)) }
}

pub(super) fn adamw() -> AdamW {
    AdamW::new(AdamWConfig::default())
}

pub(super) fn values(adapters: &AdapterSet) -> Vec<Vec<f32>> {
    adapters.parameters().iter().map(|(_, tensor)| tensor.to_vec().unwrap()).collect()
}

/// Keeps everything it is told.
#[derive(Clone, Default)]
pub(super) struct Recorder {
    pub steps: Rc<RefCell<Vec<StepReport>>>,
    evaluations: Rc<RefCell<Vec<EvaluationReport>>>,
    checkpoints: Rc<RefCell<Vec<CheckpointReport>>>,
    pub warnings: Rc<RefCell<Vec<String>>>,
    stop_after: Option<u64>,
    asked: u64,
}

impl Observer for Recorder {
    fn on_step(&mut self, report: &StepReport) -> Result<()> {
        self.steps.borrow_mut().push(*report);
        Ok(())
    }

    fn on_evaluation(&mut self, report: &EvaluationReport) -> Result<()> {
        self.evaluations.borrow_mut().push(*report);
        Ok(())
    }

    fn on_checkpoint(&mut self, report: &CheckpointReport) -> Result<()> {
        self.checkpoints.borrow_mut().push(report.clone());
        Ok(())
    }

    fn on_warning(&mut self, message: &str) -> Result<()> {
        self.warnings.borrow_mut().push(message.to_string());
        Ok(())
    }

    fn should_stop(&mut self) -> bool {
        self.asked += 1;
        self.stop_after == Some(self.asked)
    }
}

on_each_backend! {
    fn a_run_learns_and_reports_every_step(device) {
        let model = Bigram::new(device);
        let recorder = Recorder::default();
        let options = TrainingOptions { report_every: Some(4), evaluate_every: Some(10), ..options(30, 0.05) };
        let before = evaluate(&model, None, &validation()).unwrap();
        let trainer = Trainer::new(&model, model.adapters(0.0), adamw(), options).unwrap();
        let outcome = trainer.with_observer(recorder.clone()).run(&training(), Some(&validation())).unwrap();
        let steps = recorder.steps.borrow();
        assert_eq!(steps.iter().map(|report| report.step).collect::<Vec<_>>(), (1..=30).collect::<Vec<_>>());
        assert!(steps.iter().all(|report| report.tokens == 24 && report.gradient_norm > 0.0));
        assert!((f64::from(steps[0].loss) - before.loss).abs() < 0.5, "B is zero at first");
        let evaluations = recorder.evaluations.borrow();
        assert_eq!(evaluations.iter().map(|report| report.step).collect::<Vec<_>>(), [10, 20, 30]);
        assert_eq!(evaluations[2].tokens, 240);
        let after = evaluate(&model, Some(&outcome.adapters), &validation()).unwrap();
        assert_eq!(after.loss, evaluations[2].loss);
        assert!(after.loss < 0.2 * before.loss, "{} {}", before.loss, after.loss);
        assert_eq!((outcome.steps, outcome.stopped), (30, false));
    }

    fn accumulated_micro_batches_are_one_batch(device) {
        let model = Bigram::new(device);
        let mut random = TestRandom::new(2);
        let ids = random.indices(12, VOCABULARY);
        let mut labels: Vec<i32> = random.indices(12, VOCABULARY).into_iter().map(|id| id as i32).collect();
        // One valid label in the first half, six in the second.
        labels[..5].fill(IGNORED);
        let whole = HostBatch::new(4, 3, ids.clone(), labels.clone(), None).unwrap();
        let part = |range: std::ops::Range<usize>| {
            HostBatch::new(range.len() / 3, 3, ids[range.clone()].to_vec(), labels[range].to_vec(), None).unwrap()
        };
        // The first sequence has no label at all.
        let parts = [part(0..3), part(3..6), part(6..12)];
        let trainer = Trainer::new(&model, model.adapters(0.0), adamw(), options(1, 0.1)).unwrap();
        let (loss, gradients) = trainer.gradients(0, &[whole]).unwrap();
        let (part_loss, part_gradients) = trainer.gradients(0, &parts).unwrap();
        assert!((loss.item::<f32>().unwrap() - part_loss.item::<f32>().unwrap()).abs() < 1e-6);
        for ((name, gradient), (_, part)) in gradients.iter().zip(part_gradients.iter()) {
            for (whole, part) in gradient.to_vec::<f32>().unwrap().iter().zip(part.to_vec::<f32>().unwrap()) {
                assert!((whole - part).abs() < 1e-6, "{name}: {whole} {part}");
            }
        }
        let error = trainer.gradients(0, &[part(0..3)]).unwrap_err().to_string();
        assert!(error.contains("no label counts"), "{error}");
    }

    fn micro_batches_have_dropout_of_their_own(device) {
        let (model, batch) = (Bigram::new(device), training().batch(0).unwrap());
        let twice = [batch.clone(), batch];
        let gradient = |dropout: f32, batches: &[HostBatch]| {
            let options = TrainingOptions { gradient_accumulation: 2, ..options(1, 0.1) };
            let trainer = Trainer::new(&model, model.adapters(dropout), adamw(), options).unwrap();
            let (_, gradients) = trainer.gradients(0, batches).unwrap();
            gradients.get("output.lora_B.weight").unwrap().to_vec::<f32>().unwrap()
        };
        let near = |a: Vec<f32>, b: Vec<f32>| a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(near(gradient(0.0, &twice), gradient(0.0, &twice[..1])), "the mean of two that are the same");
        assert!(!near(gradient(0.5, &twice), gradient(0.5, &twice[..1])), "the second has another mask");
    }

    fn a_resumed_run_is_the_same_run(device) {
        let model = Bigram::new(device);
        let output = tempfile::tempdir().unwrap();
        let with = |output: Option<&Path>| TrainingOptions {
            gradient_accumulation: 2,
            evaluate_every: Some(2),
            save_every: output.map(|_| 3),
            output: output.map(Path::to_path_buf),
            ..options(7, 0.02)
        };
        let new = |options| Trainer::new(&model, model.adapters(0.25), adamw(), options).unwrap();
        let whole = new(with(None)).run(&training(), Some(&validation())).unwrap();

        let stopper = Recorder { stop_after: Some(4), ..Recorder::default() };
        let part = new(with(Some(output.path()))).with_observer(stopper.clone());
        let part = part.run(&training(), Some(&validation())).unwrap();
        assert_eq!((part.steps, part.stopped), (4, true));
        let saved: Vec<_> = stopper.checkpoints.borrow().iter().filter(|c| c.resumable).map(|c| c.step).collect();
        assert_eq!(saved, [3, 4]);

        let checkpoint = latest_checkpoint(output.path()).unwrap().unwrap();
        assert!(checkpoint.ends_with("checkpoint-4"));
        let mut resumed = new(with(Some(output.path())));
        resumed.resume(&checkpoint).unwrap();
        assert_eq!(resumed.steps_done(), 4);
        let resumed = resumed.run(&training(), Some(&validation())).unwrap();
        assert_eq!(values(&resumed.adapters), values(&whole.adapters));
        let (best, expected) = (resumed.best.unwrap(), whole.best.unwrap());
        assert_eq!((best.step, best.loss), (expected.step, expected.loss));
        assert_eq!(values(&best.adapters), values(&expected.adapters));

        let checkpoint = latest_checkpoint(output.path()).unwrap().unwrap();
        assert!(checkpoint.ends_with("checkpoint-6"), "written after going on");
        let mut other = new(TrainingOptions { seed: 6, ..with(None) });
        assert!(other.resume(&checkpoint).unwrap_err().to_string().contains("seed"));
    }

    fn whole_modules_and_subtracted_products_are_resumed(device) {
        let (model, output) = (Bigram::new(device), tempfile::tempdir().unwrap());
        let config = LoraConfig {
            rank: 3,
            targets: Targets::names(["hidden"]),
            modules_to_save: vec!["output".into()],
            init_lora_weights: crate::Initialisation::Olora,
            ..LoraConfig::default()
        };
        let adapters = AdapterSet::new(config, Base::of(&model), device, 4).unwrap();
        let run = |steps, directory: Option<&Path>| {
            let directory = directory.map(Path::to_path_buf);
            let options = TrainingOptions { output: directory, save_every: Some(3), ..options(steps, 0.05) };
            Trainer::new(&model, adapters.clone(), adamw(), options).unwrap()
        };
        let elsewhere = tempfile::tempdir().unwrap();
        let whole = run(6, Some(elsewhere.path())).run(&training(), None).unwrap().adapters;
        run(3, Some(output.path())).run(&training(), None).unwrap();
        let mut resumed = run(6, Some(elsewhere.path()));
        resumed.resume(&latest_checkpoint(output.path()).unwrap().unwrap()).unwrap();
        let resumed = resumed.run(&training(), None).unwrap().adapters;
        assert_eq!(values(&resumed), values(&whole));
        assert_eq!(resumed.config(), whole.config());
        let [first, second] = [&whole, &resumed].map(|set| evaluate(&model, Some(set), &validation()).unwrap().loss);
        assert_eq!(first, second);
        let moved = whole.whole_parameter("output.weight").unwrap().to_vec::<f32>().unwrap();
        assert_ne!(moved, model.output.weight().to_vec::<f32>().unwrap());
        assert!(first < evaluate(&model, None, &validation()).unwrap().loss);
    }

    fn the_best_adapter_is_kept(device) {
        let model = Bigram::new(device);
        let output = tempfile::tempdir().unwrap();
        let recorder = Recorder::default();
        let options = TrainingOptions {
            evaluate_every: Some(1),
            output: Some(output.path().into()),
            max_gradient_norm: None,
            ..options(6, 3.0)
        };
        // So large a rate that the loss goes up and down.
        let trainer = Trainer::new(&model, model.adapters(0.0), Sgd::new(SgdConfig::default()), options).unwrap();
        let outcome = trainer.with_observer(recorder.clone()).run(&training(), Some(&validation())).unwrap();
        let best = outcome.best.unwrap();
        let evaluations = recorder.evaluations.borrow();
        let lowest = evaluations.iter().map(|report| report.loss).fold(f64::INFINITY, f64::min);
        assert_eq!(best.loss, lowest);
        assert!(evaluations.last().unwrap().loss > lowest, "the last is not the best: {evaluations:?}");
        assert_eq!(evaluate(&model, Some(&best.adapters), &validation()).unwrap().loss, lowest);
        let (saved, _) = AdapterSet::load(&output.path().join("best"), &model.modules(), device).unwrap();
        assert_eq!(values(&saved), values(&best.adapters));
        assert!(recorder.steps.borrow().iter().any(|report| report.gradient_norm > 1.0), "nothing is clipped");
    }

    fn methods_are_called_in_order(device) {
        #[derive(Clone, Default)]
        struct Log(Rc<RefCell<Vec<String>>>);
        impl GradientTransform for Log {
            fn apply(&mut self, adapters: &mut AdapterSet, gradients: &mut Gradients, step: u64) -> Result<()> {
                assert!(gradients.names().eq(adapters.parameters().names()));
                for (_, gradient) in gradients.iter_mut() {
                    *gradient = gradient.zeros_like()?;
                }
                self.0.borrow_mut().push(format!("apply {step}"));
                Ok(())
            }
            fn after_update(&mut self, _: &mut AdapterSet, optimizer: &mut dyn Optimizer, step: u64) -> Result<()> {
                self.0.borrow_mut().push(format!("after_update {step} {}", optimizer.state()?.len()));
                Ok(())
            }
        }
        impl Regulariser for Log {
            fn after_step(&mut self, _: &mut AdapterSet, step: u64, learning_rate: f32) -> Result<()> {
                self.0.borrow_mut().push(format!("after_step {step} {learning_rate}"));
                Ok(())
            }
        }
        let (model, log) = (Bigram::new(device), Log::default());
        let adapters = model.adapters(0.0);
        let momentum = SgdConfig { momentum: 0.9, ..SgdConfig::default() };
        let trainer = Trainer::new(&model, adapters.clone(), Sgd::new(momentum), options(2, 0.5)).unwrap();
        let outcome = trainer.with_transform(log.clone()).with_regulariser(log.clone()).run(&training(), None).unwrap();
        let expected =
            ["apply 0", "after_update 0 4", "after_step 0 0.5", "apply 1", "after_update 1 4", "after_step 1 0.5"];
        assert_eq!(*log.0.borrow(), expected);
        assert_eq!(values(&outcome.adapters), values(&adapters), "zero gradients move nothing");
    }

    fn evaluation_weighs_by_valid_labels(device) {
        struct Two([HostBatch; 2]);
        impl BatchSource for Two {
            fn batches_per_epoch(&self) -> u64 {
                2
            }
            fn batch(&self, index: u64) -> Result<HostBatch> {
                Ok(self.0[index as usize].clone())
            }
        }
        let model = Bigram::new(device);
        let one = HostBatch::new(1, 4, vec![1, 2, 3, 4], vec![2, IGNORED, IGNORED, IGNORED], None).unwrap();
        let two = HostBatch::new(1, 4, vec![5, 6, 0, 1], vec![6, 0, 1, IGNORED], None).unwrap();
        let loss = |batch: &HostBatch| {
            let batch = batch.to_device(device).unwrap();
            model.loss(&Forward::evaluation(None), &batch).unwrap().tensor().item::<f32>().unwrap()
        };
        let expected = (f64::from(loss(&one)) + 3.0 * f64::from(loss(&two))) / 4.0;
        let evaluation = evaluate(&model, None, &Two([one, two])).unwrap();
        assert!((evaluation.loss - expected).abs() < 1e-6, "{} {expected}", evaluation.loss);
        assert_eq!(evaluation.tokens, 4);
        let none = HostBatch::new(1, 1, vec![1], vec![IGNORED], None).unwrap();
        assert!(evaluate(&model, None, &Two([none.clone(), none])).is_err());
    }
}

#[test]
fn lengths_and_options_are_checked() {
    let source = training();
    assert_eq!(source.batches_per_epoch(), 10);
    let epochs = |epochs, gradient_accumulation| {
        let schedule = Schedule::constant(0.1);
        TrainingOptions { gradient_accumulation, ..TrainingOptions::new(Length::Epochs(epochs), schedule) }
            .steps(&source)
    };
    assert_eq!([epochs(2, 1), epochs(2, 3), epochs(1, 20)], [20, 7, 1]);
    let refused = |change: fn(&mut TrainingOptions)| {
        let mut options = options(1, 0.1);
        change(&mut options);
        options.validate().unwrap_err().to_string()
    };
    assert!(refused(|o| o.gradient_accumulation = 0).contains("gradient_accumulation"));
    assert!(refused(|o| o.max_gradient_norm = Some(0.0)).contains("max_gradient_norm"));
    assert!(refused(|o| o.schedule = Schedule::constant(f32::NAN)).contains("learning_rate"));
    assert!(refused(|o| o.report_every = Some(0)).contains("report_every"));
    assert!(refused(|o| o.save_every = Some(3)).contains("output"));
}
