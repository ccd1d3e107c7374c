//! Suite `reflora`: the toy problem, consistency, overhead and convergence.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::super::reflora::{Run, final_loss};
use super::part;
use crate::failure::Outcome;
use crate::report::{Axis, Bar, Bars, Better, Curve, Figure, Lines, Section, Series, Table};

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
    step_seconds: f64,
    rounds: Vec<f64>,
    overhead_percent: f64,
}

/// Steps over which losses are averaged in pictures.
const SMOOTH: usize = 25;

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
    Series { name: name.into(), published: false, curves }
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
            x: Axis::linear("iteration"),
            y: Axis { limits: Some((1e-6, 1e5)), ..Axis::logarithmic("loss") },
            series: of_rate
                .map(|run| series(&run.method, run.curves.iter().enumerate().map(curve).collect()))
                .collect(),
        }));
    }
    let row = |run: &Toy| {
        let rate = run.learning_rate.to_string();
        vec![run.method.clone(), rate, format!("{} of {}", run.solved, run.seeds), run.published.clone()]
    };
    section.figures.push(Figure::Table(Table {
        title: "Toy problem: solved within 100 iterations".into(),
        note: "The last column is the paper's figure as an earlier reproduction read it.".into(),
        header: ["method", "learning rate", "seeds below 0.01", "published"].map(str::to_string).into(),
        rows: runs.iter().map(row).collect(),
    }));
    if let Some(run) = runs.iter().find(|run| run.method == "reflora") {
        section
            .findings
            .push(format!("RefLoRA solves the paper's toy problem for {} of {} seeds.", run.solved, run.seeds));
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
        x: Axis::logarithmic("condition number between the two"),
        y: Axis::logarithmic("relative difference"),
        series: points.into_iter().map(|(name, points)| series(name, vec![Curve::new(0, points)])).collect(),
    })
}

fn overhead(cells: &[Overhead], section: &mut Section) {
    let bar = |cell: &Overhead| {
        let milliseconds = || cell.rounds.iter().map(|seconds| seconds * 1e3);
        Bar {
            group: cell.case.clone(),
            name: cell.method.clone(),
            value: cell.step_seconds * 1e3,
            low: milliseconds().reduce(f64::min),
            high: milliseconds().reduce(f64::max),
            ceiling: None,
            published: false,
        }
    };
    section.figures.push(Figure::Bars(Bars {
        title: "Time of a training step".into(),
        note: "Cases are model:batch:sequence:rank; intervals reach from the fastest to the slowest round.".into(),
        unit: "ms a step".into(),
        better: Better::Lower,
        bars: cells.iter().map(bar).collect(),
    }));
    for cell in cells.iter().filter(|cell| cell.method == "reflora") {
        let lora = cells.iter().find(|other| other.case == cell.case && other.method == "lora");
        // Rounds are compared with the same round of plain LoRA: the machine may drift.
        let plain = lora.map_or(&[][..], |lora| &lora.rounds);
        let ratios = || cell.rounds.iter().zip(plain).map(|(own, plain)| 100.0 * (own / plain - 1.0));
        let (Some(low), Some(high)) = (ratios().reduce(f64::min), ratios().reduce(f64::max)) else { continue };
        section.findings.push(format!(
            "RefLoRA's step takes {:+.1} % ({low:+.1} to {high:+.1} over rounds) beside plain LoRA's ({}).",
            cell.overhead_percent, cell.case
        ));
    }
}

fn convergence(runs: &[Run], section: &mut Section) {
    let mut settings: BTreeMap<String, Vec<&Run>> = BTreeMap::new();
    for run in runs {
        let setting = format!("{}, {}, rank {}, A x {}", run.task, run.optimizer, run.rank, run.imbalance);
        settings.entry(setting).or_default().push(run);
    }
    for (setting, runs) in settings {
        let mut methods: BTreeMap<&str, BTreeMap<u32, Vec<&Run>>> = BTreeMap::new();
        for run in runs {
            methods.entry(&run.method).or_default().entry(run.rate.to_bits()).or_default().push(run);
        }
        let mean = |runs: &[&Run]| runs.iter().map(|run| final_loss(run)).sum::<f64>() / runs.len() as f64;
        let curves = |rates: &BTreeMap<u32, Vec<&Run>>, by_second: bool| -> Vec<Curve> {
            let best = rates.values().min_by(|one, two| mean(one).total_cmp(&mean(two)));
            best.into_iter().flatten().map(|run| smooth(run, by_second)).collect()
        };
        let lines = |by_second| Lines {
            title: format!("Loss by {}: {setting}", if by_second { "second" } else { "step" }),
            note: format!("Each method at its best learning rate; means over {SMOOTH} steps."),
            x: Axis::linear(if by_second { "seconds" } else { "step" }),
            y: Axis::linear("training loss"),
            series: methods.iter().map(|(name, rates)| series(name, curves(rates, by_second))).collect(),
        };
        section.figures.extend([lines(false), lines(true)].map(Figure::Lines));
        section.figures.push(Figure::Lines(robustness(&setting, &methods)));
    }
}

/// The loss of a run as means over some steps.
fn smooth(run: &Run, by_second: bool) -> Curve {
    let unit = if by_second { run.seconds / run.losses.len().max(1) as f64 } else { 1.0 };
    let mean = |(index, losses): (usize, &[f32])| {
        let end = index * SMOOTH + losses.len();
        (end as f64 * unit, losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len() as f64)
    };
    Curve::new(run.seed, run.losses.chunks(SMOOTH).enumerate().map(mean))
}

fn robustness(setting: &str, methods: &BTreeMap<&str, BTreeMap<u32, Vec<&Run>>>) -> Lines {
    let one = |(name, rates): (&&str, &BTreeMap<u32, Vec<&Run>>)| {
        let mut seeds: BTreeMap<u64, Vec<(f64, f64)>> = BTreeMap::new();
        for run in rates.values().flatten() {
            seeds.entry(run.seed).or_default().push((f64::from(run.rate), final_loss(run)));
        }
        series(name, seeds.into_iter().map(|(seed, points)| Curve::new(seed, points)).collect())
    };
    Lines {
        title: format!("Final loss by learning rate: {setting}"),
        note: String::new(),
        x: Axis::logarithmic("learning rate"),
        y: Axis::linear("final training loss"),
        series: methods.iter().map(one).collect(),
    }
}
