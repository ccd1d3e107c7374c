//! A tokenizer.json as transformers writes it for DeBERTaV3, against what transformers 4.46.3 makes of it.

use std::path::Path;

use models::Tokenizer;
use serde_json::Value;

#[test]
fn texts_and_pairs_agree_with_transformers() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/deberta_tiny_tokenizer");
    let tokenizer = Tokenizer::read(&directory).expect("a tokenizer");
    let golden = std::fs::read_to_string(directory.join("golden.json")).expect("golden values");
    let golden: Vec<Value> = serde_json::from_str(&golden).expect("JSON");
    assert_eq!(golden.len(), 4);
    for entry in &golden {
        let (first, second) = (entry["a"].as_str().expect("a text"), entry["b"].as_str());
        let ids = tokenizer.encode_pair(first, second, 1000).expect("ids").ids;
        assert_eq!(Value::from(ids.clone()), entry["ids"], "{entry}");
        let tokens: Vec<String> = ids.iter().map(|&id| tokenizer.token(id).expect("a token")).collect();
        assert_eq!(Value::from(tokens), entry["tokens"]);
        assert_eq!(Value::from(tokenizer.decode(&ids, true).expect("a text")), entry["decoded"]);
    }
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.pad()), (Some(1), Some(2), Some(0)));
    assert_eq!(tokenizer.token_id("[MASK]"), Some(280));
}
