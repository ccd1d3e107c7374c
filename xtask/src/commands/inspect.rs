//! `inspect`: what a checkpoint or an adapter directory holds, without loading it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lora::{CONFIG_FILE, WEIGHTS_FILE, read_adapter_config};
use models::{Checkpoint, ModelConfig};
use serde_json::{Value, json};

use crate::failure::{Failure, Outcome};
use crate::loading::{lora_failure, model_failure};
use crate::output::{Output, bytes, table};

/// Example: cargo xtask inspect path/to/llama
#[derive(clap::Args)]
pub struct Arguments {
    /// Directory of a Hugging Face checkpoint or of a PEFT adapter, or the name of a checkpoint on the hub (owner/name).
    pub path: PathBuf,
    /// List every tensor, not only the sums.
    #[arg(long)]
    tensors: bool,
}

/// What is known of one tensor.
struct Described {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    bytes: u64,
}

impl Described {
    fn parameters(&self) -> u64 {
        self.shape.iter().map(|&extent| extent as u64).product()
    }
}

pub fn run(arguments: &Arguments, output: &Output) -> Outcome<ExitCode> {
    let path = &arguments.path;
    let (kind, tensors, mut report) = if path.join(WEIGHTS_FILE).exists() || path.join(CONFIG_FILE).exists() {
        adapter(path, output)?
    } else {
        checkpoint(path, output)?
    };
    if arguments.tensors {
        let row = |tensor: &Described| {
            vec![
                tensor.name.clone(),
                tensor.dtype.clone(),
                format!("{:?}", tensor.shape),
                tensor.parameters().to_string(),
            ]
        };
        let rows: Vec<Vec<String>> = tensors.iter().map(row).collect();
        output.say(table(&["tensor", "type", "shape", "parameters"], &rows));
    }
    let parameters: u64 = tensors.iter().map(Described::parameters).sum();
    let stored: u64 = tensors.iter().map(|tensor| tensor.bytes).sum();
    let mut types: BTreeMap<&str, u64> = BTreeMap::new();
    for tensor in &tensors {
        *types.entry(&tensor.dtype).or_default() += tensor.parameters();
    }
    let by_type: Vec<String> = types.iter().map(|(dtype, count)| format!("{count} {dtype}")).collect();
    output.say(format!(
        "{} tensors, {parameters} parameters ({}), {} stored, {} as f32",
        tensors.len(),
        by_type.join(", "),
        bytes(stored),
        bytes(4 * parameters)
    ));
    let listed = tensors.iter().map(|tensor| {
        let facts = json!({ "type": tensor.dtype, "shape": tensor.shape, "parameters": tensor.parameters() });
        (tensor.name.clone(), facts)
    });
    let facts = json!({
        "command": "inspect", "kind": kind, "path": path, "parameters": parameters, "bytes": stored, "types": types,
        "tensors": listed.collect::<serde_json::Map<String, Value>>(),
    });
    if let (Some(report), Value::Object(facts)) = (report.as_object_mut(), facts) {
        report.extend(facts);
    }
    output.result(&report);
    Ok(ExitCode::SUCCESS)
}

fn checkpoint(path: &Path, output: &Output) -> Outcome<(&'static str, Vec<Described>, Value)> {
    let checkpoint = Checkpoint::open(path).map_err(model_failure)?;
    let files: Vec<String> =
        checkpoint.files().map(|file| file.file_name().unwrap_or_default().to_string_lossy().into_owned()).collect();
    output.say(format!("checkpoint: {}", files.join(", ")));
    let (config, problem) = match ModelConfig::read(path) {
        Ok(config) => (Some(config), None),
        Err(error) => (None, Some(error.to_string())),
    };
    match &config {
        Some(ModelConfig::Llama(config)) => output.say(format!(
            "LLaMA: {} layers, hidden {}, heads {} ({} for keys and values), vocabulary {}, {} positions",
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.vocab_size,
            config.max_position_embeddings
        )),
        Some(ModelConfig::Deberta(config)) => output.say(format!(
            "DeBERTa: {} layers, hidden {}, heads {}, vocabulary {}, {} positions",
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            config.vocab_size,
            config.max_position_embeddings
        )),
        _ => {}
    }
    if let Some(problem) = &problem {
        output.say(format!("problem: {problem}"));
    }
    let tensors = checkpoint.tensors().map(|(name, stored)| Described {
        name: name.into(),
        dtype: format!("{:?}", stored.dtype),
        shape: stored.shape.clone(),
        bytes: stored.stored_bytes(),
    });
    let tensors = tensors.collect();
    let configuration = std::fs::read_to_string(path.join("config.json")).ok();
    let configuration: Option<Value> = configuration.and_then(|text| serde_json::from_str(&text).ok());
    Ok(("checkpoint", tensors, json!({ "files": files, "config": configuration, "problem": problem })))
}

fn adapter(path: &Path, output: &Output) -> Outcome<(&'static str, Vec<Described>, Value)> {
    let (config, origin) = read_adapter_config(&path.join(CONFIG_FILE)).map_err(lora_failure)?;
    output.say(format!(
        "adapter: rank {}, alpha {}, dropout {}, targets {}",
        config.rank, config.alpha, config.dropout, config.targets
    ));
    if !config.modules_to_save.is_empty() {
        output.say(format!("trained as a whole: {}", config.modules_to_save.join(", ")));
    }
    if let Some(base) = &origin.base_model {
        output.say(format!("base model: {base}"));
    }
    let tensors = models::read_tensor_table(&path.join(WEIGHTS_FILE)).map_err(model_failure)?;
    let tensors: Vec<Described> = tensors
        .into_iter()
        .map(|(name, stored)| Described {
            name,
            dtype: format!("{:?}", stored.dtype),
            bytes: stored.stored_bytes(),
            shape: stored.shape,
        })
        .collect();
    if tensors.is_empty() {
        return Err(Failure::input(format!("{}: there is no tensor", path.join(WEIGHTS_FILE).display())));
    }
    let report = json!({
        "rank": config.rank, "alpha": config.alpha, "targets": config.targets.to_string(),
        "modules_to_save": config.modules_to_save, "base_model": origin.base_model, "task_type": origin.task_type,
    });
    Ok(("adapter", tensors, report))
}
