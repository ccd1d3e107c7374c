//! What the reference stack trains of every fixture, by name and shape, is what is trained here.

mod common;

use std::collections::BTreeMap;

use common::{PEFT_PREFIX, fixture, load};
use lora::{AdapterSet, Base, Model};
use models::{Deberta, DebertaHead, DebertaOptions};
use serde_json::Value;
use tensor::testing::on_each_backend;

/// Names and shapes of what an adapter of a fixture trains, against `golden<suffix>.json`.
fn check(model: &dyn Model, name: &str, adapter: &str, golden: &str) {
    let (set, _) = AdapterSet::load(&fixture(name).join(adapter), Base::of(model), model.device()).expect("an adapter");
    let found: BTreeMap<String, Vec<usize>> = set
        .parameters()
        .iter()
        .map(|(name, tensor)| (format!("{PEFT_PREFIX}{name}"), tensor.shape().to_vec()))
        .collect();
    let text = std::fs::read_to_string(fixture(name).join(golden)).expect("golden values");
    let golden: Value = serde_json::from_str(&text).expect("JSON");
    let wanted: BTreeMap<String, Vec<usize>> = serde_json::from_value(golden["trainable"].clone()).expect("shapes");
    assert_eq!(found, wanted, "{name}, {adapter}");
}

on_each_backend! {
    fn parameters_of_language_models(device) {
        for name in ["llama_tiny", "llama3_tiny"] {
            check(&load(name, device), name, "adapter", "golden.json");
        }
        let model = load("llama_tiny", device);
        for kind in ["dora", "dora_embed", "rslora", "embed", "mts", "reflora"] {
            check(&model, "llama_tiny", &format!("adapter_{kind}"), &format!("golden_{kind}.json"));
        }
        check(&model, "llama_tiny", "adapter_reflora", "golden_reflora_s.json");
    }

    fn parameters_of_classifiers(device) {
        let classifier = DebertaHead::Classifier { labels: 2 };
        for (name, head) in [("deberta_v3_tiny_cls", classifier), ("deberta_v3_tiny_reg", DebertaHead::Regression)] {
            let options = DebertaOptions::new(head);
            let model = Deberta::from_directory(&fixture(name).join("model"), &options, device).expect("a model");
            check(&model, name, "adapter", "golden.json");
        }
    }
}
