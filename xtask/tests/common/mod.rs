//! What the tests of the command line share: running it and reading its answers.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::process::{Command, Output};

use serde_json::Value;

pub fn run(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask")).args(words).output().unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The JSON object on the last line of standard output.
pub fn result(output: &Output) -> Value {
    let text = text(&output.stdout);
    serde_json::from_str(text.lines().last().expect("a line of JSON")).expect("JSON")
}

pub fn assert_refused(output: &Output, expected: &[&str]) {
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    let line = message.lines().find(|line| line.starts_with("error:")).unwrap_or_else(|| panic!("{message}"));
    for part in expected {
        assert!(message.contains(part), "`{part}` is not in:\n{message}");
    }
    assert!(!line.contains("panicked"), "{message}");
}
