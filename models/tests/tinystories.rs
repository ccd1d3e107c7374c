//! A real pretrained checkpoint against the reference stack: logits, greedy text, and twenty steps of LoRA. The files
//! are not part of the repository; the feature `real-weights` says that they are there.

mod common;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use autograd::{AdamW, AdamWConfig, Optimizer, Tape};
use common::{Golden, assert_close, loss, recorded, shifted, values};
use lora::{AdapterSet, Forward, HostBatch, Model};
use models::{Finish, GenerationOptions, Llama, Sampling, Tokenizer, WeightType, generate};
use serde_json::Value;
use tensor::{Device, Tensor};

/// Where the real checkpoint is.
fn directory() -> PathBuf {
    let weights = std::env::var_os("ENGINE_WEIGHTS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/weights"), PathBuf::from);
    let directory = weights.join("TinyStories-656K");
    assert!(directory.is_dir(), "{}: not there; set ENGINE_WEIGHTS", directory.display());
    directory
}

fn model(device: &Device) -> Llama {
    Llama::from_directory(&directory(), device, WeightType::F32).expect("the checkpoint")
}

/// A batch without padding whose labels are its own tokens.
fn batch(rows: usize, ids: &[i64]) -> HostBatch {
    let sequence = ids.len() / rows;
    HostBatch::new(rows, sequence, ids.iter().map(|&id| id as u32).collect(), shifted(ids, sequence), None)
        .expect("a batch")
}

fn logits_are_golden(device: &Device) {
    let golden = Golden::read(&directory().join("golden_logits.safetensors"));
    let (shape, ids) = golden.integers("input_ids");
    let model = model(device);
    let batch = batch(shape[0], ids).to_device(device).expect("a batch");
    assert_close("logits", &common::logits(&model, None, &batch), golden.floats("logits"), 1e-4);
    assert_close("loss", &[loss(&model, None, &batch)], golden.floats("loss"), 1e-5);
}

fn greedy_text_is_golden(device: &Device) {
    let directory = directory();
    let tokenizer = Tokenizer::read(&directory).expect("the tokenizer");
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.pad()), (Some(1), Some(2), Some(0)));
    let text = std::fs::read_to_string(directory.join("GOLDEN.json")).expect("the golden text");
    let golden: Value = serde_json::from_str(&text).expect("JSON");
    let ids = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).expect("token ids") };
    let model = model(device);
    let mut checked = 0;
    for (prompt, golden) in golden.as_object().expect("an object") {
        let prompt_ids = tokenizer.encode(prompt, true).expect("token ids");
        assert_eq!(prompt_ids, ids(&golden["prompt_ids"]));
        let options = GenerationOptions {
            max_new_tokens: 300,
            sampling: Sampling::Greedy,
            stop_tokens: model.config().eos_token_ids.clone(),
        };
        let mut stream = tokenizer.stream();
        let mut text = String::new();
        for &id in &prompt_ids {
            text += &stream.push(id).expect("text");
        }
        let generated = generate(&model, None, &prompt_ids, &options, |id| {
            text += &stream.push(id).expect("text");
            ControlFlow::Continue(())
        })
        .expect("tokens");
        text += &stream.finish().expect("text");
        let all = [prompt_ids, generated.tokens].concat();
        assert_eq!(all, ids(&golden["greedy_ids"]));
        assert_eq!(generated.finish, Finish::StopToken);
        assert_eq!(tokenizer.decode(&all, true).expect("text"), golden["text"].as_str().expect("a text"));
        assert_eq!(text, golden["text"].as_str().expect("a text"));
        checked += 1;
    }
    assert_eq!(checked, 2);
}

fn twenty_steps_of_lora_are_golden(device: &Device) {
    let directory = directory().join("lora_golden");
    let golden = Golden::read(&directory.join("golden.safetensors"));
    let report = std::fs::read_to_string(directory.join("golden.json")).expect("the report");
    let report: Value = serde_json::from_str(&report).expect("JSON");
    let number = |field: &str| report[field].as_f64().expect("a number") as f32;
    let model = model(device);
    let load = |name| AdapterSet::load(&directory.join(name), &model.modules(), device).expect("an adapter").0;
    let mut adapters = load("adapter_init");
    let (_, holdout) = golden.integers("holdout");
    let holdout = batch(16, holdout).to_device(device).expect("a batch");
    assert_close("holdout before", &[loss(&model, Some(&adapters), &holdout)], &[number("holdout_loss_before")], 1e-4);
    let mut optimizer = AdamW::new(AdamWConfig { weight_decay: 0.0, ..AdamWConfig::default() });
    let (shape, batches) = golden.integers("batches");
    let per_step = shape[1] * shape[2];
    for (step, (ids, want)) in batches.chunks(per_step).zip(golden.floats("losses")).enumerate() {
        let batch = batch(shape[1], ids).to_device(device).expect("a batch");
        let tape = Tape::new();
        let loss = model.loss(&recorded(&tape, &adapters), &batch).expect("a loss");
        assert_close(
            &format!("loss of step {step}"),
            &values(&loss.tensor().reshape(&[1]).expect("one")),
            &[*want],
            1e-4,
        );
        let gradients = tape.backward(&loss).expect("gradients");
        optimizer.step(adapters.parameters_mut(), &gradients, 1e-3).expect("a step");
    }
    for (name, want) in load("adapter_step20").parameters().iter() {
        let got = adapters.parameters().get(name).expect("a factor");
        assert_close(&format!("{name} after twenty steps"), &values(got), &values(want), 1e-4);
    }
    assert_close("holdout after", &[loss(&model, Some(&adapters), &holdout)], &[number("holdout_loss_after")], 1e-4);
}

/// The bf16 checkpoint with untied padding token: loads in every type, and models its language.
fn sixteen_bit_checkpoints_load(device: &Device) {
    let directory = directory().with_file_name("mini-llama-v1");
    let tokenizer = Tokenizer::read(&directory).expect("the tokenizer");
    let ids = tokenizer.encode("The president of the United States said that the company was", false).expect("ids");
    let ids: Vec<i64> = ids.into_iter().map(i64::from).collect();
    let losses = [WeightType::F32, WeightType::Stored].map(|weight_type| {
        let model = Llama::from_directory(&directory, device, weight_type).expect("the checkpoint");
        loss(&model, None, &batch(1, &ids).to_device(device).expect("a batch"))
    });
    assert!((1.0..6.0).contains(&losses[0]), "{}", losses[0]);
    assert_close("bf16", &losses[1..], &losses[..1], 1e-4);
    let model = Llama::from_directory(&directory, device, WeightType::Stored).expect("the checkpoint");
    let prompt = Tensor::from_slice(device, &[1, 1], &[5u32]).expect("ids");
    let logits = model.logits(&Forward::evaluation(None), &prompt, None).expect("logits");
    assert_eq!(logits.shape()[..], [1, 1, 4096]);
}

macro_rules! real_weights {
    ($($name:ident)*) => {$(
        mod $name {
            #[test]
            #[cfg_attr(not(feature = "real-weights"), ignore = "needs real checkpoints: --features real-weights")]
            fn cpu() {
                super::$name(&tensor::Device::cpu());
            }

            #[test]
            #[cfg_attr(
                not(all(feature = "real-weights", feature = "gpu-tests")),
                ignore = "needs real checkpoints and a GPU adapter: --features real-weights,gpu-tests"
            )]
            fn wgsl() {
                super::$name(tensor::testing::gpu());
            }
        }
    )*};
}

real_weights! {
    logits_are_golden
    greedy_text_is_golden
    twenty_steps_of_lora_are_golden
    sixteen_bit_checkpoints_load
}
