//! SentencePiece models without a tokenizer.json, against what transformers 4.46.3 makes of the same files.

use std::path::{Path, PathBuf};

use models::Tokenizer;
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sentencepiece").join(name)
}

fn golden(directory: &Path) -> Value {
    let text = std::fs::read_to_string(directory.join("golden.json")).expect("golden values");
    serde_json::from_str(&text).expect("JSON")
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("token ids")
}

/// Checks every text of a list; gives how many there were.
fn texts_agree(tokenizer: &Tokenizer, texts: &Value) -> usize {
    let texts = texts.as_array().expect("a list");
    for entry in texts {
        let text = entry["text"].as_str().expect("a text");
        assert_eq!(tokenizer.encode(text, true).expect("ids"), ids(&entry["ids"]), "{text:?}");
    }
    texts.len()
}

#[test]
fn deberta_tokenizers_agree_with_transformers() {
    let directory = fixture("deberta");
    let (tokenizer, golden) = (Tokenizer::read(&directory).expect("a tokenizer"), golden(&directory));
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.pad()), (Some(1), Some(2), Some(0)));
    assert_eq!(tokenizer.token_id("[MASK]").map(u64::from), golden["mask"].as_u64());
    assert_eq!(Some(tokenizer.vocab_size() as u64), golden["vocabulary"].as_u64());
    assert!(texts_agree(&tokenizer, &golden["texts"]) > 5);
    let mut cut = 0;
    for pair in golden["pairs"].as_array().expect("a list") {
        let length = pair["max_length"].as_u64().expect("a length") as usize;
        let encoded = tokenizer.encode_pair(pair["a"].as_str().expect("a text"), pair["b"].as_str(), length);
        let encoded = encoded.expect("ids");
        assert_eq!(encoded.ids, ids(&pair["ids"]), "{pair}");
        let whole = tokenizer.encode_pair(pair["a"].as_str().expect("a text"), pair["b"].as_str(), 1000);
        assert_eq!(encoded.cut, whole.expect("ids").ids.len() - encoded.ids.len(), "{pair}");
        cut += usize::from(encoded.cut > 0);
    }
    assert!(cut > 5, "the golden pairs must exercise truncation");
    let refusal = tokenizer.encode_pair("a", Some("b"), 3).expect_err("must be refused").to_string();
    assert_eq!(refusal, "encode_pair: a length of 3 leaves no room beside 3 special tokens");
}

#[test]
fn llama_tokenizers_agree_with_transformers_in_both_ages() {
    let directory = fixture("llama");
    let golden = golden(&directory);
    let tokenizer = Tokenizer::read(&directory).expect("a tokenizer");
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.pad()), (Some(1), Some(2), None));
    assert_eq!(Some(tokenizer.vocab_size() as u64), golden["vocabulary"].as_u64());
    assert!(texts_agree(&tokenizer, &golden["texts"]) > 5);
    for (entry, decoded) in
        golden["texts"].as_array().expect("a list").iter().zip(golden["decoded"].as_array().expect("a list"))
    {
        assert_eq!(Some(tokenizer.decode(&ids(&entry["ids"]), true).expect("text").as_str()), decoded.as_str());
    }
    let legacy = tempfile::tempdir().expect("a temporary directory");
    std::fs::copy(directory.join("tokenizer.model"), legacy.path().join("tokenizer.model")).expect("copied");
    let tokenizer = Tokenizer::read(legacy.path()).expect("a tokenizer");
    assert!(texts_agree(&tokenizer, &golden["legacy"]) > 5);
}

#[test]
fn wrong_files_are_refused_with_the_reason() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let write = |name: &str, bytes: &[u8]| std::fs::write(directory.path().join(name), bytes).expect("written");
    let refusal = || Tokenizer::read(directory.path()).err().expect("must be refused").to_string();
    write("spm.model", b"not a model");
    assert!(refusal().contains("spm.model: tokenizer: "), "{}", refusal());
    write("spm.model", &std::fs::read(fixture("deberta/spm.model")).expect("the fixture"));
    write("added_tokens.json", br#"{"[MASK]": 4096}"#);
    assert!(refusal().contains("added token `[MASK]` should have id 4096, but would get Some(260)"), "{}", refusal());
}
