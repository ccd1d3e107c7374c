//! Overhead: whole training steps of models with random weights, the methods in turns so that all see the same machine;
//! and the method's own work alone, for the adapters of the sizes people use.

use std::time::Instant;

use lora::{Adapter, AdapterSet, Base};
use reflora::{Method, MethodOptions};
use serde_json::json;
use tensor::{Device, RandomKey, Tensor};

use super::super::progress::Meter;
use super::super::step::Batches;
use super::super::subject::{Case, Subject};
use super::super::timing::Spread;
use super::super::training_step::TrainingStep;
use super::super::{Bench, Results};
use crate::commands::finetune::positive;
use crate::failure::Outcome;
use crate::loading::lora_failure;
use crate::output::{bytes, table};

#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Options {
    /// Suite reflora, overhead: cases as name:batch:sequence:rank, the name being a preset of suite step.
    #[arg(long, value_delimiter = ',')]
    case: Vec<String>,
    /// Suite reflora, overhead: rounds, in each of which every method does some steps; default: by device.
    #[arg(long, value_parser = positive)]
    rounds: Option<usize>,
}

const METHODS: [Method; 3] = [Method::Lora, Method::RefLora, Method::RefLoraScalar];

/// Steps of one method in one round.
const STEPS: usize = 3;

/// Random factors with a B that is not zero, so that every method has work from the first step on.
fn adapters(subject: &Subject, rank: usize, device: &Device, seed: u64) -> Outcome<AdapterSet> {
    let config = subject.family.lora_config(rank);
    AdapterSet::from_factors(config, Base::of(&*subject.model), device, |adapter: &Adapter| {
        let normal = |name: &str, shape: &[usize]| {
            Tensor::random_normal(device, shape, 0.0, 0.02, RandomKey::named(seed, name, 0))
        };
        let (a, b) = ([adapter.rank, adapter.inputs], [adapter.outputs, adapter.rank]);
        Ok((normal(&adapter.a, &a)?, normal(&adapter.b, &b)?))
    })
    .map_err(lora_failure)
}

struct Timed {
    /// Seconds a step in each round.
    rounds: Vec<f64>,
    host_waits: f64,
    dispatches: f64,
    peak_bytes: u64,
}

fn measure(case: &Case, rounds: usize, device: &Device, seed: u64, meter: &Meter<'_>) -> Outcome<Vec<Timed>> {
    let subject = case.subject(device, seed)?;
    let (vocabulary, family) = (subject.vocabulary, subject.family);
    let batch = Batches { vocabulary, family, batch: case.batch, seq: case.sequence }.next(seed)?;
    let fresh = adapters(&subject, case.rank, device, seed)?;
    let settings = MethodOptions { warmup_steps: 0, ..MethodOptions::default() };
    let mut runs = Vec::new();
    for method in METHODS {
        let transform = method.transform(&settings).map_err(lora_failure)?;
        let mut run = TrainingStep::new(&*subject.model, fresh.clone(), transform, seed)?;
        for _ in 0..3 {
            run.run(&batch)?;
        }
        runs.push(run);
    }
    drop(fresh);
    let nothing = || Timed { rounds: Vec::new(), host_waits: 0.0, dispatches: 0.0, peak_bytes: 0 };
    let mut timed: Vec<Timed> = METHODS.iter().map(|_| nothing()).collect();
    for round in 0..=rounds {
        for (run, timed) in runs.iter_mut().zip(&mut timed) {
            device.synchronize()?;
            device.reset_peak();
            let before = device.counters();
            let started = Instant::now();
            for _ in 0..STEPS {
                run.run(&batch)?;
            }
            let after = device.counters();
            device.synchronize()?;
            // The first round warms up.
            if round > 0 {
                timed.rounds.push(started.elapsed().as_secs_f64() / STEPS as f64);
            }
            timed.host_waits = (after.host_waits - before.host_waits) as f64 / STEPS as f64;
            timed.dispatches = (after.dispatches - before.dispatches) as f64 / STEPS as f64;
            timed.peak_bytes = after.peak_bytes;
        }
        meter.advance(1)?;
    }
    Ok(timed)
}

pub fn run(options: &Options, bench: &Bench<'_>, results: &mut Results) -> Outcome<()> {
    let Bench { device, common, plan, output, .. } = *bench;
    let cases = match options.case.is_empty() {
        true => plan.reflora.overhead.iter().map(|text| text.to_string()).collect(),
        false => options.case.clone(),
    };
    let rounds = options.rounds.unwrap_or(plan.reflora.rounds);
    output.say("\noverhead beside plain LoRA");
    for text in cases {
        let meter = Meter::new(output, rounds as u64 + 1);
        let timed = measure(&Case::parse(&text)?, rounds, device, common.seed, &meter)?;
        drop(meter);
        let mut rows = Vec::new();
        for (method, one) in METHODS.iter().zip(&timed) {
            // Rounds are compared with the same round of plain LoRA: the machine may drift.
            let ratios = one.rounds.iter().zip(&timed[0].rounds).map(|(own, lora)| 100.0 * (own / lora - 1.0));
            let (step, overhead) = (Spread::of(one.rounds.clone()), Spread::of(ratios.collect()));
            rows.push(vec![
                text.clone(),
                method.to_string(),
                format!("{:.2}", step.median * 1e3),
                format!("{:+.2}", overhead.median),
                format!("{:+.2} to {:+.2}", overhead.low, overhead.high),
                format!("{:.0}", one.dispatches),
                format!("{:.1}", one.host_waits),
                bytes(one.peak_bytes),
            ]);
            results.push(
                "overhead",
                json!({
                    "case": text, "method": method.name(), "dispatches_per_step": one.dispatches,
                    "host_waits_per_step": one.host_waits, "time": {
                        "step": step.median, "rounds": one.rounds, "overhead_percent": overhead.median,
                        "overhead_low": overhead.low, "overhead_high": overhead.high, "peak_bytes": one.peak_bytes,
                    },
                }),
            );
        }
        // A table for each case as soon as it is there: large models take minutes.
        let header = ["case", "method", "ms a step", "overhead %", "over rounds", "dispatches", "waits", "peak memory"];
        output.say(table(&header, &rows));
    }
    Ok(())
}
