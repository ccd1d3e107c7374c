//! The flags that say how rows become batches.

use lora::PaddingSide;

/// Which tokens of a row are learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
pub enum LossOn {
    /// Those of the completion or output.
    Answer,
    /// Those of the prompt as well.
    All,
}

/// The value of `--padding-side`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
enum Side {
    Right,
    Left,
}

/// How rows become batches.
#[derive(clap::Args, Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RowOptions {
    /// Which tokens of a row with a prompt are learned; default: those of the answer, and with --task commonsense all, as
    /// LLM-Adapters does.
    #[arg(long, value_enum)]
    pub loss_on: Option<LossOn>,
    /// The end at which short rows are filled up; left is for models that predict tokens.
    #[arg(long, value_enum, default_value_t = Side::Right)]
    padding_side: Side,
    /// Put rows of similar length into a batch, which saves padding. Batches still come in a random order.
    #[arg(long)]
    pub group_by_length: bool,
}

impl Default for RowOptions {
    fn default() -> Self {
        RowOptions { loss_on: None, padding_side: Side::Right, group_by_length: false }
    }
}

impl RowOptions {
    /// The end at which short rows are filled up.
    pub fn padding(self) -> PaddingSide {
        match self.padding_side {
            Side::Right => PaddingSide::Right,
            Side::Left => PaddingSide::Left,
        }
    }
}
