//! Suite `reflora`: the toy problem, consistency, overhead and convergence.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::super::reflora::{Run, Setting, Told, final_loss};
use super::{method_name, part};
use crate::failure::Outcome;
use crate::report::{Axis, Bar, Bars, Better, Curve, Figure, Finding, Lines, Section, Series, Table};

#[derive(Deserialize)]
struct Toy {
    method: String,
    learning_rate: f32,
    seeds: usize,
    solved: usize,
    /// Numbers that are not finite are null.
    curves: Vec<Vec<Option<f64>>>,
    published: String,
}

#[derive(Deserialize)]
struct Consistency {
    method: String,
    condition: f64,
    worst_relative_difference: Option<f64>,
}

#[derive(Deserialize)]
struct Overhead {
    case: String,
    method: String,
    time: Rounds,
}

#[derive(Deserialize)]
struct Rounds {
    step: f64,
    rounds: Vec<f64>,
    overhead_percent: f64,
    overhead_low: f64,
    overhead_high: f64,
}

/// Steps a second in the paper (arXiv 2505.18877).
const PUBLISHED: [(&str, f64); 3] = [("lora", 2.26), ("reflora", 2.00), ("reflora-s", 2.23)];

/// Time of a step beside plain LoRA's in the paper, in percent. It says 11.5 % for RefLoRA, of steps a second.
fn published_overhead() -> impl Iterator<Item = (&'static str, f64)> {
    let (_, lora) = PUBLISHED[0];
    PUBLISHED[1..].iter().map(move |(method, rate)| (*method, 100.0 * (lora / rate - 1.0)))
}

/// Points of a loss curve in pictures, each a mean over some steps.
const POINTS: usize = 16;

pub fn section(raw: &Value) -> Outcome<Section> {
    let mut section = Section { title: "RefLoRA".into(), ..Section::default() };
    if let Some(raw) = raw.get("toy") {
        toy(&part::<Vec<Toy>>(raw)?, &mut section);
    }
    if let Some(raw) = raw.get("consistency") {
        section.figures.push(consistency(&part::<Vec<Consistency>>(raw)?));
    }
    if let Some(raw) = raw.get("overhead") {
        overhead(&part::<Vec<Overhead>>(raw)?, &mut section);
    }
    if let Some(raw) = raw.get("convergence") {
        convergence(&part::<Vec<Run>>(raw)?, &mut section);
    }
    Ok(section)
}

fn series(name: &str, curves: Vec<Curve>) -> Series {
    Series { name: method_name(name), published: false, curves }
}

fn toy(runs: &[Toy], section: &mut Section) {
    section.text.push(
        "The paper's toy problem: a matrix of rank 6 is factorised by gradient descent from B = 0; the loss should fall below \
         0.01."
            .into(),
    );
    let mut rates: Vec<f32> = runs.iter().map(|run| run.learning_rate).collect();
    rates.sort_by(f32::total_cmp);
    rates.dedup();
    for rate in rates {
        let curve = |(seed, losses): (usize, &Vec<Option<f64>>)| {
            Curve::new(
                seed as u64,
                losses.iter().enumerate().map(|(step, loss)| (step as f64, loss.unwrap_or(f64::NAN))),
            )
        };
        let of_rate = runs.iter().filter(|run| run.learning_rate == rate);
        section.figures.push(Figure::Lines(Lines {
            title: format!("Toy problem at learning rate {rate}"),
            note: String::new(),
            timed: false,
            x: Axis::linear("iteration"),
            y: Axis { limits: Some((1e-6, 1e5)), ..Axis::logarithmic("loss") },
            series: of_rate
                .map(|run| series(&run.method, run.curves.iter().enumerate().map(curve).collect()))
                .collect(),
        }));
    }
    let row = |run: &Toy| {
        let rate = run.learning_rate.to_string();
        vec![method_name(&run.method), rate, format!("{} of {}", run.solved, run.seeds), run.published.clone()]
    };
    section.figures.push(Figure::Table(Table {
        title: "Toy problem: solved within 100 iterations".into(),
        note: "The last column is the paper's figure as an earlier reproduction read it.".into(),
        timed: false,
        header: ["method", "learning rate", "seeds below 0.01", "published"].map(str::to_string).into(),
        rows: runs.iter().map(row).collect(),
    }));
    if let Some(run) = runs.iter().find(|run| run.method == "reflora") {
        let text = format!("solved by RefLoRA for {} of {} seeds.", run.solved, run.seeds);
        section.findings.push(Finding::new("RefLoRA, the paper's toy problem", text, false));
    }
}

fn consistency(cells: &[Consistency]) -> Figure {
    // Differences below what f32 can show; a logarithm needs something above 0.
    const LEAST: f64 = 1e-8;
    let mut points: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for cell in cells {
        let difference = cell.worst_relative_difference.map_or(f64::NAN, |difference| difference.max(LEAST));
        points.entry(&cell.method).or_default().push((cell.condition, difference));
    }
    Figure::Lines(Lines {
        title: "Consistency: how much a step depends on the factorisation".into(),
        note: "Relative difference of one step's change of B·A from two factorisations of the same weight; lower is better."
            .into(),
        timed: false,
        x: Axis::logarithmic("condition number between the two"),
        y: Axis::logarithmic("relative difference"),
        series: points.into_iter().map(|(name, points)| series(name, vec![Curve::new(0, points)])).collect(),
    })
}

fn overhead(cells: &[Overhead], section: &mut Section) {
    let bar = |cell: &Overhead| {
        let milliseconds = || cell.time.rounds.iter().map(|seconds| seconds * 1e3);
        Bar {
            group: cell.case.clone(),
            name: method_name(&cell.method),
            value: cell.time.step * 1e3,
            low: milliseconds().reduce(f64::min),
            high: milliseconds().reduce(f64::max),
            ceiling: None,
            published: false,
        }
    };
    section.figures.push(Figure::Bars(Bars {
        title: "Time of a training step".into(),
        note: "Cases are model:batch:sequence:rank; intervals reach from the fastest to the slowest round.".into(),
        timed: true,
        unit: "ms a step".into(),
        better: Better::Lower,
        bars: cells.iter().map(bar).collect(),
    }));
    let percent = |cell: &Overhead| Bar {
        group: cell.case.clone(),
        name: method_name(&cell.method),
        value: cell.time.overhead_percent,
        low: Some(cell.time.overhead_low),
        high: Some(cell.time.overhead_high),
        ceiling: None,
        published: false,
    };
    let published = published_overhead().map(|(method, overhead)| Bar {
        group: "the paper, arXiv 2505.18877".into(),
        name: method_name(method),
        value: overhead,
        low: None,
        high: None,
        ceiling: None,
        published: true,
    });
    section.figures.push(Figure::Bars(Bars {
        title: "Overhead beside plain LoRA".into(),
        note:
            "Rounds are compared with the same round of plain LoRA, since the machine may drift; below zero is noise."
                .into(),
        timed: true,
        unit: "%".into(),
        better: Better::Lower,
        bars: cells.iter().filter(|cell| cell.method != "lora").map(percent).chain(published).collect(),
    }));
    for cell in cells.iter().filter(|cell| cell.method == "reflora") {
        let Rounds { overhead_percent, overhead_low, overhead_high, .. } = cell.time;
        let text = format!(
            "{overhead_percent:+.1} % a step beside plain LoRA ({overhead_low:+.1} to {overhead_high:+.1} over rounds; \
             {}); the paper's figures come to {:+.1} %.",
            cell.case,
            published_overhead().find(|(method, _)| *method == cell.method).map_or(f64::NAN, |(_, overhead)| overhead)
        );
        section.findings.push(Finding::new("RefLoRA, overhead", text, true));
    }
}

fn convergence(runs: &[Run], section: &mut Section) {
    section.text.push(
        "Convergence: every method over the same learning rates, seeds, batches and first factors. The final loss is the mean over the \
         last quarter of the training steps, 50 at most; intervals are 95 %, Student's t over seeds."
            .into(),
    );
    for setting in Setting::all(runs) {
        let name = setting.name();
        let told = setting.told();
        let lines = |by_second| Lines {
            title: format!("Loss by {}: {name}", if by_second { "second" } else { "step" }),
            note: "Each method at its best learning rate; means over some steps.".into(),
            timed: by_second,
            x: Axis::linear(if by_second { "seconds" } else { "step" }),
            y: Axis::logarithmic("training loss"),
            series: told
                .iter()
                .map(|told| series(told.method, told.runs.iter().map(|run| smooth(run, by_second)).collect()))
                .collect(),
        };
        section.figures.extend([lines(false), lines(true)].map(Figure::Lines));
        section.figures.push(Figure::Lines(robustness(&setting)));
        section.figures.push(Figure::Bars(final_losses(&name, &told)));
        section.findings.extend(told.iter().filter_map(|told| finding(&setting, told)));
    }
}

/// What a method is beside plain LoRA.
fn finding(setting: &Setting<'_>, told: &Told<'_>) -> Option<Finding> {
    if told.method == "lora" {
        return None;
    }
    let difference = told.minus_lora?;
    let verdict = match difference.half_width {
        width if !(width.is_finite() && difference.mean.is_finite()) => "one seed or a divergence: no verdict",
        width if difference.mean < -width => "better",
        width if difference.mean > width => "worse",
        _ => "no difference beyond noise",
    };
    let name = format!("{} beside LoRA, {}", method_name(told.method), setting.name());
    let [first, .., last] = told.good[..] else {
        let text = format!("final loss {} beside LoRA's: {verdict}.", difference.show(4));
        return Some(Finding::new(&name, text, false));
    };
    let text = format!(
        "final loss {} beside LoRA's, both at their best rates: {verdict}. Within 5 % of its best from rate {first:.0e} to {last:.0e}.",
        difference.show(4)
    );
    Some(Finding::new(&name, text, false))
}

fn final_losses(setting: &str, told: &[Told<'_>]) -> Bars {
    let bar = |told: &Told<'_>| {
        let end = |sign: f64| Some(told.loss.mean + sign * told.loss.half_width).filter(|end| end.is_finite());
        Bar {
            group: format!("at {:.0e}", told.rate),
            name: method_name(told.method),
            value: told.loss.mean,
            low: end(-1.0),
            high: end(1.0),
            ceiling: None,
            published: false,
        }
    };
    Bars {
        title: format!("Final loss: {setting}"),
        note: "Each method at its best learning rate; 95 % intervals over seeds.".into(),
        timed: false,
        unit: "nats".into(),
        better: Better::Lower,
        bars: told.iter().filter(|told| told.loss.mean.is_finite()).map(bar).collect(),
    }
}

/// The loss of a run as means over some steps.
fn smooth(run: &Run, by_second: bool) -> Curve {
    let unit = if by_second { run.seconds / run.losses.len().max(1) as f64 } else { 1.0 };
    let width = (run.losses.len() / POINTS).max(1);
    let mean = |(index, losses): (usize, &[f32])| {
        let end = index * width + losses.len();
        (end as f64 * unit, losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len() as f64)
    };
    Curve::new(run.seed, run.losses.chunks(width).enumerate().map(mean))
}

fn robustness(setting: &Setting<'_>) -> Lines {
    let one = |(name, rates): (&str, Vec<(f32, &[&Run])>)| {
        let mut seeds: BTreeMap<u64, Vec<(f64, f64)>> = BTreeMap::new();
        for (rate, runs) in rates {
            for run in runs {
                seeds.entry(run.seed).or_default().push((f64::from(rate), final_loss(run)));
            }
        }
        series(name, seeds.into_iter().map(|(seed, points)| Curve::new(seed, points)).collect())
    };
    Lines {
        title: format!("Final loss by learning rate: {}", setting.name()),
        note: String::new(),
        timed: false,
        x: Axis::logarithmic("learning rate"),
        y: Axis::linear("final training loss"),
        series: setting.methods().map(one).collect(),
    }
}
