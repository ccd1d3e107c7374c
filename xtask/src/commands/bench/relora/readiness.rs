//! When a run was ready. Counted is what a method does besides training: measuring the base's change, gate and search, each
//! look at a candidate included; and the steps of training. The evaluations that tell the curve are every method's alike and
//! are not counted.

use super::runs::{Point, RETRAIN, Run, WARM_START};

/// By how much of the old base's loss parity may be missed.
pub const TOLERANCE: f64 = 0.01;

/// What it took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Readiness {
    /// Training steps and, converted to them, everything before: a forward pass is a third of a step's share for one
    /// sequence.
    pub steps: f64,
    pub seconds: f64,
}

/// What a run did before training.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Before {
    pub gate: Readiness,
    pub evolution: Readiness,
    pub search: Readiness,
}

impl Readiness {
    fn plus(self, other: Readiness) -> Readiness {
        Readiness { steps: self.steps + other.steps, seconds: self.seconds + other.seconds }
    }
}

impl Before {
    /// What the report of a run says. Retraining and the warm start do nothing before training.
    pub fn of(run: &Run) -> Self {
        if [RETRAIN.name, WARM_START.name].contains(&run.method.as_str()) {
            return Before::default();
        }
        let seconds = |stage: &str| run.report["seconds"][stage].as_f64().unwrap_or(0.0);
        let passes = |name: &str| run.report[name].as_f64().unwrap_or(0.0) / (3.0 * run.batch as f64);
        let searched = run.report["search_examples"].as_u64().unwrap_or(0) > 0;
        let step = step_seconds(run);
        let in_steps = |seconds: f64| if step > 0.0 { seconds / step } else { 0.0 };
        Before {
            // Only who searches asks the old adapter first.
            gate: match searched {
                true => Readiness { steps: passes("gate_examples"), seconds: seconds("gate") },
                false => Readiness::default(),
            },
            evolution: Readiness { steps: in_steps(seconds("evolution")), seconds: seconds("evolution") },
            search: Readiness { steps: passes("search_examples"), seconds: seconds("search") },
        }
    }

    pub fn total(&self) -> Readiness {
        self.gate.plus(self.evolution).plus(self.search)
    }
}

/// Seconds of a training step, the median of the curve's pieces.
pub fn step_seconds(run: &Run) -> f64 {
    let piece = |pair: &[Point]| (pair[1].seconds - pair[0].seconds) / (pair[1].step - pair[0].step).max(1) as f64;
    let mut pieces: Vec<f64> = run.curve.windows(2).map(piece).collect();
    pieces.sort_by(f64::total_cmp);
    pieces.get(pieces.len() / 2).copied().unwrap_or(0.0)
}

/// The start and everything after it.
pub fn points(run: &Run) -> impl Iterator<Item = Point> + '_ {
    let start = run.report["start_loss"].as_f64().map(|loss| Point { step: 0, loss, seconds: 0.0 });
    start.into_iter().chain(run.curve.iter().copied())
}

/// The lowest loss of a run.
pub fn lowest(run: &Run) -> f64 {
    points(run).map(|point| point.loss).fold(f64::INFINITY, f64::min)
}

/// As good as on the old base, but for the tolerance.
pub fn parity(run: &Run) -> f64 {
    run.old_loss * (1.0 + TOLERANCE)
}

/// The share of the way from no adapter to the best retrained one that the second target asks for.
const SHARE: f64 = 0.98;

/// The loss at that share of the way, from the losses at both ends.
pub fn share_of_the_way(nothing: f64, best: f64) -> f64 {
    nothing - SHARE * (nothing - best)
}

/// What it took to reach a loss; `None` where the run never did. Where the old adapter reaches it as it is, a method that
/// asks it first ends there.
pub fn ready(run: &Run, target: f64) -> Option<Readiness> {
    let gate = Before::of(run).gate;
    if gate.steps > 0.0 && run.report["reuse_loss"].as_f64().is_some_and(|loss| loss <= target) {
        return Some(gate);
    }
    let point = points(run).find(|point| point.loss <= target)?;
    Some(Before::of(run).total().plus(Readiness { steps: point.step as f64, seconds: point.seconds }))
}

/// What one run tells while it is fresh.
pub fn one_line(run: &Run) -> String {
    let number = |name: &str| run.report[name].as_f64().map_or("-".into(), |value| format!("{value:.3}"));
    let Before { gate, evolution, search } = Before::of(run);
    let ready = ready(run, parity(run)).map_or("not ready".into(), |Readiness { steps, seconds }| {
        format!("at parity after {steps:.1} steps, {seconds:.2} s")
    });
    format!(
        "start {} at ({}, {}), lowest {:.4}, parity {:.4}; {ready}; gate {:.1}, evolution {:.1}, search {:.1} steps",
        number("start_loss"),
        number("alpha"),
        number("beta"),
        lowest(run),
        parity(run),
        gate.steps,
        evolution.steps,
        search.steps
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(method: &str, report: serde_json::Value) -> Run {
        let point = |step, loss| Point { step, loss, seconds: 0.5 * step as f64 };
        Run {
            update: "mild".into(),
            task: "notes".into(),
            method: method.into(),
            rate: 1e-3,
            seed: 0,
            settings: String::new(),
            old_loss: 2.0,
            report,
            curve: vec![point(10, 2.5), point(20, 2.1), point(30, 2.0)],
            batch: 8,
            budget: 30,
        }
    }

    #[test]
    fn everything_before_training_counts() {
        let report = json!({
            "start_loss": 3.0, "gate_examples": 48, "search_examples": 96,
            "seconds": { "gate": 0.25, "evolution": 1.0, "search": 0.75 },
        });
        let relora = run("ReLoRA", report.clone());
        // 48 and 96 passes of a third of a step's eighth; a second is two steps.
        let expected = Readiness { steps: 2.0 + 2.0 + 4.0 + 30.0, seconds: 0.25 + 1.0 + 0.75 + 15.0 };
        assert_eq!(ready(&relora, parity(&relora)), Some(expected));
        assert_eq!(ready(&run("warm start", report.clone()), 2.2), Some(Readiness { steps: 20.0, seconds: 10.0 }));
        assert_eq!(ready(&run("retrain", report.clone()), 1.0), None);
        let mut reused = report.clone();
        reused["reuse_loss"] = json!(2.0);
        assert_eq!(ready(&run("ReLoRA", reused), 2.0), Some(Readiness { steps: 2.0, seconds: 0.25 }));
        assert_eq!(ready(&run("warm start", report), 3.0), Some(Readiness { steps: 0.0, seconds: 0.0 }));
    }
}
