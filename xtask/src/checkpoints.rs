//! Checkpoint directories that this program writes: tensors, and what stands beside them.
//!
//! Whoever trains a whole model writes it in three steps: a set of all parameters (`AdapterSet::full(Base::of(&model),
//! device)`), a run of `lora::Trainer` with it, then [`write_trained`]; or `model.merged(&set)` to keep it in memory.

use std::collections::BTreeMap;
use std::path::Path;

use lora::{AdapterSet, write_whole};
use serde_json::{Map, Value, json};
use tensor::DType;

use crate::failure::{Failure, Outcome};
use crate::loading::{COMPANIONS, model_failure};

/// The contents of a config.json.
pub type Config = Map<String, Value>;

/// Files of tensors by which a directory is known to hold a checkpoint.
pub const WEIGHTS: [&str; 3] = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"];

/// Tensors of more bytes than this go to several files, as transformers divides them.
const SHARD_BYTES: u64 = 5_000_000_000;

/// Reads `config.json` in a directory.
pub fn read_config(directory: &Path) -> Outcome<Config> {
    let path = directory.join("config.json");
    let wrong = |message: String| Failure::input(format!("{}: {message}", path.display()));
    let text = std::fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
    serde_json::from_str(text.trim_start_matches('\u{feff}'))
        .map_err(|error| wrong(format!("not a JSON object: {error}")))
}

/// Writes `config.json`, and copies what else `source` has beside tensors. To be done last: a directory with a
/// configuration is a whole checkpoint.
pub fn write_companions(source: &Path, out: &Path, config: Config) -> Outcome<()> {
    for name in COMPANIONS {
        if let Ok(contents) = std::fs::read(source.join(name)) {
            write_whole(&out.join(name), &contents)?;
        }
    }
    write_whole(&out.join("config.json"), format!("{:#}\n", Value::Object(config)).as_bytes())?;
    Ok(())
}

/// Writes a model of which every parameter was trained (`trained.is_full()`) to `out` as a Hugging Face checkpoint with
/// tensors of the type `dtype`. `source` is the directory with the model's config.json and tokenizer.
pub fn write_trained(trained: &AdapterSet, dtype: DType, source: &Path, out: &Path) -> Outcome<()> {
    models::write_checkpoint(trained, out, dtype, SHARD_BYTES).map_err(model_failure)?;
    describe_trained(trained, dtype, source, out)
}

/// As [`write_trained`] where the tensors are in `out` already.
pub fn describe_trained(trained: &AdapterSet, dtype: DType, source: &Path, out: &Path) -> Outcome<()> {
    let mut config = read_config(source)?;
    let shape = |name: &str| trained.whole_parameter(name).map(|parameter| parameter.shape().to_vec());
    let labels = ["classifier.weight", "score.weight"].iter().find_map(|name| shape(name)?.first().copied());
    match labels {
        Some(labels) => set_head(&mut config, labels),
        None => {
            let masked = shape("cls.predictions.bias").is_some();
            let architecture = if masked { "DebertaV2ForMaskedLM" } else { "LlamaForCausalLM" };
            config.insert("architectures".into(), json!([architecture]));
        }
    }
    let name = match dtype {
        DType::F16 => "float16",
        DType::Bf16 => "bfloat16",
        _ => "float32",
    };
    config.insert("torch_dtype".into(), name.into());
    write_companions(source, out, config)
}

/// Makes a configuration that of a classifier with this number of labels.
pub fn set_head(config: &mut Config, labels: usize) {
    let known = config.get("id2label").and_then(Value::as_object).map_or(2, Map::len);
    if known != labels || labels == 1 {
        let name = |label: usize| format!("LABEL_{label}");
        let names: BTreeMap<String, String> = (0..labels).map(|label| (label.to_string(), name(label))).collect();
        let numbers: BTreeMap<String, usize> = (0..labels).map(|label| (name(label), label)).collect();
        config.insert("id2label".into(), json!(names));
        config.insert("label2id".into(), json!(numbers));
    }
    let architecture = match config.get("model_type").and_then(Value::as_str) {
        Some("deberta-v2") => "DebertaV2ForSequenceClassification",
        _ => "LlamaForSequenceClassification",
    };
    config.insert("architectures".into(), json!([architecture]));
}
