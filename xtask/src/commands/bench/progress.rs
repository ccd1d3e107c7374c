//! How far a suite is: a bar with the remaining time on a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::Outcome;
use crate::interrupt;
use crate::output::Output;

/// Counts pieces of work that differ in size.
pub struct Meter<'a> {
    output: &'a Output,
    bar: ProgressBar,
}

impl<'a> Meter<'a> {
    /// For work of so many units.
    pub fn new(output: &'a Output, units: u64) -> Self {
        let interactive = output.is_interactive();
        let target = if interactive { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(units), target);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent} % [{elapsed} < {eta}] {wide_msg}") {
            bar.set_style(style);
        }
        bar.tick();
        Meter { output, bar }
    }

    /// A piece of work is done of which there is nothing to say. Fails once the user has pressed Ctrl-C.
    pub fn advance(&self, units: u64) -> Outcome<()> {
        self.bar.inc(units);
        interrupt::check()
    }

    /// A piece of work is done; the line says what came of it. Fails once the user has pressed Ctrl-C.
    pub fn done(&self, units: u64, line: &str) -> Outcome<()> {
        self.advance(units)?;
        match self.output.is_interactive() {
            true => self.bar.set_message(line.to_string()),
            false => self.output.say(format!("[{:>3} %] {line}", self.percent())),
        }
        Ok(())
    }

    fn percent(&self) -> u64 {
        100 * self.bar.position() / self.bar.length().unwrap_or(0).max(1)
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
