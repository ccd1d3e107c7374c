//! `adapter_config.json`: PEFT's description of an adapter, read strictly and written as PEFT 0.13 needs it.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::{Bias, LoraConfig, Overrides};
use crate::error::{LoraError, Result};
use crate::files::read_small;
use crate::init::Initialisation;
use crate::provenance::Provenance;
use crate::targets::Targets;

/// Names of modules in patterns take the most room; more than this is damage or malice.
const MAX_BYTES: u64 = 1 << 24;

/// What a PEFT directory says about an adapter besides its hyper-parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdapterOrigin {
    /// `base_model_name_or_path`: the model the adapter was trained on, as its trainer called it.
    pub base_model: Option<String>,
    /// `task_type`, such as `CAUSAL_LM`.
    pub task_type: Option<String>,
    /// What `provenance.json` says: which base, which run. PEFT's files have no place for it.
    pub provenance: Option<Provenance>,
}

/// The file's fields in the order in which they are written. Fields that only newer versions of PEFT know arrive in
/// `others`.
#[derive(Serialize, Deserialize)]
struct Fields {
    #[serde(default)]
    alpha_pattern: Option<Overrides<f64>>,
    #[serde(default)]
    auto_mapping: Value,
    #[serde(default)]
    base_model_name_or_path: Option<String>,
    #[serde(default)]
    bias: Option<String>,
    #[serde(default)]
    fan_in_fan_out: Option<bool>,
    #[serde(default)]
    inference_mode: Option<bool>,
    #[serde(default)]
    init_lora_weights: Value,
    #[serde(default)]
    layer_replication: Value,
    #[serde(default)]
    layers_pattern: Value,
    #[serde(default)]
    layers_to_transform: Value,
    #[serde(default)]
    loftq_config: Value,
    lora_alpha: Value,
    #[serde(default)]
    lora_dropout: Option<f32>,
    #[serde(default)]
    megatron_config: Value,
    #[serde(default)]
    megatron_core: Value,
    #[serde(default)]
    modules_to_save: Value,
    peft_type: String,
    r: usize,
    #[serde(default)]
    rank_pattern: Option<Overrides<usize>>,
    #[serde(default)]
    revision: Value,
    #[serde(default)]
    target_modules: Value,
    #[serde(default)]
    task_type: Option<String>,
    /// Known to PEFT from 0.14 on, so only written where it says something.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    exclude_modules: Value,
    #[serde(default)]
    use_dora: Option<bool>,
    #[serde(default)]
    use_rslora: Option<bool>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// Reads `adapter_config.json`. Unknown settings are tolerated; those that would change what the adapter computes, and
/// that this engine does not do, are refused by name.
///
/// # Errors
/// [`LoraError::File`], [`LoraError::Format`] or [`LoraError::Unsupported`].
pub fn read_adapter_config(path: &Path) -> Result<(LoraConfig, AdapterOrigin)> {
    let text = read_small(path, MAX_BYTES)?;
    let fields: Fields = serde_json::from_slice(&text).map_err(|error| LoraError::format(path, error))?;
    refuse_shifted_base(path, &fields)?;
    read_fields(path, fields)
}

/// Reads the text that [`write_training_config`] made for the adapter file at `path`.
pub(crate) fn read_training_config(path: &Path, text: &str) -> Result<LoraConfig> {
    let fields: Fields = serde_json::from_str(text).map_err(|error| LoraError::format(path, error))?;
    Ok(read_fields(path, fields)?.0)
}

fn read_fields(path: &Path, fields: Fields) -> Result<(LoraConfig, AdapterOrigin)> {
    refuse_unsupported(path, &fields)?;
    let alpha = fields.lora_alpha.as_f64();
    let config = LoraConfig {
        rank: fields.r,
        alpha: alpha.ok_or_else(|| LoraError::format(path, "`lora_alpha` is not a number"))?,
        dropout: fields.lora_dropout.unwrap_or(0.0),
        targets: read_targets(path, "target_modules", &fields.target_modules)?,
        rank_pattern: fields.rank_pattern.unwrap_or_default(),
        alpha_pattern: fields.alpha_pattern.unwrap_or_default(),
        use_rslora: fields.use_rslora.unwrap_or(false),
        modules_to_save: read_names(path, "modules_to_save", &fields.modules_to_save)?,
        use_dora: fields.use_dora.unwrap_or(false),
        bias: match fields.bias.as_deref() {
            None => Bias::None,
            Some(text) => text.parse().map_err(|error| LoraError::format(path, error))?,
        },
        layers_to_transform: read_layers(path, &fields.layers_to_transform)?,
        layers_pattern: read_names(path, "layers_pattern", &fields.layers_pattern)?,
        exclude_modules: match &fields.exclude_modules {
            value if unused(value) => None,
            value => Some(read_targets(path, "exclude_modules", value)?),
        },
        init_lora_weights: read_initialisation(&fields.init_lora_weights),
    };
    config.validate().map_err(|error| LoraError::format(path, error))?;
    let named = |text: Option<String>| text.filter(|text| !text.is_empty());
    let origin = AdapterOrigin {
        base_model: named(fields.base_model_name_or_path),
        task_type: named(fields.task_type),
        provenance: None,
    };
    Ok((config, origin))
}

/// The text of `adapter_config.json` for an adapter.
///
/// # Errors
/// [`LoraError::Format`] when the values cannot be written as JSON.
pub fn write_adapter_config(config: &LoraConfig, origin: &AdapterOrigin) -> Result<String> {
    // Where PEFT reads one of the others, it takes the weights apart again or does not know the name.
    let initialisation = match config.init_lora_weights {
        Initialisation::Gaussian => Value::from("gaussian"),
        Initialisation::Random => Value::Bool(false),
        _ => Value::Bool(true),
    };
    write_fields(config, origin, initialisation)
}

/// The configuration of a set whose initial product is subtracted, with its own rank and initialiser: what
/// [`crate::AdapterSet::load`] needs beside the file that PEFT reads.
pub(crate) fn write_training_config(config: &LoraConfig, origin: &AdapterOrigin) -> Result<String> {
    write_fields(config, origin, Value::from(config.init_lora_weights.to_string()))
}

fn write_fields(config: &LoraConfig, origin: &AdapterOrigin, initialisation: Value) -> Result<String> {
    let fields = Fields {
        alpha_pattern: Some(config.alpha_pattern.clone()),
        auto_mapping: Value::Null,
        // PEFT opens this path when no base is given; an empty text means "none" to it.
        base_model_name_or_path: Some(origin.base_model.clone().unwrap_or_default()),
        bias: Some(config.bias.to_string()),
        fan_in_fan_out: Some(false),
        inference_mode: Some(true),
        init_lora_weights: initialisation,
        layer_replication: Value::Null,
        layers_pattern: names_or_null(&config.layers_pattern),
        layers_to_transform: match &config.layers_to_transform[..] {
            [] => Value::Null,
            layers => layers.iter().copied().map(Value::from).collect(),
        },
        loftq_config: Value::Object(Map::new()),
        lora_alpha: number(config.alpha),
        lora_dropout: Some(config.dropout),
        megatron_config: Value::Null,
        megatron_core: Value::String("megatron.core".into()),
        modules_to_save: names_or_null(&config.modules_to_save),
        peft_type: "LORA".into(),
        r: config.rank,
        rank_pattern: Some(config.rank_pattern.clone()),
        revision: Value::Null,
        target_modules: write_targets(&config.targets),
        task_type: origin.task_type.clone(),
        exclude_modules: config.exclude_modules.as_ref().map_or(Value::Null, write_targets),
        use_dora: Some(config.use_dora),
        use_rslora: Some(config.use_rslora),
        others: Map::new(),
    };
    serde_json::to_string_pretty(&fields).map_err(|error| LoraError::format(Path::new("adapter_config.json"), error))
}

/// A whole number without a fraction part, since Python declares `lora_alpha` as an integer.
fn number(value: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT { Value::from(value as i64) } else { Value::from(value) }
}

fn read_targets(path: &Path, setting: &str, value: &Value) -> Result<Targets> {
    let wrong = || LoraError::format(path, format!("`{setting}` must be a list of names, a pattern or \"all-linear\""));
    match value {
        Value::String(text) if text == "all-linear" => Ok(Targets::AllLinear),
        Value::String(pattern) => Ok(Targets::Pattern(pattern.clone())),
        Value::Array(names) => {
            let names: Option<Vec<String>> = names.iter().map(|name| name.as_str().map(str::to_string)).collect();
            let mut names = names.ok_or_else(wrong)?;
            // PEFT writes a Python set, in random order.
            names.sort();
            names.dedup();
            Ok(Targets::Names(names))
        }
        _ => Err(wrong()),
    }
}

fn write_targets(targets: &Targets) -> Value {
    match targets {
        Targets::Names(names) => names.iter().cloned().map(Value::String).collect(),
        Targets::Pattern(pattern) => Value::String(pattern.clone()),
        Targets::AllLinear => Value::String("all-linear".into()),
    }
}

/// Layer numbers: none, one, or a list.
fn read_layers(path: &Path, value: &Value) -> Result<Vec<usize>> {
    let items = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(items) => items.as_slice(),
        single => std::slice::from_ref(single),
    };
    let numbers = items.iter().map(|item| item.as_u64().and_then(|number| usize::try_from(number).ok()));
    let wrong = || LoraError::format(path, "`layers_to_transform` must be a number or a list of numbers");
    numbers.collect::<Option<_>>().ok_or_else(wrong)
}

/// How the factors began no longer matters to an adapter that has weights, so unknown names are no errors.
fn read_initialisation(value: &Value) -> Initialisation {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    text.parse().unwrap_or_default()
}

/// A list of names without repetitions, in its order; PEFT writes null for none.
fn read_names(path: &Path, setting: &str, value: &Value) -> Result<Vec<String>> {
    let wrong = || LoraError::format(path, format!("`{setting}` must be a list of names"));
    let items = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(items) => items.as_slice(),
        single => std::slice::from_ref(single),
    };
    let mut names: Vec<String> = Vec::new();
    for item in items {
        let name = item.as_str().ok_or_else(wrong)?;
        if !names.iter().any(|known| known == name) {
            names.push(name.into());
        }
    }
    Ok(names)
}

fn names_or_null(names: &[String]) -> Value {
    if names.is_empty() { Value::Null } else { names.iter().cloned().map(Value::String).collect() }
}

/// True for what PEFT writes when a setting is not used.
fn unused(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// PEFT writes these for adapters that belong to weights from which an initial product was subtracted.
fn refuse_shifted_base(path: &Path, fields: &Fields) -> Result<()> {
    match &fields.init_lora_weights {
        Value::String(kind) if ["pissa", "olora", "corda", "loftq"].iter().any(|shifts| kind.starts_with(shifts)) => {
            Err(LoraError::Unsupported {
                path: path.to_path_buf(),
                setting: "init_lora_weights".into(),
                value: fields.init_lora_weights.to_string(),
                advice: "this initialisation changes the base weights; convert the adapter to plain LoRA with PEFT's \
                         `path_initial_model_for_weight_conversion`"
                    .into(),
            })
        }
        _ => Ok(()),
    }
}

fn refuse_unsupported(path: &Path, fields: &Fields) -> Result<()> {
    let refuse = |setting: &str, value: &Value, advice: &str| {
        Err(LoraError::Unsupported {
            path: path.to_path_buf(),
            setting: setting.into(),
            value: value.to_string(),
            advice: advice.into(),
        })
    };
    const MERGE: &str = "merge the adapter into its base with PEFT, and use the merged model";
    if fields.peft_type != "LORA" {
        return refuse("peft_type", &Value::from(fields.peft_type.as_str()), "only LORA adapters can be read");
    }
    if fields.fan_in_fan_out == Some(true) {
        return refuse("fan_in_fan_out", &Value::Bool(true), "weights must be stored as [outputs, inputs]");
    }
    let known = [("layer_replication", &fields.layer_replication), ("megatron_config", &fields.megatron_config)];
    // Settings of later versions of PEFT than the fields above.
    const LATER: [&str; 8] = [
        "lora_bias",
        "target_parameters",
        "trainable_token_indices",
        "use_qalora",
        "use_bdlora",
        "alora_invocation_tokens",
        "arrow_config",
        "ensure_weight_tying",
    ];
    let later = LATER.iter().filter_map(|&name| Some((name, fields.others.get(name)?)));
    match known.into_iter().chain(later).find(|(_, value)| !unused(value)) {
        Some((setting, value)) => refuse(setting, value, MERGE),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
