//! Refuses a run that the device has no room for, before its first step.

use lora::{BatchSource, MemoryEstimate, Trainer};
use tensor::Device;

use super::Arguments;
use crate::failure::{Failure, Outcome};
use crate::loading::lora_failure;
use crate::output::{Output, bytes};

/// Says what the run will take; refuses one that cannot fit and says what would.
pub fn check(
    trainer: &Trainer<'_>,
    training: &dyn BatchSource,
    device: &Device,
    arguments: &Arguments,
    output: &Output,
) -> Outcome<()> {
    let Some(available) = device.memory_bytes() else { return Ok(()) };
    let estimate = trainer.estimate_memory(training).map_err(lora_failure)?;
    let needed = estimate.total(estimate.batch);
    let activations = needed - estimate.model - estimate.state;
    output.say(format!(
        "memory: about {} (model {}, optimizer and copies {}, activations {}); the device has {}",
        bytes(needed),
        bytes(estimate.model),
        bytes(estimate.state),
        bytes(activations),
        bytes(available)
    ));
    if needed <= available || arguments.ignore_memory_estimate {
        return Ok(());
    }
    Err(Failure::input(refusal(&estimate, available, arguments)))
}

/// The numbers, and every way out that there is.
fn refusal(estimate: &MemoryEstimate, available: u64, arguments: &Arguments) -> String {
    let mut ways = Vec::new();
    let fits = estimate.largest_batch(available);
    if fits > 0 {
        let accumulation = arguments.grad_accumulation * arguments.batch.div_ceil(fits) as u64;
        ways.push(format!("--batch {fits} --grad-accumulation {accumulation}"));
    }
    if arguments.keep_activations {
        ways.push("no --keep-activations".into());
    } else if !arguments.checkpoint_activations {
        ways.push("--checkpoint-activations".into());
    }
    if arguments.dtype == super::Precision::F32 && !arguments.full.full {
        ways.push("--dtype mixed".into());
    }
    ways.push(format!("a shorter --seq than {}", arguments.seq));
    format!(
        "the run needs about {} of memory and the device has {}; what helps: {}; or --ignore-memory-estimate",
        bytes(estimate.total(estimate.batch)),
        bytes(available),
        ways.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn the_refusal_says_what_would_fit() {
        let line = ["x", "--model", "m", "--data", "d", "--out", "o", "--batch", "16", "--dtype", "mixed"];
        let arguments = Line::parse_from(line).arguments;
        let gib = |count: u64| count << 30;
        let estimate =
            MemoryEstimate { model: gib(14), state: gib(2), first_sequence: gib(3), sequence: gib(2), batch: 16 };
        let message = refusal(&estimate, gib(30), &arguments);
        assert!(
            message.starts_with("the run needs about 49.0 GiB of memory and the device has 30.0 GiB;"),
            "{message}"
        );
        assert!(
            message.contains("--batch 6 --grad-accumulation 3, --checkpoint-activations, a shorter --seq than 128;"),
            "{message}"
        );
        assert!(!refusal(&estimate, gib(18), &arguments).contains("--batch"), "not even one sequence fits");
    }
}
