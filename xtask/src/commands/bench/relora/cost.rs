//! What the stages cost at a large model's shapes, with random weights: measuring the base's change, making one candidate,
//! and evaluating sixteen candidates beside one.

use std::collections::BTreeMap;
use std::time::Instant;

use lora::{AdapterSet, AdapterStack, Forward, HostBatch, LoraConfig, ModuleShape, Targets};
use models::{Llama, LlamaConfig, WeightType};
use relora::{Evolution, EvolutionOptions, Fusion};
use serde_json::{Value, json};
use tensor::{Device, RandomKey, Tensor};

use super::super::timing::median;
use super::settings::Settings;
use crate::failure::{Failure, Outcome};
use crate::loading::{lora_failure, model_failure};
use crate::output::{Output, table};

/// The adapter's rank: the change is measured at four times as many.
const RANK: usize = 16;

/// Candidates in a batch.
const CANDIDATES: usize = 16;

/// Lengths of the examples that candidates are evaluated on, one example each.
const LENGTHS: [usize; 4] = [16, 64, 128, 256];

/// The same matrix for every layer: reading from disk is not what is measured.
struct Alike(BTreeMap<String, Tensor>);

impl relora::Weights for Alike {
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn weight(&self, module: &str) -> lora::Result<Tensor> {
        self.0.get(kind(module)).cloned().ok_or_else(|| lora::LoraError::other(format!("`{module}` is not there")))
    }
}

fn kind(module: &str) -> &str {
    module.rsplit('.').next().unwrap_or(module)
}

pub fn run(settings: &Settings, device: &Device, seed: u64, output: &Output) -> Outcome<Value> {
    let config = LlamaConfig::preset(&settings.cost_model).ok_or_else(|| {
        Failure::input(format!(
            "--cost-model {}: the presets are {}",
            settings.cost_model,
            LlamaConfig::PRESETS.join(", ")
        ))
    })?;
    let adapters = adapters(&config, device, seed)?;
    let (evolution, measured) = evolution(&adapters, device, seed)?;
    output.say(format!(
        "\n{} shapes, rank {RANK}: the change of {} weights at k = {} in {measured:.1} s",
        settings.cost_model,
        adapters.adapters().len(),
        4 * RANK
    ));
    let (fusion, prepared, fused) = fusions(&adapters, &evolution, device)?;
    output.say(format!("fusion: {prepared:.2} s to get ready, then {:.1} ms a candidate", 1e3 * fused));
    let passes = passes(config, &fusion, device, seed)?;
    let rows: Vec<Vec<String>> = passes
        .iter()
        .map(|&(length, one, all)| {
            vec![
                length.to_string(),
                format!("{:.1}", 1e3 * one),
                format!("{:.1}", 1e3 * all),
                format!("{:.2}", all / one),
            ]
        })
        .collect();
    output.say(table(&["tokens", "one candidate, ms", "sixteen, ms", "ratio"], &rows));
    let passes: Vec<Value> = passes
        .iter()
        .map(|(length, one, all)| json!({ "tokens": length, "one_seconds": one, "sixteen_seconds": all }))
        .collect();
    Ok(json!({
        "model": settings.cost_model, "modules": adapters.adapters().len(), "rank": RANK,
        "evolution_seconds": measured, "fusion_preparation_seconds": prepared, "fusion_seconds": fused,
        "passes": passes,
    }))
}

/// Random adapters of the paper's five kinds of modules.
fn adapters(config: &LlamaConfig, device: &Device, seed: u64) -> Outcome<AdapterSet> {
    let (hidden, intermediate, key_value) = (config.hidden_size, config.intermediate_size, config.key_value_width());
    let kinds = [
        ("self_attn.q_proj", hidden, config.query_width()),
        ("self_attn.k_proj", hidden, key_value),
        ("self_attn.v_proj", hidden, key_value),
        ("mlp.up_proj", hidden, intermediate),
        ("mlp.down_proj", intermediate, hidden),
    ];
    let modules: Vec<ModuleShape> = (0..config.num_hidden_layers)
        .flat_map(|layer| kinds.map(|(kind, inputs, outputs)| (layer, kind, inputs, outputs)))
        .map(|(layer, kind, inputs, outputs)| ModuleShape::new(format!("model.layers.{layer}.{kind}"), inputs, outputs))
        .collect();
    let names = kinds.map(|(module, ..)| kind(module).to_string());
    let lora = LoraConfig { rank: RANK, targets: Targets::names(names), ..LoraConfig::default() };
    let adapters = AdapterSet::from_factors(lora, &modules, device, |adapter| {
        let draw = |shape: [usize; 2], name: &str| {
            Tensor::random_normal(device, &shape, 0.0, 0.01, RandomKey::named(seed, name, 0))
        };
        Ok((draw([RANK, adapter.inputs], &adapter.a)?, draw([adapter.outputs, RANK], &adapter.b)?))
    });
    adapters.map_err(lora_failure)
}

/// The change of every adapted weight and the seconds it took. A change without any structure is the hardest: no projection
/// settles on it.
fn evolution(adapters: &AdapterSet, device: &Device, seed: u64) -> Outcome<(Evolution, f64)> {
    let host = Device::cpu();
    let mut sides = [0, 1].map(|_| Alike(BTreeMap::new()));
    for adapter in adapters.adapters() {
        let name = kind(&adapter.module).to_string();
        if sides[0].0.contains_key(&name) {
            continue;
        }
        let draw = |deviation: f32, step: u64| -> Outcome<Tensor> {
            let key = RandomKey { step, ..RandomKey::named(seed, &name, 0) };
            let drawn = Tensor::random_normal(device, &[adapter.outputs, adapter.inputs], 0.0, deviation, key)?;
            Ok(drawn.to_device(&host)?)
        };
        let before = draw(0.02, 1)?;
        let after = before.add(&draw(0.002, 2)?)?;
        sides[0].0.insert(name.clone(), before);
        sides[1].0.insert(name, after);
    }
    let started = Instant::now();
    let options = EvolutionOptions { seed, ..EvolutionOptions::default() };
    let evolution = Evolution::measure(adapters, &sides[0], &sides[1], &options, None, device).map_err(lora_failure)?;
    Ok((evolution, started.elapsed().as_secs_f64()))
}

/// Getting ready once, and the median time of a candidate until its factors lie on the device.
fn fusions(adapters: &AdapterSet, evolution: &Evolution, device: &Device) -> Outcome<(Fusion, f64, f64)> {
    let started = Instant::now();
    let fusion = Fusion::new(adapters, evolution).map_err(lora_failure)?;
    device.synchronize()?;
    let prepared = started.elapsed().as_secs_f64();
    let mut seconds = Vec::new();
    for attempt in 0..7 {
        let started = Instant::now();
        let fused = fusion.at(1.0, -0.1 * f64::from(attempt)).map_err(lora_failure)?;
        device.synchronize()?;
        seconds.push(started.elapsed().as_secs_f64());
        drop(fused);
    }
    Ok((fusion, prepared, median(&mut seconds)))
}

/// For each length the seconds of a pass for one candidate and for sixteen, one example each.
fn passes(config: LlamaConfig, fusion: &Fusion, device: &Device, seed: u64) -> Outcome<Vec<(usize, f64, f64)>> {
    let vocabulary = config.vocab_size;
    let model = Llama::random(config, seed, device, WeightType::F16).map_err(model_failure)?;
    let mut candidates = Vec::with_capacity(CANDIDATES);
    for index in 0..CANDIDATES {
        candidates.push(fusion.at(1.0, -0.05 * index as f64).map_err(lora_failure)?);
    }
    let stack = AdapterStack::of(&candidates).map_err(lora_failure)?;
    let stack = stack.ok_or_else(|| anyhow::anyhow!("candidates of one fusion share a pass"))?;
    let mut found = Vec::new();
    for length in LENGTHS {
        let ids: Vec<u32> = (0..length).map(|index| (index * 7919 % vocabulary) as u32).collect();
        let labels = ids.iter().map(|&id| id as i32).collect();
        let host = HostBatch::new(1, length, ids, labels, None).map_err(lora_failure)?;
        let all = host.repeated(CANDIDATES);
        let time = |forward: &Forward, batch: &HostBatch| -> Outcome<f64> {
            let mut seconds = Vec::new();
            for _ in 0..6 {
                let started = Instant::now();
                model.sequence_losses(forward, batch).map_err(lora_failure)?;
                seconds.push(started.elapsed().as_secs_f64());
            }
            // The first builds kernels.
            Ok(median(&mut seconds[1..]))
        };
        let one = time(&Forward::evaluation(Some(&candidates[0])), &host)?;
        found.push((length, one, time(&Forward::stacked(&stack), &all)?));
    }
    Ok(found)
}
