//! Training every parameter instead of an adapter: its flags, and the checkpoint it ends with.

use lora::Outcome as Trained;
use tensor::DType;

use super::Arguments;
use crate::checkpoints::{describe_trained, write_trained};
use crate::failure::Outcome;

/// The flags of full training.
#[derive(clap::Args, Clone, Debug)]
pub struct FullArguments {
    /// Train every parameter of the model instead of an adapter; --out then becomes a Hugging Face checkpoint.
    #[arg(long, conflicts_with_all = ["rank", "alpha", "targets", "dropout", "init_lora_weights", "use_rslora", "use_dora",
        "modules_to_save", "init_adapter", "method", "log_balance"])]
    pub full: bool,
    /// With --full: begin with random weights, drawn by --seed for the model that --model's config.json describes. For
    /// tasks of language; no weights need be there.
    #[arg(long, requires = "full")]
    pub from_scratch: bool,
    /// With --full: element type of the checkpoint's tensors; training is in f32 in any case.
    #[arg(long, value_enum, default_value_t = Stored::F32, requires = "full")]
    pub store: Stored,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Stored {
    F32,
    F16,
    Bf16,
}

impl Stored {
    fn dtype(self) -> DType {
        match self {
            Stored::F32 => DType::F32,
            Stored::F16 => DType::F16,
            Stored::Bf16 => DType::Bf16,
        }
    }
}

/// Writes what was trained as a checkpoint, and makes one of the parameters in `best`, which the trainer wrote.
pub fn write(arguments: &Arguments, trained: &Trained) -> Outcome<()> {
    let (source, out) = (&arguments.model, &arguments.out);
    write_trained(&trained.adapters, arguments.full.store.dtype(), source, out)?;
    match &trained.best {
        Some(best) => describe_trained(&best.adapters, DType::F32, source, &out.join("best")),
        None => Ok(()),
    }
}
