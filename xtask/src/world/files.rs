//! The world as files: what `finetune` and other programs read.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};

use super::phrases;
use super::{Edition, Row, Split, Task, World, lexicon};
use crate::failure::{Failure, Outcome};

/// The token between paragraphs; it starts and ends sequences, too.
const SEPARATOR: &str = "\n";

/// The token for words that the world does not have.
const UNKNOWN: &str = "<unk>";

/// Sizes of a LLaMA for the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BaseShape {
    pub hidden: usize,
    pub intermediate: usize,
    pub layers: usize,
    pub heads: usize,
    /// Longest sequence.
    pub positions: usize,
}

impl BaseShape {
    /// About a million weights.
    pub const SMALL: BaseShape = BaseShape { hidden: 128, intermediate: 384, layers: 4, heads: 4, positions: 128 };
}

/// The tokens of a text as the tokenizer splits it, in lower case.
fn tokens(text: &str) -> impl Iterator<Item = String> {
    let spaced: String = text
        .chars()
        .flat_map(|letter| if letter.is_ascii_punctuation() { vec![' ', letter, ' '] } else { vec![letter] })
        .collect();
    spaced.to_lowercase().split_whitespace().map(str::to_owned).collect::<Vec<_>>().into_iter()
}

/// Every token in the order of its number. The same for every seed.
pub fn vocabulary() -> Vec<String> {
    let phrases = phrases::all().into_iter().map(phrases::without_gaps);
    let words = lexicon::words().into_iter().map(str::to_owned);
    let mut known: Vec<String> = phrases.chain(words).flat_map(|text| tokens(&text).collect::<Vec<_>>()).collect();
    known.sort();
    known.dedup();
    [UNKNOWN, SEPARATOR].map(str::to_owned).into_iter().chain(known).collect()
}

fn tokenizer() -> Value {
    let vocabulary: BTreeMap<String, usize> =
        vocabulary().into_iter().enumerate().map(|(number, token)| (token, number)).collect();
    let split = |pattern: Value, behaviour: &str| json!({"type": "Split", "pattern": pattern, "behavior": behaviour, "invert": false});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            split(json!({"Regex": "[^\\S\\n]+"}), "Removed"),
            split(json!({"String": SEPARATOR}), "Isolated"),
            {"type": "Punctuation", "behavior": "Isolated"},
        ]},
        "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": UNKNOWN},
    })
}

/// The contents of `config.json`.
pub fn config(shape: BaseShape) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "torch_dtype": "float32",
        "vocab_size": vocabulary().len(), "hidden_size": shape.hidden, "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads, "num_key_value_heads": shape.heads,
        "max_position_embeddings": shape.positions, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0,
        "tie_word_embeddings": true, "initializer_range": 0.06, "attention_bias": false, "mlp_bias": false,
        "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 1,
    })
}

/// Writes what a LLaMA of the world needs besides weights: `config.json`, `tokenizer.json`, `tokenizer_config.json`.
pub fn write_model_files(directory: &Path, shape: BaseShape) -> Outcome<()> {
    let special = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SEPARATOR, "eos_token": SEPARATOR,
        "pad_token": SEPARATOR, "unk_token": UNKNOWN, "model_max_length": shape.positions,
    });
    write_json(directory, "config.json", &config(shape))?;
    write_json(directory, "tokenizer.json", &tokenizer())?;
    write_json(directory, "tokenizer_config.json", &special)
}

/// How much of everything to write.
#[derive(Clone, Copy, Debug)]
pub struct Amounts {
    /// Sentences of the base's text; other texts in proportion.
    pub sentences: usize,
    /// Training rows of each task; a quarter as many for validation and for testing.
    pub rows: usize,
}

impl World {
    /// Writes the model's files to `model/`, the editions' texts to `text/EDITION.SPLIT.txt` (training and validation) and the
    /// tasks to `tasks/TASK.SPLIT.jsonl`.
    pub fn write(&self, directory: &Path, shape: BaseShape, amounts: Amounts) -> Outcome<()> {
        write_model_files(&directory.join("model"), shape)?;
        for edition in [Edition::Base].into_iter().chain(Edition::UPDATES) {
            let sentences = (amounts.sentences as f64 * edition.relative_size()).ceil() as usize;
            for (split, sentences) in [(Split::Training, sentences), (Split::Validation, sentences.div_ceil(20))] {
                let name = format!("{}.{}.txt", edition.name(), split.name());
                write_text(&directory.join("text"), &name, &self.text(edition, split, sentences))?;
            }
        }
        for task in Task::ALL {
            for split in Split::ALL {
                let count = if split == Split::Training { amounts.rows } else { amounts.rows.div_ceil(4) };
                let name = format!("{}.{}.jsonl", task.name(), split.name());
                write_text(&directory.join("tasks"), &name, &json_lines(&self.rows(task, split, count)))?;
            }
        }
        Ok(())
    }
}

/// Rows as a file of rows.
pub fn json_lines(rows: &[Row]) -> String {
    rows.iter().map(|row| json!(row).to_string() + "\n").collect()
}

fn write_json(directory: &Path, name: &str, value: &Value) -> Outcome<()> {
    write_text(directory, name, &format!("{value:#}\n"))
}

fn write_text(directory: &Path, name: &str, text: &str) -> Outcome<()> {
    let path = directory.join(name);
    std::fs::create_dir_all(directory)
        .map_err(|error| Failure::input(format!("{} cannot be made: {error}", directory.display())))?;
    lora::write_whole(&path, text.as_bytes()).map_err(crate::loading::lora_failure)
}
