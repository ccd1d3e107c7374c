//! LLaMA against the reference stack's golden values, on both backends: logits, losses, gradients, trained factors.

mod common;

use autograd::{AdamW, AdamWConfig, Gradients, Optimizer, Tape};
use common::{Golden, PEFT_PREFIX, assert_close, fixture, largest_difference, load, logits, loss, recorded, values};
use lora::{AdapterSet, HostBatch, IGNORED, Model};
use models::Llama;
use tensor::Device;
use tensor::testing::on_each_backend;

const LOGITS: f32 = 1e-4;
const LOSS: f32 = 1e-5;

fn adapter(name: &str, model: &Llama, device: &Device) -> AdapterSet {
    AdapterSet::load(&fixture(name).join("adapter"), &model.modules(), device).expect("the fixture's adapter").0
}

fn golden(name: &str) -> Golden {
    Golden::read(&fixture(name).join("golden.safetensors"))
}

/// Logits and loss of a batch of the goldens, at positions that are tokens.
fn check_forward(name: &str, model: &Llama, adapters: Option<&AdapterSet>, batch: &str, values: &str) {
    let golden = golden(name);
    let host = golden.batch(batch);
    let batch = host.to_device(model.device()).expect("a batch");
    let keep = host.key_mask().expect("a mask");
    let want = golden.floats(&format!("{values}.logits"));
    let difference = largest_difference(&logits(model, adapters, &batch), want, model.config().vocab_size, keep);
    assert!(difference <= LOGITS, "{name}, {values}: logits differ by {difference:e}");
    assert_close(
        &format!("{name}, {values}: loss"),
        &[loss(model, adapters, &batch)],
        golden.floats(&format!("{values}.loss")),
        LOSS,
    );
}

/// The mean cross-entropy of logits over a vocabulary of 300.
fn reference_loss(logits: &[f32], labels: &[i32]) -> f32 {
    let counted = logits.chunks(300).zip(labels).filter(|&(_, &label)| label != IGNORED);
    let losses: Vec<f64> = counted
        .map(|(row, &label)| {
            let total: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
            total.ln() - f64::from(row[label as usize])
        })
        .collect();
    (losses.iter().sum::<f64>() / losses.len() as f64) as f32
}

fn gradients(model: &Llama, adapters: &AdapterSet, golden: &Golden) -> (f32, Gradients) {
    let batch = golden.batch("").to_device(model.device()).expect("a batch");
    let tape = Tape::new();
    let loss = model.loss(&recorded(&tape, adapters), &batch).expect("a loss");
    (loss.tensor().item().expect("a scalar"), tape.backward(&loss).expect("gradients"))
}

fn check_gradients(name: &str, model: &Llama, adapters: &AdapterSet) {
    let golden = golden(name);
    let (loss, gradients) = gradients(model, adapters, &golden);
    assert_close(&format!("{name}: loss"), &[loss], golden.floats("lora.loss"), LOSS);
    let prefix = format!("grad.{PEFT_PREFIX}");
    let scale = golden.with_prefix(&prefix).flat_map(|(_, values)| values).fold(0.0, |a: f32, b| a.max(b.abs()));
    assert_eq!(gradients.len(), golden.with_prefix(&prefix).count(), "{name}: every factor has a gradient");
    for (parameter, want) in golden.with_prefix(&prefix) {
        let got = gradients.get(parameter).unwrap_or_else(|| panic!("{name}: no gradient of {parameter}"));
        assert_close(&format!("{name}: gradient of {parameter}"), &values(got), want, 1e-5 * scale);
    }
}

fn check_training(name: &str, model: &Llama, mut adapters: AdapterSet) {
    let golden = golden(name);
    let mut optimizer = AdamW::new(AdamWConfig::default());
    for step in 0..5 {
        let (loss, gradients) = gradients(model, &adapters, &golden);
        assert_close(&format!("{name}: loss of step {step}"), &[loss], &golden.floats("losses")[step..=step], LOSS);
        optimizer.step(adapters.parameters_mut(), &gradients, 1e-3).expect("a step");
    }
    let batch = golden.batch("").to_device(model.device()).expect("a batch");
    assert_close("loss after", &[loss(model, Some(&adapters), &batch)], &golden.floats("losses")[5..], LOSS);
    for (parameter, want) in golden.with_prefix(&format!("step5.{PEFT_PREFIX}")) {
        let got = adapters.parameters().get(parameter).unwrap_or_else(|| panic!("no parameter {parameter}"));
        assert_close(&format!("{name}: {parameter} after five steps"), &values(got), want, 1e-5);
    }
}

on_each_backend! {
    fn base_models(device) {
        for name in ["llama_tiny", "llama1_tiny", "llama3_tiny"] {
            check_forward(name, &load(name, device), None, "", "base");
        }
    }

    fn left_padding(device) {
        let (golden, model) = (golden("llama_tiny"), load("llama_tiny", device));
        let host = golden.batch("left.");
        let (mask, want) = (host.key_mask().expect("a mask"), golden.floats("left.base.logits"));
        let batch = host.to_device(device).expect("a batch");
        let difference = largest_difference(&logits(&model, None, &batch), want, 300, mask);
        assert!(difference <= LOGITS, "logits differ by {difference:e}");
        // The reference also counts the first token of each row, predicted from padding, where its attention looks at
        // every key alike and ours at none. The loss over the other labels is that of the golden logits.
        let of_all = reference_loss(want, host.labels());
        assert_close("the reference's own loss", &[of_all], golden.floats("left.base.loss"), LOSS);
        let from_tokens = |(&label, &keep): (&i32, &u32)| if keep == 0 { IGNORED } else { label };
        let labels: Vec<i32> = host.labels().iter().zip(mask).map(from_tokens).collect();
        let of_tokens = reference_loss(want, &labels);
        let host = HostBatch::new(3, 32, host.ids().to_vec(), labels, Some(mask.to_vec())).expect("a batch");
        let batch = host.to_device(device).expect("a batch");
        assert_close("loss", &[loss(&model, None, &batch)], &[of_tokens], LOSS);
    }

    fn adapted_models(device) {
        for name in ["llama_tiny", "llama3_tiny"] {
            let model = load(name, device);
            check_forward(name, &model, Some(&adapter(name, &model, device)), "", "lora");
        }
    }

    fn adapter_gradients(device) {
        for name in ["llama_tiny", "llama3_tiny"] {
            let model = load(name, device);
            let adapters = adapter(name, &model, device);
            check_gradients(name, &model, &adapters);
        }
    }

    fn factors_after_five_steps(device) {
        for name in ["llama_tiny", "llama3_tiny"] {
            let model = load(name, device);
            let adapters = adapter(name, &model, device);
            check_training(name, &model, adapters);
        }
    }

    fn merging_is_the_same_as_adapting(device) {
        let model = load("llama_tiny", device);
        let merged = model.merged(&adapter("llama_tiny", &model, device)).expect("a merged model");
        check_forward("llama_tiny", &merged, None, "", "lora");
        let golden = golden("llama_tiny");
        let mut checked = 0;
        for (module, want) in golden.with_prefix(&format!("merged.{PEFT_PREFIX}")) {
            let linear = merged.linear(module).unwrap_or_else(|| panic!("no module {module}"));
            assert_close(module, &values(linear.weight()), want, 1e-6);
            checked += 1;
        }
        assert_eq!(checked, 1);
        check_forward("llama_tiny", &model, None, "", "base");
    }

    fn checkpointed_activations_change_no_bit(device) {
        let golden = golden("llama3_tiny");
        let model = load("llama3_tiny", device);
        let adapters = adapter("llama3_tiny", &model, device);
        let (loss, kept) = gradients(&model, &adapters, &golden);
        let model = model.with_checkpointed_activations(true);
        let (again, recomputed) = gradients(&model, &adapters, &golden);
        assert_eq!(loss, again);
        for ((name, kept), (_, recomputed)) in kept.iter().zip(recomputed.iter()) {
            assert_eq!(values(kept), values(recomputed), "{name}");
        }
    }

    fn the_loss_does_not_depend_on_its_chunks(device) {
        let golden = golden("llama_tiny");
        let model = load("llama_tiny", device).with_loss_chunk_rows(usize::MAX);
        let adapters = adapter("llama_tiny", &model, device);
        let (whole, expected) = gradients(&model, &adapters, &golden);
        let model = model.with_loss_chunk_rows(7);
        let (chunked, gradients) = gradients(&model, &adapters, &golden);
        assert_close("loss", &[chunked], &[whole], 1e-6);
        for ((name, got), (_, want)) in gradients.iter().zip(expected.iter()) {
            assert_close(name, &values(got), &values(want), 1e-6);
        }
    }
}
