//! Many adapters of one base restored in one run: what the run takes beside the sum of what each adapter's own search and
//! training take. The base is loaded once, its change is measured once.

use std::fs;
use std::time::Instant;

use lora::write_whole;
use serde_json::{Value, json};

use super::super::Bench;
use super::super::lineage::Lineage;
use super::super::progress::Meter;
use super::commands::{self, words};
use super::runs::Runs;
use super::settings::Settings;
use crate::failure::{Failure, Outcome};
use crate::loading::lora_failure;

/// Stages of a report whose seconds are an adapter's own.
const OWN: [&str; 4] = ["gate", "search", "training", "judging"];

pub fn run(settings: &Settings, lineage: &Lineage, bench: &Bench<'_>) -> Outcome<Value> {
    let Bench { common, output, .. } = *bench;
    let meter = Meter::new(output, settings.fleet);
    let runs = Runs::open(settings, common, meter)?;
    let update =
        lineage.updates.last().ok_or_else(|| Failure::input("suite relora, part fleet: there is no update"))?;
    let mut manifest = String::new();
    for number in 0..settings.fleet {
        let task = &lineage.tasks[number as usize % lineage.tasks.len()];
        let (adapter, _) = runs.adapter(lineage, task, common.seed + number / lineage.tasks.len() as u64)?;
        let absolute = |path: &std::path::Path| -> Outcome<String> {
            let whole = path.canonicalize();
            Ok(whole.map_err(|error| Failure::input(format!("{}: {error}", path.display())))?.display().to_string())
        };
        let mut line = json!({
            "adapter": absolute(&adapter)?, "data": absolute(&task.training)?, "task": task.kind,
            "name": format!("{}-{number}", task.name),
        });
        if let Some(validation) = &task.validation {
            line["validation"] = absolute(validation)?.into();
        }
        manifest += &format!("{line}\n");
    }
    let (file, out) = (settings.work.join("fleet.jsonl"), settings.work.join("fleet"));
    write_whole(&file, manifest.as_bytes()).map_err(lora_failure)?;
    // Nothing of an earlier run may be found again.
    let _ = fs::remove_dir_all(&out);
    let rate = settings.restore_rates.get(1).or(settings.restore_rates.first()).copied().unwrap_or(1e-3);
    let mut words = words(
        "restore",
        &[
            ("old-model", lineage.base.display().to_string()),
            ("new-model", update.directory.display().to_string()),
            ("manifest", file.display().to_string()),
            ("target", "none".into()),
            ("steps", settings.restore_steps.to_string()),
            ("eval-every", settings.restore_steps.to_string()),
            ("lr", rate.to_string()),
            ("batch", settings.batch.to_string()),
            ("seq", settings.sequence.to_string()),
            ("out", out.display().to_string()),
        ],
    );
    words.push("--overwrite".into());
    let started = Instant::now();
    let (result, complete) = commands::run(&words, common)?;
    let seconds = started.elapsed().as_secs_f64();
    if !complete {
        return Err(anyhow::anyhow!("restoring the fleet failed: {result}").into());
    }
    let reports = result["adapters"].as_array().cloned().unwrap_or_default();
    let sum = |stage: &str| reports.iter().filter_map(|report| report["seconds"][stage].as_f64()).sum::<f64>();
    let own: f64 = OWN.into_iter().map(sum).sum();
    let evolution = sum("evolution");
    output.say(format!(
        "\n{} adapters in one run: {seconds:.1} s, {:.3} times the {own:.1} s of their own gate, search, training and judging; the \
         base's change took {evolution:.2} s",
        reports.len(),
        seconds / own
    ));
    Ok(json!({
        "adapters": reports.len(), "seconds": seconds, "own_seconds": own, "ratio": seconds / own,
        "evolution_seconds": evolution, "gate": sum("gate"), "search": sum("search"), "training": sum("training"), "judging": sum("judging"),
    }))
}
