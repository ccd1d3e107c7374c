//! `bench compare`: the bars of two reports side by side, and which became worse beyond noise.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use crate::failure::Outcome;
use crate::output::{Output, table};
use crate::report::{Bar, Better, Figure, Report};

/// Example: cargo xtask bench compare old/results.json new/results.json
///
/// Exit codes: 0 where nothing became worse beyond noise, 1 where something did, 2 where a file cannot be read.
#[derive(clap::Args)]
pub struct Arguments {
    /// The results.json of the earlier run, or its directory.
    old: PathBuf,
    /// That of the later run.
    new: PathBuf,
}

/// A measure's place in a report: section, figure, group, name.
type Place<'a> = [&'a str; 4];

struct Measure<'a> {
    bar: &'a Bar,
    unit: &'a str,
    better: Better,
}

/// What became of a measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The intervals do not meet, and the new value is the worse one.
    Worse,
    /// The same for the better one.
    Better,
    /// The intervals meet.
    Same,
    /// One of the two has no interval.
    Unknown,
}

impl Verdict {
    fn of(old: &Bar, new: &Bar, better: Better) -> Self {
        let (Some(old), Some(new)) = (old.low.zip(old.high), new.low.zip(new.high)) else { return Verdict::Unknown };
        let (falls, rises) = (new.1 < old.0, new.0 > old.1);
        match better {
            Better::Lower if rises => Verdict::Worse,
            Better::Higher if falls => Verdict::Worse,
            _ if falls || rises => Verdict::Better,
            _ => Verdict::Same,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Verdict::Worse => "WORSE",
            Verdict::Better => "better",
            Verdict::Same => "same",
            Verdict::Unknown => "no interval",
        }
    }
}

/// The measures of a report, others' numbers left out.
fn measures(report: &Report) -> BTreeMap<Place<'_>, Measure<'_>> {
    let figures =
        report.sections.iter().flat_map(|section| section.figures.iter().map(move |figure| (section, figure)));
    let bars = figures.filter_map(|(section, figure)| match figure {
        Figure::Bars(bars) => Some((section, bars)),
        Figure::Lines(_) | Figure::Table(_) => None,
    });
    bars.flat_map(|(section, bars)| {
        let own = bars.bars.iter().filter(|bar| !bar.published);
        own.map(move |bar| {
            let place = [section.name.as_str(), &bars.title, &bar.group, &bar.name];
            (place, Measure { bar, unit: &bars.unit, better: bars.better })
        })
    })
    .collect()
}

pub fn run(arguments: &Arguments, output: &Output) -> Outcome<ExitCode> {
    let (old, new) = (Report::read(&arguments.old)?, Report::read(&arguments.new)?);
    if old.about.device != new.about.device {
        output.say(format!("the devices differ: {} and {}", old.about.device, new.about.device));
    }
    let (before, after) = (measures(&old), measures(&new));
    let (mut rows, mut results, mut worse) = (Vec::new(), Vec::new(), Vec::new());
    for (place, old) in &before {
        let Some(new) = after.get(place) else { continue };
        let verdict = Verdict::of(old.bar, new.bar, new.better);
        let ratio = new.bar.value / old.bar.value;
        let name = place[1..].join(" / ");
        if verdict == Verdict::Worse {
            worse.push(name.clone());
        }
        rows.push(vec![
            name.clone(),
            format!("{:.4} {}", old.bar.value, old.unit),
            format!("{:.4} {}", new.bar.value, new.unit),
            format!("{ratio:.3}"),
            verdict.word().into(),
        ]);
        results.push(json!({
            "section": place[0], "name": name, "old": old.bar.value, "new": new.bar.value, "ratio": ratio,
            "verdict": verdict.word(),
        }));
    }
    output.say(table(&["measure", "old", "new", "new/old", "verdict"], &rows));
    let alone = before.len() + after.len() - 2 * rows.len();
    output.say(format!("\n{} measures in both, {alone} in one only; worse beyond noise: {}", rows.len(), worse.len()));
    worse.iter().for_each(|name| output.say(format!("- {name}")));
    output.result(&json!({ "measures": results, "worse": worse }));
    Ok(if worse.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_decide() {
        let bar = |value: f64, width: Option<f64>| Bar {
            group: String::new(),
            name: String::new(),
            value,
            low: width.map(|width| value - width),
            high: width.map(|width| value + width),
            ceiling: None,
            published: false,
        };
        let verdict = |old, new, better| Verdict::of(&bar(old, Some(0.5)), &bar(new, Some(0.5)), better);
        assert_eq!(verdict(10.0, 10.9, Better::Lower), Verdict::Same);
        assert_eq!(verdict(10.0, 11.1, Better::Lower), Verdict::Worse);
        assert_eq!(verdict(10.0, 11.1, Better::Higher), Verdict::Better);
        assert_eq!(verdict(10.0, 8.9, Better::Higher), Verdict::Worse);
        assert_eq!(verdict(10.0, 8.9, Better::Lower), Verdict::Better);
        assert_eq!(Verdict::of(&bar(1.0, None), &bar(9.0, Some(0.1)), Better::Lower), Verdict::Unknown);
    }
}
