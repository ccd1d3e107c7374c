use super::*;
use crate::tokenizer::Tokenizer as Read;

/// A text with rare characters, lines, a long word and spaces in a row.
fn text() -> Vec<String> {
    let mut text = "the cat sat on the mat; the dog sat on the log.\nthe cats and the dogs  sit together\n".repeat(40);
    text += "naïve façade ½ ✓ zebra quartz jinx\n";
    text += &"x".repeat(500);
    vec![text, "ﬁne words\tof another file".into()]
}

fn trained(size: usize, family: TokenizerFamily) -> (tempfile::TempDir, usize) {
    let directory = tempfile::tempdir().expect("a directory");
    let tokens = train_unigram(&text(), size, family, directory.path()).expect("a tokenizer");
    (directory, tokens)
}

#[test]
fn tokenizers_have_their_familys_tokens() {
    let (directory, tokens) = trained(60, TokenizerFamily::Deberta);
    let tokenizer = Read::read(directory.path()).expect("a tokenizer");
    assert_eq!(tokens, tokenizer.vocab_size());
    assert!((45..=60).contains(&tokens), "{tokens}");
    assert_eq!((tokenizer.pad(), tokenizer.bos(), tokenizer.eos()), (Some(0), Some(1), Some(2)));
    assert_eq!((tokenizer.token_id("[UNK]"), tokenizer.token_id("[MASK]")), (Some(3), Some(4)));
    let ids = tokenizer.encode(" the \n cat ", true).expect("ids");
    assert_eq!((ids[0], ids[ids.len() - 1]), (1, 2));
    assert_eq!(tokenizer.decode(&ids, true).expect("text"), "the cat");
    // What words share is a piece; a ligature is its letters.
    assert!(tokenizer.token_id("▁cat").is_some());
    assert_eq!(tokenizer.encode("ﬁne", false).expect("ids"), tokenizer.encode("fine", false).expect("ids"));
    assert!(tokenizer.encode("☃", false).expect("ids").contains(&3));

    let (directory, _) = trained(60, TokenizerFamily::Llama);
    let tokenizer = Read::read(directory.path()).expect("a tokenizer");
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.token_id("<unk>")), (Some(1), Some(2), Some(0)));
    let written = "the cat  sat\n\n on a log\n";
    let ids = tokenizer.encode(written, true).expect("ids");
    assert_eq!((ids[0], tokenizer.decode(&ids, true).expect("text").as_str()), (1, written));
}

#[test]
fn the_same_texts_give_the_same_files() {
    for family in [TokenizerFamily::Deberta, TokenizerFamily::Llama] {
        let file = |(directory, _): (tempfile::TempDir, usize)| {
            std::fs::read(directory.path().join("tokenizer.json")).expect("written")
        };
        let first = file(trained(45, family));
        // Maps are in another order each time; on many of them chance would have shown itself.
        assert!((0..6).all(|_| file(trained(45, family)) == first), "{family:?}");
    }
}

#[test]
fn sizes_that_do_not_do_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let refusal = |texts: &[String], size| {
        train_unigram(texts, size, TokenizerFamily::Llama, directory.path()).expect_err("refused").to_string()
    };
    assert!(refusal(&text(), 20).contains("20 tokens do not hold 3 special ones"));
    assert!(refusal(&[], 100).contains("the texts have no words"));
    assert!(refusal(&[String::new(), "z".repeat(100)], 100).contains("the texts have no words"));
    // Few pieces to be had: fewer tokens than asked for.
    let few = train_unigram(&["ab ab ba".into()], 100, TokenizerFamily::Llama, directory.path()).expect("a tokenizer");
    assert!((6..30).contains(&few), "{few}");
}
