//! The estimate of a run's memory against the run. A test binary of its own, since the CPU's counters belong to the whole
//! process.

use autograd::{AdamW, AdamWConfig, Schedule, Var};
use lora::{
    AdapterSet, Batch, Forward, IGNORED, Length, Linear, LoraConfig, Model, ModuleShape, PackedTokens, Result, Trainer,
    TrainingOptions,
};
use tensor::testing::on_each_backend;
use tensor::{Device, RandomKey, Tensor};

const VOCABULARY: usize = 200;
const HIDDEN: usize = 128;

/// Token by token through ten layers.
struct Deep {
    embedding: Tensor,
    layers: Vec<Linear>,
    output: Linear,
}

impl Deep {
    fn new(device: &Device) -> Self {
        let random = |name: &str, shape: &[usize]| {
            Tensor::random_uniform(device, shape, -0.1, 0.1, RandomKey::named(1, name, 0)).unwrap()
        };
        let layer = |index: usize| {
            let name = format!("layers.{index}.dense");
            Linear::new(&name, random(&name, &[HIDDEN, HIDDEN]), None).unwrap()
        };
        Deep {
            embedding: random("embedding", &[VOCABULARY, HIDDEN]),
            layers: (0..10).map(layer).collect(),
            output: Linear::new("output", random("output", &[VOCABULARY, HIDDEN]), None).unwrap(),
        }
    }
}

impl Model for Deep {
    fn modules(&self) -> Vec<ModuleShape> {
        self.layers.iter().map(Linear::shape).chain([self.output.shape().head()]).collect()
    }

    fn loss(&self, forward: &Forward, batch: &Batch) -> Result<Var> {
        let mut x = Var::constant(self.embedding.embedding(&batch.ids)?);
        for layer in &self.layers {
            x = layer.forward(forward, &x)?.tanh()?;
        }
        let rows = batch.ids.elements();
        let logits = self.output.forward(forward, &x)?.reshape(&[rows, VOCABULARY])?;
        Ok(autograd::cross_entropy(&logits, &batch.labels.reshape(&[rows])?, IGNORED, batch.valid)?)
    }

    fn device(&self) -> &Device {
        self.embedding.device()
    }
}

on_each_backend! {
    fn the_estimate_is_what_the_run_takes(device) {
        let model = Deep::new(device);
        let config = LoraConfig { rank: 16, ..LoraConfig::default() };
        let adapters = AdapterSet::new(config, &model.modules(), device, 2).unwrap();
        let tokens: Vec<u32> = (0..4000u32).map(|i| i * i % VOCABULARY as u32).collect();
        let source = PackedTokens::shuffled(tokens, 32, 12, 3).unwrap();
        let options = TrainingOptions::new(Length::Steps(3), Schedule::constant(0.01));
        let trainer = Trainer::new(&model, adapters, AdamW::new(AdamWConfig::default()), options).unwrap();
        let estimate = trainer.estimate_memory(&source).unwrap();
        assert_eq!(estimate.batch, 12);
        device.reset_peak();
        trainer.run(&source, None).unwrap();
        let (told, peak) = (estimate.total(12) as f64, device.counters().peak_bytes as f64);
        assert!((0.9..1.3).contains(&(told / peak)), "told {told}, took {peak}: {estimate:?}");
        assert_eq!(estimate.largest_batch(estimate.total(7)), 7);
        assert_eq!(estimate.largest_batch(estimate.total(1) - 1), 0);
    }
}
