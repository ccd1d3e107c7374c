//! The command line: `cargo xtask COMMAND`. What lives here: arguments, progress, tables and reports for people, and
//! one JSON object for machines. What does not: mathematics, models, training; those are the library crates.
//!
//! Exit codes: 0 done; 1 the work failed; 2 the arguments or input files are wrong; 130 interrupted.

#![forbid(unsafe_code)]

mod check;
mod checkpoints;
mod classification;
mod commands;
mod commonsense;
mod config_file;
mod data;
mod failure;
mod hub;
mod identity;
mod inputs;
mod interrupt;
mod loading;
mod metrics;
mod output;
mod random;
mod report;
mod tuning;
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use clap::Parser;
use tensor::{Device, DeviceRequest};

use crate::failure::{Failure, Outcome};
use crate::output::Output;

/// Fine-tune large language models with low-rank adapters on any GPU that speaks Vulkan, Metal or DX12, or on the CPU.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: commands::Command,
    #[command(flatten)]
    common: Common,
}

/// Options that every command takes.
#[derive(clap::Args, Clone, Debug)]
pub struct Common {
    /// Where to compute: auto (the best real GPU, else the CPU), cpu, gpu, gpu:N or gpu:NAME; see `devices`.
    #[arg(long, global = true, default_value = "auto", value_parser = parse_device)]
    pub device: DeviceRequest,
    /// Decides initialisation, data order and dropout.
    #[arg(long, global = true, default_value_t = 0)]
    pub seed: u64,
    /// Print one JSON object as the last line of standard output.
    #[arg(long, global = true)]
    pub json: bool,
    /// CPU threads; default: all cores. Results do not depend on it.
    #[arg(long, global = true, value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// Measure, for each matrix product of the run, which of the GPU's kernels is the fastest, and keep the choices in this
    /// file, which is read first if it is there. Results are the same bits again only with the same file.
    #[arg(long, global = true, value_name = "FILE")]
    pub tune: Option<PathBuf>,
}

/// The devices that commands of this process have opened.
static OPENED: Mutex<Vec<(DeviceRequest, Device)>> = Mutex::new(Vec::new());

fn parse_device(text: &str) -> Result<DeviceRequest, String> {
    text.parse().map_err(|error: tensor::TensorError| error.to_string())
}

impl Common {
    /// Opens the device and says which one it is. Commands that one process runs share it, and the kernels it has built.
    pub fn open_device(&self, output: &Output) -> Outcome<Device> {
        // The list is only ever added to, so a panic elsewhere cannot leave it half-made.
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, device)) = opened.iter().find(|(request, _)| *request == self.device) {
            return Ok(device.clone());
        }
        let device = Device::open(&self.device).map_err(|error| {
            Failure::input(format!("--device {}: {error}. `cargo xtask devices` describes them.", self.device))
        })?;
        match device.adapter() {
            Some(adapter) => output.say(format!("device: {} ({}, {})", adapter.name, adapter.backend, adapter.driver)),
            None => output.say(format!("device: cpu ({} threads)", rayon::current_num_threads())),
        }
        if let Some(path) = &self.tune {
            tuning::start(path, &device)?;
        }
        opened.push((self.device.clone(), device.clone()));
        Ok(device)
    }

    /// Keeps what was measured, whatever became of the command.
    fn keep_tuning(&self, output: &Output) -> Outcome<()> {
        let opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(path) = &self.tune else { return Ok(()) };
        opened.iter().try_for_each(|(_, device)| tuning::keep(path, device, output))
    }
}

/// The program must not end while the driver is at work. What devices say now concerns nobody any more.
fn wait_for_devices() {
    let opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    opened.iter().for_each(|(_, device)| drop(device.synchronize()));
}

/// Does what the program's arguments say; gives its exit code.
pub fn main() -> ExitCode {
    let words = match config_file::expand(std::env::args_os().collect()) {
        Ok(words) => words,
        Err(failure) => {
            Output::new(false).fail(&failure);
            return failure.code();
        }
    };
    let arguments = Arguments::parse_from(words);
    let output = Output::new(arguments.common.json);
    // 0 is as many as there are cores. Fails only if the pool exists already, and nothing ran before this line.
    let threads = arguments.common.threads.map_or(0, usize::from);
    let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).stack_size(STACK).build_global();
    // The command is run by a thread of the pool: each of the many small pieces of work that it shares with the others would
    // else be handed over to one of them first, and waited for.
    rayon::scope(move |_| {
        let done = arguments.command.run(&arguments.common, &output);
        let kept = arguments.common.keep_tuning(&output);
        wait_for_devices();
        match done.and_then(|code| kept.map(|()| code)) {
            Ok(code) => code,
            Err(failure) => {
                output.fail(&failure);
                failure.code()
            }
        }
    })
}

/// Bytes of each thread's stack: what a program's first thread usually has.
const STACK: usize = 8 << 20;

/// Reads a data file as a task (as `--task` spells it) reads it, by the file's extension, and gives the number of tokens of a
/// text or of rows. Classes are called `no` and `yes` where the task does not know its own. For programs that test the
/// readers.
///
/// # Errors
/// What a user would be told.
pub fn read_data(task: &str, file: &Path, tokenizer: &models::Tokenizer) -> Result<usize, String> {
    data::count(task, file, tokenizer).map_err(|failure| failure.to_string())
}
