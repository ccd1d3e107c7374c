//! What a benchmark found, for people and machines: one [`Report`] is `results.json` as it is, and is drawn as
//! `report.html`, one file that needs nothing else: no scripts, no fonts or pictures from elsewhere, light or dark as the
//! reader's system is, readable on a phone.
//!
//! The schema of results.json (version [`SCHEMA`]; increased when a field changes its meaning or goes):
//!
//! | field | meaning |
//! |---|---|
//! | `schema` | the version of this schema |
//! | `title` | one line |
//! | `about` | `command`, `version`, `commit` (null outside a checkout), `date` (UTC), `device`, `driver` (null on the CPU), `threads`, `seed`, `seconds`, `complete` (false when interrupted) |
//! | `sections` | one for the world and one for each suite: `name`, `title`, `text` (paragraphs), `findings`, `figures`, `raw` (everything the suite measured, in its own form) |
//! | finding | `name` (a few words, the row of the README's table), `text` (a sentence for the summary), `timed` |
//! | figure, `kind` = `lines` | `title`, `note`, `timed`, `x` and `y` (`label`, `logarithmic`, `limits` or null), `series`: `name`, `published`, `curves`: `seed`, `x`, `y`, `diverged` |
//! | figure, `kind` = `bars` | `title`, `note`, `timed`, `unit`, `better` (`higher`, `lower`), `bars`: `group`, `name`, `value`, `low` and `high` (an interval, or null), `ceiling` (what the device can do at most, or null), `published` |
//! | figure, `kind` = `table` | `title`, `note`, `timed`, `header`, `rows` (texts) |
//!
//! All numbers are finite: a curve ends before the first that is not, and says `diverged`. `published` marks others' numbers.
//! A name (of a series or bar) has one colour throughout a report. Series are drawn as the median over seeds with a band
//! from the lowest to the highest. `bench compare` compares bars.
//!
//! The same command with the same seed on the same device gives the same file, but for what depends on the clock and on memory that
//! is shared: findings and figures with `timed`, and values under keys that are or end in `seconds`, `time` or `date`.
//!
//! Versions: 2 has `timed`, named findings and the section `world`; 1 had sentences as findings.

mod bars;
mod html;
mod lines;
mod markup;
mod scale;
mod statistics;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::{Failure, Outcome};

/// The version of the schema.
pub const SCHEMA: u32 = 2;

/// Everything that one run of `bench` found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub schema: u32,
    pub title: String,
    pub about: About,
    pub sections: Vec<Section>,
}

/// What was run, where and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    pub command: String,
    pub version: String,
    pub commit: Option<String>,
    /// UTC, as 2026-01-31 12:00.
    pub date: String,
    pub device: String,
    pub driver: Option<String>,
    pub threads: usize,
    pub seed: u64,
    pub seconds: f64,
    /// False when the run was interrupted.
    pub complete: bool,
}

/// What one suite found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Section {
    pub name: String,
    pub title: String,
    /// Paragraphs: what was done and how to read it.
    pub text: Vec<String>,
    /// What it shows, with intervals; the summary is made of them.
    pub findings: Vec<Finding>,
    pub figures: Vec<Figure>,
    /// Everything the suite measured, in its own form.
    pub raw: Value,
}

/// One thing that a section shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is about, in a few words.
    pub name: String,
    /// A sentence.
    pub text: String,
    /// It depends on how fast the machine is.
    pub timed: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Figure {
    Lines(Lines),
    Bars(Bars),
    Table(Table),
}

/// Curves over seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lines {
    pub title: String,
    pub note: String,
    /// It depends on how fast the machine is.
    pub timed: bool,
    pub x: Axis,
    pub y: Axis,
    pub series: Vec<Series>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Axis {
    pub label: String,
    pub logarithmic: bool,
    /// Where it ends, when not at the data.
    pub limits: Option<(f64, f64)>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    pub name: String,
    pub published: bool,
    pub curves: Vec<Curve>,
}

/// One seed's points, by rising x.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    pub seed: u64,
    pub x: Vec<f64>,
    pub y: Vec<f64>,
    /// It went on with numbers that are not finite.
    pub diverged: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bars {
    pub title: String,
    pub note: String,
    /// It depends on how fast the machine is.
    pub timed: bool,
    pub unit: String,
    pub better: Better,
    pub bars: Vec<Bar>,
}

/// Which of two values is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    Higher,
    Lower,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bar {
    /// What is compared with what: bars of one group stand together.
    pub group: String,
    pub name: String,
    pub value: f64,
    /// The ends of an interval.
    pub low: Option<f64>,
    pub high: Option<f64>,
    /// What the device can do at the most.
    pub ceiling: Option<f64>,
    pub published: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    pub title: String,
    pub note: String,
    /// It depends on how fast the machine is.
    pub timed: bool,
    pub header: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Finding {
    pub fn new(name: &str, text: String, timed: bool) -> Self {
        Finding { name: name.into(), text, timed }
    }
}

impl Axis {
    pub fn linear(label: &str) -> Self {
        Axis { label: label.into(), ..Axis::default() }
    }

    pub fn logarithmic(label: &str) -> Self {
        Axis { label: label.into(), logarithmic: true, limits: None }
    }
}

impl Curve {
    /// A curve up to the first point that is not finite.
    pub fn new(seed: u64, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let mut curve = Curve { seed, x: Vec::new(), y: Vec::new(), diverged: false };
        for (x, y) in points {
            if !(x.is_finite() && y.is_finite()) {
                curve.diverged = true;
                break;
            }
            curve.x.push(x);
            curve.y.push(y);
        }
        curve
    }
}

impl Report {
    /// What the run shows, a sentence a line.
    pub fn summary(&self) -> String {
        let findings = self.sections.iter().flat_map(|section| &section.findings);
        findings.map(|finding| format!("- {}: {}\n", finding.name, finding.text)).collect()
    }

    /// Reads a `results.json`, given as a file or by its directory.
    pub fn read(path: &Path) -> Outcome<Self> {
        let file = if path.is_dir() { path.join("results.json") } else { path.to_path_buf() };
        let refused = |error: &dyn std::fmt::Display| Failure::input(format!("{}: {error}", file.display()));
        let text = std::fs::read(&file).map_err(|error| refused(&error))?;
        let value: Value = serde_json::from_slice(&text).map_err(|error| refused(&error))?;
        match value["schema"].as_u64() {
            Some(schema) if schema == u64::from(SCHEMA) => Report::deserialize(value).map_err(|error| refused(&error)),
            schema => Err(refused(&format!(
                "is not a result of schema {SCHEMA} (its `schema` is {}); make it again with `cargo xtask bench --out DIR`",
                schema.map_or("absent".into(), |schema| schema.to_string())
            ))),
        }
    }

    /// Writes `results.json` and `report.html`, each whole or not at all.
    pub fn write(&self, directory: &Path) -> Outcome<()> {
        let refused = |error: &dyn std::fmt::Display| Failure::input(format!("--out {}: {error}", directory.display()));
        std::fs::create_dir_all(directory).map_err(|error| refused(&error))?;
        let json = serde_json::to_string(self)? + "\n";
        for (name, text) in [("results.json", json), ("report.html", html::page(self))] {
            lora::write_whole(&directory.join(name), text.as_bytes()).map_err(|error| refused(&error))?;
        }
        Ok(())
    }
}
