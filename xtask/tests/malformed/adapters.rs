//! PEFT directories.

use std::fs;

use crate::checkpoints::safetensors;
use crate::{Case, adapter, case, edit, file};

const CONFIG: &str = "adapter/adapter_config.json";
const WEIGHTS: &str = "adapter/adapter_model.safetensors";

pub fn cases() -> Vec<Case> {
    let config =
        |name: &str, from: &'static str, to: &str| edit(&format!("adapter: {name}"), adapter, CONFIG, from, to);
    let header = |name: &str, from: &'static str, to: &'static str| {
        case(&format!("adapter: {name}"), adapter, move |directory| {
            assert_eq!(from.len(), to.len(), "the header keeps its length");
            let mut bytes = fs::read(directory.join(WEIGHTS)).unwrap();
            let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
            bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
            fs::write(directory.join(WEIGHTS), bytes).unwrap();
        })
    };
    vec![
        case("adapter: no configuration", adapter, |directory| fs::remove_file(directory.join(CONFIG)).unwrap()),
        file("adapter: a configuration that is no JSON", adapter, CONFIG, "{"),
        file("adapter: a configuration that is a list", adapter, CONFIG, "[]"),
        file("adapter: a configuration nested a hundred thousand times", adapter, CONFIG, "[".repeat(100_000)),
        file("adapter: a configuration of 20 MB", adapter, CONFIG, vec![b' '; 20_000_000]),
        config("another method", "\"LORA\"", "\"PROMPT_TUNING\""),
        config("a rank of zero", "\"r\": 4", "\"r\": 0"),
        config("a negative rank", "\"r\": 4", "\"r\": -4"),
        config("a rank beyond reason", "\"r\": 4", "\"r\": 1000000000000000000"),
        config("another rank than the weights'", "\"r\": 4", "\"r\": 5"),
        config("no alpha", "\"lora_alpha\": 8,", ""),
        config("an alpha in words", "\"lora_alpha\": 8", "\"lora_alpha\": \"much\""),
        config("a dropout above one", "\"lora_dropout\": 0.0", "\"lora_dropout\": 1.5"),
        config("an unknown bias", "\"bias\": \"none\"", "\"bias\": \"some\""),
        config("weights the other way round", "\"fan_in_fan_out\": false", "\"fan_in_fan_out\": true"),
        config("a target that nothing is called", "\"gate_proj\"", "\"gateau_proj\""),
        config("targets that are a number", "\"target_modules\": [", "\"target_modules\": 3, \"other\": ["),
        config("a pattern that is none", "\"target_modules\": [", "\"target_modules\": \"(\", \"other\": ["),
        config(
            "a pattern that explodes",
            "\"target_modules\": [",
            "\"target_modules\": \"(((a{1000}){1000}){1000})\", \"other\": [",
        ),
        config("a pattern of ranks that is negative", "\"rank_pattern\": {}", "\"rank_pattern\": {\"q_proj\": -1}"),
        config("magnitudes that are missing", "\"use_dora\": false", "\"use_dora\": true"),
        config(
            "an invented setting that changes the result",
            "\"layer_replication\": null",
            "\"layer_replication\": [[0, 2]]",
        ),
        case("adapter: no weights", adapter, |directory| fs::remove_file(directory.join(WEIGHTS)).unwrap()),
        case("adapter: pickled weights", adapter, |directory| {
            fs::rename(directory.join(WEIGHTS), directory.join("adapter/adapter_model.bin")).unwrap();
        }),
        file("adapter: empty weights", adapter, WEIGHTS, ""),
        file("adapter: weights of no tensors", adapter, WEIGHTS, safetensors("{}", 0)),
        case("adapter: weights cut short", adapter, |directory| {
            let bytes = fs::read(directory.join(WEIGHTS)).unwrap();
            fs::write(directory.join(WEIGHTS), &bytes[..bytes.len() - 1]).unwrap();
        }),
        header("a tensor under another name", "0.mlp.down_proj.lora_A", "0.mlp.down_proj.lora_C"),
        header("a tensor of another layer", "layers.0.mlp.down_proj.lora_A", "layers.7.mlp.down_proj.lora_A"),
        header("a tensor of another shape", "[4,128]", "[128,4]"),
        header("a tensor of whole numbers", "\"F32\"", "\"I32\""),
        header("a tensor of an unknown type", "\"F32\"", "\"F23\""),
        file("adapter: provenance that is no JSON", adapter, "adapter/provenance.json", "{"),
        file("adapter: provenance of 2 MB", adapter, "adapter/provenance.json", vec![b' '; 2_000_000]),
        case("adapter: a file instead of its directory", adapter, |directory| {
            fs::remove_dir_all(directory.join("adapter")).unwrap();
            fs::write(directory.join("adapter"), "").unwrap();
        }),
    ]
}
