//! `merge`: folds an adapter into its base and writes a Hugging Face checkpoint.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lora::AdapterSet;
use models::{Checkpoint, MergedCheckpoint};
use serde_json::{Value, json};
use tensor::Device;

use crate::Common;
use crate::checkpoints::{Config, WEIGHTS, read_config, set_head, write_companions};
use crate::failure::{Failure, Outcome};
use crate::identity::BaseCheck;
use crate::loading::model_failure;
use crate::output::{Output, bytes};

/// Example: cargo xtask merge --model path/to/llama --adapter my-adapter --out merged
#[derive(clap::Args)]
pub struct Arguments {
    /// Directory of the Hugging Face checkpoint that the adapter was trained on, or its name on the hub (owner/name).
    #[arg(long)]
    pub model: PathBuf,
    /// Directory of a PEFT adapter.
    #[arg(long)]
    adapter: PathBuf,
    #[command(flatten)]
    base_check: BaseCheck,
    /// Directory for the merged checkpoint.
    #[arg(long)]
    out: PathBuf,
    /// Write over a checkpoint that is already in --out.
    #[arg(long)]
    overwrite: bool,
}

pub fn run(arguments: &Arguments, common: &Common, output: &Output) -> Outcome<ExitCode> {
    let Arguments { model, adapter, out, overwrite, base_check } = arguments;
    let same = |a: &Path, b: &Path| matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b);
    if same(model, out) || same(adapter, out) {
        return Err(Failure::input("--out: must be another directory than --model and --adapter"));
    }
    if !overwrite && WEIGHTS.iter().any(|name| out.join(name).exists()) {
        let out = out.display();
        return Err(Failure::input(format!(
            "--out {out}: a checkpoint is already there; choose another, or --overwrite"
        )));
    }
    let mut config = read_config(model)?;
    let checkpoint = Checkpoint::open(model).map_err(model_failure)?;
    let device = common.open_device(output)?;
    let adapters = load(&checkpoint, adapter, &device)?;
    base_check.check(adapter, model, output)?;
    refuse_shared(&config, &adapters)?;
    std::fs::create_dir_all(out).map_err(|error| Failure::input(format!("--out {}: {error}", out.display())))?;
    let merged = models::merge_checkpoint(&checkpoint, &adapters, out).map_err(model_failure)?;
    let head = merged.added.iter().find(|(name, _)| ["classifier.weight", "score.weight"].contains(&name.as_str()));
    if let Some(&labels) = head.and_then(|(_, shape)| shape.first()) {
        set_head(&mut config, labels);
    }
    write_companions(model, out, config)?;
    conclude(out, &merged, &device, output);
    Ok(ExitCode::SUCCESS)
}

fn load(checkpoint: &Checkpoint, adapter: &Path, device: &Device) -> Outcome<AdapterSet> {
    if !adapter.is_dir() {
        return Err(Failure::input(format!("--adapter {}: no such directory", adapter.display())));
    }
    models::load_adapter(checkpoint, adapter, device).map_err(model_failure)
}

/// The modules that are one matrix in this model, which a checkpoint stores once: embedding and head of a language model.
fn shared_modules(config: &Config, adapters: &AdapterSet) -> &'static [&'static str] {
    let masked = config.get("architectures").is_some_and(|names| names[0] == "DebertaV2ForMaskedLM");
    let classifies = adapters.whole_parameter("classifier.weight").is_some();
    match config.get("tie_word_embeddings").and_then(Value::as_bool) {
        _ if masked && !classifies => &["word_embeddings"],
        Some(true) => &["embed_tokens", "lm_head"],
        _ => &[],
    }
}

/// A model that stores one matrix for embedding and head cannot have only one of them changed.
fn refuse_shared(config: &Config, adapters: &AdapterSet) -> Outcome<()> {
    let shared = shared_modules(config, adapters);
    let adapted = adapters.adapters().map(|adapter| adapter.module.as_str());
    let whole = adapters.whole_parameters().filter_map(|name| name.rsplit_once('.')).map(|(module, _)| module);
    let is_shared = |module: &str| shared.iter().any(|name| module.rsplit('.').next() == Some(name));
    match adapted.chain(whole).find(|module| is_shared(module)) {
        None => Ok(()),
        Some(module) => Err(Failure::input(format!(
            "--adapter changes `{module}`, but the model shares one matrix between embedding and head; use the adapter \
             unmerged, or train one that leaves `{module}` alone"
        ))),
    }
}

fn conclude(out: &Path, merged: &MergedCheckpoint, device: &Device, output: &Output) {
    let added: Vec<&str> = merged.added.iter().map(|(name, _)| name.as_str()).collect();
    let peak = device.counters().peak_bytes;
    output.say(format!(
        "merged: {} tensors changed, {} added, {} in {} files; peak tensor memory {}",
        merged.changed - added.len(),
        added.len(),
        bytes(merged.bytes),
        merged.files.len(),
        bytes(peak)
    ));
    output.say(format!("checkpoint: {}", out.display()));
    output.result(&json!({
        "command": "merge", "out": out, "files": merged.files, "changed": merged.changed - added.len(), "added": added,
        "bytes": merged.bytes, "peak_bytes": peak,
    }));
}
