//! LLaMA as a classifier: against numbers of the reference stack's `LlamaForSequenceClassification` on the fixture's
//! model, with the head `score[l, h] = 0.1 · sin(64·l + h)`; and what else must hold.

mod common;

use autograd::Tape;
use common::{Golden, assert_close, fixture, recorded, values};
use lora::{AdapterSet, Base, Batch, Forward, HostBatch, LoraConfig, Model, Targets};
use models::{LlamaClassifier, SequenceClassifier, WeightType};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use tempfile::TempDir;
use tensor::Device;
use tensor::testing::on_each_backend;

/// The fixture's language model with a head of `labels` in place of its own.
fn checkpoint(labels: usize) -> TempDir {
    let (source, directory) = (fixture("llama_tiny").join("model"), tempfile::tempdir().expect("a directory"));
    let bytes = std::fs::read(source.join("model.safetensors")).expect("the weights");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let score: Vec<u8> = (0..64 * labels).flat_map(|i| ((i as f32).sin() * 0.1).to_le_bytes()).collect();
    let score = TensorView::new(Dtype::F32, vec![labels, 64], &score).expect("a view");
    let rest = file.tensors().into_iter().filter(|(name, _)| name != "lm_head.weight");
    let tensors = rest.chain([("score.weight".to_string(), score)]);
    serialize_to_file(tensors, None, &directory.path().join("model.safetensors")).expect("written");
    let config = std::fs::read_to_string(source.join("config.json")).expect("the configuration");
    let config = config.replace("LlamaForCausalLM", "LlamaForSequenceClassification");
    std::fs::write(directory.path().join("config.json"), config).expect("written");
    directory
}

fn load(labels: usize, device: &Device) -> LlamaClassifier {
    let directory = checkpoint(labels);
    LlamaClassifier::from_directory(directory.path(), labels, 0, device, WeightType::F32).expect("a model")
}

fn batch(prefix: &str, labels: usize, device: &Device) -> Batch {
    let golden = Golden::read(&fixture("llama_tiny").join("golden.safetensors"));
    let host = golden.batch(prefix);
    let (ids, mask) = (host.ids().to_vec(), host.key_mask().map(<[u32]>::to_vec));
    let made = match labels {
        1 => HostBatch::scores(3, 32, ids, vec![1.5, -0.5, 0.25], mask),
        _ => HostBatch::classes(3, 32, ids, vec![2, 0, 1], mask),
    };
    made.expect("a batch").to_device(device).expect("a batch")
}

fn check(prefix: &str, labels: usize, device: &Device, logits: &[f32], loss: f32) {
    let (model, batch) = (load(labels, device), batch(prefix, labels, device));
    assert!(!model.is_head_fresh() && model.labels() == labels);
    let got = model.class_logits(&Forward::evaluation(None), &batch).expect("logits");
    assert_eq!(got.shape()[..], [3, labels]);
    assert_close("logits", &values(&got), logits, 1e-4);
    let got = model.loss(&Forward::evaluation(None), &batch).expect("a loss");
    assert_close("loss", &values(got.tensor()), &[loss], 2e-5);
}

on_each_backend! {
    fn classes_are_those_of_the_reference(device) {
        let right = [0.321_43, -0.303_27, -0.559_10, 0.404_42, 1.090_12, 0.449_93, 0.152_17,
            -0.376_19, -0.446_99];
        check("", 3, device, &right, 1.410_39);
        let left = [-0.287_61, 0.169_78, 0.420_67, 1.062_93, 0.498_90, -0.671_93, -0.490_30,
            0.630_54, 0.984_46];
        check("left.", 3, device, &left, 0.796_28);
    }

    fn scores_are_those_of_the_reference(device) {
        check("", 1, device, &[0.321_43, 0.404_42, 0.152_17], 0.738_86);
        check("left.", 1, device, &[-0.287_61, 1.062_93, -0.490_30], 2.062_11);
    }

    fn the_head_is_trained_as_a_whole(device) {
        let (model, batch) = (load(3, device), batch("left.", 3, device));
        let config = LoraConfig {
            rank: 2,
            targets: Targets::names(["q_proj"]),
            modules_to_save: vec!["score".into()],
            ..LoraConfig::default()
        };
        let adapters = AdapterSet::new(config, Base::of(&model), device, 1).expect("adapters");
        let tape = Tape::new();
        let loss = model.loss(&recorded(&tape, &adapters), &batch).expect("a loss");
        let gradients = tape.backward(&loss).expect("gradients");
        let score = values(gradients.get("score.weight").expect("the head's gradient"));
        assert_close("gradient", &score[..4], &[-0.020_71, 0.008_35, -0.337_71, 0.056_00], 2e-5);
        let norm = score.iter().map(|value| value * value).sum::<f32>().sqrt();
        assert_close("norm of the gradient", &[norm], &[2.840_79], 1e-4);
        assert_eq!(gradients.len(), 1 + 2 * 2);
    }

    fn without_a_mask_the_last_position_is_read(device) {
        let model = load(3, device);
        let ids: Vec<u32> = (0..14).map(|i| (i * 31 + 7) % 300).collect();
        let logits = |mask: Option<Vec<u32>>| {
            let batch = HostBatch::classes(2, 7, ids.clone(), vec![0, 1], mask).expect("a batch");
            let batch = batch.to_device(device).expect("a batch");
            values(&model.class_logits(&Forward::evaluation(None), &batch).expect("logits"))
        };
        assert_eq!(logits(None), logits(Some(vec![1; 14])));
        assert_ne!(logits(None), logits(Some([[1; 7], [1, 1, 1, 1, 1, 1, 0]].concat())));
    }
}

#[test]
fn a_language_model_becomes_a_classifier() {
    let (device, directory) = (Device::cpu(), fixture("llama_tiny").join("model"));
    let load = |labels, seed| LlamaClassifier::from_directory(&directory, labels, seed, &device, WeightType::F32);
    let score = |model: &LlamaClassifier| values(model.linears().last().expect("a head").weight());
    let model = load(2, 5).expect("a model");
    assert!(model.is_head_fresh());
    assert_eq!(model.modules().last().map(|module| (module.name.as_str(), module.head)), Some(("score", true)));
    assert_eq!(score(&model), score(&load(2, 5).expect("a model")));
    assert_ne!(score(&model), score(&load(2, 6).expect("a model")));
    assert!(load(0, 0).err().expect("must be refused").to_string().contains("at least one label"));
    let stored = LlamaClassifier::from_directory(checkpoint(3).path(), 2, 0, &device, WeightType::F32);
    let message = stored.err().expect("must be refused").to_string();
    assert!(message.contains("`score` has 3 labels, 2 were asked for"), "{message}");
    let tokens = HostBatch::new(1, 2, vec![1, 2], vec![2, 3], None).expect("a batch").to_device(&device);
    let refused = model.loss(&Forward::evaluation(None), &tokens.expect("a batch")).expect_err("must be refused");
    assert!(refused.to_string().contains("a classifier learns a class for each sequence"), "{refused}");
}
