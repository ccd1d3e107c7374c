//! The files of the GLUE tasks: separated by tabs and nothing else, quotation marks being text, with a header in all
//! but CoLA. What the columns and labels of each task are, and which measures it is judged by.

use std::path::{Path, PathBuf};

use super::labelled::{Label, Row};
use super::read_text;
use crate::failure::{Failure, Outcome};

/// A task of GLUE (Wang et al. 2019), by the names that Hugging Face gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GlueTask {
    Cola,
    Sst2,
    Mrpc,
    Stsb,
    Qqp,
    Mnli,
    Qnli,
    Rte,
    Wnli,
}

/// A measure of predictions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    Accuracy,
    F1,
    Matthews,
    Pearson,
    Spearman,
}

/// Where a column is.
enum Column {
    /// By its name in the header.
    Named(&'static str),
    /// By its number in a file without header.
    Numbered(usize),
}

use Column::{Named, Numbered};

impl GlueTask {
    /// The directory that the published archives put the task in.
    pub fn directory(self) -> &'static str {
        match self {
            GlueTask::Cola => "CoLA",
            GlueTask::Sst2 => "SST-2",
            GlueTask::Mrpc => "MRPC",
            GlueTask::Stsb => "STS-B",
            GlueTask::Qqp => "QQP",
            GlueTask::Mnli => "MNLI",
            GlueTask::Qnli => "QNLI",
            GlueTask::Rte => "RTE",
            GlueTask::Wnli => "WNLI",
        }
    }

    /// Names of the classes in the order of their numbers; empty for the task that predicts a score.
    pub fn labels(self) -> &'static [&'static str] {
        match self {
            GlueTask::Cola | GlueTask::Sst2 | GlueTask::Mrpc | GlueTask::Qqp | GlueTask::Wnli => &["0", "1"],
            GlueTask::Stsb => &[],
            GlueTask::Mnli => &["entailment", "neutral", "contradiction"],
            GlueTask::Qnli | GlueTask::Rte => &["entailment", "not_entailment"],
        }
    }

    /// What GLUE judges the task by, the chief measure first.
    pub fn measures(self) -> &'static [Measure] {
        match self {
            GlueTask::Cola => &[Measure::Matthews],
            GlueTask::Mrpc | GlueTask::Qqp => &[Measure::Accuracy, Measure::F1],
            GlueTask::Stsb => &[Measure::Pearson, Measure::Spearman],
            _ => &[Measure::Accuracy],
        }
    }

    /// The validation files, with what distinguishes them.
    pub fn validation_files(self) -> &'static [(&'static str, &'static str)] {
        match self {
            GlueTask::Mnli => &[("matched", "dev_matched.tsv"), ("mismatched", "dev_mismatched.tsv")],
            _ => &[("", "dev.tsv")],
        }
    }

    /// First text, second text, label.
    fn columns(self) -> (Column, Option<Column>, Column) {
        match self {
            GlueTask::Cola => (Numbered(3), None, Numbered(1)),
            GlueTask::Sst2 => (Named("sentence"), None, Named("label")),
            GlueTask::Mrpc => (Named("#1 String"), Some(Named("#2 String")), Named("Quality")),
            GlueTask::Stsb => (Named("sentence1"), Some(Named("sentence2")), Named("score")),
            GlueTask::Qqp => (Named("question1"), Some(Named("question2")), Named("is_duplicate")),
            GlueTask::Mnli => (Named("sentence1"), Some(Named("sentence2")), Named("gold_label")),
            GlueTask::Qnli => (Named("question"), Some(Named("sentence")), Named("label")),
            GlueTask::Rte | GlueTask::Wnli => (Named("sentence1"), Some(Named("sentence2")), Named("label")),
        }
    }

    /// The files of a part of the task below `directory`, which may be the task's own or the one that holds all tasks.
    pub fn file(self, directory: &Path, name: &str) -> Outcome<PathBuf> {
        let candidates = [directory.join(name), directory.join(self.directory()).join(name)];
        candidates.iter().find(|path| path.is_file()).cloned().ok_or_else(|| {
            Failure::input(format!(
                "--data {}: neither {name} nor {}/{name} is there; give the directory of the GLUE files",
                directory.display(),
                self.directory()
            ))
        })
    }

    /// Reads one file.
    pub fn read(self, file: &Path) -> Outcome<Vec<Row>> {
        let text = read_text(file)?;
        self.parse(file, &text)
    }

    fn parse(self, file: &Path, text: &str) -> Outcome<Vec<Row>> {
        // Only a line feed ends a line: some texts hold other characters that are line ends to Unicode.
        let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
        let (first, second, label) = self.columns();
        let header: Vec<&str> = match first {
            Numbered(_) => Vec::new(),
            Named(_) => lines.next().map_or("", |(_, line)| line).split('\t').collect(),
        };
        let find = |column: Column| match column {
            Numbered(number) => Ok(number),
            Named(name) => header.iter().position(|title| *title == name).ok_or_else(|| {
                let name_of_task = self.directory();
                Failure::input(format!(
                    "{} line 1: the header has no column `{name}`; is this a file of {name_of_task} with labels?",
                    file.display()
                ))
            }),
        };
        let columns = (find(first)?, second.map(find).transpose()?, find(label)?);
        let width = header.len().max(columns.0.max(columns.2).max(columns.1.unwrap_or(0)) + 1);
        let mut rows = Vec::new();
        for (number, line) in lines {
            rows.push(
                self.row(line, columns, width)
                    .map_err(|reason| Failure::input(format!("{} line {number}: {reason}", file.display())))?,
            );
        }
        if rows.is_empty() {
            return Err(Failure::input(format!("{}: there is no row", file.display())));
        }
        Ok(rows)
    }

    fn row(self, line: &str, columns: (usize, Option<usize>, usize), width: usize) -> Result<Row, String> {
        let fields: Vec<&str> = line.split('\t').collect();
        if fields.len() != width {
            return Err(format!("{} columns instead of {width}; columns are separated by one tab each", fields.len()));
        }
        let (first, second, label) = columns;
        let label = fields[label].trim();
        let label = match self {
            GlueTask::Stsb => label
                .parse()
                .ok()
                .filter(|score: &f32| (0.0..=5.0).contains(score))
                .map(Label::Score)
                .ok_or_else(|| format!("`{label}` is not a score from 0 to 5"))?,
            _ => {
                let class = self.labels().iter().position(|name| *name == label);
                let class = class.ok_or_else(|| format!("`{label}` is not one of {}", self.labels().join(", ")))?;
                Label::Class(class as i32)
            }
        };
        Ok(Row { first: fields[first].into(), second: second.map(|second| fields[second].into()), label })
    }
}

impl Measure {
    /// The name under which scores are reported.
    pub fn name(self) -> &'static str {
        match self {
            Measure::Accuracy => "accuracy",
            Measure::F1 => "f1",
            Measure::Matthews => "matthews_correlation",
            Measure::Pearson => "pearson",
            Measure::Spearman => "spearman",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(task: GlueTask, text: &str) -> Result<Vec<Row>, String> {
        task.parse(Path::new("dev.tsv"), text).map_err(|failure| failure.to_string())
    }

    fn row(first: &str, second: Option<&str>, label: Label) -> Row {
        Row { first: first.into(), second: second.map(Into::into), label }
    }

    #[test]
    fn every_task_has_its_columns_and_labels() {
        let cases = [
            (GlueTask::Cola, "gj04\t0\t*\tThe \"book was.\n", row("The \"book was.", None, Label::Class(0))),
            (GlueTask::Sst2, "sentence\tlabel\nfine \t1\n", row("fine ", None, Label::Class(1))),
            (
                GlueTask::Mrpc,
                "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t7\t8\tA \"b\tC\r\n",
                row("A \"b", Some("C"), Label::Class(1)),
            ),
            (
                GlueTask::Stsb,
                "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n\
                 0\tm\tM\t2012\t1\tn\tn\tA\tB\t3.800\n",
                row("A", Some("B"), Label::Score(3.8)),
            ),
            (
                GlueTask::Qqp,
                "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n5\t1\t2\tWhy?\tHow?\t0\n",
                row("Why?", Some("How?"), Label::Class(0)),
            ),
            (
                GlueTask::Mnli,
                "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t\
                 sentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label\n\
                 0\t1\t1n\tfiction\tx\tx\tx\tx\tA\tB\tneutral\tcontradiction\n",
                row("A", Some("B"), Label::Class(2)),
            ),
            (
                GlueTask::Qnli,
                "index\tquestion\tsentence\tlabel\n0\tQ\tS\tentailment\n",
                row("Q", Some("S"), Label::Class(0)),
            ),
            (
                GlueTask::Rte,
                "index\tsentence1\tsentence2\tlabel\n0\tA\tB\tnot_entailment\n",
                row("A", Some("B"), Label::Class(1)),
            ),
            (GlueTask::Wnli, "index\tsentence1\tsentence2\tlabel\n0\tA\tB\t1\n", row("A", Some("B"), Label::Class(1))),
        ];
        for (task, text, expected) in cases {
            assert_eq!(parse(task, text), Ok(vec![expected]), "{task:?}");
        }
    }

    #[test]
    fn wrong_rows_are_named_by_file_and_line() {
        let refusal = |task, text| parse(task, text).expect_err("must be refused");
        assert_eq!(
            refusal(GlueTask::Sst2, "sentence\tlabel\nfine\t1\nbad\tx\n"),
            "dev.tsv line 3: `x` is not one of 0, 1"
        );
        assert!(refusal(GlueTask::Sst2, "sentence\tlabel\na\tb\t1\n").contains("line 2: 3 columns instead of 2"));
        assert!(refusal(GlueTask::Cola, "gj04\t1\tHello\n").contains("line 1: 3 columns instead of 4"));
        assert!(refusal(GlueTask::Rte, "index\tsentence1\tsentence2\n0\tA\tB\n").contains("no column `label`"));
        assert!(refusal(GlueTask::Stsb, "sentence1\tsentence2\tscore\nA\tB\t5.5\n").contains("score from 0 to 5"));
        assert!(refusal(GlueTask::Stsb, "sentence1\tsentence2\tscore\nA\tB\tNaN\n").contains("score from 0 to 5"));
        assert!(refusal(GlueTask::Sst2, "sentence\tlabel\n").contains("no row"));
        assert!(refusal(GlueTask::Sst2, "").contains("no column `sentence`"));
    }

    #[test]
    fn files_are_found_in_the_tasks_or_the_common_directory() {
        let directory = tempfile::tempdir().unwrap();
        let missing = GlueTask::Sst2.file(directory.path(), "dev.tsv").unwrap_err().to_string();
        assert!(missing.contains("neither dev.tsv nor SST-2/dev.tsv is there"), "{missing}");
        std::fs::create_dir(directory.path().join("SST-2")).unwrap();
        let path = directory.path().join("SST-2/dev.tsv");
        std::fs::write(&path, "\u{feff}sentence\tlabel\nfine\t1\n").unwrap();
        assert_eq!(GlueTask::Sst2.file(directory.path(), "dev.tsv").unwrap(), path);
        assert_eq!(GlueTask::Sst2.file(&directory.path().join("SST-2"), "dev.tsv").unwrap(), path);
        assert_eq!(GlueTask::Sst2.read(&path).unwrap().len(), 1, "a byte-order mark is no part of the header");
    }

    #[test]
    #[cfg_attr(not(feature = "real-weights"), ignore = "needs real data: --features xtask/real-weights")]
    fn the_published_files_are_read_whole() {
        let data = std::env::var_os("ENGINE_DATA")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from);
        for (task, training, validation) in [
            (GlueTask::Cola, 8551, 1043),
            (GlueTask::Sst2, 67349, 872),
            (GlueTask::Stsb, 5749, 1500),
            (GlueTask::Rte, 2490, 277),
            (GlueTask::Mrpc, 3668, 408),
        ] {
            let rows = |name| {
                let path = task.file(&data.join("glue"), name).unwrap_or_else(|failure| panic!("{failure}"));
                task.read(&path).unwrap_or_else(|failure| panic!("{failure}")).len()
            };
            assert_eq!((rows("train.tsv"), rows("dev.tsv")), (training, validation), "{task:?}");
        }
    }
}
