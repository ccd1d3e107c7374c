//! What must hold for any DeBERTa model, whatever its weights: padding, dropout, heads, checkpoints that lack or exceed
//! what is needed.

mod common;

use std::collections::BTreeMap;

use autograd::Tape;
use common::{assert_close, fixture, values};
use lora::{AdapterSet, Base, DropoutSource, Forward, HostBatch, IGNORED, LoraConfig, Model, Targets};
use models::{
    Deberta, DebertaConfig, DebertaHead, DebertaOptions, DropoutOverrides, Result, SequenceClassifier, WeightType,
};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use tempfile::TempDir;
use tensor::testing::on_each_backend;
use tensor::{Device, Tensor};

const TWO: DebertaHead = DebertaHead::Classifier { labels: 2 };

fn random(head: DebertaHead, device: &Device) -> Deberta {
    let config = DebertaConfig { initializer_range: 0.3, ..DebertaConfig::preset("tiny").expect("a preset") };
    Deberta::random(config, &DebertaOptions::new(head), device).expect("a model")
}

fn ids(count: usize) -> Vec<u32> {
    (0..count).map(|i| (i * i * 7 + 3 * i + 5) as u32 % 1000).collect()
}

fn classes(rows: usize, sequence: usize, ids: Vec<u32>, mask: Option<Vec<u32>>) -> HostBatch {
    let labels = (0..rows).map(|row| (row % 2) as i32).collect();
    HostBatch::classes(rows, sequence, ids, labels, mask).expect("a batch")
}

fn logits(model: &Deberta, batch: &HostBatch) -> Vec<f32> {
    let batch = batch.to_device(model.device()).expect("a batch");
    values(&model.class_logits(&Forward::evaluation(None), &batch).expect("logits"))
}

on_each_backend! {
    fn padding_changes_nothing(device) {
        let model = random(TWO, device);
        let alone = logits(&model, &classes(1, 9, ids(9), None));
        for filler in [0, 999] {
            let padded = [ids(9), vec![filler; 4], ids(13)].concat();
            let mask = [[1; 9].as_slice(), &[0; 4], &[1; 13]].concat();
            let padded = logits(&model, &classes(2, 13, padded, Some(mask)));
            assert_close("logits", &padded[..2], &alone, 2e-5);
        }
    }

    fn merging_folds_in_embeddings_magnitudes_and_whole_modules(device) {
        let model = random(TWO, device);
        let batch = classes(2, 9, ids(18), None);
        for (targets, whole, use_dora) in [
            (vec!["word_embeddings", "value_proj"], vec!["classifier", "pooler"], false),
            (vec!["query_proj", "key_proj", "intermediate.dense"], vec!["word_embeddings"], true),
        ] {
            let config = LoraConfig {
                rank: 2,
                targets: Targets::names(targets),
                modules_to_save: whole.into_iter().map(String::from).collect(),
                use_dora,
                ..LoraConfig::default()
            };
            let mut adapters = AdapterSet::new(config, Base::of(&model), device, 7).expect("adapters");
            for (_, tensor) in adapters.parameters_mut().iter_mut() {
                *tensor = tensor.affine(1.1, 0.01).expect("moved");
            }
            let device_batch = batch.to_device(device).expect("a batch");
            let adapted = model.class_logits(&Forward::evaluation(Some(&adapters)), &device_batch).expect("logits");
            let (adapted, base) = (values(&adapted), logits(&model, &batch));
            let scale = adapted.iter().fold(1.0, |a: f32, b| a.max(b.abs()));
            assert_close("merged", &logits(&model.merged(&adapters).expect("merged"), &batch), &adapted, 2e-5 * scale);
            assert!(adapted.iter().zip(&base).any(|(a, b)| (a - b).abs() > 0.01), "{adapted:?} {base:?}");
        }
    }

    fn dropout_acts_in_training_only_and_repeats_with_its_key(device) {
        let model = random(TWO, device);
        let targets = Targets::names(["query_proj", "key_proj", "value_proj", "output.dense"]);
        let config = LoraConfig { rank: 2, targets, dropout: 0.3, ..LoraConfig::default() };
        let adapters = AdapterSet::new(config, Base::of(&model), device, 7).expect("adapters");
        let batch = classes(2, 12, ids(24), None).to_device(device).expect("a batch");
        let run = |model: &Deberta, step: Option<u64>| {
            let tape = Tape::new();
            let dropout = step.map(|step| DropoutSource { seed: 5, step });
            let forward = Forward { tape: tape.clone(), dropout, ..Forward::evaluation(Some(&adapters)) };
            let loss = model.loss(&forward, &batch).expect("a loss");
            let gradients = tape.backward(&loss).expect("gradients");
            let all = gradients.iter().flat_map(|(_, gradient)| values(gradient)).collect::<Vec<_>>();
            (values(loss.tensor())[0], all)
        };
        assert_eq!(run(&model, None), run(&model, None));
        assert_eq!(run(&model, Some(1)), run(&model, Some(1)));
        assert_ne!(run(&model, Some(1)).0, run(&model, Some(2)).0);
        assert_ne!(run(&model, Some(1)).0, run(&model, None).0);
        // Blocks that are computed again drop the same elements.
        let (kept, model) = (run(&model, Some(3)), model.with_checkpointed_activations(true));
        assert_eq!(kept, run(&model, Some(3)));
    }

    fn each_dropout_can_be_overridden(device) {
        let none = DropoutOverrides {
            hidden: Some(0.0), attention: Some(0.0), pooler: Some(0.0), classifier: Some(0.0)
        };
        let build = |dropout: DropoutOverrides| {
            let options = DebertaOptions { dropout, ..DebertaOptions::new(TWO) };
            let config = DebertaConfig { initializer_range: 0.3, ..DebertaConfig::preset("tiny").expect("a preset") };
            Deberta::random(config, &options, device).expect("a model")
        };
        let batch = classes(2, 12, ids(24), None).to_device(device).expect("a batch");
        let loss = |model: &Deberta, train: bool| {
            let dropout = train.then_some(DropoutSource { seed: 5, step: 0 });
            let forward = Forward { dropout, ..Forward::evaluation(None) };
            values(model.loss(&forward, &batch).expect("a loss").tensor())[0]
        };
        let plain = build(none);
        assert_eq!(loss(&plain, true), loss(&plain, false));
        let some = Some(0.4);
        for one in [
            DropoutOverrides { hidden: some, ..none },
            DropoutOverrides { attention: some, ..none },
            DropoutOverrides { pooler: some, ..none },
            DropoutOverrides { classifier: some, ..none },
        ] {
            let model = build(one);
            assert_ne!(loss(&model, true), loss(&plain, true), "{one:?}");
            assert_eq!(loss(&model, false), loss(&plain, false), "{one:?}");
        }
    }

    fn masked_tokens_are_predicted(device) {
        let weights = Checkpoint::of("deberta_v3_tiny_cls").into_language_model();
        let directory = weights.write();
        let options = DebertaOptions::new(DebertaHead::MaskedLanguageModel);
        let model = Deberta::from_directory(directory.path(), &options, device).expect("a model");
        assert_eq!(model.unused_tensors(), ["classifier.bias", "classifier.weight", "cls.predictions.decoder.weight",
            "pooler.dense.bias", "pooler.dense.weight"]);
        let tokens: Vec<u32> = ids(20).into_iter().map(|id| id % 300).collect();
        let labels: Vec<i32> = (0..20).map(|i| if i % 3 == 0 { i * 13 % 300 } else { IGNORED }).collect();
        let host = HostBatch::new(2, 10, tokens, labels.clone(), None).expect("a batch");
        let batch = host.to_device(device).expect("a batch");
        let forward = Forward::evaluation(None);
        let logits = model.logits(&forward, &batch.ids, None).expect("logits");
        assert_eq!(logits.shape()[..], [2, 10, 300]);
        let rows = values(logits.tensor());
        let losses: Vec<f64> = rows.chunks(300).zip(&labels).filter(|&(_, &label)| label != IGNORED).map(|(row, &label)| {
            row.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln() - f64::from(row[label as usize])
        }).collect();
        let want = (losses.iter().sum::<f64>() / losses.len() as f64) as f32;
        assert_close("loss", &values(model.loss(&forward, &batch).expect("a loss").tensor()), &[want], 1e-4);
        assert!(model.class_logits(&forward, &batch).is_err());
    }

    fn sixteen_bit_weights_are_close(device) {
        let directory = fixture("deberta_v3_tiny_cls").join("model");
        let load = |weight_type| {
            let options = DebertaOptions { weight_type, ..DebertaOptions::new(TWO) };
            Deberta::from_directory(&directory, &options, device).expect("a model")
        };
        let batch = classes(2, 9, ids(18).into_iter().map(|id| id % 300).collect(), None);
        let exact = logits(&load(WeightType::F32), &batch);
        for weight_type in [WeightType::F16, WeightType::Bf16] {
            assert_close("logits", &logits(&load(weight_type), &batch), &exact, 0.1);
        }
    }
}

/// A checkpoint in memory, to be changed and written.
struct Checkpoint {
    config: serde_json::Value,
    tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)>,
}

impl Checkpoint {
    fn of(name: &str) -> Self {
        let directory = fixture(name).join("model");
        let config = std::fs::read_to_string(directory.join("config.json")).expect("the configuration");
        let bytes = std::fs::read(directory.join("model.safetensors")).expect("the weights");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
        let tensors = file.tensors().into_iter();
        Checkpoint {
            config: serde_json::from_str(&config).expect("JSON"),
            tensors: tensors.map(|(name, view)| (name, (view.shape().to_vec(), view.data().to_vec()))).collect(),
        }
    }

    fn put(&mut self, name: &str, shape: &[usize], value: f32) {
        self.tensors.insert(name.into(), (shape.to_vec(), value.to_le_bytes().repeat(shape.iter().product())));
    }

    /// With a masked-language-modelling head, whose numbers are those of the pooler and the embedding.
    fn into_language_model(mut self) -> Self {
        let copy = |tensors: &BTreeMap<String, (Vec<usize>, Vec<u8>)>, name: &str| tensors[name].clone();
        for part in ["weight", "bias"] {
            let dense = copy(&self.tensors, &format!("pooler.dense.{part}"));
            self.tensors.insert(format!("cls.predictions.transform.dense.{part}"), dense);
            let norm = copy(&self.tensors, &format!("deberta.embeddings.LayerNorm.{part}"));
            self.tensors.insert(format!("cls.predictions.transform.LayerNorm.{part}"), norm);
        }
        let embedding = copy(&self.tensors, "deberta.embeddings.word_embeddings.weight");
        self.tensors.insert("cls.predictions.decoder.weight".into(), embedding);
        self.put("cls.predictions.bias", &[300], 0.25);
        self.config["architectures"] = serde_json::json!(["DebertaV2ForMaskedLM"]);
        self
    }

    fn write(&self) -> TempDir {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join("config.json"), self.config.to_string()).expect("written");
        let views = self.tensors.iter().map(|(name, (shape, bytes))| {
            (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).expect("a view"))
        });
        serialize_to_file(views, None, &directory.path().join("model.safetensors")).expect("written");
        directory
    }

    fn load(&self, head: DebertaHead) -> Result<Deberta> {
        Deberta::from_directory(self.write().path(), &DebertaOptions::new(head), &Device::cpu())
    }

    fn refusal(&self, head: DebertaHead) -> String {
        self.load(head).err().expect("must be refused").to_string()
    }
}

#[test]
fn a_missing_head_is_made_new_from_the_seed() {
    let mut bare = Checkpoint::of("deberta_v3_tiny_cls").into_language_model();
    for name in ["pooler.dense.weight", "pooler.dense.bias", "classifier.weight", "classifier.bias"] {
        bare.tensors.remove(name);
    }
    bare.put("deberta.embeddings.position_embeddings.weight", &[64, 64], 0.5);
    bare.put("lm_predictions.lm_head.bias", &[300], 0.5);
    bare.put("mask_predictions.classifier.weight", &[1, 64], 0.5);
    let model = bare.load(DebertaHead::Classifier { labels: 3 }).expect("a model");
    assert_eq!(model.fresh_modules(), ["pooler.dense", "classifier"]);
    assert_eq!(model.unused_tensors().len(), 9);
    assert_eq!(model.labels(), 3);
    let classifier = model.linear("classifier").expect("a classifier");
    assert!(values(classifier.bias().expect("a bias")).iter().all(|&value| value == 0.0));
    let weights = values(model.linear("pooler.dense").expect("a pooler").weight());
    let deviation = (weights.iter().map(|w| w * w).sum::<f32>() / weights.len() as f32).sqrt();
    assert!((deviation - 0.02).abs() < 1e-3, "{deviation}");
    let again = bare.load(TWO).expect("a model");
    assert_eq!(values(again.linear("pooler.dense").expect("a pooler").weight()), weights);
}

#[test]
fn misfits_are_named() {
    let fixture = || Checkpoint::of("deberta_v3_tiny_cls");
    let message = fixture().refusal(DebertaHead::Classifier { labels: 3 });
    assert!(message.contains("`classifier` has 2 labels, 3 were asked for"), "{message}");
    assert!(fixture().refusal(DebertaHead::Classifier { labels: 1 }).contains("2 classes or more"));
    let message = fixture().refusal(DebertaHead::MaskedLanguageModel);
    assert!(message.contains("`cls.predictions.transform.dense.weight` of shape [64, 64] is missing"), "{message}");

    let mut changed = fixture();
    changed.put("deberta.encoder.conv.conv.weight", &[64, 64, 3], 0.0);
    let message = changed.refusal(TWO);
    assert!(message.contains("1 tensor(s) that the model of config.json does not use, first `deberta.encoder.conv"));

    let mut changed = fixture();
    changed.config["position_buckets"] = 16.into();
    let message = changed.refusal(TWO);
    assert!(message.contains("`deberta.encoder.rel_embeddings.weight` has shape [64, 64]"), "{message}");

    let mut changed = fixture();
    changed.tensors =
        changed.tensors.into_iter().map(|(name, tensor)| (name.replace("deberta.", ""), tensor)).collect();
    assert!(changed.refusal(TWO).contains("the names lack the prefix `deberta.`"));

    let llama = models::Llama::from_directory(fixture().write().path(), &Device::cpu(), WeightType::F32);
    let message = llama.err().expect("must be refused").to_string();
    assert!(
        message.contains("`model_type` is deberta-v2, which is not supported; a LLaMA model is needed"),
        "{message}"
    );
}

#[test]
fn batches_of_another_kind_are_refused() {
    let device = Device::cpu();
    let message = |head, batch: &HostBatch| {
        let batch = batch.to_device(&device).expect("a batch");
        random(head, &device).loss(&Forward::evaluation(None), &batch).expect_err("must be refused").to_string()
    };
    let scores = HostBatch::scores(1, 3, ids(3), vec![1.0], None).expect("a batch");
    assert!(message(TWO, &scores).contains("a classifier learns a class for each sequence"));
    let labels = HostBatch::classes(1, 3, ids(3), vec![2], None).expect("a batch");
    assert!(message(TWO, &labels).contains("class 2 is none of the 2"));
    assert!(message(DebertaHead::Regression, &labels).contains("a regression learns a score"));
    let foreign = HostBatch::scores(1, 1, vec![5000], vec![1.0], None).expect("a batch");
    assert!(message(DebertaHead::Regression, &foreign).contains("token id 5000"));
    let empty = Tensor::from_slice::<u32>(&device, &[1, 0], &[]).expect("ids");
    assert!(random(TWO, &device).logits(&Forward::evaluation(None), &empty, None).is_err());
}

#[test]
fn heads_are_modules_that_can_be_saved() {
    let model = random(TWO, &Device::cpu());
    let modules = model.modules();
    assert_eq!(modules.len(), 2 * 6 + 3);
    assert_eq!(modules.iter().filter(|module| module.embedding).count(), 1);
    let heads: Vec<_> = modules.iter().filter(|module| module.head).map(|module| module.name.as_str()).collect();
    assert_eq!(heads, ["classifier"]);
    let savable = model.savable_modules();
    for name in ["deberta.embeddings.word_embeddings", "pooler.dense", "classifier", "deberta.encoder.rel_embeddings"] {
        assert!(savable.iter().any(|module| module == name), "{name}");
    }
    let saved = |module: &str| model.saved_module(module).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(saved("classifier"), ["weight", "bias"]);
    assert_eq!(saved("deberta.embeddings.word_embeddings"), ["weight"]);
    assert_eq!(saved("deberta.encoder.LayerNorm"), ["weight", "bias"]);
    assert!(saved("deberta.encoder.conv").is_empty());
}
