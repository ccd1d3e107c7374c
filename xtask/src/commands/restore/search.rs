//! The second stage: the search for the point that training starts from.

use lora::AdapterSet;
use relora::{Coefficients, Fusion, Groups, Objective, Start, StartOptions, search_start};
use serde_json::{Value, json};

use super::arguments::Arguments;
use super::objective::ValidationLosses;
use crate::failure::{Failure, Outcome};
use crate::interrupt;
use crate::loading::lora_failure;

/// What was found.
pub struct Found {
    /// The coefficients, where all weights share them.
    pub alpha: Option<f64>,
    pub beta: Option<f64>,
    pub adapters: AdapterSet,
    /// Their losses on the examples that they were chosen on, from the first on.
    pub losses: Vec<f64>,
    /// Candidates times examples that were looked at.
    pub forward_passes: usize,
    pub details: Value,
}

/// An adapter's losses on validation examples: those `known` and further ones, at least `least` in all, and more until it is
/// clear that the mean does not meet the target, or all are known.
pub fn losses_until_clear(
    losses: &mut ValidationLosses<'_>,
    adapter: &AdapterSet,
    mut known: Vec<f64>,
    least: usize,
    target: Option<f64>,
) -> Outcome<Vec<f64>> {
    let all = losses.examples();
    let mut end = least.min(all);
    loop {
        if known.len() < end {
            let more = losses.losses(std::slice::from_ref(adapter), known.len()..end).map_err(failure)?;
            known.extend(more.into_iter().flatten());
        }
        if known.is_empty() {
            return Err(Failure::input("validation: there are no examples"));
        }
        if known.len() >= all || !target.is_some_and(|target| losses.may_meet(&known, target)) {
            return Ok(known);
        }
        end = (2 * known.len()).min(all);
    }
}

/// Searches for the coefficients of the old adapter and of the base's evolution.
pub fn search(
    arguments: &Arguments,
    seed: u64,
    old: &AdapterSet,
    losses: &mut ValidationLosses<'_>,
    fusion: &Fusion,
    reuse: &[f64],
    target: Option<f64>,
) -> Outcome<Found> {
    let (search_examples, score_examples) = arguments.examples();
    let options = StartOptions {
        seed,
        sobol_points: arguments.search.search_points,
        steps: arguments.search.search_steps,
        search_examples,
        score_examples,
        first_look: arguments.first_look(),
        ..StartOptions::default()
    };
    let options = match target.filter(|_| arguments.steps > 0) {
        Some(target) => options.towards(target, losses.mean(reuse)),
        None => options,
    };
    let groups = Groups::of(old, arguments.search.groups);
    let make = |coefficients: &relora::GroupCoefficients| fusion.with(|module| coefficients.of(module));
    let start = search_start(losses, &groups, reuse, &options, make).map_err(failure)?;
    let shared =
        start.coefficients.iter().map(|(_, coefficients)| coefficients).reduce(|first, other| {
            if first == other { first } else { Coefficients { alpha: f64::NAN, beta: f64::NAN } }
        });
    let number = |of: fn(Coefficients) -> f64| shared.map(of).filter(|number| number.is_finite());
    Ok(Found {
        alpha: number(|shared| shared.alpha),
        beta: number(|shared| shared.beta),
        forward_passes: start.cost.forward_passes as usize,
        details: details(&start, losses.batch()),
        losses: start.losses,
        adapters: start.adapters,
    })
}

/// What is told of a search; `batch` is that of training, whose steps its cost is compared with.
fn details(start: &Start, batch: usize) -> Value {
    let groups = |coefficients: &relora::GroupCoefficients| -> Value {
        let pair = |(name, pair): (&str, Coefficients)| (name.to_string(), json!([pair.alpha, pair.beta]));
        coefficients.iter().map(pair).collect::<serde_json::Map<_, _>>().into()
    };
    let candidates = start.candidates.iter().map(|candidate| {
        json!({
            "coefficients": groups(&candidate.coefficients), "origin": format!("{:?}", candidate.origin),
            "loss": candidate.loss, "examples": candidate.examples, "dropped": candidate.dropped,
        })
    });
    json!({
        "step_equivalents": start.cost.step_equivalents(batch), "origin": format!("{:?}", start.origin), "coefficients": groups(&start.coefficients), "loss": start.loss,
        "examples": start.examples, "gain": start.gain.map(|gain| gain.mean),
        "gain_standard_error": start.gain.map(|gain| gain.standard_error), "stop": format!("{:?}", start.stop),
        "forward_passes": start.cost.forward_passes, "loss_seconds": start.cost.loss_seconds,
        "fusion_seconds": start.cost.fusion_seconds, "candidates": candidates.collect::<Vec<_>>(),
    })
}

fn failure(error: lora::LoraError) -> Failure {
    match interrupt::requested() {
        true => Failure::Interrupted(
            "interrupted in the search; what is measured of the base is kept, and --resume goes on".into(),
        ),
        false => lora_failure(error),
    }
}
