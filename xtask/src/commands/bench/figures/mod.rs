//! What the suites measured as sections of the report: figures, tables and findings, made from the suites' raw results.

mod kernels;
mod peers;
mod reflora;
mod relora;
mod step;
mod world;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::failure::Outcome;
use crate::report::{Figure, Section};

/// The section of a suite by its name; a suite without figures of its own gets one with its raw results.
pub fn section(suite: &str, raw: Value) -> Outcome<Section> {
    if raw.as_object().is_none_or(Map::is_empty) {
        // Interrupted before it had anything.
        return Ok(Section { name: suite.into(), title: suite.into(), raw, ..Section::default() });
    }
    let mut section = match suite {
        "world" => world::section(&raw)?,
        "kernels" => kernels::section(&raw)?,
        "step" => step::section(&raw)?,
        "peers" => peers::section(&raw)?,
        "reflora" => reflora::section(&raw)?,
        "relora" => relora::section(&raw)?,
        _ => Section { title: suite.into(), ..Section::default() },
    };
    // An interrupted suite may have nothing for some.
    section.figures.retain(|figure| match figure {
        Figure::Lines(lines) => !lines.series.is_empty(),
        Figure::Bars(bars) => !bars.bars.is_empty(),
        Figure::Table(table) => !table.rows.is_empty(),
    });
    Ok(Section { name: suite.into(), raw, ..section })
}

/// A part of the raw results as what it is.
fn part<T: DeserializeOwned>(raw: &Value) -> Outcome<T> {
    Ok(T::deserialize(raw)?)
}

/// A method as people write it.
fn method_name(method: &str) -> String {
    let name = match method {
        "lora" => "LoRA",
        "lora-plus" => "LoRA+",
        "scaled" => "scaled gradients",
        "reflora" => "RefLoRA",
        "reflora-s" => "RefLoRA-S",
        other => other,
    };
    name.into()
}
