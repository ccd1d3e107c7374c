//! What the runs say: how good each method is at once, how soon it is ready, and how much sooner than retraining and than
//! a warm start.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::statistics::Estimate;
use super::readiness::{self, Before, Readiness};
use super::runs::{METHODS, RELORA, RETRAIN, Run, WARM_START};
use super::settings::Settings;
use crate::output::{Output, table};

/// A warm start that needs at most this share of retraining's steps counts as near-ready.
const NEAR_READY: f64 = 0.02;

/// The runs of one update and task, by method.
pub type Cell<'a> = BTreeMap<&'a str, Vec<&'a Run>>;

/// The runs at chosen rates, by update and task: rates that were tried on the first seed only are no result.
pub fn cells(runs: &[Run]) -> BTreeMap<(&str, &str), Cell<'_>> {
    let mut cells: BTreeMap<(&str, &str), Cell<'_>> = BTreeMap::new();
    for run in runs {
        let cell = cells.entry((&run.update, &run.task)).or_default();
        cell.entry(&run.method).or_default().push(run);
    }
    for runs in cells.values_mut().flat_map(BTreeMap::values_mut) {
        keep_chosen_rate(runs);
    }
    cells
}

/// One of the two targets: its name, and the loss that it asks of a run.
struct Target<'a> {
    name: &'static str,
    loss: Box<dyn Fn(&Run) -> f64 + 'a>,
}

/// Prints a table for each update and task and the comparison over all of them; gives the same as an object.
pub fn report(runs: &[Run], settings: &Settings, output: &Output) -> Value {
    let cells = cells(runs);
    let mut comparisons: BTreeMap<&str, Comparison> = BTreeMap::new();
    let (mut tables, mut times) = (Vec::new(), Vec::new());
    for ((update, task), cell) in &cells {
        let size = cell.get(RELORA.name).and_then(|runs| runs.first()?.report["relative_size"].as_f64());
        let size = size.map_or(String::new(), |size| format!(", |E|/|W| {size:.3}"));
        output.say(format!("\n{update}, {task}{size}: loss on the old base {}", old_loss(cell)));
        let targets = targets(cell);
        let rows: Vec<Vec<String>> =
            METHODS.iter().filter_map(|method| Some(row(method.name, cell.get(method.name)?, &targets))).collect();
        output.say(table(&HEADER, &rows));
        output.say(reuse_line(cell, &targets));
        tables.push(json!({ "update": update, "task": task, "header": HEADER, "rows": rows }));
        for target in &targets {
            let place = format!("{update}, {task}");
            times.extend(cell.iter().map(|(method, runs)| time_to(target, &place, method, runs)));
            compare(cell, target, settings.eval_every, comparisons.entry(target.name).or_default());
        }
    }
    let overall = overall(&comparisons, output);
    json!({ "timed": true, "tables": tables, "times": times, "overall": overall })
}

const HEADER: [&str; 9] = [
    "method",
    "rate",
    "start",
    "lowest",
    "parity: steps",
    "seconds",
    "98 %: steps",
    "seconds",
    "gate + evolution + search",
];

/// Leaves the rate with the most seeds, the lowest of equals.
fn keep_chosen_rate(runs: &mut Vec<&Run>) {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for run in runs.iter() {
        *counts.entry(run.rate.to_bits()).or_default() += 1;
    }
    let chosen = counts.iter().max_by(|a, b| a.1.cmp(b.1).then(b.0.cmp(a.0))).map(|(&bits, _)| bits);
    runs.retain(|run| Some(run.rate.to_bits()) == chosen);
}

fn old_loss(cell: &Cell<'_>) -> String {
    let losses: Vec<f64> = cell.values().next().into_iter().flatten().map(|run| run.old_loss).collect();
    Estimate::of(&losses).show(3)
}

fn targets<'a>(cell: &Cell<'a>) -> Vec<Target<'a>> {
    let mut targets = vec![Target { name: "parity", loss: Box::new(readiness::parity) }];
    if let Some(retrained) = cell.get(RETRAIN.name) {
        let mean = |numbers: Vec<f64>| numbers.iter().sum::<f64>() / numbers.len().max(1) as f64;
        let nothing = mean(retrained.iter().filter_map(|run| run.report["start_loss"].as_f64()).collect());
        let best = mean(retrained.iter().map(|run| readiness::lowest(run)).collect());
        let loss = readiness::share_of_the_way(nothing, best);
        targets.push(Target { name: "98 %", loss: Box::new(move |_| loss) });
    }
    targets
}

fn row(method: &str, runs: &[&Run], targets: &[Target<'_>]) -> Vec<String> {
    let estimate = |numbers: Vec<f64>| Estimate::of(&numbers).show(3);
    let start = runs.iter().filter_map(|run| run.report["start_loss"].as_f64()).collect();
    let mut cells = vec![
        method.to_string(),
        format!("{:.0e}", runs[0].rate),
        estimate(start),
        estimate(runs.iter().map(|run| readiness::lowest(run)).collect()),
    ];
    for target in targets {
        let ready: Vec<Readiness> = runs.iter().filter_map(|run| readiness::ready(run, (target.loss)(run))).collect();
        let of = if ready.len() < runs.len() { format!(" ({} of {})", ready.len(), runs.len()) } else { String::new() };
        match ready.is_empty() {
            true => cells.extend(["never".to_string(), "-".to_string()]),
            false => cells.extend([
                Estimate::of(&ready.iter().map(|ready| ready.steps).collect::<Vec<_>>()).show(1) + &of,
                Estimate::of(&ready.iter().map(|ready| ready.seconds).collect::<Vec<_>>()).show(2),
            ]),
        }
    }
    let stages: Vec<Before> = runs.iter().map(|run| Before::of(run)).collect();
    let mean = |of: fn(&Before) -> f64| stages.iter().map(of).sum::<f64>() / stages.len() as f64;
    let (gate, evolution, search) =
        (mean(|stage| stage.gate.steps), mean(|stage| stage.evolution.steps), mean(|stage| stage.search.steps));
    cells.push(format!("{gate:.1} + {evolution:.1} + {search:.1}"));
    cells
}

/// When a method's runs were ready, of those that ever were.
fn time_to(target: &Target<'_>, place: &str, method: &str, runs: &[&Run]) -> Value {
    let ready: Vec<Readiness> = runs.iter().filter_map(|run| readiness::ready(run, (target.loss)(run))).collect();
    json!({
        "target": target.name, "place": place, "method": method, "runs": runs.len(),
        "steps": ready.iter().map(|ready| ready.steps).collect::<Vec<_>>(),
        "seconds": ready.iter().map(|ready| ready.seconds).collect::<Vec<_>>(),
    })
}

/// What the old adapter is worth as it is.
fn reuse_line(cell: &Cell<'_>, targets: &[Target<'_>]) -> String {
    let runs: Vec<&Run> = cell.get(WARM_START.name).cloned().unwrap_or_default();
    let losses: Vec<f64> = runs.iter().filter_map(|run| run.report["reuse_loss"].as_f64()).collect();
    let met = |target: &Target<'_>| {
        let count = runs.iter().filter(|run| run.report["reuse_loss"].as_f64() <= Some((target.loss)(run))).count();
        format!("{} {count} of {}", target.name, runs.len())
    };
    let met: Vec<String> = targets.iter().map(met).collect();
    format!("reuse: {}; meets {}", Estimate::of(&losses).show(3), met.join(", "))
}

/// Ratios of steps and seconds over all cells and seeds. Where retraining never got there, its whole budget counts: the
/// ratio is then a lower bound. Where a method never got there, its budget counts for it.
#[derive(Default)]
struct Comparison {
    /// By method: retraining's and the warm start's figure over the method's.
    to_retraining: BTreeMap<&'static str, Ratios>,
    to_warm_start: BTreeMap<&'static str, Ratios>,
    /// As `to_warm_start`, where the warm start is not ready nearly at once.
    to_slow_warm_start: BTreeMap<&'static str, Ratios>,
    /// Runs of the full method that took longer than the better of reuse and warm start by more than their search.
    worse: usize,
    runs: usize,
    retraining_missed: usize,
}

#[derive(Default)]
struct Ratios {
    steps: Vec<f64>,
    seconds: Vec<f64>,
}

impl Ratios {
    fn add(&mut self, other: Readiness, own: Readiness) {
        // A method that is ready at once has taken a step's time at least.
        self.steps.push((other.steps.max(1.0) / own.steps.max(1.0)).ln());
        let least = if own.steps > 0.0 { own.seconds / own.steps } else { f64::MIN_POSITIVE };
        if own.seconds > 0.0 {
            self.seconds.push((other.seconds.max(least) / own.seconds.max(least)).ln());
        }
    }

    /// The geometric mean and its interval, where there is one.
    fn numbers(logarithms: &[f64]) -> Value {
        let Estimate { mean, half_width } = Estimate::of(logarithms);
        let end = |sign: f64| Some((mean + sign * half_width).exp()).filter(|end| end.is_finite());
        json!({ "mean": mean.exp(), "low": end(-1.0), "high": end(1.0) })
    }

    /// The geometric mean, its interval, and the largest.
    fn show(logarithms: &[f64]) -> String {
        let Estimate { mean, half_width } = Estimate::of(logarithms);
        let largest = logarithms.iter().copied().fold(f64::NEG_INFINITY, f64::max).exp();
        match half_width.is_finite() {
            true => format!(
                "{:.1} ({:.1}-{:.1}), at most {largest:.1}",
                mean.exp(),
                (mean - half_width).exp(),
                (mean + half_width).exp()
            ),
            false => format!("{:.1}", mean.exp()),
        }
    }
}

fn compare(cell: &Cell<'_>, target: &Target<'_>, eval_every: u64, comparison: &mut Comparison) {
    let of = |method: &str, seed: u64| cell.get(method)?.iter().find(|run| run.seed == seed).copied();
    let took = |run: &Run| {
        readiness::ready(run, (target.loss)(run)).unwrap_or_else(|| Readiness {
            steps: Before::of(run).total().steps + run.budget as f64,
            seconds: Before::of(run).total().seconds + run.curve.last().map_or(0.0, |point| point.seconds),
        })
    };
    for retrain in cell.get(RETRAIN.name).into_iter().flatten() {
        let Some(warm) = of(WARM_START.name, retrain.seed) else { continue };
        let (retrained, warmed) = (took(retrain), took(warm));
        comparison.runs += 1;
        comparison.retraining_missed += usize::from(readiness::ready(retrain, (target.loss)(retrain)).is_none());
        for method in METHODS.iter().filter(|&&method| method != RETRAIN) {
            let Some(run) = of(method.name, retrain.seed) else { continue };
            let own = took(run);
            comparison.to_retraining.entry(method.name).or_default().add(retrained, own);
            comparison.to_warm_start.entry(method.name).or_default().add(warmed, own);
            if warmed.steps > NEAR_READY * retrain.budget as f64 {
                comparison.to_slow_warm_start.entry(method.name).or_default().add(warmed, own);
            }
            if *method == RELORA {
                // Curves are known to the distance of two evaluations.
                let allowed = warmed.steps + Before::of(run).total().steps + eval_every as f64;
                comparison.worse += usize::from(own.steps > allowed);
            }
        }
    }
}

fn overall(comparisons: &BTreeMap<&str, Comparison>, output: &Output) -> Value {
    let mut object = serde_json::Map::new();
    for (target, comparison) in comparisons {
        let Comparison { worse, runs, retraining_missed, .. } = comparison;
        output.say(format!(
            "\nOver all, target {target}: how many times sooner, geometric mean (95 % interval). Retraining missed it in \
             {retraining_missed} of {runs} runs, which count with their whole budget. ReLoRA took longer than a warm start by \
             more than its search in {worse} of {runs}."
        ));
        let show = |ratios: Option<&Ratios>, of: fn(&Ratios) -> &Vec<f64>| {
            ratios.map(of).filter(|values| !values.is_empty()).map_or("-".into(), |values| Ratios::show(values))
        };
        let rows: Vec<Vec<String>> = METHODS[1..]
            .iter()
            .map(|method| {
                let [retraining, warm, slow] =
                    [&comparison.to_retraining, &comparison.to_warm_start, &comparison.to_slow_warm_start]
                        .map(|ratios| ratios.get(method.name));
                vec![
                    method.name.into(),
                    show(retraining, |ratios| &ratios.steps),
                    show(retraining, |ratios| &ratios.seconds),
                    show(warm, |ratios| &ratios.steps),
                    show(slow, |ratios| &ratios.steps),
                    show(slow, |ratios| &ratios.seconds),
                ]
            })
            .collect();
        let header = [
            "method",
            "than retraining, steps",
            "seconds",
            "than warm start, steps",
            "where that is not near-ready",
            "seconds",
        ];
        output.say(table(&header, &rows));
        let numbers = |ratios: &BTreeMap<&str, Ratios>| -> BTreeMap<String, Value> {
            let known = ratios.iter().filter(|(_, ratios)| !ratios.steps.is_empty());
            known.map(|(method, ratios)| (method.to_string(), Ratios::numbers(&ratios.steps))).collect()
        };
        object.insert(
            (*target).into(),
            json!({
                "header": header, "rows": rows, "worse": worse, "runs": runs,
                "than_retraining": numbers(&comparison.to_retraining), "than_warm_start": numbers(&comparison.to_warm_start),
            }),
        );
    }
    object.into()
}

#[cfg(test)]
mod tests {
    use super::super::runs::Point;
    use super::*;

    fn run(method: &str, seed: u64, start: f64, losses: &[f64]) -> Run {
        let curve =
            losses.iter().zip(1..).map(|(&loss, index)| Point { step: 10 * index, loss, seconds: index as f64 });
        Run {
            update: "mild".into(),
            task: "notes".into(),
            method: method.into(),
            rate: 1e-3,
            seed,
            settings: String::new(),
            old_loss: 2.0,
            report: json!({
                "start_loss": start, "reuse_loss": 3.0, "gate_examples": 24, "search_examples": 72,
                "seconds": { "gate": 0.1, "evolution": 0.2, "search": 0.3 },
            }),
            curve: curve.collect(),
            batch: 8,
            budget: 10 * losses.len() as u64,
        }
    }

    fn cell(runs: &[Run]) -> Cell<'_> {
        let mut cell = Cell::new();
        runs.iter().for_each(|run| cell.entry(&run.method).or_default().push(run));
        cell
    }

    #[test]
    fn ratios_count_everything_and_budgets_for_what_never_came() {
        let runs = [
            run("retrain", 0, 9.0, &[5.0, 4.0, 3.0, 2.5]),
            run("warm start", 0, 3.0, &[2.5, 2.0]),
            run("ReLoRA", 0, 2.5, &[2.0, 1.9]),
        ];
        let cell = cell(&runs);
        let (mut comparison, target) = (Comparison::default(), &targets(&cell)[0]);
        compare(&cell, target, 5, &mut comparison);
        // Gate 1, evolution 0.2 s at 0.1 s a step, search 3, training 10.
        let expected = [(40.0f64 / 16.0).ln(), (20.0f64 / 16.0).ln()];
        let found = [&comparison.to_retraining, &comparison.to_warm_start].map(|ratios| ratios["ReLoRA"].steps[0]);
        assert!(found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-12), "{found:?}");
        assert_eq!((comparison.runs, comparison.retraining_missed, comparison.worse), (1, 1, 0));
        assert_eq!(comparison.to_slow_warm_start["ReLoRA"].steps.len(), 1);
        // 98 % of the way from 9 to 2.5.
        assert!(((targets(&cell)[1].loss)(&runs[0]) - 2.63).abs() < 1e-12);
    }

    #[test]
    fn the_rate_with_all_seeds_counts() {
        let mut tried = run("warm start", 0, 3.0, &[2.0]);
        tried.rate = 1e-2;
        let runs = [tried, run("warm start", 0, 3.0, &[2.2]), run("warm start", 1, 3.0, &[2.1])];
        let mut kept: Vec<&Run> = runs.iter().collect();
        keep_chosen_rate(&mut kept);
        assert_eq!(kept.iter().map(|run| run.seed).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(row("warm start", &kept, &[])[3], "2.150 ± 0.635");
    }
}
