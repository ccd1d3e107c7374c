//! What people and machines read: text on standard error when `--json` is given, else on standard output; the JSON
//! object as the last line of standard output.

use std::cell::RefCell;
use std::io::{IsTerminal, Write};

use serde_json::Value;

use crate::failure::Failure;

/// Where a command's words go.
pub struct Output {
    reader: Reader,
}

enum Reader {
    Person,
    Machine,
    /// A command that runs this one: nothing is printed, the object is kept.
    Command(RefCell<Option<Value>>),
}

impl Output {
    /// With `json`, text goes to standard error and [`Output::result`] prints its object.
    pub fn new(json: bool) -> Self {
        Output { reader: if json { Reader::Machine } else { Reader::Person } }
    }

    /// For a command that runs another: text goes nowhere, the object to [`Output::take_result`].
    pub fn captured() -> Self {
        Output { reader: Reader::Command(RefCell::new(None)) }
    }

    /// The object of a captured command.
    pub fn take_result(&self) -> Option<Value> {
        match &self.reader {
            Reader::Command(result) => result.take(),
            Reader::Person | Reader::Machine => None,
        }
    }

    /// One line for people.
    pub fn say(&self, line: impl AsRef<str>) {
        // A reader that went away (a closed pipe) is no reason to stop working.
        let _ = match self.reader {
            Reader::Machine => writeln!(std::io::stderr(), "{}", line.as_ref()),
            Reader::Person => writeln!(std::io::stdout(), "{}", line.as_ref()),
            Reader::Command(_) => Ok(()),
        };
    }

    /// Text for people without a line end, shown at once; for streamed generation.
    pub fn stream(&self, text: &str) {
        // As in `say`.
        let _ = match self.reader {
            Reader::Machine => write!(std::io::stderr(), "{text}").and_then(|()| std::io::stderr().flush()),
            Reader::Person => write!(std::io::stdout(), "{text}").and_then(|()| std::io::stdout().flush()),
            Reader::Command(_) => Ok(()),
        };
    }

    /// The object for machines; printed only with `--json`.
    pub fn result(&self, object: &Value) {
        match &self.reader {
            // As in `say`.
            Reader::Machine => drop(writeln!(std::io::stdout(), "{object}")),
            Reader::Command(result) => drop(result.replace(Some(object.clone()))),
            Reader::Person => {}
        }
    }

    /// The failure, for people and for machines.
    pub fn fail(&self, failure: &Failure) {
        // As in `say`.
        let _ = writeln!(std::io::stderr(), "error: {failure}");
        self.result(&serde_json::json!({ "error": failure.to_string() }));
    }

    /// True when progress bars make sense: someone reads, and standard error is a terminal.
    pub fn is_interactive(&self) -> bool {
        !matches!(self.reader, Reader::Command(_)) && std::io::stderr().is_terminal()
    }
}

/// Renders rows as a table with aligned columns: the first column to the left, the others to the right.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    let mut lines = vec![line(&mut header.iter().copied())];
    lines.push(widths.iter().map(|&width| "-".repeat(width)).collect::<Vec<_>>().join("  "));
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

/// Bytes as people read them.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align() {
        let rows = vec![vec!["matmul".into(), "1.5".into()], vec!["x".into(), "120.25".into()]];
        let text = table(&["kernel", "ms"], &rows);
        assert_eq!(text, "kernel      ms\n------  ------\nmatmul     1.5\nx       120.25");
    }

    #[test]
    fn bytes_use_binary_units() {
        assert_eq!(bytes(12), "12 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(45_301 << 20), "44.2 GiB");
    }
}
