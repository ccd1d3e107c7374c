//! The flags of `restore`.

use std::path::PathBuf;
use std::str::FromStr;

use autograd::Schedule;

use super::super::finetune::{Precision, positive};
use crate::data::options::RowOptions;
use crate::data::task::Task;
use crate::identity::BaseCheck;

/// What `restore` is told.
#[derive(clap::Args, Clone, Debug)]
#[command(args_override_self = true)]
pub struct Arguments {
    /// Directory of the checkpoint that the adapters were trained on.
    #[arg(long)]
    pub old_model: PathBuf,
    /// Directory of its update: same architecture, names and shapes; only the vocabulary may have grown.
    #[arg(long)]
    pub new_model: PathBuf,
    /// Directory of a PEFT adapter; several are restored one after another.
    #[arg(long, num_args = 1.., required_unless_present = "manifest")]
    pub adapter: Vec<PathBuf>,
    /// Adapters with data of their own: a file of JSON objects, one a line, with `adapter`, `data` (a path or a list) and, where
    /// they are not those of the flags, `validation`, `task`, `labels`, `target` and `name` (of the directory in --out).
    /// Paths count from the file's own directory.
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
    /// The task's data, as for `finetune`.
    #[arg(long, num_args = 1.., required_unless_present = "manifest")]
    pub data: Vec<PathBuf>,
    /// Validation data, on which the search and the target are measured; default: as for `finetune`.
    #[arg(long, num_args = 1..)]
    pub validation: Vec<PathBuf>,
    /// As for `finetune`.
    #[arg(long, value_enum, default_value_t = Task::Causal)]
    pub task: Task,
    /// Names of the classes for --task classify, in the order of the adapter's training.
    #[arg(long, num_args = 1.., value_delimiter = ',')]
    pub labels: Vec<String>,
    /// Where the results go: a single adapter there, several each into a directory of its own name.
    #[arg(long)]
    pub out: PathBuf,
    /// Read settings from a TOML file with the same names; flags given here win.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What is done. relora: all steps. The others are baselines: reuse (the old adapter as it is), retrain (a fresh one),
    /// warm-start (the old one trained on), rebase (the old merged model, trained on), bayes-only (the search's start,
    /// trained on without being held to it).
    #[arg(long, value_enum, default_value_t = Method::Relora)]
    pub method: Method,
    /// When an adapter counts as ready: parity (its validation loss on the old base, which is then loaded first and given
    /// back), a validation loss, or none. Missing a loss, or any target with --stop-at-target, ends with exit code 1.
    #[arg(long, default_value = "parity")]
    pub target: Target,
    /// By how much of the old base's loss the target of parity may be missed.
    #[arg(long, default_value_t = 0.01)]
    pub tolerance: f64,
    /// End with the first result that meets the target, be it the old adapter.
    #[arg(long)]
    pub stop_at_target: bool,
    /// Optimizer steps of the last stage at most; 0 for none.
    #[arg(long, default_value_t = 200)]
    pub steps: u64,
    /// Highest learning rate.
    #[arg(long, default_value_t = 2e-3)]
    pub lr: f32,
    /// Steps over which the learning rate rises from 0; default: 3 % of --steps.
    #[arg(long)]
    pub warmup: Option<u64>,
    /// Global norm to which gradients are clipped; 0 for no clipping.
    #[arg(long, default_value_t = 1.0)]
    pub clip: f32,
    /// Sequences in a batch.
    #[arg(long, default_value_t = 8, value_parser = positive)]
    pub batch: usize,
    /// Tokens in a sequence; longer rows are cut.
    #[arg(long, visible_alias = "max-length", default_value_t = 128, value_parser = positive)]
    pub seq: usize,
    #[command(flatten)]
    pub rows: RowOptions,
    /// Steps between evaluations; default: ten over the run.
    #[arg(long)]
    pub eval_every: Option<u64>,
    /// Steps between resumable checkpoints; default: only when interrupted.
    #[arg(long)]
    pub save_every: Option<u64>,
    /// As for `finetune`.
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    pub dtype: Precision,
    /// How gradients are changed in the last stage, as --method of `finetune`: lora, lora-plus, scaled, reflora, reflora-s.
    #[arg(long, default_value_t = reflora::Method::Lora)]
    pub gradient_method: reflora::Method,
    /// How training is held to its start: data (strongly for a moment, then as much as the amount of data beside the adapter's
    /// parameters asks for), cosine (strongly at first, then less and less, not at all at the end: delays readiness), or none.
    #[arg(long, value_enum, default_value_t = Regularisation::Data)]
    pub regularisation: Regularisation,
    /// How far the strong pull lets a coordinate go from the start, as a share of the factors' root mean square.
    #[arg(long, default_value_t = relora::TRUST_RADIUS)]
    pub trust_radius: f64,
    /// Ranks of the base's change for each rank of the adapter.
    #[arg(long, default_value_t = relora::RANKS_PER_ADAPTER_RANK, value_parser = positive)]
    pub evolution_ranks: usize,
    /// Where the base's change is kept, for this and later runs; default: `evolution` in --out.
    #[arg(long, value_name = "DIR")]
    pub evolution_cache: Option<PathBuf>,
    #[command(flatten)]
    pub search: SearchArguments,
    /// Go on with an interrupted run: finished adapters are kept, and so are finished stages of the one at hand.
    #[arg(long)]
    pub resume: bool,
    /// Write over adapters that are already in --out.
    #[arg(long)]
    pub overwrite: bool,
    #[command(flatten)]
    pub base_check: BaseCheck,
}

/// How the start is searched for.
#[derive(clap::Args, Clone, Debug)]
pub struct SearchArguments {
    /// Validation examples that candidates are compared on; default: four batches, between 32 and 128, so that a candidate
    /// costs about a step of training.
    #[arg(long, value_parser = positive)]
    pub search_examples: Option<usize>,
    /// Validation examples that the best candidates are compared on again; default: four times as many.
    #[arg(long, value_parser = positive)]
    pub score_examples: Option<usize>,
    /// Candidates that are spread evenly, after the old adapter, no adapter and the old merged model.
    #[arg(long, default_value_t = 5)]
    pub search_points: usize,
    /// Candidates by expected improvement after those.
    #[arg(long, default_value_t = 8)]
    pub search_steps: usize,
    /// Which weights share their coefficients: global, module-type or layer; the finer take a thousand validation examples or
    /// more.
    #[arg(long, default_value_t = relora::Grouping::Global)]
    pub groups: relora::Grouping,
}

/// What is done with an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Method {
    /// Gate, search, training with the scheduled regulariser.
    Relora,
    /// The old adapter on the new base.
    Reuse,
    /// A fresh adapter, trained.
    Retrain,
    /// The old adapter, trained on.
    WarmStart,
    /// The best adapter of the old rank for the old merged model, trained on.
    Rebase,
    /// Gate and search, then plain training.
    BayesOnly,
}

impl Method {
    /// As the flag spells it.
    pub fn name(self) -> String {
        use clap::ValueEnum;
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string())
    }

    /// Whether coefficients are searched for.
    pub fn searches(self) -> bool {
        matches!(self, Method::Relora | Method::BayesOnly)
    }

    /// Whether the base's evolution is needed.
    pub fn fuses(self) -> bool {
        self.searches() || self == Method::Rebase
    }

    /// Whether the start is the old adapter itself.
    pub fn keeps_the_old_adapter(self) -> bool {
        matches!(self, Method::Reuse | Method::WarmStart)
    }

    /// Whether training follows.
    pub fn trains(self) -> bool {
        self != Method::Reuse
    }
}

/// How training is held to its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Regularisation {
    /// Needs no tuning.
    Cosine,
    /// Strong, then as weak as the amount of data allows.
    Data,
    /// Not at all.
    None,
}

/// When an adapter counts as ready.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// As good as on the old base, but for the tolerance.
    Parity,
    /// At a validation loss.
    Loss(f64),
    /// Never; the run goes to its end.
    None,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "parity" => Ok(Target::Parity),
            "none" => Ok(Target::None),
            number => match number.parse::<f64>() {
                Ok(loss) if loss.is_finite() => Ok(Target::Loss(loss)),
                _ => Err("must be parity, none, or a validation loss such as 2.5".into()),
            },
        }
    }
}

impl Arguments {
    /// Validation examples of the search, and of the last comparison.
    pub fn examples(&self) -> (usize, usize) {
        let search = self.search.search_examples.unwrap_or((4 * self.batch).clamp(32, 128));
        (search, self.search.score_examples.unwrap_or(4 * search).max(search))
    }

    /// Validation examples that may be enough to tell adapters apart, or that a target is missed: half a batch, which costs a
    /// sixth of a training step, but neither too few nor more than it takes.
    pub fn first_look(&self) -> usize {
        (self.batch / 2).clamp(8, 16)
    }

    /// The learning rate of the last stage: warm-up, then half a cosine to a tenth.
    pub fn learning_rates(&self) -> Schedule {
        let usual = relora::fine_tuning_rate(self.lr, self.steps);
        Schedule { warmup_steps: self.warmup.unwrap_or(usual.warmup_steps), ..usual }
    }
}
