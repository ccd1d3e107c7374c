//! Multiple choice, in two ways: by likelihood, which option does the model find most probable as the answer? And by
//! generation, which option does it name first when it goes on by itself? The rows, their prompt and the second way are
//! those of LLM-Adapters (Hu et al. 2023); the first needs no generation and always gives an answer.

use std::cmp::Reverse;
use std::ops::ControlFlow;

use lora::{AdapterSet, Forward, HostBatch, IGNORED, Model};
use models::{GenerationOptions, Llama, Sampling, Tokenizer, generate};

use crate::data::rows::Question;
use crate::failure::Outcome;
use crate::loading::{lora_failure, model_failure};

/// How answers are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum AnswerBy {
    /// The likeliest option.
    Likelihood,
    /// The option that is named first in what the model writes, greedily, in 32 tokens.
    Generation,
}

/// Tokens that an answer may have, as in LLM-Adapters.
const ANSWER_TOKENS: usize = 32;

/// How a model answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    pub questions: usize,
    pub right: usize,
    /// Questions that the model answered with none of the options.
    pub unanswered: usize,
    /// Questions longer than allowed; they lose their beginning.
    pub cut: usize,
}

impl Answers {
    /// The share of right answers.
    pub fn accuracy(&self) -> f64 {
        self.right as f64 / self.questions.max(1) as f64
    }
}

/// Answers every question; `longest` is the number of tokens that a question may have.
pub fn answer(
    model: &Llama,
    adapters: Option<&AdapterSet>,
    tokenizer: &Tokenizer,
    questions: &[Question],
    longest: usize,
    by: AnswerBy,
) -> Outcome<Answers> {
    let mut answers = Answers { questions: questions.len(), ..Answers::default() };
    for question in questions {
        let (chosen, cut) = match by {
            AnswerBy::Likelihood => likeliest(model, adapters, tokenizer, question, longest)?,
            AnswerBy::Generation => named(model, adapters, tokenizer, question, longest)?,
        };
        answers.right += usize::from(chosen == Some(question.right));
        answers.unanswered += usize::from(chosen.is_none());
        answers.cut += usize::from(cut);
    }
    Ok(answers)
}

/// The likeliest option, and whether the question was cut.
fn likeliest(
    model: &Llama,
    adapters: Option<&AdapterSet>,
    tokenizer: &Tokenizer,
    question: &Question,
    longest: usize,
) -> Outcome<(Option<usize>, bool)> {
    let (mut best, mut cut) = ((f64::NEG_INFINITY, 0), false);
    for (number, option) in question.options().enumerate() {
        let (ids, given) = continuation(tokenizer, &question.prompt, &option)?;
        let start = ids.len().saturating_sub(longest);
        cut |= start > 0;
        let likelihood = likelihood(model, adapters, &ids[start..], given.saturating_sub(start).max(1))?;
        if likelihood > best.0 {
            best = (likelihood, number);
        }
    }
    Ok((Some(best.1), cut))
}

/// The option that the model names first, if it names one, and whether the question was cut.
fn named(
    model: &Llama,
    adapters: Option<&AdapterSet>,
    tokenizer: &Tokenizer,
    question: &Question,
    longest: usize,
) -> Outcome<(Option<usize>, bool)> {
    let prompt = tokenizer.encode(&question.prompt, false).map_err(model_failure)?;
    let prompt: Vec<u32> = tokenizer.bos().into_iter().chain(prompt).collect();
    let start = prompt.len().saturating_sub(longest);
    let options = GenerationOptions {
        max_new_tokens: ANSWER_TOKENS,
        sampling: Sampling::Greedy,
        stop_tokens: model.config().eos_token_ids.clone(),
    };
    let generated = generate(model, adapters, &prompt[start..], &options, |_| ControlFlow::Continue(()));
    let text = tokenizer.decode(&generated.map_err(model_failure)?.tokens, true).map_err(model_failure)?;
    Ok((first_named(&text, &question.names), start > 0))
}

/// The name that stands first in a text; of two that begin at the same place, the longer.
fn first_named(text: &str, names: &[String]) -> Option<usize> {
    let found = names.iter().enumerate().filter_map(|(number, name)| Some((text.find(name.as_str())?, number)));
    found.min_by_key(|&(place, number)| (place, Reverse(names[number].len()))).map(|(_, number)| number)
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
fn likelihood(model: &Llama, adapters: Option<&AdapterSet>, ids: &[u32], given: usize) -> Outcome<f64> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_in_a_text_is_the_answer() {
        let names = ["answer1", "answer12", "answer2"].map(String::from);
        assert_eq!(first_named("the correct answer is answer2, not answer1", &names), Some(2));
        assert_eq!(first_named("answer12", &names), Some(1));
        assert_eq!(first_named("answer1.", &names), Some(0));
        assert_eq!(first_named("the answer", &names), None);
    }
}
