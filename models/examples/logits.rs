//! Writes a model's logits for a text as JSON, to compare with other programs; see `docs/checks/peft_roundtrip.py`.
//!
//!     cargo run --release -p models --example logits -- MODEL ADAPTER OUT.json "Some text"

use std::path::Path;

use lora::{AdapterSet, Forward, Model};
use models::{Llama, Tokenizer, WeightType};
use tensor::{Device, Tensor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, adapter, out, text] = &arguments[..] else {
        return Err("usage: logits MODEL ADAPTER OUT.json TEXT".into());
    };
    let device = Device::cpu();
    let ids = Tokenizer::read(Path::new(model))?.encode(text, true)?;
    let model = Llama::from_directory(Path::new(model), &device, WeightType::F32)?;
    let (adapters, _) = AdapterSet::load(Path::new(adapter), &model.modules(), &device)?;
    let input = Tensor::from_slice(&device, &[1, ids.len()], &ids)?;
    let logits = model.logits(&Forward::evaluation(Some(&adapters)), &input, None)?;
    let rows = logits.tensor().to_vec::<f32>()?;
    let rows: Vec<&[f32]> = rows.chunks(model.config().vocab_size).collect();
    lora::write_whole(Path::new(out), serde_json::json!({ "ids": ids, "logits": rows }).to_string().as_bytes())?;
    Ok(())
}
