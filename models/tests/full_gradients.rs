//! Training every parameter: gradients against the reference stack's (`docs/checks/full_gradients.py`), with and without
//! recomputation; and checkpoints of what was trained.

mod common;

use std::path::Path;

use autograd::{Gradients, Tape};
use common::{Golden, assert_close, fixture, load, recorded, values};
use lora::{AdapterSet, Base, Forward, HostBatch, IGNORED, Model};
use models::{Checkpoint, Deberta, DebertaHead, DebertaOptions, Llama, WeightType, write_checkpoint};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::Value;
use tensor::testing::on_each_backend;
use tensor::{DType, Device};

fn reference() -> Value {
    let text = std::fs::read_to_string(fixture("full_gradients.json")).expect("the fixture");
    serde_json::from_str(&text).expect("JSON")
}

fn gradients(model: &dyn Model, batch: &HostBatch) -> (f32, Gradients) {
    let set = AdapterSet::full(Base::of(model), model.device()).expect("a set");
    let tape = Tape::new();
    let batch = batch.to_device(model.device()).expect("a batch");
    let loss = model.loss(&recorded(&tape, &set), &batch).expect("a loss");
    (loss.tensor().item().expect("a scalar"), tape.backward(&loss).expect("gradients"))
}

/// Loss and gradients, against the reference's norms and products with sin(0, 1, 2, …).
fn check(model: &dyn Model, batch: &HostBatch, name: &str) {
    let (loss, gradients) = gradients(model, batch);
    let reference = &reference()[name];
    let number = |value: &Value| value.as_f64().expect("a number") as f32;
    assert_close(&format!("{name}: loss"), &[loss], &[number(&reference["loss"])], 2e-5);
    let expected = reference["gradients"].as_object().expect("gradients");
    let mut names: Vec<&String> = expected.keys().collect();
    names.sort();
    assert!(gradients.iter().map(|(name, _)| name).eq(names), "{name}: the parameters");
    for (parameter, gradient) in gradients.iter() {
        let found: Vec<f64> = values(gradient).into_iter().map(f64::from).collect();
        let norm = found.iter().map(|x| x * x).sum::<f64>().sqrt() as f32;
        let product = found.iter().enumerate().map(|(i, x)| x * (i as f64).sin()).sum::<f64>() as f32;
        let want = [number(&expected[parameter][0]), number(&expected[parameter][1])];
        // A gradient that is nothing but rounding (a shift that softmax takes out again) has no scale of its own.
        assert_close(&format!("{name}: {parameter}"), &[norm, product], &want, 1e-4 * want[0] + 1e-6);
    }
}

fn classes() -> HostBatch {
    let golden = Golden::read(&fixture("deberta_v3_tiny_cls/golden.safetensors"));
    let (ids, mask) = (unsigned(&golden, "input_ids"), unsigned(&golden, "attention_mask"));
    let labels = golden.integers("labels").1.iter().map(|&label| label as i32).collect();
    HostBatch::classes(4, 48, ids, labels, Some(mask)).expect("a batch")
}

fn unsigned(golden: &Golden, name: &str) -> Vec<u32> {
    golden.integers(name).1.iter().map(|&value| value as u32).collect()
}

/// The classes' texts, every fifth token to be told.
fn masked() -> HostBatch {
    let classes = classes();
    let mask = classes.key_mask().expect("a mask").to_vec();
    let labels = classes.ids().iter().zip(&mask).enumerate().map(|(place, (&id, &token))| {
        if token == 1 && (place % 48) % 5 == 1 { ((id * 7 + 3) % 300) as i32 } else { IGNORED }
    });
    HostBatch::new(4, 48, classes.ids().to_vec(), labels.collect(), Some(mask)).expect("a batch")
}

fn deberta(directory: &Path, head: DebertaHead, device: &Device) -> Deberta {
    Deberta::from_directory(directory, &DebertaOptions::new(head), device).expect("a model")
}

fn classifier(device: &Device) -> Deberta {
    deberta(&fixture("deberta_v3_tiny_cls/model"), DebertaHead::Classifier { labels: 2 }, device)
}

/// The classifier's encoder under a masked language model's head whose weights are waves.
fn masked_model(device: &Device) -> Deberta {
    let (source, directory) = (fixture("deberta_v3_tiny_cls/model"), tempfile::tempdir().expect("a directory"));
    let waves = |count: usize, phase: f64, about: f64| -> Vec<u8> {
        (0..count).flat_map(|i| ((about + 0.1 * (i as f64 + phase).sin()) as f32).to_le_bytes()).collect()
    };
    let head: [(&str, Vec<usize>, Vec<u8>); 5] = [
        ("cls.predictions.transform.dense.weight", vec![64, 64], waves(64 * 64, 0.0, 0.0)),
        ("cls.predictions.transform.dense.bias", vec![64], waves(64, 1.0, 0.0)),
        ("cls.predictions.transform.LayerNorm.weight", vec![64], waves(64, 2.0, 1.0)),
        ("cls.predictions.transform.LayerNorm.bias", vec![64], waves(64, 3.0, 0.0)),
        ("cls.predictions.bias", vec![300], waves(300, 4.0, 0.0)),
    ];
    let bytes = std::fs::read(source.join("model.safetensors")).expect("the weights");
    let encoder = SafeTensors::deserialize(&bytes).expect("a safetensors file").tensors().into_iter();
    let head = head.iter().map(|(name, shape, bytes)| {
        (name.to_string(), TensorView::new(Dtype::F32, shape.clone(), bytes).expect("a view"))
    });
    serialize_to_file(encoder.chain(head), None, &directory.path().join("model.safetensors")).expect("written");
    std::fs::copy(source.join("config.json"), directory.path().join("config.json")).expect("copied");
    deberta(directory.path(), DebertaHead::MaskedLanguageModel, device)
}

fn tokens(name: &str) -> HostBatch {
    Golden::read(&fixture(name).join("golden.safetensors")).batch("")
}

on_each_backend! {
    fn gradients_of_all_parameters_are_the_references(device) {
        check(&load("llama_tiny", device), &tokens("llama_tiny"), "llama_tiny");
        // Here embedding and head are one.
        check(&load("llama3_tiny", device), &tokens("llama3_tiny"), "llama3_tiny");
        check(&classifier(device), &classes(), "deberta_v3_tiny_cls");
        check(&masked_model(device), &masked(), "masked");
    }

    fn recomputation_changes_no_bit(device) {
        let same = |(loss, one): (f32, Gradients), (other_loss, other): (f32, Gradients)| {
            assert_eq!((loss, one.iter().count()), (other_loss, other.iter().count()));
            for (name, gradient) in one.iter() {
                assert_eq!(values(gradient), values(other.get(name).expect(name)), "{name}");
            }
        };
        let (model, batch) = (load("llama3_tiny", device), tokens("llama3_tiny"));
        same(gradients(&model, &batch), gradients(&model.with_checkpointed_activations(true), &batch));
        let (model, batch) = (masked_model(device), masked());
        same(gradients(&model, &batch), gradients(&model.with_checkpointed_activations(true), &batch));
    }
}

/// The set of a model with every parameter moved a little.
fn moved(model: &dyn Model) -> AdapterSet {
    let mut set = AdapterSet::full(Base::of(model), model.device()).expect("a set");
    for (_, parameter) in set.parameters_mut().iter_mut() {
        *parameter = parameter.affine(1.25, 0.125).expect("moved");
    }
    set
}

fn loss(model: &dyn Model, set: Option<&AdapterSet>, batch: &HostBatch) -> f32 {
    let batch = batch.to_device(model.device()).expect("a batch");
    model.loss(&Forward::evaluation(set), &batch).expect("a loss").tensor().item().expect("a scalar")
}

#[test]
fn trained_models_are_the_same_in_memory_and_on_disk() {
    let device = Device::cpu();
    let out = tempfile::tempdir().expect("a directory");
    let (model, batch) = (load("llama3_tiny", &device), tokens("llama3_tiny"));
    let set = moved(&model);
    let trained = loss(&model, Some(&set), &batch);
    assert!((trained - loss(&model, None, &batch)).abs() > 0.01);
    let merged = model.merged(&set).expect("merged");
    assert!(merged.config().tie_word_embeddings);
    assert_eq!(loss(&merged, None, &batch), trained);

    // Several files, then one in their place.
    let files = write_checkpoint(&set, out.path(), DType::F32, 100_000).expect("written");
    assert!(files.len() > 2 && files[0].ends_with(format!("model-00001-of-{:05}.safetensors", files.len())));
    let read = || {
        Llama::from_checkpoint(
            model.config().clone(),
            &Checkpoint::open(out.path()).expect("a checkpoint"),
            &device,
            WeightType::F32,
        )
    };
    assert_eq!(loss(&read().expect("a model"), None, &batch), trained);
    assert_eq!(write_checkpoint(&set, out.path(), DType::Bf16, u64::MAX).expect("written").len(), 1);
    let rounded = loss(&read().expect("a model"), None, &batch);
    assert!(rounded != trained && (rounded - trained).abs() < 0.05, "{rounded} {trained}");
    write_checkpoint(&set, out.path(), DType::F32, 100_000).expect("written");
    assert_eq!(loss(&read().expect("a model"), None, &batch), trained);

    let (model, batch) = (masked_model(&device), masked());
    let (set, out) = (moved(&model), tempfile::tempdir().expect("a directory"));
    let trained = loss(&model, Some(&set), &batch);
    assert_eq!(loss(&model.merged(&set).expect("merged"), None, &batch), trained);
    write_checkpoint(&set, out.path(), DType::F32, u64::MAX).expect("written");
    std::fs::copy(fixture("deberta_v3_tiny_cls/model/config.json"), out.path().join("config.json")).expect("copied");
    let read = deberta(out.path(), DebertaHead::MaskedLanguageModel, &device);
    assert_eq!(loss(&read, None, &batch), trained);
}

#[test]
fn only_whole_models_of_finite_numbers_are_written() {
    let device = Device::cpu();
    let out = tempfile::tempdir().expect("a directory");
    let model = load("llama_tiny", &device);
    let adapters = AdapterSet::new(lora::LoraConfig::default(), &model.modules(), &device, 0).expect("adapters");
    let refusal = |set: &AdapterSet, dtype| {
        write_checkpoint(set, out.path(), dtype, u64::MAX).expect_err("must be refused").to_string()
    };
    assert!(refusal(&adapters, DType::F32).contains("`merge_checkpoint`"));
    let mut set = moved(&model);
    assert!(refusal(&set, DType::U32).contains("not as u32"));
    let norm = set.parameters_mut().get_mut("model.norm.weight").expect("the norm");
    *norm = norm.affine(1e6, 0.0).expect("scaled");
    let message = refusal(&set, DType::F16);
    assert!(message.contains("model.norm.weight") && message.contains("f16 ends at 65504"), "{message}");
    assert!(!out.path().join("model.safetensors").exists());
}
