//! Suite `relora`: the losses of every method by what they cost, and the summary's tables.

use serde::Deserialize;
use serde_json::Value;

use super::super::relora::{Before, METHODS, Run, cells, points};
use super::part;
use crate::failure::Outcome;
use crate::report::{Axis, Curve, Figure, Lines, Section, Series, Table};

#[derive(Deserialize)]
struct Told {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

pub fn section(raw: &Value) -> Outcome<Section> {
    let mut section = Section { title: "ReLoRA".into(), ..Section::default() };
    if let Some(readiness) = raw.get("readiness") {
        section.text.push(TEXT.into());
        for (target, told) in readiness["summary"]["overall"].as_object().into_iter().flatten() {
            let Told { header, rows } = part(told)?;
            let sooner = rows.iter().find(|row| row[0] == "ReLoRA").map_or("-", |row| &row[1]);
            section.findings.push(format!("ReLoRA, target {target}: {sooner} times sooner than retraining, in steps."));
            section.figures.push(Figure::Table(Table {
                title: format!("How many times sooner, target {target}"),
                note: "Geometric means with 95 % intervals over all updates, tasks and seeds.".into(),
                header,
                rows,
            }));
        }
        let runs: Vec<Run> = part(&readiness["runs"])?;
        section.figures.extend(cells(&runs).into_iter().map(|((update, task), cell)| {
            let series =
                METHODS.iter().filter_map(|method| Some(series(method.name, cell.get(method.name)?))).collect();
            Figure::Lines(Lines {
                title: format!("{update}, {task}"),
                note: "Validation loss by what it cost: training steps and everything before, in steps.".into(),
                x: Axis::linear("steps"),
                y: Axis::logarithmic("validation loss"),
                series,
            })
        }));
    }
    Ok(section)
}

const TEXT: &str = "Adapters of an old base are restored to its updates by every method, each at the best of three learning \
    rates. Counted are the gate, the base's evolution, every look at a candidate, and the steps of training; a forward pass is a \
    third of a step's share for one sequence. Parity is the old adapter's loss on the old base and one percent; 98 % is \
    that share of the way from no adapter to the best retrained one.";

fn series(name: &str, runs: &[&Run]) -> Series {
    let curve = |run: &&Run| {
        let before = Before::of(run).total().steps;
        Curve::new(run.seed, points(run).map(|point| (before + point.step as f64, point.loss)))
    };
    Series { name: name.into(), published: false, curves: runs.iter().map(curve).collect() }
}
