//! The record of a run as JSON lines: one object for each step, evaluation and checkpoint.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::error::{LoraError, Result};
use crate::files::write_whole;
use crate::trainer::{CheckpointReport, EvaluationReport, Observer, StepReport};

/// Appends what happens to a file, such as `metrics.jsonl`, one JSON object a line with `event` first being `step`,
/// `evaluation` or `checkpoint`. A line is written in one piece as soon as it is known.
#[derive(Debug)]
pub struct MetricsWriter {
    path: PathBuf,
    file: File,
}

#[derive(Serialize)]
struct Line<'a, T> {
    event: &'static str,
    #[serde(flatten)]
    report: &'a T,
}

impl MetricsWriter {
    /// Begins a new file, replacing one that is there.
    ///
    /// # Errors
    /// [`LoraError::File`].
    pub fn create(path: &Path) -> Result<Self> {
        write_whole(path, b"")?;
        let file = OpenOptions::new().append(true).open(path).map_err(|error| LoraError::file(path, error))?;
        Ok(MetricsWriter { path: path.to_path_buf(), file })
    }

    /// Goes on with the file of a run that resumes after `step` steps: lines about later steps, which will happen
    /// again, and a line that was cut off are dropped.
    ///
    /// # Errors
    /// [`LoraError::File`].
    pub fn resume(path: &Path, step: u64) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(LoraError::file(path, error)),
        };
        let stays = |line: &&str| {
            let value = serde_json::from_str::<Value>(line).ok();
            value.and_then(|value| value.get("step")?.as_u64()).is_some_and(|of| of <= step)
        };
        let kept: String = text.lines().filter(stays).map(|line| format!("{line}\n")).collect();
        write_whole(path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(path).map_err(|error| LoraError::file(path, error))?;
        Ok(MetricsWriter { path: path.to_path_buf(), file })
    }

    fn write<T: Serialize>(&mut self, event: &'static str, report: &T) -> Result<()> {
        let mut line =
            serde_json::to_string(&Line { event, report }).map_err(|error| LoraError::format(&self.path, error))?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(|error| LoraError::file(&self.path, error))
    }
}

impl Observer for MetricsWriter {
    fn on_step(&mut self, report: &StepReport) -> Result<()> {
        self.write("step", report)
    }

    fn on_evaluation(&mut self, report: &EvaluationReport) -> Result<()> {
        self.write("evaluation", report)
    }

    fn on_checkpoint(&mut self, report: &CheckpointReport) -> Result<()> {
        self.write("checkpoint", report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64) -> StepReport {
        StepReport { step, loss: 1.5, learning_rate: 0.1, gradient_norm: 0.5, tokens: 7, seconds: 0.25 }
    }

    #[test]
    fn lines_are_json_and_a_resumed_run_replaces_what_it_repeats() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.jsonl");
        let mut writer = MetricsWriter::create(&path).unwrap();
        (1..=3).for_each(|i| writer.on_step(&step(i)).unwrap());
        let evaluation = EvaluationReport { step: 2, loss: 0.5, tokens: 9, seconds: 1.0, best: true };
        writer.on_evaluation(&evaluation).unwrap();
        let checkpoint = CheckpointReport { step: 3, directory: "out/checkpoint-3".into(), resumable: true };
        writer.on_checkpoint(&checkpoint).unwrap();
        drop(writer);
        fs::write(&path, fs::read_to_string(&path).unwrap() + "{\"event\":\"st").unwrap();

        let mut writer = MetricsWriter::resume(&path, 2).unwrap();
        writer.on_step(&step(3)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let events: Vec<(String, u64)> = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .map(|value| (value["event"].as_str().unwrap().to_string(), value["step"].as_u64().unwrap()))
            .collect();
        let expected = [("step", 1), ("step", 2), ("evaluation", 2), ("step", 3)];
        assert_eq!(events, expected.map(|(event, step)| (event.to_string(), step)));
        assert!(text.lines().next().unwrap().contains(r#""loss":1.5"#), "{text}");
    }
}
