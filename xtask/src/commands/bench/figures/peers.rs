//! Suite `peers`: steps here and by PyTorch with PEFT.

use serde::Deserialize;
use serde_json::Value;

use super::super::timing::Spread;
use super::part;
use crate::failure::Outcome;
use crate::report::{Bar, Bars, Better, Figure, Finding, Section};

#[derive(Deserialize)]
struct Case {
    preset: String,
    batch: usize,
    seq: usize,
    rank: usize,
    dtype: String,
    time: Turns,
}

#[derive(Deserialize)]
struct Turns {
    ours: Vec<f64>,
    theirs: Vec<f64>,
}

#[derive(Deserialize)]
struct Versions {
    torch: String,
    transformers: String,
    peft: String,
}

pub fn section(raw: &Value) -> Outcome<Section> {
    let title = "Beside PyTorch and PEFT".into();
    if let Some(way_out) = raw["absent"].as_str() {
        let text = vec![format!("No Python with PyTorch and PEFT was found. To get it: {way_out}")];
        return Ok(Section { title, text, ..Section::default() });
    }
    let Versions { torch, transformers, peft } = part(&raw["versions"])?;
    let peer = format!("PyTorch {torch} + PEFT {peft}");
    let cases: Vec<Case> = raw.get("cases").map_or(Ok(Vec::new()), part)?;
    let bars = Bars {
        title: "A LoRA step here and there".into(),
        note: "Medians of rounds in turns; intervals reach from the fastest to the slowest.".into(),
        timed: true,
        unit: "ms".into(),
        better: Better::Lower,
        bars: cases.iter().flat_map(|case| bars(case, &peer)).collect(),
    };
    Ok(Section {
        title,
        text: vec![format!(
            "The same shapes with random weights, AdamW on the adapters, on the same machine in the same run: {peer}, \
             transformers {transformers}."
        )],
        findings: cases.iter().map(|case| finding(case, &peer)).collect(),
        figures: vec![Figure::Bars(bars)],
        ..Section::default()
    })
}

impl Case {
    fn shape(&self) -> String {
        format!("{}, {} x {}, rank {}, {}", self.preset, self.batch, self.seq, self.rank, self.dtype)
    }
}

fn bars(case: &Case, peer: &str) -> [Bar; 2] {
    [("here", &case.time.ours), (peer, &case.time.theirs)].map(|(name, seconds)| {
        let Spread { median, low, high } = Spread::of(seconds.clone());
        Bar {
            group: case.shape(),
            name: name.into(),
            value: median * 1e3,
            low: Some(low * 1e3),
            high: Some(high * 1e3),
            ceiling: None,
            published: false,
        }
    })
}

fn finding(case: &Case, peer: &str) -> Finding {
    let ratios = case.time.theirs.iter().zip(&case.time.ours).map(|(theirs, ours)| theirs / ours).collect();
    let Spread { median, low, high } = Spread::of(ratios);
    let text = format!("{median:.2} times as fast as {peer} ({low:.2} to {high:.2} over rounds; {}).", case.shape());
    Finding::new(&format!("LoRA step beside PyTorch, {}", case.preset), text, true)
}
