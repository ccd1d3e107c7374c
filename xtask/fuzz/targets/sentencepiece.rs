//! A SentencePiece model, as DeBERTa's tokenizer (first byte even) or LLaMA's, and a text cut by it.
#![no_main]

use models::Tokenizer;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((family, model)) = bytes.split_first() else { return };
    let (name, other) = match family % 2 {
        0 => ("spm.model", "tokenizer.model"),
        _ => ("tokenizer.model", "spm.model"),
    };
    let _ = std::fs::remove_file(fuzz::directory().join(other));
    fuzz::file(name, model);
    let Ok(tokenizer) = Tokenizer::read(fuzz::directory()) else { return };
    let ids = tokenizer.encode("a b  ab ｱé\u{0}", true).expect("any text can be cut");
    assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
    let _ = tokenizer.decode(&ids, true);
});
