//! Overhead: whole training steps of models with random weights, the methods in turns so that all see the same machine;
//! and the method's own work alone, for the adapters of the sizes people use.

use std::time::Instant;

use lora::{Adapter, AdapterSet, Base};
use models::WeightType;
use reflora::{Method, MethodOptions};
use serde_json::{Value, json};
use tensor::{Device, RandomKey, Tensor};

use super::super::step::Batches;
use super::super::subject::Subject;
use super::super::timing::median;
use super::super::training_step::TrainingStep;
use crate::failure::{Failure, Outcome};
use crate::loading::lora_failure;
use crate::output::{Output, bytes, table};

#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Options {
    /// Suite reflora, overhead: cases as name:batch:sequence:rank, the name being a preset of suite step.
    #[arg(long, value_delimiter = ',')]
    case: Vec<String>,
    /// Suite reflora, overhead: rounds, in each of which every method does some steps.
    #[arg(long, default_value_t = 8)]
    rounds: usize,
}

const METHODS: [Method; 3] = [Method::Lora, Method::RefLora, Method::RefLoraScalar];

/// Steps of one method in one round.
const STEPS: usize = 3;

struct Case {
    name: String,
    batch: usize,
    sequence: usize,
    rank: usize,
}

impl Case {
    fn parse(text: &str) -> Outcome<Self> {
        let wrong =
            || Failure::input(format!("--case {text}: write name:batch:sequence:rank, as deberta-v3-base:32:128:8"));
        let [name, numbers @ ..] = &text.split(':').collect::<Vec<_>>()[..] else { return Err(wrong()) };
        let numbers: Vec<usize> = numbers.iter().map(|x| x.parse().map_err(|_| wrong())).collect::<Outcome<_>>()?;
        match numbers[..] {
            [batch, sequence, rank] if batch * sequence * rank > 0 => {
                Ok(Case { name: name.to_string(), batch, sequence, rank })
            }
            _ => Err(wrong()),
        }
    }

    fn subject(&self, device: &Device, seed: u64) -> Outcome<Subject> {
        // Weights of 7 B parameters in f32 leave no room for activations on most devices.
        let large = self.name.ends_with("7b") || self.name.ends_with("8b");
        let weights = if large { WeightType::F16 } else { WeightType::F32 };
        Subject::new(&self.name, weights, large, seed, device)
    }
}

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

fn measure(case: &Case, options: &Options, device: &Device, seed: u64) -> Outcome<Vec<Timed>> {
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
    for round in 0..options.rounds.max(1) + 1 {
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
    }
    Ok(timed)
}

pub fn run(options: &Options, quick: bool, device: &Device, seed: u64, output: &Output) -> Outcome<Value> {
    let small = device.is_cpu() || device.adapter().is_some_and(|adapter| adapter.is_software());
    let default: &[&str] = match (small, quick) {
        (true, true) => &["tiny:2:64:8"],
        (true, false) => &["15m:4:64:8", "deberta-v3-mini:8:64:8"],
        (false, true) => &["deberta-v3-base:32:128:8"],
        (false, false) => &["deberta-v3-mini:32:64:8", "deberta-v3-base:32:128:8", "7b:16:256:32"],
    };
    let default: Vec<String> = default.iter().map(|text| text.to_string()).collect();
    let cases = if options.case.is_empty() { &default } else { &options.case };
    let mut results = Vec::new();
    output.say("\noverhead beside plain LoRA");
    for text in cases {
        let case = Case::parse(text)?;
        let timed = measure(&case, options, device, seed)?;
        let mut rows = Vec::new();
        for (method, one) in METHODS.iter().zip(&timed) {
            // Rounds are compared with the same round of plain LoRA: the machine may drift.
            let mut ratios: Vec<f64> = one.rounds.iter().zip(&timed[0].rounds).map(|(own, lora)| own / lora).collect();
            let step = median(&mut one.rounds.clone());
            let ratio = median(&mut ratios);
            rows.push(vec![
                text.clone(),
                method.to_string(),
                format!("{:.2}", step * 1e3),
                format!("{:+.2}", 100.0 * (ratio - 1.0)),
                format!("{:+.2} to {:+.2}", 100.0 * (ratios[0] - 1.0), 100.0 * (ratios[ratios.len() - 1] - 1.0)),
                format!("{:.0}", one.dispatches),
                format!("{:.1}", one.host_waits),
                bytes(one.peak_bytes),
            ]);
            results.push(json!({
                "case": text, "method": method.name(), "step_seconds": step, "rounds": one.rounds,
                "overhead_percent": 100.0 * (ratio - 1.0), "dispatches_per_step": one.dispatches,
                "host_waits_per_step": one.host_waits, "peak_bytes": one.peak_bytes,
            }));
        }
        // A table for each case as soon as it is there: large models take minutes.
        let header = ["case", "method", "ms a step", "overhead %", "over rounds", "dispatches", "waits", "peak memory"];
        output.say(table(&header, &rows));
    }
    Ok(Value::Array(results))
}
