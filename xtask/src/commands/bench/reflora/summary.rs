//! What a grid of runs says: for each method its best learning rate, how good it is there and how wide the good range is.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::statistics::Estimate;
use super::convergence::Run;
use crate::output::{Output, table};

/// Steps whose mean loss counts as the final one: the last quarter of the run, at most so many.
const LAST: usize = 50;

/// A rate is good when its loss is within this share of the method's best.
const GOOD: f64 = 0.05;

fn last(run: &Run) -> usize {
    run.losses.len().div_ceil(4).clamp(1, LAST)
}

/// The mean loss over the last steps; infinite for a run that stopped being a number.
pub fn final_loss(run: &Run) -> f64 {
    let last = &run.losses[run.losses.len().saturating_sub(last(run))..];
    if last.is_empty() {
        return f64::INFINITY;
    }
    last.iter().map(|&loss| f64::from(loss)).sum::<f64>() / last.len() as f64
}

fn final_losses(runs: &[&Run]) -> Estimate {
    Estimate::of(&runs.iter().map(|run| final_loss(run)).collect::<Vec<_>>())
}

/// The runs of one method in one setting, by learning rate (its bits, which are in its order).
type ByRate<'a> = BTreeMap<u32, Vec<&'a Run>>;

/// All runs that differ in method, rate and seed only.
pub struct Setting<'a> {
    pub task: String,
    pub optimizer: String,
    pub rank: usize,
    pub imbalance: f32,
    methods: BTreeMap<&'a str, ByRate<'a>>,
}

/// How a method did in a setting.
pub struct Told<'a> {
    pub method: &'a str,
    /// The rate with the lowest mean final loss, and the runs there.
    pub rate: f32,
    pub runs: &'a [&'a Run],
    pub loss: Estimate,
    /// The final loss minus that of plain LoRA at its own best rate, seed by seed: both saw the same batches from the same
    /// factors.
    pub minus_lora: Option<Estimate>,
    /// Steps until LoRA's final loss, of the runs that reached it.
    pub steps_to_lora: Vec<f64>,
    /// Rates within some percent of the best loss.
    pub good: Vec<f32>,
}

impl<'a> Setting<'a> {
    /// Every setting of a grid.
    pub fn all(runs: &'a [Run]) -> Vec<Self> {
        let mut settings: BTreeMap<_, BTreeMap<&str, ByRate<'_>>> = BTreeMap::new();
        for run in runs {
            let key = (run.task.clone(), run.optimizer.clone(), run.rank, run.imbalance.to_bits());
            let by_rate = settings.entry(key).or_default().entry(run.method.as_str()).or_default();
            by_rate.entry(run.rate.to_bits()).or_default().push(run);
        }
        let setting = |((task, optimizer, rank, imbalance), methods)| {
            let imbalance = f32::from_bits(imbalance);
            Setting { task, optimizer, rank, imbalance, methods }
        };
        settings.into_iter().map(setting).collect()
    }

    /// For people.
    pub fn name(&self) -> String {
        let Setting { task, optimizer, rank, imbalance, .. } = self;
        let scaled = if *imbalance == 1.0 { String::new() } else { format!(", A x {imbalance}") };
        format!("{task}, {optimizer}, rank {rank}{scaled}")
    }

    /// The methods' names with their runs by rate.
    pub fn methods(&self) -> impl Iterator<Item = (&'a str, Vec<(f32, &[&'a Run])>)> {
        self.methods.iter().map(|(name, by_rate)| {
            (*name, by_rate.iter().map(|(&bits, runs)| (f32::from_bits(bits), runs.as_slice())).collect())
        })
    }

    /// Each method's result.
    pub fn told(&self) -> Vec<Told<'_>> {
        let lora = self.methods.get("lora").and_then(best).map(|(_, runs)| runs);
        self.methods.iter().filter_map(|(method, by_rate)| told(method, by_rate, lora)).collect()
    }
}

/// The rate with the lowest mean final loss, and its runs.
fn best<'b, 'a>(by_rate: &'b ByRate<'a>) -> Option<(f32, &'b [&'a Run])> {
    let (bits, runs) =
        by_rate.iter().min_by(|one, two| final_losses(one.1).mean.total_cmp(&final_losses(two.1).mean))?;
    Some((f32::from_bits(*bits), runs))
}

fn told<'a>(method: &'a str, by_rate: &'a ByRate<'a>, lora: Option<&[&Run]>) -> Option<Told<'a>> {
    let (rate, runs) = best(by_rate)?;
    let loss = final_losses(runs);
    let paired = |lora: &[&Run]| {
        let pairs = runs.iter().filter_map(|run| {
            let other = lora.iter().find(|other| other.seed == run.seed)?;
            Some(final_loss(run) - final_loss(other))
        });
        Estimate::of(&pairs.collect::<Vec<_>>())
    };
    let target = lora.map_or(f64::NAN, |lora| final_losses(lora).mean);
    let is_good = |runs: &[&Run]| final_losses(runs).mean <= loss.mean * (1.0 + GOOD);
    Some(Told {
        method,
        rate,
        runs,
        loss,
        minus_lora: lora.map(paired),
        steps_to_lora: runs.iter().filter_map(|run| Some(steps_to(run, target)? as f64)).collect(),
        good: by_rate.iter().filter(|(_, runs)| is_good(runs)).map(|(&bits, _)| f32::from_bits(bits)).collect(),
    })
}

/// Steps until the running mean of the loss reaches `target`; `None` if it never does.
fn steps_to(run: &Run, target: f64) -> Option<usize> {
    let sums = run.losses.windows(last(run));
    let mean = |window: &[f32]| window.iter().map(|&x| f64::from(x)).sum::<f64>() / window.len() as f64;
    sums.enumerate().find(|(_, window)| mean(window) <= target).map(|(start, window)| start + window.len())
}

/// Every measure on the validation data, by name.
fn measures(run: &Run) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    if let Some(Value::Object(parts)) = &run.validation {
        for (part, values) in parts {
            for (name, value) in values.as_object().into_iter().flatten() {
                if let Some(value) = value.as_f64() {
                    let name = if part == "validation" { name.clone() } else { format!("{part} {name}") };
                    found.insert(name, value);
                }
            }
        }
    }
    found
}

/// Prints a table for each setting.
pub fn report(runs: &[Run], output: &Output) {
    for setting in Setting::all(runs) {
        output.say(format!("\n{}", setting.name()));
        let rows: Vec<_> = setting.told().iter().map(|told| row(told, &setting.methods[told.method])).collect();
        let header = [
            "method",
            "loss by rate",
            "best rate",
            "final loss",
            "minus LoRA",
            "steps to LoRA's",
            "good rates",
            "ms a step",
            "validation",
        ];
        output.say(table(&header, &rows));
    }
}

fn row(told: &Told<'_>, by_rate: &ByRate<'_>) -> Vec<String> {
    let steps = match (told.steps_to_lora.len(), told.runs.len()) {
        (0, _) => "never".into(),
        (reached, of) => format!("{:.0} ({reached} of {of})", Estimate::of(&told.steps_to_lora).mean),
    };
    let by_rate_text: Vec<String> = by_rate
        .iter()
        .map(|(bits, runs)| format!("{:.0e}: {}", f32::from_bits(*bits), final_losses(runs).show(3)))
        .collect();
    let mut by_measure: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (name, value) in told.runs.iter().flat_map(|run| measures(run)) {
        by_measure.entry(name).or_default().push(value);
    }
    let measured: Vec<String> =
        by_measure.iter().map(|(name, values)| format!("{name} {}", Estimate::of(values).show(3))).collect();
    let step_ms: Vec<f64> = told.runs.iter().map(|run| 1e3 * run.seconds / run.losses.len().max(1) as f64).collect();
    vec![
        told.method.into(),
        by_rate_text.join("; "),
        format!("{:.0e}", told.rate),
        told.loss.show(4),
        told.minus_lora.map_or("-".into(), |difference| difference.show(4)),
        steps,
        told.good.iter().map(|rate| format!("{rate:.0e}")).collect::<Vec<_>>().join(" "),
        format!("{:.1}", Estimate::of(&step_ms).mean),
        measured.join(", "),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(method: &str, rate: f32, seed: u64, losses: &[f32]) -> Run {
        Run {
            task: "sst2".into(),
            method: method.into(),
            optimizer: "adamw".into(),
            rank: 8,
            imbalance: 1.0,
            rate,
            seed,
            losses: losses.to_vec(),
            seconds: 1.0,
            validation: Some(serde_json::json!({"validation": {"accuracy": 0.5}})),
        }
    }

    #[test]
    fn the_best_rate_and_its_neighbours_are_told() {
        let lora = [run("lora", 1e-3, 0, &[3.0, 1.0, 1.0]), run("lora", 1e-2, 0, &[])];
        let fast = [run("reflora", 1e-3, 0, &[1.0, 0.5, 0.5]), run("reflora", 1e-2, 0, &[1.0, 0.51, 0.51])];
        assert!(final_loss(&lora[0]) == 1.0 && final_loss(&lora[1]).is_infinite());
        let runs = [lora, fast].concat();
        let setting = &Setting::all(&runs)[0];
        assert_eq!(setting.name(), "sst2, adamw, rank 8");
        let told = setting.told();
        let row = row(&told[1], &setting.methods["reflora"]);
        assert_eq!(row[0], "reflora");
        assert_eq!(row[2], "1e-3");
        assert_eq!(row[4], "-0.5000");
        assert_eq!(row[5], "1 (1 of 1)");
        assert_eq!(row[6], "1e-3 1e-2");
        assert_eq!(row[8], "accuracy 0.500");
    }

    #[test]
    fn steps_are_counted_to_the_first_mean_that_is_low_enough() {
        let falling: Vec<f32> = (0..200).map(|step| 200.0 - step as f32).collect();
        // The mean of steps 101 to 150 is 200 − 124.5.
        assert_eq!(steps_to(&run("lora", 1.0, 0, &falling), 75.5), Some(150));
        assert_eq!(steps_to(&run("lora", 1.0, 0, &falling), 0.0), None);
    }
}
