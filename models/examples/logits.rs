//! Writes a model's logits for a text as JSON, to compare with other programs; see `docs/checks/peft_roundtrip.py` and
//! `docs/checks/full_roundtrip.py`. LLaMA predicts next tokens; DeBERTa those at their own places.
//!
//!     cargo run --release -p models --example logits -- MODEL ADAPTER|- OUT.json "Some text"

use std::path::Path;

use lora::{AdapterSet, Base, Forward, Model};
use models::{Deberta, DebertaHead, DebertaOptions, Llama, ModelConfig, Tokenizer, WeightType};
use tensor::{Device, Tensor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, adapter, out, text] = &arguments[..] else {
        return Err("usage: logits MODEL ADAPTER|- OUT.json TEXT".into());
    };
    let (device, directory) = (Device::cpu(), Path::new(directory));
    let ids = Tokenizer::read(directory)?.encode(text, true)?;
    let input = Tensor::from_slice(&device, &[1, ids.len()], &ids)?;
    let forward = |model: &dyn Model| -> Result<Forward, lora::LoraError> {
        let adapters = match adapter.as_str() {
            "-" => None,
            adapter => Some(AdapterSet::load(Path::new(adapter), Base::of(model), &device)?.0),
        };
        Ok(Forward::evaluation(adapters.as_ref()))
    };
    let logits = match ModelConfig::read(directory)? {
        ModelConfig::Deberta(_) => {
            let options = DebertaOptions::new(DebertaHead::MaskedLanguageModel);
            let model = Deberta::from_directory(directory, &options, &device)?;
            model.logits(&forward(&model)?, &input, None)?
        }
        _ => {
            let model = Llama::from_directory(directory, &device, WeightType::F32)?;
            model.logits(&forward(&model)?, &input, None)?
        }
    };
    let rows = logits.tensor().to_vec::<f32>()?;
    let rows: Vec<&[f32]> = rows.chunks(logits.shape()[2]).collect();
    lora::write_whole(Path::new(out), serde_json::json!({ "ids": ids, "logits": rows }).to_string().as_bytes())?;
    Ok(())
}
