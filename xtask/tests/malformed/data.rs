//! Data sets.

use std::path::Path;

use models::Tokenizer;

use crate::{Case, file};

/// Reads the data file of a task.
fn read(directory: &Path, task: &str, name: &str) -> Result<(), String> {
    xtask::read_data(task, &directory.join(name), &Tokenizer::read(directory).unwrap()).map(drop)
}

pub fn cases() -> Vec<Case> {
    let text = |directory: &Path| read(directory, "causal", "data.txt");
    let rows = |directory: &Path| read(directory, "causal", "data.jsonl");
    let array = |directory: &Path| read(directory, "causal", "data.json");
    let classes = |directory: &Path| read(directory, "classify", "data.jsonl");
    let scores = |directory: &Path| read(directory, "regress", "data.jsonl");
    let sentences = |directory: &Path| read(directory, "sst2", "data.tsv");
    let judgements = |directory: &Path| read(directory, "cola", "data.tsv");
    let pairs = |directory: &Path| read(directory, "stsb", "data.tsv");
    let questions = |directory: &Path| read(directory, "commonsense", "data.json");
    vec![
        file("data: text that is not UTF-8", text, "data.txt", [b'a', 0xff]),
        file("data: an unknown extension", |directory| read(directory, "causal", "data.csv"), "data.csv", "a,b"),
        file("data: a directory", |directory| read(directory, "causal", "adapter"), "other", ""),
        file("data: a file that is missing", |directory| read(directory, "causal", "nothing.txt"), "other", ""),
        file("data: a line that is no JSON", rows, "data.jsonl", "{\"text\": \"a b\"}\n{\"text\""),
        file("data: a row that is a number", rows, "data.jsonl", "3\n"),
        file("data: a row without known fields", rows, "data.jsonl", "{\"texte\": \"a\"}\n"),
        file("data: a prompt without completion", rows, "data.jsonl", "{\"prompt\": \"a\"}\n"),
        file("data: a text that is a number", rows, "data.jsonl", "{\"text\": 3}\n"),
        file("data: chat messages", rows, "data.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n"),
        file("data: a row nested a hundred thousand times", rows, "data.jsonl", "[".repeat(100_000)),
        file("data: an array cut short", array, "data.json", "[{\"text\": \"a\"},"),
        file("data: an array that is an object", array, "data.json", "{\"text\": \"a\"}"),
        file("data: a label that is unknown", classes, "data.jsonl", "{\"text\": \"a\", \"label\": \"maybe\"}\n"),
        file("data: a label beyond the classes", classes, "data.jsonl", "{\"text\": \"a\", \"label\": 7}\n"),
        file("data: a row without label", classes, "data.jsonl", "{\"text\": \"a\"}\n"),
        file("data: a score in words", scores, "data.jsonl", "{\"text\": \"a\", \"label\": \"high\"}\n"),
        file("data: a score that is no number", scores, "data.jsonl", "{\"text\": \"a\", \"label\": 1e999}\n"),
        file("data: a table without rows", sentences, "data.tsv", "sentence\tlabel\n"),
        file("data: a table without its column", sentences, "data.tsv", "words\tlabel\na\t1\n"),
        file("data: a row of too few columns", judgements, "data.tsv", "a\t1\n"),
        file("data: a label of another task", judgements, "data.tsv", "a\t5\t\tb\n"),
        file("data: scores cut short", pairs, "data.tsv", "0\t1\t2\t3\t4\t5\t6\ta\tb\n"),
        file(
            "data: a question without options",
            questions,
            "data.json",
            "[{\"instruction\": \"a\", \"output\": \"b\", \"answer\": \"c\"}]",
        ),
        file(
            "data: a question without answer",
            questions,
            "data.json",
            "[{\"instruction\": \"a Answer format: b/c\"}]",
        ),
    ]
}
