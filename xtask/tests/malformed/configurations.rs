//! config.json and tokenizers.

use std::fs;

use crate::{Case, case, configuration, edit, file, model, tokenizer};

pub fn cases() -> Vec<Case> {
    let config = |name: &str, from: &'static str, to: &str| {
        edit(&format!("config: {name}"), configuration, "config.json", from, to)
    };
    let mut cases = vec![
        case("config: missing", configuration, |directory| fs::remove_file(directory.join("config.json")).unwrap()),
        file("config: not UTF-8", configuration, "config.json", [0xff]),
        file("config: a list", configuration, "config.json", "[]"),
        file("config: nested a hundred thousand times", configuration, "config.json", "{\"a\":".repeat(100_000)),
        config("another architecture", "\"model_type\": \"llama\"", "\"model_type\": \"mamba\""),
        config("no architecture", "\"model_type\": \"llama\",", ""),
        config("no size", "\"hidden_size\": 64,", ""),
        config("a size of zero", "\"hidden_size\": 64", "\"hidden_size\": 0"),
        config("a negative size", "\"intermediate_size\": 128", "\"intermediate_size\": -128"),
        config("a size in words", "\"hidden_size\": 64", "\"hidden_size\": \"64\""),
        config("a vocabulary beyond reason", "\"vocab_size\": 300", "\"vocab_size\": 1000000000000000000"),
        config("more heads for keys than there are", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3"),
        config("no layers", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 0"),
        config("heads that are too wide", "\"head_dim\": 16", "\"head_dim\": 100000"),
        config("an epsilon of zero", "\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": 0"),
        config("another activation", "\"silu\"", "\"relu6\""),
        config(
            "an unknown kind of positions",
            "\"rope_scaling\": null",
            "\"rope_scaling\": {\"rope_type\": \"spiral\"}",
        ),
        edit(
            "model: a size that its tensors lack",
            model,
            "config.json",
            "\"intermediate_size\": 128",
            "\"intermediate_size\": 96",
        ),
        edit(
            "model: layers that its tensors lack",
            model,
            "config.json",
            "\"num_hidden_layers\": 2",
            "\"num_hidden_layers\": 3",
        ),
        edit(
            "model: layers that nobody uses",
            model,
            "config.json",
            "\"num_hidden_layers\": 2",
            "\"num_hidden_layers\": 1",
        ),
        case("tokenizer: missing", tokenizer, |directory| fs::remove_file(directory.join("tokenizer.json")).unwrap()),
        file("tokenizer: not JSON", tokenizer, "tokenizer.json", "{"),
        file("tokenizer: nested a hundred thousand times", tokenizer, "tokenizer.json", "[".repeat(100_000)),
        edit("tokenizer: an unknown model", tokenizer, "tokenizer.json", "WordLevel", "WordSmith"),
        edit("tokenizer: a negative id", tokenizer, "tokenizer.json", "\"a\":1", "\"a\":-1"),
    ];
    cases.push(case("tokenizer: no SentencePiece model", tokenizer, |directory| {
        fs::remove_file(directory.join("tokenizer.json")).unwrap();
        fs::write(directory.join("tokenizer.model"), [0xff; 64]).unwrap();
    }));
    #[cfg(unix)]
    cases.push(case("config: a device that never ends", configuration, |directory| {
        fs::remove_file(directory.join("config.json")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", directory.join("config.json")).unwrap();
    }));
    cases
}
