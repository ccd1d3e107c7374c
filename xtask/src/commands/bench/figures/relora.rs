//! Suite `relora`: the losses of every method by what they cost, when they were ready, and how much sooner.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::super::relora::{Before, METHODS, Run, cells, points};
use super::super::statistics::Estimate;
use super::part;
use crate::failure::Outcome;
use crate::report::{Axis, Bar, Bars, Better, Curve, Figure, Finding, Lines, Section, Series, Table};

/// Over all updates, tasks and seeds, for one target.
#[derive(Deserialize)]
struct Overall {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    than_retraining: BTreeMap<String, Ratio>,
    than_warm_start: BTreeMap<String, Ratio>,
}

#[derive(Clone, Copy, Deserialize)]
struct Ratio {
    mean: f64,
    low: Option<f64>,
    high: Option<f64>,
}

/// When the runs of a method were ready.
#[derive(Deserialize)]
struct Times {
    target: String,
    /// The update and the task.
    place: String,
    method: String,
    runs: usize,
    steps: Vec<f64>,
    seconds: Vec<f64>,
}

/// The largest acceleration of time to readiness over retraining that the paper (arXiv 2606.02606) reports.
const PUBLISHED_LARGEST: f64 = 8.9;

pub fn section(raw: &Value) -> Outcome<Section> {
    let mut section = Section { title: "ReLoRA".into(), ..Section::default() };
    let Some(readiness) = raw.get("readiness") else { return Ok(section) };
    section.text.push(TEXT.into());
    let summary = &readiness["summary"];
    let overall: BTreeMap<String, Overall> = summary.get("overall").map_or(Ok(BTreeMap::new()), part)?;
    for (target, overall) in overall {
        section.findings.extend(finding(&target, &overall));
        section.figures.push(Figure::Bars(sooner(&target, &overall)));
        section.figures.push(Figure::Table(Table {
            title: format!("How many times sooner, target {target}"),
            note: "Geometric means with 95 % intervals over all updates, tasks and seeds.".into(),
            timed: true,
            header: overall.header,
            rows: overall.rows,
        }));
    }
    let times: Vec<Times> = summary.get("times").map_or(Ok(Vec::new()), part)?;
    for target in ["98 %", "parity"] {
        section.figures.push(Figure::Bars(ready(target, "steps", &times, |times| &times.steps)));
        section.figures.push(Figure::Bars(ready(target, "s", &times, |times| &times.seconds)));
    }
    let runs: Vec<Run> = part(&readiness["runs"])?;
    section.figures.extend(cells(&runs).into_iter().map(|((update, task), cell)| {
        let series = METHODS.iter().filter_map(|method| Some(series(method.name, cell.get(method.name)?))).collect();
        Figure::Lines(Lines {
            title: format!("{update}, {task}"),
            note: "Validation loss by what it cost: training steps and everything before, in steps.".into(),
            timed: true,
            x: Axis::linear("steps"),
            y: Axis::logarithmic("validation loss"),
            series,
        })
    }));
    Ok(section)
}

const TEXT: &str = "Adapters of an old base are restored to its updates by every method, each at its best of the same learning \
    rates. Counted are the gate, the base's evolution, every look at a candidate, and the steps of training; a forward pass is a \
    third of a step's share for one sequence. Parity is the old adapter's loss on the old base and one percent; 98 % is \
    that share of the way from no adapter to the best retrained one.";

fn finding(target: &str, overall: &Overall) -> Option<Finding> {
    // Few runs that differ much: only that the interval is wide is of interest.
    let end = |value: f64| match value {
        value if value < 0.1 => "under 0.1".to_string(),
        value if value > 99.0 => "over 99".to_string(),
        value => format!("{value:.1}"),
    };
    let show = |ratio: &Ratio| match (ratio.low, ratio.high) {
        (Some(low), Some(high)) => format!("{:.1} ({} to {})", ratio.mean, end(low), end(high)),
        _ => format!("{:.1} (one run)", ratio.mean),
    };
    let retraining = overall.than_retraining.get("ReLoRA")?;
    let warm = overall.than_warm_start.get("ReLoRA").map_or("-".into(), show);
    let plain = overall.than_retraining.get("warm start").map_or("-".into(), show);
    let text = format!(
        "in steps, ReLoRA is ready {} times sooner than retraining and {warm} times sooner than a warm start; a warm start is \
         ready {plain} times sooner than retraining.",
        show(retraining)
    );
    Some(Finding::new(&format!("After an update, target {target}"), text, true))
}

fn sooner(target: &str, overall: &Overall) -> Bars {
    let bar = |(method, ratio): (&String, &Ratio)| Bar {
        group: "here, geometric mean".into(),
        name: method.clone(),
        value: ratio.mean,
        low: ratio.low,
        high: ratio.high,
        ceiling: None,
        published: false,
    };
    let published = Bar {
        group: "the paper, its largest".into(),
        name: "ReLoRA".into(),
        value: PUBLISHED_LARGEST,
        low: None,
        high: None,
        ceiling: None,
        published: true,
    };
    Bars {
        title: format!("Times sooner than retraining, target {target}"),
        note: "In steps; 95 % intervals over all updates, tasks and seeds.".into(),
        timed: true,
        unit: "times".into(),
        better: Better::Higher,
        bars: overall.than_retraining.iter().map(bar).chain([published]).collect(),
    }
}

/// The time to readiness of every method on every update and task.
fn ready(target: &str, unit: &str, times: &[Times], of: fn(&Times) -> &Vec<f64>) -> Bars {
    let of_target = || times.iter().filter(|times| times.target == target);
    let bar = |times: &Times| {
        let Estimate { mean, half_width } = Estimate::of(of(times));
        Bar {
            group: times.place.clone(),
            name: times.method.clone(),
            value: mean,
            low: half_width.is_finite().then_some((mean - half_width).max(0.0)),
            high: half_width.is_finite().then_some(mean + half_width),
            ceiling: None,
            published: false,
        }
    };
    let missed = |times: &Times| match times.runs - of(times).len() {
        0 => None,
        missed => Some(format!("{} on {} ({missed} of {})", times.method, times.place, times.runs)),
    };
    let missed: Vec<String> = of_target().filter_map(missed).collect();
    let never = if missed.is_empty() { String::new() } else { format!(" Never ready: {}.", missed.join(", ")) };
    Bars {
        title: format!("Time to readiness, target {target}, in {}", if unit == "s" { "seconds" } else { unit }),
        note: format!("Means with 95 % intervals over the seeds that were ready.{never}"),
        timed: true,
        unit: unit.into(),
        better: Better::Lower,
        bars: of_target().filter(|times| !of(times).is_empty()).map(bar).collect(),
    }
}

fn series(name: &str, runs: &[&Run]) -> Series {
    let curve = |run: &&Run| {
        let before = Before::of(run).total().steps;
        Curve::new(run.seed, points(run).map(|point| (before + point.step as f64, point.loss)))
    };
    Series { name: name.into(), published: false, curves: runs.iter().map(curve).collect() }
}
