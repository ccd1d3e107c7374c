//! What a person sees of a run: a bar on a terminal, plain lines elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lora::{CheckpointReport, EvaluationReport, Observer, StepReport};

use super::spikes::Spikes;
use crate::interrupt;
use crate::output::Output;

/// Without a terminal, at most one line in this time.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Shows steps as they come and stops the run on Ctrl-C.
pub struct Progress<'a> {
    output: &'a Output,
    bar: ProgressBar,
    steps: u64,
    last_line: Instant,
    /// Losses are those of tokens, so that their exponentials are perplexities.
    of_tokens: bool,
    spikes: Spikes,
}

impl<'a> Progress<'a> {
    pub fn new(output: &'a Output, steps: u64, done: u64, of_tokens: bool) -> Self {
        let interactive = output.is_interactive();
        let target = if interactive { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(steps), target);
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} [{elapsed} < {eta}] {msg}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.set_position(done);
        Progress { output, bar, steps, last_line: Instant::now(), of_tokens, spikes: Spikes::default() }
    }

    fn say(&self, line: &str) {
        self.bar.suspend(|| self.output.say(line));
    }
}

impl Observer for Progress<'_> {
    fn on_step(&mut self, report: &StepReport) -> lora::Result<()> {
        if let Some(warning) = self.spikes.note(report) {
            self.say(&warning);
        }
        let rate = report.tokens as f64 / report.seconds.max(1e-9);
        self.bar.set_position(report.step);
        let unit = if self.of_tokens { "tokens" } else { "sequences" };
        self.bar.set_message(format!("loss {:.4}, {rate:.0} {unit}/s", report.loss));
        let due = self.last_line.elapsed() >= LINE_INTERVAL || report.step == 1 || report.step == self.steps;
        if !self.output.is_interactive() && due {
            self.last_line = Instant::now();
            self.output.say(format!(
                "step {}/{}: loss {:.4}, learning rate {:.2e}, {rate:.0} {unit}/s",
                report.step, self.steps, report.loss, report.learning_rate
            ));
        }
        Ok(())
    }

    fn on_evaluation(&mut self, report: &EvaluationReport) -> lora::Result<()> {
        let mark = if report.best { " (best so far)" } else { "" };
        let perplexity = match self.of_tokens {
            true => format!(", perplexity {:.2}", report.loss.exp()),
            false => String::new(),
        };
        let (step, steps, loss) = (report.step, self.steps, report.loss);
        self.say(&format!("step {step}/{steps}: validation loss {loss:.4}{perplexity}{mark}"));
        Ok(())
    }

    fn on_checkpoint(&mut self, report: &CheckpointReport) -> lora::Result<()> {
        if report.resumable {
            self.say(&format!("saved {}", report.directory.display()));
        }
        Ok(())
    }

    fn on_warning(&mut self, message: &str) -> lora::Result<()> {
        self.say(&format!("warning: {message}"));
        Ok(())
    }

    fn should_stop(&mut self) -> bool {
        interrupt::requested()
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
