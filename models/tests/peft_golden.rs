//! Adapters of every kind that PEFT files hold, against golden values of the reference stack: loss, logits, gradients,
//! five steps of training, merging, and saving again.

mod common;

use std::path::Path;

use autograd::{AdamW, AdamWConfig, Gradients, Optimizer, Tape};
use common::{Golden, PEFT_PREFIX, assert_close, fixture, largest_difference, load, logits, loss, recorded, values};
use lora::{AdapterOrigin, AdapterSet, Base, Batch, LoraConfig, Model, Targets};
use models::{Checkpoint, Llama, WeightType, load_adapter, merge_checkpoint};
use tensor::Device;
use tensor::testing::on_each_backend;

const LOGITS: f32 = 1e-4;
const LOSS: f32 = 1e-5;

/// One kind of adapter on the same model.
struct Case {
    kind: &'static str,
    model: Llama,
    adapters: AdapterSet,
    golden: Golden,
    batch: Batch,
}

impl Case {
    fn new(kind: &'static str, device: &Device) -> Self {
        let model = load("llama_tiny", device);
        let directory = fixture("llama_tiny").join(format!("adapter_{kind}"));
        let (adapters, _) = AdapterSet::load(&directory, Base::of(&model), device).expect("the fixture's adapter");
        let golden = Golden::read(&fixture("llama_tiny").join(format!("golden_{kind}.safetensors")));
        let batch = golden.batch("").to_device(device).expect("a batch");
        Case { kind, model, adapters, golden, batch }
    }

    fn check_loss(&self, what: &str, model: &Llama, adapters: Option<&AdapterSet>, want: &str) {
        let what = format!("{}, {what}: loss", self.kind);
        assert_close(&what, &[loss(model, adapters, &self.batch)], self.golden.floats(want), LOSS);
    }

    fn check_logits(&self, what: &str, model: &Llama, adapters: Option<&AdapterSet>) {
        // Left out of the larger files.
        let Some((_, want)) = self.golden.with_prefix("lora.logits").next() else {
            return;
        };
        let keep = values_u32(self.batch.key_mask.as_ref().expect("a mask"));
        let difference = largest_difference(&logits(model, adapters, &self.batch), want, 300, &keep);
        assert!(difference <= LOGITS, "{}, {what}: logits differ by {difference:e}", self.kind);
    }

    fn gradients(&self, adapters: &AdapterSet) -> (f32, Gradients) {
        let tape = Tape::new();
        let loss = self.model.loss(&recorded(&tape, adapters), &self.batch).expect("a loss");
        (loss.tensor().item().expect("a scalar"), tape.backward(&loss).expect("gradients"))
    }

    fn check_gradients(&self) {
        let (_, gradients) = self.gradients(&self.adapters);
        let prefix = format!("grad.{PEFT_PREFIX}");
        let wanted = || self.golden.with_prefix(&prefix);
        let scale = wanted().flat_map(|(_, values)| values).fold(0.0, |a: f32, b| a.max(b.abs()));
        assert_eq!(gradients.len(), wanted().count(), "{}: every trained tensor has a gradient", self.kind);
        for (name, want) in wanted() {
            let got = gradients.get(name).unwrap_or_else(|| panic!("{}: no gradient of {name}", self.kind));
            assert_close(&format!("{}: gradient of {name}", self.kind), &values(got), want, 1e-5 * scale);
        }
    }

    fn check_training(&self) {
        let mut adapters = self.adapters.clone();
        let mut optimizer = AdamW::new(AdamWConfig::default());
        let losses = self.golden.floats("losses");
        for step in 0..5 {
            let (loss, gradients) = self.gradients(&adapters);
            assert_close(&format!("{}: loss of step {step}", self.kind), &[loss], &losses[step..=step], LOSS);
            optimizer.step(adapters.parameters_mut(), &gradients, 1e-3).expect("a step");
        }
        assert_close("loss after", &[loss(&self.model, Some(&adapters), &self.batch)], &losses[5..], LOSS);
        for (name, want) in self.golden.with_prefix(&format!("step5.{PEFT_PREFIX}")) {
            let got = adapters.parameters().get(name).unwrap_or_else(|| panic!("no parameter {name}"));
            assert_close(&format!("{}: {name} after five steps", self.kind), &values(got), want, 1e-5);
        }
    }

    fn check_merging(&self) {
        let merged = self.model.merged(&self.adapters).expect("a merged model");
        self.check_loss("merged", &merged, None, "lora.loss");
        self.check_logits("merged", &merged, None);
        for (module, want) in self.golden.with_prefix(&format!("merged.{PEFT_PREFIX}")) {
            let linear = merged.linear(module).unwrap_or_else(|| panic!("no module {module}"));
            assert_close(module, &values(linear.weight()), want, 1e-6);
        }
    }

    fn check_merging_files(&self) {
        let adapter = fixture("llama_tiny").join(format!("adapter_{}", self.kind));
        let merged = merge_files(&adapter, self.model.device());
        self.check_loss("merged files", &merged, None, "lora.loss");
        self.check_logits("merged files", &merged, None);
    }

    fn check_saving(&self) {
        let directory = tempfile::tempdir().expect("a directory");
        self.adapters.save(directory.path(), &AdapterOrigin::default()).expect("saved");
        let device = self.model.device();
        let (again, _) = AdapterSet::load(directory.path(), Base::of(&self.model), device).expect("loaded");
        assert_eq!(again.config(), self.adapters.config());
        assert_eq!(again.parameters().len(), self.adapters.parameters().len());
        for ((name, before), (_, after)) in self.adapters.parameters().iter().zip(again.parameters().iter()) {
            assert_eq!(values(before), values(after), "{name}");
        }
    }

    fn check(&self) {
        self.check_loss("base", &self.model, None, "base.loss");
        self.check_loss("adapted", &self.model, Some(&self.adapters), "lora.loss");
        self.check_logits("adapted", &self.model, Some(&self.adapters));
        self.check_gradients();
        self.check_training();
        self.check_merging();
        self.check_merging_files();
        self.check_saving();
    }
}

/// The fixture's checkpoint with an adapter folded in, file by file.
fn merge_files(adapter: &Path, device: &Device) -> Llama {
    let source = fixture("llama_tiny").join("model");
    let checkpoint = Checkpoint::open(&source).expect("a checkpoint");
    let adapters = load_adapter(&checkpoint, adapter, device).expect("an adapter");
    let out = tempfile::tempdir().expect("a directory");
    merge_checkpoint(&checkpoint, &adapters, out.path()).expect("merged files");
    std::fs::copy(source.join("config.json"), out.path().join("config.json")).expect("a configuration");
    Llama::from_directory(out.path(), device, WeightType::F32).expect("the merged model")
}

fn values_u32(tensor: &tensor::Tensor) -> Vec<u32> {
    tensor.to_vec().expect("values")
}

on_each_backend! {
    fn rank_stabilised_scaling_with_patterns(device) {
        Case::new("rslora", device).check();
    }

    fn weight_decomposition(device) {
        Case::new("dora", device).check();
    }

    fn weight_decomposition_of_an_embedding(device) {
        Case::new("dora_embed", device).check();
    }

    fn embedding_and_head(device) {
        Case::new("embed", device).check();
    }

    fn files_are_merged_with_what_only_the_adapter_tells(device) {
        let model = load("llama_tiny", device);
        let golden = Golden::read(&fixture("llama_tiny").join("golden_mts.safetensors"));
        let batch = golden.batch("").to_device(device).expect("a batch");
        let keep = values_u32(batch.key_mask.as_ref().expect("a mask"));
        // All linear modules, biases where there are any (there are none), and a product that is subtracted.
        let config = LoraConfig {
            rank: 2,
            bias: lora::Bias::LoraOnly,
            init_lora_weights: lora::Initialisation::Olora,
            ..LoraConfig::default()
        };
        let mut adapters = AdapterSet::new(config, Base::of(&model), device, 1).expect("adapters");
        for (_, tensor) in adapters.parameters_mut().iter_mut() {
            *tensor = tensor.affine(1.1, 0.02).expect("moved");
        }
        let directory = tempfile::tempdir().expect("a directory");
        adapters.save(directory.path(), &AdapterOrigin::default()).expect("saved");
        let merged = logits(&merge_files(directory.path(), device), None, &batch);
        let difference = largest_difference(&merged, &logits(&model, Some(&adapters), &batch), 300, &keep);
        assert!(difference <= LOGITS, "{difference:e}");
        assert!(largest_difference(&merged, &logits(&model, None, &batch), 300, &keep) > 0.1);
    }

    fn a_tied_embedding_and_head_come_apart_when_one_is_trained(device) {
        let model = load("llama3_tiny", device);
        let golden = Golden::read(&fixture("llama3_tiny").join("golden.safetensors"));
        let batch = golden.batch("").to_device(device).expect("a batch");
        let keep = values_u32(batch.key_mask.as_ref().expect("a mask"));
        for (target, whole) in [("q_proj", None), ("embed_tokens", None), ("lm_head", None), ("q_proj", Some("embed_tokens"))] {
            let config = LoraConfig {
                rank: 2,
                targets: Targets::names([target]),
                modules_to_save: whole.into_iter().map(String::from).collect(),
                ..LoraConfig::default()
            };
            let mut adapters = AdapterSet::new(config, Base::of(&model), device, 1).expect("adapters");
            for (_, tensor) in adapters.parameters_mut().iter_mut() {
                *tensor = tensor.affine(1.1, 0.02).expect("moved");
            }
            let merged = model.merged(&adapters).expect("a merged model");
            assert_eq!(merged.config().tie_word_embeddings, target == "q_proj" && whole.is_none(), "{target} {whole:?}");
            let (adapted, base) = (logits(&model, Some(&adapters), &batch), logits(&model, None, &batch));
            let difference = largest_difference(&logits(&merged, None, &batch), &adapted, 300, &keep);
            assert!(difference <= LOGITS, "{target} {whole:?}: {difference:e}");
            assert!(largest_difference(&adapted, &base, 300, &keep) > 0.01, "{target} {whole:?}");
        }
    }

    fn modules_trained_as_a_whole(device) {
        Case::new("mts", device).check();
    }
}
