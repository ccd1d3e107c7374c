use autograd::check::TestRandom;
use autograd::{AdamW, AdamWConfig, Schedule, Tape, Var, linear_cross_entropy};
use tensor::Tensor;
use tensor::testing::on_each_backend;

use super::*;
use crate::batch::{Batch, IGNORED};
use crate::config::LoraConfig;
use crate::embedding::Embedding;
use crate::forward::{DropoutSource, Forward, Model};
use crate::linear::Linear;
use crate::sources::PackedTokens;
use crate::targets::{ModuleShape, Targets};
use crate::{BatchSource, Length, Trainer, TrainingOptions, evaluate, latest_checkpoint};

const VOCABULARY: usize = 7;
const WIDTH: usize = 6;

/// Predicts the next token from the current one; the head is the embedding. A norm in between has a weight of its own.
struct Tied {
    embedding: Embedding,
    hidden: Linear,
    norm: Tensor,
    head: Linear,
}

impl Tied {
    fn new(device: &Device) -> Self {
        let mut random = TestRandom::new(3);
        let mut tensor = |shape: &[usize]| random.tensor(device, shape, -1.0, 1.0).unwrap();
        let table = tensor(&[VOCABULARY, WIDTH]);
        Tied {
            hidden: Linear::new("hidden", tensor(&[WIDTH, WIDTH]), Some(tensor(&[WIDTH]))).unwrap(),
            norm: tensor(&[WIDTH]),
            embedding: Embedding::new("embedding", table.clone()).unwrap(),
            head: Linear::new("head", table, None).unwrap(),
        }
    }
}

impl Model for Tied {
    fn modules(&self) -> Vec<ModuleShape> {
        vec![self.embedding.shape(), self.hidden.shape(), self.head.shape().head()]
    }

    fn loss(&self, forward: &Forward, batch: &Batch) -> Result<Var> {
        let x = self.embedding.forward(forward, &batch.ids)?;
        let x = self.hidden.forward(forward, &x)?.tanh()?;
        let x = x.rms_norm(&forward.parameter("norm.weight", &self.norm), 1e-3)?;
        let rows = batch.ids.elements();
        let (x, labels) = (x.reshape(&[rows, WIDTH])?, batch.labels.reshape(&[rows])?);
        let weight = forward.parameter("head.weight", self.head.weight());
        Ok(linear_cross_entropy(&x, &weight, &labels, IGNORED, batch.valid, 5)?)
    }

    fn device(&self) -> &Device {
        self.norm.device()
    }

    fn savable_modules(&self) -> Vec<String> {
        vec!["norm".into()]
    }

    fn saved_module(&self, module: &str) -> Vec<(String, Tensor)> {
        match module {
            "norm" => vec![("weight".into(), self.norm.clone())],
            "embedding" => self.embedding.parameters(),
            "hidden" => self.hidden.parameters(),
            _ => self.head.parameters(),
        }
    }

    fn tied_parameters(&self) -> Vec<(String, String)> {
        vec![("head.weight".into(), "embedding.weight".into())]
    }
}

fn data() -> PackedTokens {
    let tokens: Vec<u32> = (0..121).map(|i| [0, 3, 6, 2, 5, 1, 4, 3][i % 8]).collect();
    PackedTokens::shuffled(tokens, 6, 4, 9).unwrap()
}

fn gradients(model: &Tied, set: &AdapterSet) -> autograd::Gradients {
    let tape = Tape::new();
    let batch = data().batch(0).unwrap().to_device(model.device()).unwrap();
    let forward = Forward::training(&tape, set, DropoutSource { seed: 0, step: 0 });
    tape.backward(&model.loss(&forward, &batch).unwrap()).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_vec().unwrap()
}

fn run(model: &Tied, steps: u64, output: Option<&Path>, resume: bool) -> AdapterSet {
    let options = TrainingOptions {
        evaluate_every: Some(4),
        save_every: output.map(|_| 5),
        output: output.map(Path::to_path_buf),
        ..TrainingOptions::new(Length::Steps(steps), Schedule::constant(0.02))
    };
    let set = AdapterSet::full(Base::of(model), model.device()).unwrap();
    let mut trainer = Trainer::new(model, set, AdamW::new(AdamWConfig::default()), options).unwrap();
    if resume {
        trainer.resume(&latest_checkpoint(output.unwrap()).unwrap().unwrap()).unwrap();
        assert_eq!(trainer.steps_done(), 5);
    }
    trainer.run(&data(), Some(&data())).unwrap().adapters
}

on_each_backend! {
    fn every_parameter_is_trained_and_tied_ones_are_one(device) {
        let model = Tied::new(device);
        let set = AdapterSet::full(Base::of(&model), device).unwrap();
        let names: Vec<&str> = set.whole_parameters().collect();
        assert_eq!(names, ["embedding.weight", "hidden.bias", "hidden.weight", "norm.weight"]);
        let full = gradients(&model, &set);
        assert!(full.iter().map(|(name, _)| name).eq(names));
        // As parts of an adapter that changes nothing yet, look-up and head are trained apart.
        let config = LoraConfig {
            targets: Targets::names(["hidden"]),
            modules_to_save: ["embedding", "head", "norm"].map(String::from).to_vec(),
            ..LoraConfig::default()
        };
        let apart = gradients(&model, &AdapterSet::new(config, Base::of(&model), device, 0).unwrap());
        let sum = apart.get("embedding.weight").unwrap().add(apart.get("head.weight").unwrap()).unwrap();
        let largest = values(&sum).iter().fold(0.0f32, |most, x| most.max(x.abs()));
        for (got, want) in values(full.get("embedding.weight").unwrap()).iter().zip(values(&sum)) {
            assert!((got - want).abs() <= 1e-6 * largest, "{got} {want}");
        }
        assert_eq!(values(full.get("norm.weight").unwrap()), values(apart.get("norm.weight").unwrap()));
    }

    fn a_resumed_run_ends_bit_for_bit_as_an_unbroken_one(device) {
        let model = Tied::new(device);
        let before = values(&model.norm);
        let directory = tempfile::tempdir().unwrap();
        let whole = run(&model, 9, None, false);
        run(&model, 9, Some(directory.path()), false);
        let resumed = run(&model, 9, Some(directory.path()), true);
        for ((name, one), (_, other)) in whole.parameters().iter().zip(resumed.parameters().iter()) {
            assert_eq!(values(one), values(other), "{name}");
        }
        assert!(directory.path().join("best/model.safetensors").exists());
        assert_eq!(values(&model.norm), before, "the model itself is never written");
        let loss = |set| evaluate(&model, set, &data()).unwrap().loss;
        assert!(loss(Some(&whole)) < loss(None) - 0.2);
    }
}

#[test]
fn a_set_without_adapters_is_no_peft_adapter() {
    let device = Device::cpu();
    let model = Tied::new(&device);
    let directory = tempfile::tempdir().unwrap();
    let set = AdapterSet::full(Base::of(&model), &device).unwrap();
    let error = set.save(directory.path(), &AdapterOrigin::default()).unwrap_err().to_string();
    assert!(error.contains("no adapter; write a checkpoint instead"), "{error}");
    let error = AdapterSet::full(&model.modules(), &device).unwrap_err().to_string();
    assert!(error.contains("make the set with `Base::of`"), "{error}");
}
