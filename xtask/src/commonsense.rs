//! Multiple choice by likelihood: which option does the model find most probable as the answer? The rows and their
//! prompt are those of LLM-Adapters (Hu et al. 2023), which generates answers instead and looks for the first option in
//! them; scoring the options needs no generation and always gives an answer.

use lora::{AdapterSet, Forward, HostBatch, IGNORED, Model};
use models::Tokenizer;

use crate::data::rows::Question;
use crate::failure::Outcome;
use crate::loading::lora_failure;

/// How a model answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    pub questions: usize,
    pub right: usize,
    /// Questions longer than allowed; they lose their beginning.
    pub cut: usize,
}

impl Answers {
    /// The share of right answers.
    pub fn accuracy(&self) -> f64 {
        self.right as f64 / self.questions.max(1) as f64
    }
}

/// Answers every question with its likeliest option; `longest` is the number of tokens that a question may have.
pub fn answer(
    model: &dyn Model,
    adapters: Option<&AdapterSet>,
    tokenizer: &Tokenizer,
    questions: &[Question],
    longest: usize,
) -> Outcome<Answers> {
    let mut answers = Answers { questions: questions.len(), ..Answers::default() };
    for question in questions {
        let (mut best, mut cut) = ((f64::NEG_INFINITY, 0), false);
        for (number, option) in question.options.iter().enumerate() {
            let (ids, given) = continuation(tokenizer, &question.prompt, option)?;
            let start = ids.len().saturating_sub(longest);
            cut |= start > 0;
            let likelihood = likelihood(model, adapters, &ids[start..], given.saturating_sub(start).max(1))?;
            if likelihood > best.0 {
                best = (likelihood, number);
            }
        }
        answers.right += usize::from(best.1 == question.right);
        answers.cut += usize::from(cut);
    }
    Ok(answers)
}

/// The tokens of a prompt and its continuation, and how many of them the prompt alone decides: a tokenizer may join the
/// end of one with the beginning of the other.
fn continuation(tokenizer: &Tokenizer, prompt: &str, text: &str) -> Outcome<(Vec<u32>, usize)> {
    let with_start = |text: &str| -> Outcome<Vec<u32>> {
        Ok(tokenizer.bos().into_iter().chain(tokenizer.encode(text, false)?).collect())
    };
    let (alone, whole) = (with_start(prompt)?, with_start(&format!("{prompt}{text}"))?);
    let given = alone.iter().zip(&whole).take_while(|(a, b)| a == b).count();
    Ok((whole, given))
}

/// The logarithm of the probability of the tokens from `given` on, given those before.
fn likelihood(model: &dyn Model, adapters: Option<&AdapterSet>, ids: &[u32], given: usize) -> Outcome<f64> {
    let inputs = ids.len().saturating_sub(1);
    let label = |position: usize| if position + 1 >= given { ids[position + 1] as i32 } else { IGNORED };
    let labels = (0..inputs).map(label).collect();
    let batch = HostBatch::new(1, inputs, ids[..inputs].to_vec(), labels, None).map_err(lora_failure)?;
    let valid = batch.valid();
    if valid == 0 {
        return Ok(f64::NEG_INFINITY);
    }
    let batch = batch.to_device(model.device()).map_err(lora_failure)?;
    let loss = model.loss(&Forward::evaluation(adapters), &batch).map_err(lora_failure)?;
    Ok(-f64::from(loss.into_tensor().item::<f32>()?) * valid as f64)
}
