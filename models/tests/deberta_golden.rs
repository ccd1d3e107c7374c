//! DeBERTaV3 against the reference stack's golden values, on both backends: hidden states, logits, losses, gradients of
//! adapters and of modules trained as a whole, and what five steps make of them.

mod common;

use std::path::Path;

use autograd::{AdamW, AdamWConfig, Gradients, Optimizer, Tape};
use common::{Golden, PEFT_PREFIX, assert_close, fixture, largest_difference, recorded, values};
use lora::{AdapterSet, Base, Batch, Forward, HostBatch, Model};
use models::{Checkpoint, Deberta, DebertaHead, DebertaOptions, SequenceClassifier, load_adapter};
use tensor::Device;
use tensor::testing::on_each_backend;

const LOGITS: f32 = 1e-4;
const LOSS: f32 = 1e-5;

/// A fixture with its head.
#[derive(Clone, Copy)]
struct Fixture {
    name: &'static str,
    head: DebertaHead,
}

const CLASSES: Fixture = Fixture { name: "deberta_v3_tiny_cls", head: DebertaHead::Classifier { labels: 2 } };
const SCORES: Fixture = Fixture { name: "deberta_v3_tiny_reg", head: DebertaHead::Regression };

impl Fixture {
    fn model(&self, device: &Device) -> Deberta {
        let directory = fixture(self.name).join("model");
        Deberta::from_directory(&directory, &DebertaOptions::new(self.head), device).expect("the fixture's model")
    }

    fn adapters(&self, model: &Deberta) -> AdapterSet {
        let directory = fixture(self.name).join("adapter");
        AdapterSet::load(&directory, Base::of(model), model.device()).expect("the fixture's adapter").0
    }

    fn golden(&self) -> Golden {
        Golden::read(&fixture(self.name).join("golden.safetensors"))
    }

    fn batch(&self) -> HostBatch {
        let golden = self.golden();
        let (shape, ids) = golden.integers("input_ids");
        let ids = ids.iter().map(|&id| id as u32).collect();
        let mask = golden.integers("attention_mask").1.iter().map(|&bit| bit as u32).collect();
        let (batch, sequence) = (shape[0], shape[1]);
        let made = match self.head {
            DebertaHead::Regression => {
                HostBatch::scores(batch, sequence, ids, golden.floats("labels").to_vec(), Some(mask))
            }
            _ => {
                let labels = golden.integers("labels").1.iter().map(|&label| label as i32).collect();
                HostBatch::classes(batch, sequence, ids, labels, Some(mask))
            }
        };
        made.expect("a batch")
    }
}

fn loss(model: &Deberta, adapters: Option<&AdapterSet>, batch: &Batch) -> f32 {
    let loss = model.loss(&Forward::evaluation(adapters), batch).expect("a loss");
    loss.tensor().item().expect("a scalar")
}

/// Logits and loss against the goldens `<values>.logits` and `<values>.loss`.
fn check_forward(fixture: Fixture, model: &Deberta, adapters: Option<&AdapterSet>, prefix: &str) {
    let (golden, batch) = (fixture.golden(), fixture.batch().to_device(model.device()).expect("a batch"));
    let logits = model.class_logits(&Forward::evaluation(adapters), &batch).expect("logits");
    assert_eq!(logits.shape()[..], [4, model.labels()]);
    let what = format!("{}, {prefix}", fixture.name);
    assert_close(&format!("{what}: logits"), &values(&logits), golden.floats(&format!("{prefix}.logits")), LOGITS);
    let want = golden.floats(&format!("{prefix}.loss"));
    assert_close(&format!("{what}: loss"), &[loss(model, adapters, &batch)], want, LOSS * want[0].max(1.0));
}

fn gradients(model: &Deberta, adapters: &AdapterSet, batch: &Batch) -> (f32, Gradients) {
    let tape = Tape::new();
    let loss = model.loss(&recorded(&tape, adapters), batch).expect("a loss");
    (loss.tensor().item().expect("a scalar"), tape.backward(&loss).expect("gradients"))
}

fn check_gradients(fixture: Fixture, model: &Deberta, adapters: &AdapterSet) {
    let (golden, batch) = (fixture.golden(), fixture.batch().to_device(model.device()).expect("a batch"));
    let (_, gradients) = gradients(model, adapters, &batch);
    let prefix = format!("grad.{PEFT_PREFIX}");
    let scale = golden.with_prefix(&prefix).flat_map(|(_, values)| values).fold(0.0, |a: f32, b| a.max(b.abs()));
    assert_eq!(gradients.len(), golden.with_prefix(&prefix).count(), "everything trained has a gradient");
    for (parameter, want) in golden.with_prefix(&prefix) {
        let got = gradients.get(parameter).unwrap_or_else(|| panic!("no gradient of {parameter}"));
        assert_close(&format!("{}: gradient of {parameter}", fixture.name), &values(got), want, 1e-5 * scale);
    }
}

fn check_training(fixture: Fixture, model: &Deberta, mut adapters: AdapterSet) {
    let (golden, batch) = (fixture.golden(), fixture.batch().to_device(model.device()).expect("a batch"));
    let losses = golden.floats("losses");
    let mut optimizer = AdamW::new(AdamWConfig::default());
    for step in 0..5 {
        let (loss, gradients) = gradients(model, &adapters, &batch);
        assert_close(&format!("loss of step {step}"), &[loss], &losses[step..=step], LOSS * losses[0].max(1.0));
        optimizer.step(adapters.parameters_mut(), &gradients, 1e-3).expect("a step");
    }
    assert_close("loss after", &[loss(model, Some(&adapters), &batch)], &losses[5..], LOSS * losses[0].max(1.0));
    let prefix = format!("step5.{PEFT_PREFIX}");
    assert_eq!(golden.with_prefix(&prefix).count(), adapters.parameters().names().count());
    for (parameter, want) in golden.with_prefix(&prefix) {
        let got = adapters.parameters().get(parameter).unwrap_or_else(|| panic!("no parameter {parameter}"));
        assert_close(&format!("{}: {parameter} after five steps", fixture.name), &values(got), want, 1e-5);
    }
}

on_each_backend! {
    fn base_models(device) {
        for fixture in [CLASSES, SCORES] {
            let model = fixture.model(device);
            assert!(model.fresh_modules().is_empty() && model.unused_tensors().is_empty());
            check_forward(fixture, &model, None, "base");
        }
    }

    fn hidden_states(device) {
        let model = CLASSES.model(device);
        let host = CLASSES.batch();
        let batch = host.to_device(device).expect("a batch");
        let debug = Golden::read(&fixture(CLASSES.name).join("debug.safetensors"));
        let hidden = model.hidden(&Forward::evaluation(None), &batch.ids, batch.key_mask.as_ref()).expect("hidden states");
        let keep = host.key_mask().expect("a mask");
        let difference = largest_difference(&values(hidden.tensor()), debug.floats("hidden.2"), 64, keep);
        assert!(difference <= 2e-5, "hidden states differ by {difference:e}");
    }

    fn adapted_models(device) {
        for fixture in [CLASSES, SCORES] {
            let model = fixture.model(device);
            check_forward(fixture, &model, Some(&fixture.adapters(&model)), "lora");
        }
    }

    fn trained_gradients(device) {
        for fixture in [CLASSES, SCORES] {
            let model = fixture.model(device);
            let adapters = fixture.adapters(&model);
            check_gradients(fixture, &model, &adapters);
        }
    }

    fn values_after_five_steps(device) {
        for fixture in [CLASSES, SCORES] {
            let model = fixture.model(device);
            let adapters = fixture.adapters(&model);
            check_training(fixture, &model, adapters);
        }
    }

    fn merging_is_the_same_as_adapting(device) {
        for fixture in [CLASSES, SCORES] {
            let model = fixture.model(device);
            let merged = model.merged(&fixture.adapters(&model)).expect("a merged model");
            check_forward(fixture, &merged, None, "lora");
            let golden = fixture.golden();
            let (module, want) = golden.with_prefix(&format!("merged.{PEFT_PREFIX}")).next().map(|(module, want)| (module.to_string(), want.to_vec())).expect("a merged weight");
            let linear = merged.linear(&module).unwrap_or_else(|| panic!("no module {module}"));
            assert_close(&module, &values(linear.weight()), &want, 1e-6);
        }
    }

    fn adapters_that_train_every_bias(device) {
        let (model, directory) = (CLASSES.model(device), fixture(CLASSES.name));
        let read = |directory: &Path| AdapterSet::load(directory, Base::of(&model), device).expect("the adapter");
        let (adapters, origin) = read(&directory.join("adapter_bias_all"));
        // Of two blocks, the four other linear modules' and two norms', and those of adapted modules; and the rest.
        assert_eq!(adapters.whole_parameters().filter(|name| name.ends_with("bias")).count(), 2 * (4 + 2 + 2) + 2 + 2);
        let want = Golden::read(&directory.join("golden_bias_all.safetensors")).floats("logits").to_vec();
        let batch = CLASSES.batch().to_device(device).expect("a batch");
        let logits = |model: &Deberta, set: Option<&AdapterSet>| {
            values(&model.class_logits(&Forward::evaluation(set), &batch).expect("logits"))
        };
        assert_close("adapted", &logits(&model, Some(&adapters)), &want, LOGITS);
        assert_close("merged", &logits(&model.merged(&adapters).expect("merged"), None), &want, LOGITS);
        let (_, gradients) = gradients(&model, &adapters, &batch);
        assert_eq!(gradients.iter().count(), adapters.parameters().len());

        // What is written is PEFT's file but for its copies.
        let out = tempfile::tempdir().expect("a directory");
        adapters.save(out.path(), &origin).expect("saved");
        let tensors = |directory: &Path| Golden::read(&directory.join("adapter_model.safetensors"));
        let (ours, peft) = (tensors(out.path()), tensors(&directory.join("adapter_bias_all")));
        let copies = ["original_module", "modules_to_save"];
        let kept = peft.with_prefix("").filter(|(name, _)| !copies.iter().any(|copy| name.contains(copy)));
        assert!(ours.with_prefix("").eq(kept));
        assert_eq!(read(out.path()).0.config(), adapters.config());
        let checkpoint = Checkpoint::open(&directory.join("model")).expect("the checkpoint");
        let merged = load_adapter(&checkpoint, &directory.join("adapter_bias_all"), device).expect("the adapter");
        assert!(merged.whole_parameters().eq(adapters.whole_parameters()));
    }

    fn checkpointed_activations_change_no_bit(device) {
        let model = CLASSES.model(device);
        let (adapters, batch) = (CLASSES.adapters(&model), CLASSES.batch().to_device(device).expect("a batch"));
        let (loss, kept) = gradients(&model, &adapters, &batch);
        let model = model.with_checkpointed_activations(true);
        let (again, recomputed) = gradients(&model, &adapters, &batch);
        assert_eq!(loss, again);
        assert_eq!(kept.len(), recomputed.len());
        for ((name, kept), (_, recomputed)) in kept.iter().zip(recomputed.iter()) {
            assert_eq!(values(kept), values(recomputed), "{name}");
        }
    }
}
