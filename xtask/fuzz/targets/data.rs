//! Data files: tables of GLUE, rows and arrays of JSON, questions, text. The first byte says which.
#![no_main]

use std::sync::OnceLock;

use models::Tokenizer;

const KINDS: [(&str, &str); 17] = [
    ("cola", "tsv"), ("sst2", "tsv"), ("mrpc", "tsv"), ("stsb", "tsv"), ("qqp", "tsv"), ("mnli", "tsv"), ("qnli", "tsv"),
    ("rte", "tsv"), ("wnli", "tsv"), ("classify", "jsonl"), ("classify", "json"), ("regress", "jsonl"), ("causal", "jsonl"),
    ("causal", "json"), ("causal", "txt"), ("commonsense", "json"), ("commonsense", "jsonl"),
];

/// A tokenizer of letters.
const TOKENIZER: &str = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
    "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": false},
    "post_processor": null, "decoder": null,
    "model": {"type": "WordLevel", "vocab": {"<unk>": 0, "a": 1, "b": 2}, "unk_token": "<unk>"}}"#;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    static READER: OnceLock<Tokenizer> = OnceLock::new();
    let tokenizer = READER.get_or_init(|| {
        fuzz::file("tokenizer.json", TOKENIZER.as_bytes());
        Tokenizer::read(fuzz::directory()).expect("a tokenizer")
    });
    let Some((&kind, text)) = bytes.split_first() else { return };
    let (task, extension) = KINDS[usize::from(kind) % KINDS.len()];
    let path = fuzz::file(&format!("data.{extension}"), text);
    let _ = xtask::read_data(task, &path, tokenizer);
});
