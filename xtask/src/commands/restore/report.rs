//! What became of each adapter, for tables and for machines.

use std::time::Duration;

use lora::AdapterSet;
use models::{ModelUpdate, Side};
use rayon::prelude::*;
use relora::{Evolution, ModuleEvolution};
use serde_json::{Value, json};

use super::training::Ready;
use crate::failure::Outcome;
use crate::loading::lora_failure;
use crate::output::table;

/// What became of one adapter. Losses are those of the whole validation data.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub method: String,
    /// On the old base; measured where the target is parity.
    pub old_base_loss: Option<f64>,
    /// The old adapter on the new base.
    pub reuse_loss: Option<f64>,
    pub start_loss: Option<f64>,
    pub final_loss: Option<f64>,
    pub target: Option<f64>,
    pub ready: Option<Ready>,
    pub alpha: Option<f64>,
    pub beta: Option<f64>,
    /// ‖E‖/‖W‖ over the adapted weights.
    pub relative_size: Option<f64>,
    /// Where the result comes from: the old adapter, the start, or a step of the training.
    pub result: String,
    /// Steps of training done.
    pub steps: u64,
    pub stages: Stages,
    /// Validation examples that the old adapter was measured on before anything else.
    pub gate_examples: usize,
    /// Candidates times validation examples that the search looked at.
    pub search_examples: usize,
    /// The search in detail.
    pub search: Value,
    /// What training told of the regulariser and the gradients' method.
    pub training: Value,
    /// Remarks: what is carried over unchanged, what could not be checked.
    pub remarks: Vec<String>,
    /// A task's own measures of the result.
    pub metrics: Option<Value>,
    /// Each adapted weight's change.
    pub evolution: Value,
}

/// Seconds of each stage.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stages {
    pub gate: Duration,
    pub evolution: Duration,
    pub search: Duration,
    pub training: Duration,
    /// After the adapter was there: losses on the examples that nobody had to wait for, and the table of the base's change.
    pub judging: Duration,
}

impl Stages {
    fn json(&self) -> Value {
        let seconds = |duration: Duration| duration.as_secs_f64();
        json!({
            "gate": seconds(self.gate), "evolution": seconds(self.evolution), "search": seconds(self.search),
            "training": seconds(self.training), "judging": seconds(self.judging),
        })
    }

    /// The stages of an interrupted run.
    pub fn from_json(value: &Value) -> Self {
        let duration = |name: &str| Duration::from_secs_f64(value[name].as_f64().unwrap_or(0.0).max(0.0));
        Stages {
            gate: duration("gate"),
            evolution: duration("evolution"),
            search: duration("search"),
            training: duration("training"),
            judging: duration("judging"),
        }
    }

    pub fn total(&self) -> Duration {
        self.gate + self.evolution + self.search + self.training
    }
}

impl Report {
    /// One word on how it ended.
    pub fn outcome(&self) -> &'static str {
        match (self.target, self.ready) {
            (None, _) => "restored",
            (Some(_), Some(_)) => "ready",
            (Some(_), None) => "target missed",
        }
    }

    pub fn json(&self) -> Value {
        json!({
            "outcome": self.outcome(), "method": self.method, "old_base_loss": self.old_base_loss,
            "reuse_loss": self.reuse_loss, "start_loss": self.start_loss, "final_loss": self.final_loss,
            "target": self.target, "ready_step": self.ready.map(|ready| ready.step),
            "ready_seconds": self.ready.map(|ready| ready.seconds), "alpha": self.alpha, "beta": self.beta,
            "relative_size": self.relative_size, "result": self.result, "steps": self.steps,
            "seconds": self.stages.json(), "gate_examples": self.gate_examples, "search_examples": self.search_examples, "search": self.search,
            "training": self.training, "remarks": self.remarks, "metrics": self.metrics, "evolution": self.evolution,
        })
    }
}

/// The last table: a row for each adapter, from the reports as JSON, so that those of an earlier run fit in.
pub fn summary(rows: &[(String, Value)]) -> String {
    let header = [
        "adapter",
        "outcome",
        "old base",
        "reuse",
        "start",
        "result",
        "target",
        "alpha",
        "beta",
        "ready after",
        "gate",
        "evolution",
        "search",
        "training",
    ];
    let number = |value: &Value, digits: usize| match value.as_f64() {
        Some(number) => format!("{number:.digits$}"),
        None => "-".to_string(),
    };
    let seconds = |value: &Value| value.as_f64().map_or_else(|| "-".to_string(), |seconds| format!("{seconds:.1} s"));
    let cells = |(name, report): &(String, Value)| {
        let ready = match (report["ready_seconds"].as_f64(), report["ready_step"].as_u64()) {
            (Some(seconds), Some(step)) => format!("{seconds:.1} s, {step} steps"),
            _ => "-".to_string(),
        };
        let outcome = report["outcome"].as_str().unwrap_or("-").to_string();
        let losses = ["old_base_loss", "reuse_loss", "start_loss", "final_loss", "target"];
        let stages = ["gate", "evolution", "search", "training"];
        let mut cells = vec![name.clone(), outcome];
        cells.extend(losses.map(|loss| number(&report[loss], 4)));
        cells.extend(["alpha", "beta"].map(|coefficient| number(&report[coefficient], 2)));
        cells.push(ready);
        cells.extend(stages.map(|stage| seconds(&report["seconds"][stage])));
        cells
    };
    table(&header, &rows.iter().map(cells).collect::<Vec<_>>())
}

/// Rows of the evolution's table beyond which modules of one kind share a row.
const MOST_ROWS: usize = 48;

/// Each adapted weight's change, as a table and as JSON.
pub fn evolution(evolution: &Evolution, adapter: &AdapterSet) -> Outcome<(String, Value)> {
    let modules: Vec<(&str, &ModuleEvolution)> = evolution.modules().collect();
    let rows =
        modules.into_par_iter().map(|(module, change)| Ok((module.to_string(), numbers(module, change, adapter)?)));
    let rows = rows.collect::<Outcome<Vec<_>>>()?;
    let json: serde_json::Map<String, Value> = rows
        .iter()
        .map(|(module, numbers)| {
            let named = NAMES.iter().zip(numbers).map(|(name, &number)| (name.to_string(), json!(number)));
            (module.clone(), Value::Object(named.collect()))
        })
        .collect();
    let shown = if rows.len() <= MOST_ROWS { rows } else { by_kind(&rows) };
    let cells = |(module, numbers): &(String, [f64; 6])| {
        std::iter::once(module.clone()).chain(numbers.iter().map(|number| format!("{number:.3}"))).collect()
    };
    let header = ["weight", "change", "rank", "captured", "outputs", "inputs", "cosine"];
    Ok((table(&header, &shown.iter().map(cells).collect::<Vec<_>>()), json.into()))
}

/// What the columns of the evolution's table are called in JSON.
const NAMES: [&str; 6] =
    ["relative_size", "effective_rank", "captured", "output_alignment", "input_alignment", "cosine"];

fn numbers(module: &str, change: &ModuleEvolution, adapter: &AdapterSet) -> Outcome<[f64; 6]> {
    let statistics = &change.statistics;
    let (outputs, inputs, cosine) = match adapter.factors(module) {
        Some(factors) => {
            let alignment = change.alignment(&factors).map_err(lora_failure)?;
            (alignment.outputs, alignment.inputs, alignment.cosine)
        }
        None => (0.0, 0.0, 0.0),
    };
    let size = statistics.relative_size();
    Ok([size, statistics.effective_rank(), statistics.captured(), outputs, inputs, cosine])
}

/// The means of modules whose path ends alike.
fn by_kind(rows: &[(String, [f64; 6])]) -> Vec<(String, [f64; 6])> {
    let mut kinds: std::collections::BTreeMap<String, (usize, [f64; 6])> = std::collections::BTreeMap::new();
    for (module, numbers) in rows {
        let kind = module.rsplit('.').next().unwrap_or(module);
        let (count, sums) = kinds.entry(kind.to_string()).or_default();
        *count += 1;
        sums.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number);
    }
    let mean = |(kind, (count, sums)): (String, (usize, [f64; 6]))| {
        (format!("{kind} (mean of {count})"), sums.map(|sum| sum / count as f64))
    };
    kinds.into_iter().map(mean).collect()
}

/// What an adapter holds that restoring does not touch.
pub fn carried_over(adapter: &AdapterSet, update: &ModelUpdate) -> Vec<String> {
    let mut remarks = Vec::new();
    if adapter.config().use_dora {
        remarks.push("DoRA's magnitudes are carried over unchanged by the search and trained on".to_string());
    }
    let whole: Vec<&str> = adapter.whole_parameters().collect();
    if !whole.is_empty() {
        remarks.push(format!("carried over unchanged by the search and trained on: {}", whole.join(", ")));
    }
    let (before, after) = (update.vocabulary(Side::Old), update.vocabulary(Side::New));
    if after > before {
        remarks.push(format!("{} new tokens of the vocabulary are the new base's own", after - before));
    }
    remarks
}
