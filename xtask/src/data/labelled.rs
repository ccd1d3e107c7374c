//! Texts with one label each: from the files of GLUE, or from rows of JSON; and as batches of tokens.

use std::path::PathBuf;

use lora::{LabelledSequences, SequenceLabels};
use models::Tokenizer;
use rayon::prelude::*;
use serde_json::Value;

use super::task::{Target, Task};
use super::{Cut, HELD_OUT, HELD_OUT_LIMIT, read_text};
use crate::failure::{Failure, Outcome};

/// A text or a pair of texts, and what a model should say of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub first: String,
    pub second: Option<String>,
    pub label: Label,
}

/// What a row is labelled with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Label {
    Class(i32),
    Score(f32),
}

/// Rows that models are judged by, and what distinguishes them from others of the same task, such as `mismatched`.
pub struct Validation {
    pub name: &'static str,
    pub rows: Vec<Row>,
}

/// Rows as tokens.
#[derive(Clone)]
pub struct Encoded {
    sequences: Vec<Vec<u32>>,
    labels: SequenceLabels,
    padding_id: u32,
    /// Rows that were longer than allowed.
    shortened: usize,
}

/// The rows to train on and those to judge by.
pub fn read(
    task: Task,
    target: &Target,
    data: &[PathBuf],
    validation: &[PathBuf],
) -> Outcome<(Vec<Row>, Vec<Validation>)> {
    if let Some(glue) = task.glue() {
        let [directory] = data else {
            return Err(Failure::input("--data: a GLUE task takes one directory, the one with its train.tsv"));
        };
        if !validation.is_empty() {
            return Err(Failure::input("--validation: a GLUE task brings its own validation files; leave it out"));
        }
        let training = glue.read(&glue.file(directory, "train.tsv")?)?;
        return Ok((training, read_validation(task, target, data)?));
    }
    let mut training = read_rows(data, target)?;
    let rows = match validation.is_empty() {
        true => hold_out(&mut training)?,
        false => read_rows(validation, target)?,
    };
    Ok((training, vec![Validation { name: "", rows }]))
}

/// The rows to judge by: the validation files of a GLUE directory, or the files themselves.
pub fn read_validation(task: Task, target: &Target, data: &[PathBuf]) -> Outcome<Vec<Validation>> {
    let Some(glue) = task.glue() else {
        return Ok(vec![Validation { name: "", rows: read_rows(data, target)? }]);
    };
    let [path] = data else {
        return Err(Failure::input("--data: a GLUE task takes one directory or one file"));
    };
    if path.is_file() {
        return Ok(vec![Validation { name: "", rows: glue.read(path)? }]);
    }
    let files = glue.validation_files().iter();
    files.map(|&(name, file)| Ok(Validation { name, rows: glue.read(&glue.file(path, file)?)? })).collect()
}

fn hold_out(rows: &mut Vec<Row>) -> Outcome<Vec<Row>> {
    if rows.len() < 2 {
        return Err(Failure::input("--data: one row cannot be both trained on and held out; give --validation"));
    }
    let count = ((rows.len() as f64 * HELD_OUT) as usize).clamp(1, HELD_OUT_LIMIT);
    let every = rows.len().div_ceil(count).max(2);
    let mut index = 0;
    let held = rows.extract_if(.., |_| {
        index += 1;
        index % every == 0
    });
    Ok(held.collect())
}

fn read_rows(files: &[PathBuf], target: &Target) -> Outcome<Vec<Row>> {
    let mut rows = Vec::new();
    for file in files {
        let text = read_text(file)?;
        let parsed: Result<Vec<(usize, Value)>, String> = match file.extension().and_then(|name| name.to_str()) {
            Some("jsonl") => text
                .lines()
                .enumerate()
                .filter(|(_, line)| !line.trim().is_empty())
                .map(|(index, line)| {
                    serde_json::from_str(line)
                        .map(|row| (index + 1, row))
                        .map_err(|error| format!("line {}: {error}", index + 1))
                })
                .collect(),
            Some("json") => serde_json::from_str::<Vec<Value>>(&text)
                .map(|rows| rows.into_iter().enumerate().map(|(index, row)| (index + 1, row)).collect())
                .map_err(|error| format!("not a JSON array of rows: {error}")),
            _ => Err("rows with labels are read from .jsonl and .json; for GLUE's .tsv give the task's name".into()),
        };
        let place = |message: String| Failure::input(format!("{} {message}", file.display()));
        for (number, value) in parsed.map_err(place)? {
            rows.push(row(&value, target).map_err(|message| place(format!("row {number}: {message}")))?);
        }
    }
    if rows.is_empty() {
        return Err(Failure::input("--data: there is no row"));
    }
    Ok(rows)
}

fn row(value: &Value, target: &Target) -> Result<Row, String> {
    let field = |names: &[&str]| names.iter().find_map(|name| value.get(name)?.as_str().map(str::to_owned));
    let first =
        field(&["text", "sentence", "sentence1"]).ok_or("there is no text `text`, `sentence` or `sentence1`")?;
    let label = value.get("label").ok_or("there is no `label`")?;
    let label = if target.labels.is_empty() {
        let score = label.as_f64().map(|score| score as f32).filter(|score| score.is_finite());
        Label::Score(score.ok_or_else(|| format!("the label {label} is not a number"))?)
    } else {
        let name = label.as_str().map_or_else(|| label.to_string(), str::to_owned);
        let class = target.labels.iter().position(|label| *label == name);
        let class = class.ok_or_else(|| format!("the label {label} is not one of {}", target.labels.join(", ")))?;
        Label::Class(class as i32)
    };
    Ok(Row { first, second: field(&["text_pair", "sentence2"]), label })
}

impl Encoded {
    /// Tokenises rows, each cut to `longest` tokens.
    pub fn new(rows: &[Row], tokenizer: &Tokenizer, longest: usize) -> Outcome<Self> {
        let encoded: Result<Vec<_>, _> =
            rows.par_iter().map(|row| tokenizer.encode_pair(&row.first, row.second.as_deref(), longest)).collect();
        let encoded = encoded.map_err(|error| Failure::input(format!("--max-length: {error}")))?;
        let shortened = encoded.iter().filter(|pair| pair.cut > 0).count();
        let class = |row: &Row| match row.label {
            Label::Class(class) => Some(class),
            Label::Score(_) => None,
        };
        let score = |row: &Row| match row.label {
            Label::Score(score) => Some(score),
            Label::Class(_) => None,
        };
        // The reader gives rows of one kind only.
        let classes: Option<Vec<i32>> = rows.iter().map(class).collect();
        let labels = match classes {
            Some(classes) => SequenceLabels::Classes(classes),
            None => SequenceLabels::Scores(rows.iter().filter_map(score).collect()),
        };
        let padding_id = tokenizer.pad().or_else(|| tokenizer.token_id("[PAD]")).or(tokenizer.eos()).unwrap_or(0);
        Ok(Encoded { sequences: encoded.into_iter().map(|pair| pair.ids).collect(), labels, padding_id, shortened })
    }

    /// How many rows were too long.
    pub fn cut(&self) -> Cut {
        Cut { rows: self.sequences.len(), shortened: self.shortened, dropped: 0 }
    }

    /// Batches, in a fresh order every epoch with a seed.
    pub fn batches(self, batch: usize, seed: Option<u64>) -> Outcome<LabelledSequences> {
        LabelledSequences::new(self.sequences, self.labels, batch, self.padding_id, seed)
            .map_err(|error| Failure::input(format!("--data: {error}")))
    }
}

/// Writes predictions in the form that GLUE's server takes: a number and a class or score for each row.
pub fn predictions_table(outputs: &[Vec<f32>], target: &Target) -> String {
    let mut table = String::from("index\tprediction\n");
    for (index, output) in outputs.iter().enumerate() {
        let prediction = match target.labels.is_empty() {
            true => output.first().map_or_else(String::new, |score| format!("{score:.3}")),
            false => target.labels[crate::classification::class_of(output) as usize].clone(),
        };
        table += &format!("{index}\t{prediction}\n");
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn target(labels: &[&str]) -> Target {
        Target { labels: labels.iter().map(|label| label.to_string()).collect(), measures: &[] }
    }

    #[test]
    fn rows_of_json_have_texts_and_labels() {
        let yes_no = target(&["no", "yes"]);
        let pair = row(&json!({"sentence1": "a", "sentence2": "b", "label": "yes"}), &yes_no);
        assert_eq!(pair, Ok(Row { first: "a".into(), second: Some("b".into()), label: Label::Class(1) }));
        let numbered = row(&json!({"text": "a", "label": 0}), &target(&["0", "1"]));
        assert_eq!(numbered, Ok(Row { first: "a".into(), second: None, label: Label::Class(0) }));
        let score = row(&json!({"text": "a", "label": 2.5}), &target(&[]));
        assert_eq!(score.map(|row| row.label), Ok(Label::Score(2.5)));
        assert!(row(&json!({"text": "a", "label": "maybe"}), &yes_no).unwrap_err().contains("is not one of no, yes"));
        assert!(row(&json!({"label": "yes"}), &yes_no).unwrap_err().contains("there is no text"));
        assert!(row(&json!({"text": "a"}), &yes_no).unwrap_err().contains("there is no `label`"));
        assert!(row(&json!({"text": "a", "label": "x"}), &target(&[])).unwrap_err().contains("not a number"));
    }

    #[test]
    fn wrong_rows_of_files_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rows.jsonl");
        std::fs::write(&path, "{\"text\": \"a\", \"label\": 1}\n\n{\"text\": \"b\"}\n").unwrap();
        let refusal = read_rows(std::slice::from_ref(&path), &target(&["0", "1"])).unwrap_err().to_string();
        assert!(refusal.ends_with("rows.jsonl row 3: there is no `label`"), "{refusal}");
    }

    #[test]
    fn held_out_rows_come_evenly() {
        let mut rows: Vec<Row> =
            (0..100).map(|i| Row { first: i.to_string(), second: None, label: Label::Class(0) }).collect();
        let held: Vec<String> = hold_out(&mut rows).unwrap().into_iter().map(|row| row.first).collect();
        assert_eq!((held, rows.len()), (["19", "39", "59", "79", "99"].map(String::from).to_vec(), 95));
    }

    #[test]
    fn predictions_name_classes_or_scores() {
        let classes = predictions_table(&[vec![0.1, 0.9], vec![2.0, -1.0]], &target(&["no", "yes"]));
        assert_eq!(classes, "index\tprediction\n0\tyes\n1\tno\n");
        assert_eq!(predictions_table(&[vec![1.5]], &target(&[])), "index\tprediction\n0\t1.500\n");
    }
}
