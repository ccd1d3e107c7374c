//! `bench table`: what reports found, as a table for a page of text.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use crate::failure::{Failure, Outcome};
use crate::loading::lora_failure;
use crate::output::Output;
use crate::report::Report;

/// Example: cargo xtask bench table docs/reports/cpu docs/reports/h200 --into README.md
#[derive(clap::Args)]
pub struct Arguments {
    /// Files of results (results.json), or their directories.
    #[arg(required = true)]
    reports: Vec<PathBuf>,
    /// Replace what stands in this file between the lines `<!-- bench table -->` and `<!-- end of bench table -->`;
    /// default: print.
    #[arg(long, value_name = "FILE")]
    into: Option<PathBuf>,
}

const BEGIN: &str = "<!-- bench table -->\n";
const END: &str = "<!-- end of bench table -->";

pub fn run(arguments: &Arguments, output: &Output) -> Outcome<ExitCode> {
    let mut tables = Vec::new();
    for path in &arguments.reports {
        tables.push(markdown(&Report::read(path)?));
    }
    let tables = tables.join("\n");
    match &arguments.into {
        Some(file) => {
            replace(file, &tables)?;
            output.say(format!("{}: the table is replaced", file.display()));
        }
        None => output.say(&tables),
    }
    output.result(&json!({ "markdown": tables }));
    Ok(ExitCode::SUCCESS)
}

/// One report as a heading and a table.
fn markdown(report: &Report) -> String {
    let about = &report.about;
    let commit = about.commit.as_deref().unwrap_or("unknown");
    let device = match &about.driver {
        Some(driver) => format!("{} ({driver})", about.device),
        None => format!("{} ({} threads)", about.device, about.threads),
    };
    let mut text = format!("`cargo xtask {}`, {device}, {} UTC, commit {commit}:\n\n", about.command, about.date);
    text += "| what | seen |\n|---|---|\n";
    for finding in report.sections.iter().flat_map(|section| &section.findings) {
        text += &format!("| {} | {} |\n", cell(&finding.name), cell(&finding.text));
    }
    text
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// Replaces the marked part of a file.
fn replace(file: &Path, tables: &str) -> Outcome<()> {
    let refused = |message: &str| Failure::input(format!("--into {}: {message}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| refused(&error.to_string()))?;
    let text = with_tables(&text, tables)
        .ok_or_else(|| refused(&format!("has no lines `{}` and `{END}` in this order", BEGIN.trim_end())))?;
    lora::write_whole(file, text.as_bytes()).map_err(lora_failure)
}

fn with_tables(text: &str, tables: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{tables}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marked_part_is_replaced() {
        let text = format!("a\n{BEGIN}old\n{END}\nb\n");
        let once = with_tables(&text, "| new |").unwrap();
        assert_eq!(once, format!("a\n{BEGIN}\n| new |\n{END}\nb\n"));
        assert_eq!(with_tables(&once, "| new |").unwrap(), once);
        assert_eq!(with_tables("a\nb\n", "| new |"), None);
    }
}
