use lora::Example;
use proptest::prelude::*;
use serde_json::json;

use super::options::RowOptions;
use super::*;

/// A tokenizer of the letters a and b that starts texts with `<s>` and ends them with `</s>`.
pub fn letters() -> Tokenizer {
    let directory = tempfile::tempdir().unwrap();
    let pieces = json!({"type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": false});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": pieces, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "unk_token": "?", "vocab": {"?": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4}},
    });
    std::fs::write(directory.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let config = json!({"bos_token": "<s>", "eos_token": "</s>"});
    std::fs::write(directory.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    Tokenizer::read(directory.path()).unwrap()
}

fn example(length: usize, given: usize) -> Example {
    Example { ids: vec![3; length], learned: (0..length).map(|position| position >= given).collect() }
}

#[test]
fn rows_without_anything_to_learn_within_the_length_are_left_out_and_counted() {
    let mut data = Data::Examples(vec![example(4, 1), example(9, 3), example(9, 8), example(8, 8), example(1, 0)]);
    let cut = data.cut(8);
    assert_eq!(cut, Cut { rows: 5, shortened: 2, dropped: 3 });
    let Data::Examples(kept) = &data else { panic!("rows") };
    assert_eq!(kept.iter().map(|example| example.ids.len()).collect::<Vec<_>>(), [4, 9]);
    let warning = cut.warning("training", 8).unwrap();
    assert!(
        warning.starts_with("warning: 2 of 5 training rows are longer than --seq 8 and are cut; 3 of"),
        "{warning}"
    );
    assert_eq!(data.cut(9).warning("training", 9), None);
    let shape = Shape { sequence: 2, batch: 1, seed: 0, rows: RowOptions::default() };
    let mut none = Data::Examples(vec![example(9, 3)]);
    none.cut(2);
    let refused = none.batches(shape, 0, Some(0)).err().unwrap().to_string();
    assert!(refused.contains("no row of which something is learned within --seq 2"), "{refused}");
}

proptest! {
    #[test]
    fn any_file_is_read_or_refused(
        kind in prop::sample::select(vec![
            ("cola", "tsv"), ("sst2", "tsv"), ("mrpc", "tsv"), ("stsb", "tsv"), ("mnli", "tsv"), ("classify", "jsonl"),
            ("classify", "json"), ("regress", "jsonl"), ("causal", "jsonl"), ("causal", "json"), ("causal", "txt"),
            ("causal", "csv"), ("commonsense", "json"), ("commonsense", "jsonl"),
        ]),
        start in prop::sample::select(vec![
            "", "sentence\tlabel\n", "Quality\t#1 String\t#2 String\n", "sentence1\tsentence2\tscore\n",
            "{\"text\": \"a\", \"label\": ", "[{\"prompt\": \"a\", \"completion\": \"b\"}", "[{\"instruction\": ",
        ]),
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(&b"\t\n\r,:[]{}\"\\01ab"[..])], 0..60),
    ) {
        thread_local! { static LETTERS: Tokenizer = letters(); }
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(format!("data.{}", kind.1));
        std::fs::write(&file, [start.as_bytes(), &bytes].concat()).unwrap();
        match LETTERS.with(|tokenizer| count(kind.0, &file, tokenizer)) {
            Ok(rows) => prop_assert!(rows <= start.len() + bytes.len() + 1),
            Err(failure) => {
                prop_assert!(matches!(&failure, Failure::Input(_)), "{failure}");
                prop_assert!(failure.to_string().len() < 2000);
            }
        }
    }
}
