//! The configuration files that come with the repository: they are read, say what the RefLoRA paper says, and mean the number
//! of parameters that the paper counts.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Parser;
use lora::{AdapterSet, ModuleShape};
use models::{DebertaConfig, LlamaConfig};
use reflora::Method;

use super::Arguments;
use super::arguments::{Precision, ScheduleKind};
use crate::commands::Command;
use crate::config_file;
use crate::data::task::Task;

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs")
}

fn parsed(file: &Path) -> Arguments {
    let words = ["xtask", "finetune", "--model", "m", "--data", "d", "--out", "o", "--config"].map(OsString::from);
    let words = words.into_iter().chain([file.as_os_str().to_owned()]).collect();
    let words = config_file::expand(words).unwrap_or_else(|failure| panic!("{failure}"));
    match crate::Arguments::try_parse_from(words).unwrap_or_else(|error| panic!("{}: {error}", file.display())).command
    {
        Command::Finetune(arguments) => *arguments,
        _ => panic!("another command"),
    }
}

/// Parameters of the adapters that the arguments ask for on such modules.
fn trainable(arguments: &Arguments, modules: &[ModuleShape]) -> usize {
    let plan = AdapterSet::plan(&arguments.lora_config(&[]), modules).expect("a plan");
    plan.iter().map(|adapter| adapter.rank * (adapter.inputs + adapter.outputs)).sum()
}

fn llama_modules(config: &LlamaConfig) -> Vec<ModuleShape> {
    let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
    let (query, key_value) = (config.query_width(), config.key_value_width());
    let block = [
        ("self_attn.q_proj", hidden, query),
        ("self_attn.k_proj", hidden, key_value),
        ("self_attn.v_proj", hidden, key_value),
        ("self_attn.o_proj", query, hidden),
        ("mlp.gate_proj", hidden, intermediate),
        ("mlp.up_proj", hidden, intermediate),
        ("mlp.down_proj", intermediate, hidden),
    ];
    let layers = (0..config.num_hidden_layers).flat_map(|layer| {
        block.map(|(name, inputs, outputs)| ModuleShape::new(format!("model.layers.{layer}.{name}"), inputs, outputs))
    });
    layers.chain([ModuleShape::new("lm_head", hidden, config.vocab_size).head()]).collect()
}

fn deberta_modules(config: &DebertaConfig) -> Vec<ModuleShape> {
    let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
    let block = [
        ("attention.self.query_proj", hidden, hidden),
        ("attention.self.key_proj", hidden, hidden),
        ("attention.self.value_proj", hidden, hidden),
        ("attention.output.dense", hidden, hidden),
        ("intermediate.dense", hidden, intermediate),
        ("output.dense", intermediate, hidden),
    ];
    let layers = (0..config.num_hidden_layers).flat_map(|layer| {
        block.map(|(name, inputs, outputs)| {
            ModuleShape::new(format!("deberta.encoder.layer.{layer}.{name}"), inputs, outputs)
        })
    });
    layers.chain([ModuleShape::new("pooler.dense", hidden, hidden)]).collect()
}

#[test]
fn commonsense_files_state_the_papers_settings() {
    for (file, preset, method_warmup, lr, count) in [
        ("commonsense-llama-7b.toml", "7b", 200, 2e-4, 56_098_816),
        ("commonsense-llama2-7b.toml", "7b", 100, 2e-4, 56_098_816),
        ("commonsense-llama3-8b.toml", "llama3-8b", 100, 1e-4, 56_623_104),
    ] {
        let read = parsed(&configs().join(file));
        assert_eq!(
            (read.task, read.method.method, read.method.method_warmup),
            (Task::Commonsense, Method::RefLora, method_warmup)
        );
        assert_eq!((read.rank, read.alpha, read.dropout, read.lr), (32, Some(64.0), 0.05, lr), "{file}");
        assert_eq!((read.epochs, read.batch, read.seq, read.warmup), (Some(2), 16, 256, Some(100)), "{file}");
        assert_eq!((read.schedule, read.weight_decay, read.dtype), (ScheduleKind::Linear, 0.0, Precision::Mixed));
        let config = LlamaConfig::preset(preset).expect("a preset");
        assert_eq!(trainable(&read, &llama_modules(&config)), count, "{file}");
    }
}

#[test]
fn glue_files_state_the_papers_settings() {
    let config = DebertaConfig::preset("base").expect("a preset");
    let tasks = ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"];
    for task in tasks {
        let read = parsed(&configs().join(format!("glue-{task}.toml")));
        assert_eq!(read.task_name(), task);
        assert_eq!((read.method.method, read.method.method_warmup), (Method::RefLora, 100), "{task}");
        assert_eq!((read.rank, read.alpha, read.dropout, read.classifier_dropout), (8, Some(8.0), 0.0, Some(0.15)));
        assert_eq!((read.lr, read.batch, read.warmup, read.weight_decay), (1e-3, 32, Some(100), 0.0), "{task}");
        assert_eq!(trainable(&read, &deberta_modules(&config)), 1_327_104, "{task}");
    }
    let cola = parsed(&configs().join("glue-cola.toml"));
    assert_eq!((cola.epochs, cola.seq), (Some(5), 64));
}

#[test]
fn every_configuration_file_is_read() {
    let files = std::fs::read_dir(configs()).expect("the directory").map(|entry| entry.expect("an entry").path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    let read: Vec<Arguments> = files.map(|file| parsed(&file)).collect();
    assert_eq!(read.len(), 13);
}
