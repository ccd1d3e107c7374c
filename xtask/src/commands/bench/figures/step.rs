//! Suite `step`: what a training step takes.

use serde::Deserialize;
use serde_json::Value;

use super::part;
use crate::failure::Outcome;
use crate::output::bytes;
use crate::report::{Bar, Bars, Better, Figure, Section, Table};

#[derive(Deserialize)]
struct Step {
    preset: String,
    method: String,
    batch: usize,
    seq: usize,
    rank: usize,
    weights: String,
    step_seconds: f64,
    step_seconds_min: f64,
    step_seconds_max: f64,
    tokens_per_second: f64,
    peak_bytes: u64,
    dispatches_per_step: f64,
    buffers_created_per_step: f64,
    kernels: Vec<Kernel>,
}

#[derive(Deserialize)]
struct Kernel {
    kernel: String,
    calls: u64,
    nanoseconds: f64,
}

/// Kernels that are shown, the slowest.
const SHOWN: usize = 12;

pub fn section(raw: &Value) -> Outcome<Section> {
    let step: Step = part(raw)?;
    let milliseconds = |seconds: f64| format!("{:.1} ms", seconds * 1e3);
    let rows = [
        ("model", format!("{}, weights in {}", step.preset, step.weights)),
        ("batch", format!("{} sequences of {} tokens", step.batch, step.seq)),
        ("method", format!("{}, rank {}", step.method, step.rank)),
        ("a step", milliseconds(step.step_seconds)),
        (
            "fastest and slowest",
            format!("{} and {}", milliseconds(step.step_seconds_min), milliseconds(step.step_seconds_max)),
        ),
        ("tokens a second", format!("{:.0}", step.tokens_per_second)),
        ("peak memory", bytes(step.peak_bytes)),
        ("dispatches a step", format!("{:.0}", step.dispatches_per_step)),
        ("buffers created a step", format!("{:.1}", step.buffers_created_per_step)),
    ];
    let table = Table {
        title: "One step".into(),
        note: String::new(),
        header: vec!["what".into(), "measured".into()],
        rows: rows.map(|(name, value)| vec![name.to_string(), value]).into(),
    };
    let mut figures = vec![Figure::Table(table)];
    if !step.kernels.is_empty() {
        figures.push(Figure::Bars(kernels(&step.kernels)));
    }
    Ok(Section {
        title: "A training step".into(),
        text: vec![
            "Forward, backward, method and optimizer on a model with random weights, as finetune does them.".into(),
        ],
        findings: vec![format!(
            "A training step of {} with {} tokens takes {} ({} to {}): {:.0} tokens a second.",
            step.preset,
            step.batch * step.seq,
            milliseconds(step.step_seconds),
            milliseconds(step.step_seconds_min),
            milliseconds(step.step_seconds_max),
            step.tokens_per_second
        )],
        figures,
        ..Section::default()
    })
}

fn kernels(kernels: &[Kernel]) -> Bars {
    let bar = |kernel: &Kernel| Bar {
        group: String::new(),
        name: format!("{} ({} calls)", kernel.kernel, kernel.calls),
        value: kernel.nanoseconds / 1e6,
        low: None,
        high: None,
        ceiling: None,
        published: false,
    };
    Bars {
        title: "Where a step's time goes".into(),
        note: "Kernels' own time, the longest first.".into(),
        unit: "ms".into(),
        better: Better::Lower,
        bars: kernels.iter().take(SHOWN).map(bar).collect(),
    }
}
