//! After warm-up a training run creates nothing: parameters are updated where they are, and every other buffer comes
//! from the pool. A test binary of its own, since the CPU's counters belong to the whole process.

use std::cell::RefCell;
use std::rc::Rc;

use autograd::{AdamW, AdamWConfig, Gradients, Optimizer, Schedule, Var};
use lora::{
    AdapterSet, Batch, Forward, GradientTransform, IGNORED, Length, Linear, LoraConfig, Model, ModuleShape, Observer,
    PackedTokens, Result, StepReport, Targets, Trainer, TrainingOptions,
};
use tensor::testing::on_each_backend;
use tensor::{Counters, Device, RandomKey, Tensor};

const VOCABULARY: usize = 50;
const HIDDEN: usize = 64;

struct Bigram {
    embedding: Tensor,
    hidden: Linear,
    output: Linear,
}

impl Bigram {
    fn new(device: &Device) -> Self {
        let random = |name: &str, shape: &[usize]| {
            Tensor::random_uniform(device, shape, -0.5, 0.5, RandomKey::named(1, name, 0)).unwrap()
        };
        Bigram {
            embedding: random("embedding", &[VOCABULARY, HIDDEN]),
            hidden: Linear::new("hidden", random("hidden", &[HIDDEN, HIDDEN]), None).unwrap(),
            output: Linear::new("output", random("output", &[VOCABULARY, HIDDEN]), None).unwrap(),
        }
    }
}

impl Model for Bigram {
    fn modules(&self) -> Vec<ModuleShape> {
        vec![self.hidden.shape(), self.output.shape()]
    }

    fn loss(&self, forward: &Forward, batch: &Batch) -> Result<Var> {
        let x = Var::constant(self.embedding.embedding(&batch.ids)?);
        // Recomputed in the backward pass, which keeps the adapters until then and no longer.
        let layer = self.hidden.clone();
        let hidden = forward.checkpoint(&[&x], move |forward, x| layer.forward(forward, &x[0])?.tanh())?;
        let rows = batch.ids.elements();
        let logits = self.output.forward(forward, &hidden)?.reshape(&[rows, VOCABULARY])?;
        Ok(autograd::cross_entropy(&logits, &batch.labels.reshape(&[rows])?, IGNORED, batch.valid)?)
    }

    fn device(&self) -> &Device {
        self.embedding.device()
    }
}

/// Notes the counters around each optimizer step and at each report.
#[derive(Clone)]
struct Watch {
    device: Device,
    before: Rc<RefCell<Vec<Counters>>>,
    after: Rc<RefCell<Vec<Counters>>>,
    reports: Rc<RefCell<Vec<Counters>>>,
}

impl GradientTransform for Watch {
    fn apply(&mut self, _: &mut AdapterSet, _: &mut Gradients, _: u64) -> Result<()> {
        self.device.reset_peak();
        self.before.borrow_mut().push(self.device.counters());
        Ok(())
    }

    fn after_update(&mut self, _: &mut AdapterSet, _: &mut dyn Optimizer, _: u64) -> Result<()> {
        self.after.borrow_mut().push(self.device.counters());
        Ok(())
    }
}

impl Observer for Watch {
    fn on_step(&mut self, _: &StepReport) -> Result<()> {
        self.reports.borrow_mut().push(self.device.counters());
        Ok(())
    }
}

const STEPS: u64 = 12;
const WARM_UP: usize = 4;

on_each_backend! {
    fn nothing_is_created_and_parameters_stay_where_they_are(device) {
        let model = Bigram::new(device);
        let targets = Targets::AllLinear;
        let config = LoraConfig { rank: 32, dropout: 0.1, targets, ..LoraConfig::default() };
        let adapters = AdapterSet::new(config, &model.modules(), device, 2).unwrap();
        let smallest = adapters.parameters().iter().map(|(_, tensor)| tensor.elements() * 4).min().unwrap() as u64;
        let tokens: Vec<u32> = (0..2000u32).map(|i| i * i % VOCABULARY as u32).collect();
        let source = PackedTokens::shuffled(tokens, 8, 4, 3).unwrap();
        let options = TrainingOptions {
            report_every: Some(1),
            gradient_accumulation: 2,
            ..TrainingOptions::new(Length::Steps(STEPS), Schedule::constant(0.01))
        };
        let empty = || Rc::new(RefCell::new(Vec::new()));
        let watch = Watch { device: device.clone(), before: empty(), after: empty(), reports: empty() };
        let trainer = Trainer::new(&model, adapters, AdamW::new(AdamWConfig::default()), options).unwrap();
        trainer.with_transform(watch.clone()).with_observer(watch.clone()).run(&source, None).unwrap();

        let reports = watch.reports.borrow();
        assert_eq!(reports.len(), STEPS as usize);
        for pair in reports[WARM_UP..].windows(2) {
            assert_eq!(pair[0].buffers_created, pair[1].buffers_created, "{reports:?}");
            assert_eq!(pair[0].bind_groups_created, pair[1].bind_groups_created, "{reports:?}");
            assert_eq!(pair[0].pipelines_built, pair[1].pipelines_built);
            assert_eq!(pair[0].bytes_in_use, pair[1].bytes_in_use, "nothing leaks");
        }
        for (before, after) in watch.before.borrow().iter().zip(watch.after.borrow().iter()).skip(1) {
            let extra = after.peak_bytes - before.bytes_in_use;
            assert!(extra < smallest, "the optimizer's step took {extra} bytes: it copied a parameter");
            assert_eq!(before.bytes_in_use, after.bytes_in_use);
        }
    }
}
