//! Suite `step`: one LoRA training step of a model with random weights, as `finetune` does it.

use std::time::Instant;

use lora::{AdapterSet, Base, HostBatch};
use reflora::{Method, MethodOptions};
use serde_json::{Value, json};
use tensor::{Counters, Device, KernelTime};

use super::subject::{Case, Family, Subject};
use super::timing::Spread;
use super::training_step::TrainingStep;
use super::{Bench, Results};
use crate::commands::finetune::{Precision, positive};
use crate::failure::Outcome;
use crate::interrupt;
use crate::loading::lora_failure;
use crate::output::{Output, bytes, table};

#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Options {
    /// Suite step: the model: LLaMA's tiny, 15m, 160m, 1b, 7b or llama3-8b, or deberta-v3-tiny, -xsmall, -small, -base
    /// or -large with a classifier. Default: one of each, by device.
    #[arg(long)]
    preset: Option<String>,
    /// Suite step: sequences in a batch.
    #[arg(long, value_parser = positive)]
    batch: Option<usize>,
    /// Suite step: tokens in a sequence.
    #[arg(long, value_parser = positive)]
    seq: Option<usize>,
    /// Suite step: rank of the adapters.
    #[arg(long, value_parser = positive)]
    rank: Option<usize>,
    /// Suites step and peers: f32, or mixed: frozen weights and their inputs in 16 bits (the peers': everything in bf16).
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    pub dtype: Precision,
    /// Suite step: compute each block again in the backward pass.
    #[arg(long)]
    checkpoint_activations: bool,
    /// Suite step: compute nothing again in the backward pass.
    #[arg(long, conflicts_with = "checkpoint_activations")]
    keep_activations: bool,
    /// Suite step: how the adapters are trained: lora, lora-plus, scaled, reflora or reflora-s.
    #[arg(long, default_value_t = Method::Lora)]
    method: Method,
    /// Suite step: timed steps.
    #[arg(long, default_value_t = 12, value_parser = positive)]
    steps: usize,
    /// Suite step: steps before the timed ones.
    #[arg(long, default_value_t = 4)]
    warmup: usize,
}

pub fn run(options: &Options, bench: &Bench<'_>, results: &mut Results) -> Outcome<()> {
    for case in cases(options, bench.plan.step)? {
        results.push("steps", one(&case, options, bench)?);
        interrupt::check()?;
    }
    Ok(())
}

/// What is timed: the plan's cases, or the model that is asked for; the other flags change each of them.
pub fn cases(options: &Options, plan: &[&str]) -> Outcome<Vec<Case>> {
    let mut cases: Vec<Case> = plan.iter().map(|text| Case::parse(text)).collect::<Outcome<_>>()?;
    if let Some(preset) = &options.preset {
        cases.truncate(1);
        cases.iter_mut().for_each(|case| case.preset.clone_from(preset));
    }
    for case in &mut cases {
        case.batch = options.batch.unwrap_or(case.batch);
        case.sequence = options.seq.unwrap_or(case.sequence);
        case.rank = options.rank.unwrap_or(case.rank);
    }
    Ok(cases)
}

fn one(case: &Case, options: &Options, bench: &Bench<'_>) -> Outcome<Value> {
    let (subject, measured) = time(case, options, bench)?;
    Ok(report(&subject, case, options, &measured, bench.output))
}

/// Seconds of a step, the median.
pub fn seconds(case: &Case, options: &Options, bench: &Bench<'_>) -> Outcome<f64> {
    let (_, measured) = time(case, options, bench)?;
    Ok(Spread::of(measured.seconds).median)
}

fn time(case: &Case, options: &Options, bench: &Bench<'_>) -> Outcome<(Subject, Measured)> {
    let (device, seed) = (bench.device, bench.common.seed);
    let subject =
        Subject::new(&case.preset, options.dtype.weight_type(), options.checkpoint_activations, seed, device)?;
    let model = subject.model.as_ref();
    let config = subject.family.lora_config(case.rank);
    let adapters = AdapterSet::new(config, Base::of(model), device, seed).map_err(lora_failure)?;
    let transform = options.method.transform(&MethodOptions { warmup_steps: 1, ..MethodOptions::default() });
    let run = TrainingStep::new(model, adapters, transform.map_err(lora_failure)?, seed)?;
    let mut run = run.keeping_activations(options.keep_activations);
    let Case { batch, sequence: seq, .. } = *case;
    let batches = Batches { vocabulary: subject.vocabulary, family: subject.family, batch, seq };
    let measured = measure(&mut run, &batches, options, device)?;
    drop(run);
    Ok((subject, measured))
}

/// Random token sequences of one shape.
pub struct Batches {
    pub vocabulary: usize,
    pub family: Family,
    pub batch: usize,
    pub seq: usize,
}

impl Batches {
    /// Random tokens. A language model's are labelled with their successors, the last with nothing; a classifier's
    /// sequences with one of two classes.
    pub fn next(&self, index: u64) -> Outcome<HostBatch> {
        // A linear congruential generator is random enough: the values do not change the cost.
        let mut state = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let ids: Vec<u32> = (0..self.batch * self.seq)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((state >> 33) % self.vocabulary as u64) as u32
            })
            .collect();
        if self.family == Family::Deberta {
            let labels = ids.chunks(self.seq).map(|sequence| (sequence[0] % 2) as i32).collect();
            return HostBatch::classes(self.batch, self.seq, ids, labels, None).map_err(lora_failure);
        }
        let label = |(position, _): (usize, &u32)| match (position + 1) % self.seq {
            0 => lora::IGNORED,
            _ => ids[position + 1] as i32,
        };
        let labels = ids.iter().enumerate().map(label).collect();
        HostBatch::new(self.batch, self.seq, ids, labels, None).map_err(lora_failure)
    }
}

struct Measured {
    seconds: Vec<f64>,
    /// What the host needed to record and send each step; the GPU works meanwhile.
    host_seconds: Vec<f64>,
    first_loss: f32,
    last_loss: f32,
    before: Counters,
    after: Counters,
    kernels: Vec<KernelTime>,
}

fn measure(run: &mut TrainingStep<'_>, batches: &Batches, options: &Options, device: &Device) -> Outcome<Measured> {
    let mut first_loss = None;
    for index in 0..options.warmup.max(1) {
        let loss = run.run(&batches.next(index as u64)?)?.item::<f32>()?;
        first_loss.get_or_insert(loss);
    }
    device.synchronize()?;
    device.reset_peak();
    let before = device.counters();
    let (mut seconds, mut host_seconds, mut last_loss) = (Vec::new(), Vec::new(), f32::NAN);
    for index in 0..options.steps {
        let batch = batches.next((options.warmup + index) as u64)?;
        let started = Instant::now();
        let loss = run.run(&batch)?;
        host_seconds.push(started.elapsed().as_secs_f64());
        device.synchronize()?;
        seconds.push(started.elapsed().as_secs_f64());
        last_loss = loss.item()?;
    }
    let after = device.counters();
    let batch = batches.next(0)?;
    let (outcome, kernels) = device.profile(|| run.run(&batch))?;
    outcome?;
    let first_loss = first_loss.unwrap_or(f32::NAN);
    Ok(Measured { seconds, host_seconds, first_loss, last_loss, before, after, kernels })
}

fn report(subject: &Subject, case: &Case, options: &Options, measured: &Measured, output: &Output) -> Value {
    let [step, host] = [&measured.seconds, &measured.host_seconds].map(|seconds| Spread::of(seconds.clone()));
    let tokens = (case.batch * case.sequence) as f64;
    let per_step = |count: fn(&Counters) -> u64| {
        (count(&measured.after) - count(&measured.before)) as f64 / measured.seconds.len() as f64
    };
    let (dispatches, submits) = (per_step(|c| c.dispatches), per_step(|c| c.submits));
    let (created, groups) = (per_step(|c| c.buffers_created), per_step(|c| c.bind_groups_created));
    output.say(format!(
        "\n{}, batch {} x {}, rank {}, {}, {}: {:.1} ms a step (from {:.1} to {:.1}; the host's share {:.1}), {:.0} tokens/s",
        subject.name,
        case.batch,
        case.sequence,
        case.rank,
        options.dtype,
        options.method,
        step.median * 1e3,
        step.low * 1e3,
        step.high * 1e3,
        host.median * 1e3,
        tokens / step.median
    ));
    output.say(format!("loss {:.4} -> {:.4}", measured.first_loss, measured.last_loss));
    output.say(format!(
        "peak memory {}, in use {} before the timed steps and {} after, pool {}; a step: {dispatches:.0} dispatches, {submits:.0} submits, {created:.1} buffers \
         created, {groups:.1} bind groups created",
        bytes(measured.after.peak_bytes),
        bytes(measured.before.bytes_in_use),
        bytes(measured.after.bytes_in_use),
        bytes(measured.after.pooled_bytes)
    ));
    tell_kernels(&measured.kernels, output);
    let kernel = |kernel: &KernelTime| json!({ "kernel": kernel.kernel, "calls": kernel.calls, "nanoseconds": kernel.nanoseconds });
    json!({
        "preset": subject.preset, "name": subject.name, "method": options.method.name(), "batch": case.batch,
        "seq": case.sequence, "rank": case.rank, "dtype": options.dtype.to_string(),
        "checkpoint_activations": options.checkpoint_activations, "keep_activations": options.keep_activations, "dispatches_per_step": dispatches,
        "first_loss": measured.first_loss, "last_loss": measured.last_loss, "time": {
            "step": step.median, "step_min": step.low, "step_max": step.high, "host": host.median, "tokens_per_second": tokens / step.median,
            "peak_bytes": measured.after.peak_bytes, "bytes_in_use_before": measured.before.bytes_in_use,
            "bytes_in_use_after": measured.after.bytes_in_use, "submits_per_step": submits,
            "buffers_created_per_step": created, "bind_groups_created_per_step": groups,
            "kernels": measured.kernels.iter().map(kernel).collect::<Vec<_>>(),
        },
    })
}

fn tell_kernels(kernels: &[KernelTime], output: &Output) {
    let total: f64 = kernels.iter().map(|kernel| kernel.nanoseconds).sum();
    if total <= 0.0 {
        return;
    }
    let row = |kernel: &KernelTime| {
        let (milliseconds, share) = (kernel.nanoseconds / 1e6, 100.0 * kernel.nanoseconds / total);
        vec![kernel.kernel.clone(), kernel.calls.to_string(), format!("{milliseconds:.3}"), format!("{share:.1}")]
    };
    let rows: Vec<_> = kernels.iter().take(16).map(row).collect();
    output.say(format!("\n{}", table(&["kernel", "calls", "GPU ms", "%"], &rows)));
    output.say(format!("all kernels: {:.2} ms", total / 1e6));
}
