//! Suite `peers`: the same LoRA step by PyTorch with transformers and PEFT, on the same shapes, in turns with ours, where a
//! Python that has them is found. Nothing else here needs Python.

use std::path::{Path, PathBuf};
use std::process::Command;

use models::{DebertaConfig, LlamaConfig};
use serde_json::{Value, json};

use super::progress::Meter;
use super::step::{self, cases};
use super::subject::Case;
use super::{Bench, Results};
use crate::commands::finetune::Precision;
use crate::failure::{Failure, Outcome};

#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Options {
    /// Suite peers: the Python that has PyTorch, transformers and PEFT; default: python3.
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
}

/// Times that both take a turn; a machine may drift.
const ROUNDS: usize = 3;

/// How to get what is missing.
const WAY_OUT: &str = "python3 -m venv target/peers && target/peers/bin/pip install -r xtask/peers/requirements.txt && \
    cargo xtask bench peers --python target/peers/bin/python";

pub fn run(options: &Options, steps: &step::Options, bench: &Bench<'_>, results: &mut Results) -> Outcome<()> {
    let output = bench.output;
    let python = options.python.clone().unwrap_or_else(|| "python3".into());
    let versions = match call(&python, &json!({ "versions": true })) {
        Ok(versions) => versions,
        Err(error) if options.python.is_some() => {
            return Err(Failure::input(format!("--python {}: {error}. To get it: {}", python.display(), WAY_OUT)));
        }
        Err(error) => {
            output.say(format!(
                "\nno peer: {} has no PyTorch with PEFT ({error}). To get it: {}",
                python.display(),
                WAY_OUT
            ));
            results.set("absent", json!(WAY_OUT));
            return Ok(());
        }
    };
    output.say(format!("\npeer: {versions}"));
    results.set("versions", versions);
    for case in cases(steps, bench.plan.step)? {
        let request = request(&case, steps, bench)?;
        let (mut ours, mut theirs, mut last) = (Vec::new(), Vec::new(), Value::Null);
        let meter = Meter::new(output, 2 * ROUNDS as u64);
        for _ in 0..ROUNDS {
            let own = step::seconds(&case, steps, bench)?;
            meter.done(1, &format!("{}: {:.1} ms here", case.preset, own * 1e3))?;
            last = call(&python, &request).map_err(|error| anyhow::anyhow!("{}: {error}", python.display()))?;
            let their = last["step_seconds"].as_f64().unwrap_or(f64::NAN);
            meter.done(1, &format!("{}: {:.1} ms by PyTorch and PEFT", case.preset, their * 1e3))?;
            ours.push(own);
            theirs.push(their);
        }
        results.push(
            "cases",
            json!({
                "preset": case.preset, "batch": case.batch, "seq": case.sequence, "rank": case.rank,
                "dtype": steps.dtype.to_string(), "trainable": last["trainable"],
                "time": { "ours": ours, "theirs": theirs, "their_peak_bytes": last["peak_bytes"] },
            }),
        );
    }
    Ok(())
}

/// What the peer is to do: the same shapes, by the names that transformers has for them.
fn request(case: &Case, steps: &step::Options, bench: &Bench<'_>) -> Outcome<Value> {
    let unknown = || Failure::input(format!("suite peers: `{}` is no preset", case.preset));
    let (family, config) = match case.preset.strip_prefix("deberta-v3-") {
        Some(name) => {
            let config = DebertaConfig::preset(name).ok_or_else(unknown)?;
            let config = json!({
                "vocab_size": config.vocab_size, "hidden_size": config.hidden_size,
                "intermediate_size": config.intermediate_size, "num_hidden_layers": config.num_hidden_layers,
                "num_attention_heads": config.num_attention_heads, "pooler_hidden_size": config.hidden_size,
            });
            ("deberta", config)
        }
        None => {
            let config = LlamaConfig::preset(&case.preset).ok_or_else(unknown)?;
            let config = json!({
                "vocab_size": config.vocab_size, "hidden_size": config.hidden_size,
                "intermediate_size": config.intermediate_size, "num_hidden_layers": config.num_hidden_layers,
                "num_attention_heads": config.num_attention_heads, "num_key_value_heads": config.num_key_value_heads,
                "max_position_embeddings": config.max_position_embeddings,
                "tie_word_embeddings": config.tie_word_embeddings,
            });
            ("llama", config)
        }
    };
    let is_software = bench.device.adapter().is_none_or(|adapter| adapter.is_software());
    Ok(json!({
        "family": family, "config": config, "batch": case.batch, "seq": case.sequence, "rank": case.rank,
        "weights": if steps.dtype == Precision::F32 { "f32" } else { "bf16" }, "device": if is_software { "cpu" } else { "cuda" },
        "threads": rayon::current_num_threads(),
    }))
}

/// Runs our script with a request and gives its answer, or why there is none.
fn call(python: &Path, request: &Value) -> Result<Value, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/lora_step.py");
    let run = Command::new(python).arg(&script).arg(request.to_string()).output().map_err(|error| error.to_string())?;
    let (answer, complaint) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    let last = |text: &str| text.lines().last().unwrap_or("it said nothing").to_string();
    if !run.status.success() {
        return Err(last(&complaint));
    }
    serde_json::from_str(&last(&answer)).map_err(|error| format!("{error} in: {}", last(&answer)))
}
