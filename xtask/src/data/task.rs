//! What a model is trained or judged for: `--task`, and what follows from it.

use super::glue::{GlueTask, Measure};
use super::options::LossOn;
use super::rows::{Style, Template};
use crate::failure::{Failure, Outcome};

/// The value of `--task`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
pub enum Task {
    /// The next token of a text, or the answer of a row.
    Causal,
    /// The tokens that are hidden from it: 15 % of a text's, chosen anew in every epoch. For DeBERTa.
    MaskedLm,
    /// LLM-Adapters' commonsense sets: rows of instruction, output and answer in their prompt; judged by the likeliest
    /// of the options.
    Commonsense,
    /// One of --labels for each row of `text` (and `text_pair`) and `label`.
    Classify,
    /// A number for each row of `text` (and `text_pair`) and `label`.
    Regress,
    /// GLUE: is the sentence acceptable English?
    Cola,
    /// GLUE: is the opinion positive?
    Sst2,
    /// GLUE: do two sentences say the same?
    Mrpc,
    /// GLUE: how alike are two sentences, from 0 to 5?
    Stsb,
    /// GLUE: do two questions ask the same?
    Qqp,
    /// GLUE: does the first sentence entail the second, contradict it, or neither?
    Mnli,
    /// GLUE: does the sentence answer the question?
    Qnli,
    /// GLUE: does the first text entail the second?
    Rte,
    /// GLUE: is the second sentence the right reading of the first?
    Wnli,
}

/// What a sequence's label is and how predictions are measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Names of the classes in the order of their numbers; empty for a score.
    pub labels: Vec<String>,
    /// The chief measure first.
    pub measures: &'static [Measure],
}

impl Target {
    /// Numbers that the model gives for each sequence.
    pub fn outputs(&self) -> usize {
        self.labels.len().max(1)
    }
}

impl Task {
    /// Whether the model predicts tokens.
    pub fn is_language(self) -> bool {
        matches!(self, Task::Causal | Task::MaskedLm | Task::Commonsense)
    }

    /// How rows of a language task become texts, of which a part is learned; by default what is usual for the task.
    pub fn style(self, loss_on: Option<LossOn>) -> Style {
        let (template, usual) = match self {
            Task::Commonsense => (Template::Commonsense, LossOn::All),
            _ => (Template::Plain, LossOn::Answer),
        };
        Style { template, loss_on: loss_on.unwrap_or(usual) }
    }

    /// The task of GLUE, if it is one.
    pub fn glue(self) -> Option<GlueTask> {
        Some(match self {
            Task::Causal | Task::MaskedLm | Task::Commonsense | Task::Classify | Task::Regress => return None,
            Task::Cola => GlueTask::Cola,
            Task::Sst2 => GlueTask::Sst2,
            Task::Mrpc => GlueTask::Mrpc,
            Task::Stsb => GlueTask::Stsb,
            Task::Qqp => GlueTask::Qqp,
            Task::Mnli => GlueTask::Mnli,
            Task::Qnli => GlueTask::Qnli,
            Task::Rte => GlueTask::Rte,
            Task::Wnli => GlueTask::Wnli,
        })
    }

    /// What sequences are labelled with; `None` for language modelling. `labels` is what `--labels` says.
    pub fn target(self, labels: &[String]) -> Outcome<Option<Target>> {
        if !labels.is_empty() && self != Task::Classify {
            return Err(Failure::input("--labels belongs to --task classify; other tasks know their own"));
        }
        let measures: &[Measure] = match self {
            Task::Causal | Task::MaskedLm | Task::Commonsense => return Ok(None),
            Task::Classify => &[Measure::Accuracy],
            Task::Regress => &[Measure::Pearson, Measure::Spearman],
            _ => self.glue().map_or(&[], GlueTask::measures),
        };
        let labels: Vec<String> = match self.glue() {
            Some(task) => task.labels().iter().map(|label| label.to_string()).collect(),
            None => labels.to_vec(),
        };
        let repeated = (1..labels.len()).any(|index| labels[..index].contains(&labels[index]));
        if self == Task::Classify && (labels.len() < 2 || repeated) {
            return Err(Failure::input("--task classify needs --labels with two or more different names"));
        }
        Ok(Some(Target { labels, measures }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_follow_from_tasks() {
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        assert_eq!(Task::Causal.target(&[]).unwrap(), None);
        let outputs = |task: Task| task.target(&[]).unwrap().unwrap().outputs();
        assert_eq!((outputs(Task::Sst2), outputs(Task::Mnli), outputs(Task::Stsb)), (2, 3, 1));
        assert_eq!(Task::Classify.target(&names(&["no", "yes"])).unwrap().unwrap().outputs(), 2);
        assert!(Task::Classify.target(&names(&["no"])).is_err());
        assert!(Task::Classify.target(&names(&["no", "no"])).is_err());
        assert!(Task::Sst2.target(&names(&["no", "yes"])).is_err());
    }
}
