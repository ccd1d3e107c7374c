//! What a grid of runs says: for each method its best learning rate, how good it is there and how wide the good range is.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::statistics::Estimate;
use super::convergence::Run;
use crate::output::{Output, table};

/// Steps whose mean loss counts as the final one.
const LAST: usize = 50;

/// A rate is good when its loss is within this share of the method's best.
const GOOD: f64 = 0.05;

/// The mean loss over the last steps; infinite for a run that stopped being a number.
pub fn final_loss(run: &Run) -> f64 {
    let last = &run.losses[run.losses.len().saturating_sub(LAST)..];
    if last.is_empty() {
        return f64::INFINITY;
    }
    last.iter().map(|&loss| f64::from(loss)).sum::<f64>() / last.len() as f64
}

/// The runs of one method in one setting, by learning rate.
type ByRate<'a> = BTreeMap<u32, Vec<&'a Run>>;

/// The rate with the lowest mean final loss.
fn best<'a, 'b>(by_rate: &'b ByRate<'a>) -> Option<(f32, &'b Vec<&'a Run>)> {
    let mean = |runs: &[&Run]| runs.iter().map(|run| final_loss(run)).sum::<f64>() / runs.len() as f64;
    let (bits, runs) = by_rate.iter().min_by(|one, two| mean(one.1).total_cmp(&mean(two.1)))?;
    Some((f32::from_bits(*bits), runs))
}

/// Steps until the running mean of the loss reaches `target`; `None` if it never does.
fn steps_to(run: &Run, target: f64) -> Option<usize> {
    let sums = run.losses.windows(LAST.min(run.losses.len().max(1)));
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
    let mut settings: BTreeMap<(String, String, usize, u32), BTreeMap<&str, ByRate<'_>>> = BTreeMap::new();
    for run in runs {
        let key = (run.task.clone(), run.optimizer.clone(), run.rank, run.imbalance.to_bits());
        let by_rate = settings.entry(key).or_default().entry(&run.method).or_default();
        by_rate.entry(run.rate.to_bits()).or_default().push(run);
    }
    for ((task, optimizer, rank, imbalance), methods) in settings {
        output.say(format!("\n{task}, {optimizer}, rank {rank}, A x {}", f32::from_bits(imbalance)));
        let lora = methods.get("lora").and_then(best).map(|(_, runs)| runs.clone());
        let rows: Vec<_> =
            methods.iter().filter_map(|(method, by_rate)| row(method, by_rate, lora.as_deref())).collect();
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

fn row(method: &str, by_rate: &ByRate<'_>, lora: Option<&[&Run]>) -> Option<Vec<String>> {
    let losses = |runs: &[&Run]| runs.iter().map(|run| final_loss(run)).collect::<Vec<_>>();
    let (rate, runs) = best(by_rate)?;
    let own = Estimate::of(&losses(runs));
    // Paired by seed: both methods saw the same batches from the same factors.
    let paired = |lora: &[&Run]| {
        let pairs = runs.iter().filter_map(|run| {
            let other = lora.iter().find(|other| other.seed == run.seed)?;
            Some(final_loss(run) - final_loss(other))
        });
        Estimate::of(&pairs.collect::<Vec<_>>()).show(4)
    };
    let steps = lora.map(|lora| {
        let target = Estimate::of(&losses(lora)).mean;
        let reached: Vec<f64> = runs.iter().filter_map(|run| Some(steps_to(run, target)? as f64)).collect();
        let of = runs.len();
        match reached.len() {
            0 => "never".into(),
            count => format!("{:.0} ({count} of {of})", Estimate::of(&reached).mean),
        }
    });
    let good: Vec<f32> = by_rate
        .iter()
        .filter(|(_, runs)| Estimate::of(&losses(runs)).mean <= own.mean * (1.0 + GOOD))
        .map(|(bits, _)| f32::from_bits(*bits))
        .collect();
    let by_rate_text: Vec<String> = by_rate
        .iter()
        .map(|(bits, runs)| format!("{:.0e}: {}", f32::from_bits(*bits), Estimate::of(&losses(runs)).show(3)))
        .collect();
    let mut by_measure: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (name, value) in runs.iter().flat_map(|run| measures(run)) {
        by_measure.entry(name).or_default().push(value);
    }
    let measured: Vec<String> =
        by_measure.iter().map(|(name, values)| format!("{name} {}", Estimate::of(values).show(3))).collect();
    let step_ms = runs.iter().map(|run| 1e3 * run.seconds / run.losses.len().max(1) as f64).collect::<Vec<_>>();
    Some(vec![
        method.into(),
        by_rate_text.join("; "),
        format!("{rate:.0e}"),
        own.show(4),
        lora.map_or("-".into(), paired),
        steps.unwrap_or("-".into()),
        good.iter().map(|rate| format!("{rate:.0e}")).collect::<Vec<_>>().join(" "),
        format!("{:.1}", Estimate::of(&step_ms).mean),
        measured.join(", "),
    ])
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
        assert!((final_loss(&lora[0]) - 5.0 / 3.0).abs() < 1e-6 && final_loss(&lora[1]).is_infinite());
        let by_rate = |runs: &'static [Run]| -> ByRate<'static> {
            runs.iter().map(|run| (run.rate.to_bits(), vec![run])).collect()
        };
        let lora = by_rate(Vec::leak(lora.to_vec()));
        let fast = by_rate(Vec::leak(fast.to_vec()));
        let best_of_lora = best(&lora).unwrap().1.clone();
        let row = row("reflora", &fast, Some(&best_of_lora)).unwrap();
        assert_eq!(row[2], "1e-3");
        assert_eq!(row[4], "-1.0000");
        assert_eq!(row[5], "3 (1 of 1)");
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
