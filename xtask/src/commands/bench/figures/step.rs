//! Suite `step`: what a training step takes.

use serde::Deserialize;
use serde_json::Value;

use super::{method_name, part};
use crate::failure::Outcome;
use crate::output::bytes;
use crate::report::{Bar, Bars, Better, Figure, Finding, Section, Table};

#[derive(Deserialize)]
struct Step {
    name: String,
    method: String,
    batch: usize,
    seq: usize,
    rank: usize,
    dtype: String,
    dispatches_per_step: f64,
    time: Time,
}

#[derive(Deserialize)]
struct Time {
    step: f64,
    step_min: f64,
    step_max: f64,
    /// Reports of earlier versions do not tell it.
    #[serde(default)]
    host: f64,
    tokens_per_second: f64,
    peak_bytes: u64,
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
    let steps: Vec<Step> = raw.get("steps").map_or(Ok(Vec::new()), part)?;
    let mut figures = vec![Figure::Bars(times(&steps)), Figure::Table(facts(&steps))];
    figures.extend(steps.iter().filter(|step| !step.time.kernels.is_empty()).map(|step| Figure::Bars(kernels(step))));
    Ok(Section {
        title: "A training step".into(),
        text: vec![
            "Forward, backward, method and optimizer on models with random weights, as finetune does them.".into(),
        ],
        findings: steps.iter().map(finding).collect(),
        figures,
        ..Section::default()
    })
}

impl Step {
    fn shape(&self) -> String {
        format!("{}, {} x {}, rank {}, {}", self.name, self.batch, self.seq, self.rank, self.dtype)
    }
}

fn finding(step: &Step) -> Finding {
    let milliseconds = |seconds: f64| format!("{:.1}", seconds * 1e3);
    let Time { step: median, step_min, step_max, tokens_per_second, peak_bytes, .. } = &step.time;
    let text = format!(
        "{} ms ({} to {}), {tokens_per_second:.0} tokens a second, peak memory {} ({}).",
        milliseconds(*median),
        milliseconds(*step_min),
        milliseconds(*step_max),
        bytes(*peak_bytes),
        step.shape()
    );
    Finding::new(&format!("LoRA step, {}", step.name), text, true)
}

fn times(steps: &[Step]) -> Bars {
    let bar = |step: &Step| Bar {
        group: step.shape(),
        name: method_name(&step.method),
        value: step.time.step * 1e3,
        low: Some(step.time.step_min * 1e3),
        high: Some(step.time.step_max * 1e3),
        ceiling: None,
        published: false,
    };
    Bars {
        title: "Time of a step".into(),
        note: "Medians; intervals reach from the fastest to the slowest step.".into(),
        timed: true,
        unit: "ms".into(),
        better: Better::Lower,
        bars: steps.iter().map(bar).collect(),
    }
}

fn facts(steps: &[Step]) -> Table {
    let row = |step: &Step| {
        vec![
            step.name.clone(),
            format!("{:.0}", step.time.tokens_per_second),
            bytes(step.time.peak_bytes),
            format!("{:.1}", step.time.host * 1e3),
            format!("{:.0}", step.dispatches_per_step),
            format!("{:.1}", step.time.buffers_created_per_step),
        ]
    };
    let header =
        ["model", "tokens a second", "peak memory", "host's ms", "dispatches a step", "buffers created a step"];
    Table {
        title: "What a step needs".into(),
        note: String::new(),
        timed: true,
        header: header.map(str::to_string).into(),
        rows: steps.iter().map(row).collect(),
    }
}

fn kernels(step: &Step) -> Bars {
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
        title: format!("Where a step's time goes: {}", step.name),
        note: "Kernels' own time, the longest first.".into(),
        timed: true,
        unit: "ms".into(),
        better: Better::Lower,
        bars: step.time.kernels.iter().take(SHOWN).map(bar).collect(),
    }
}
