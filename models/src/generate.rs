//! Text generation: one token after the other, the likeliest or a drawn one, with a key/value cache.

use std::ops::ControlFlow;

use lora::{AdapterSet, Forward, Model};
use tensor::{Device, RandomKey, Tensor};

use crate::error::{ModelError, Result};
use crate::llama::{Cache, Llama};

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Sampling {
    /// The likeliest token; of equals the one with the lowest id.
    #[default]
    Greedy,
    /// Drawn from the likeliest tokens that together have probability `top_p`.
    Nucleus {
        /// Divides the logits: below 1 the likely become likelier. Positive.
        temperature: f32,
        /// Share of the probability to draw from, in (0, 1]; 1 draws from all tokens.
        top_p: f32,
        /// Decides all draws.
        seed: u64,
    },
}

/// When generation ends and how tokens are chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationOptions {
    /// Tokens to generate at most.
    pub max_new_tokens: usize,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// Tokens after which generation ends; usually [`crate::LlamaConfig::eos_token_ids`].
    pub stop_tokens: Vec<u32>,
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The last token is a stop token.
    StopToken,
    /// As many tokens as were asked for, or as the model has positions for.
    Length,
    /// The receiver of the tokens wanted no more.
    Receiver,
}

/// What was generated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// The new tokens, a stop token included.
    pub tokens: Vec<u32>,
    /// Why there are no more.
    pub finish: Finish,
}

/// Continues a prompt of token ids. `receive` gets every new token as soon as it is known, and may end the generation.
///
/// The prompt is read in one pass; after that each token costs one pass over one token.
///
/// # Errors
/// [`ModelError::InvalidArgument`] for an empty prompt, one with unknown tokens or more of them than the model has
/// positions for, sampling settings out of their range, or logits that are not numbers; otherwise the device's own
/// errors.
pub fn generate(
    model: &Llama,
    adapters: Option<&AdapterSet>,
    prompt: &[u32],
    options: &GenerationOptions,
    mut receive: impl FnMut(u32) -> ControlFlow<()>,
) -> Result<Generated> {
    check(model, prompt, options)?;
    let forward = Forward::evaluation(adapters);
    let mut cache = Cache::new();
    let room = model.config().max_position_embeddings - prompt.len();
    let mut tokens = Vec::new();
    let mut unread = prompt.to_vec();
    // The last token needs no position: nothing reads it.
    while tokens.len() < options.max_new_tokens.min(room + 1) {
        let ids = Tensor::from_slice(model.device(), &[1, unread.len()], &unread)?;
        let logits = model.next_logits(&forward, &ids, &mut cache)?.to_vec::<f32>()?;
        let token = options.sampling.choose(&logits, tokens.len() as u64)?;
        tokens.push(token);
        unread = vec![token];
        let wanted = receive(token).is_continue();
        if options.stop_tokens.contains(&token) {
            return Ok(Generated { tokens, finish: Finish::StopToken });
        }
        if !wanted {
            return Ok(Generated { tokens, finish: Finish::Receiver });
        }
    }
    Ok(Generated { tokens, finish: Finish::Length })
}

fn check(model: &Llama, prompt: &[u32], options: &GenerationOptions) -> Result<()> {
    let config = model.config();
    if prompt.is_empty() {
        return Err(invalid("the prompt has no tokens; give at least the token that starts a sequence".into()));
    }
    if let Some(id) = prompt.iter().find(|&&id| id as usize >= config.vocab_size) {
        return Err(invalid(format!("token {id} of the prompt is not in the vocabulary of {}", config.vocab_size)));
    }
    if prompt.len() > config.max_position_embeddings {
        let (tokens, limit) = (prompt.len(), config.max_position_embeddings);
        return Err(invalid(format!("the prompt has {tokens} tokens; the model was made for at most {limit}")));
    }
    options.sampling.check()
}

fn invalid(message: String) -> ModelError {
    ModelError::InvalidArgument { operation: "generate", message }
}

impl Sampling {
    fn check(&self) -> Result<()> {
        match *self {
            Sampling::Nucleus { temperature, .. } if !(temperature.is_finite() && temperature > 0.0) => {
                Err(invalid(format!("temperature must be positive, found {temperature}; for none, choose greedily")))
            }
            Sampling::Nucleus { top_p, .. } if !(top_p > 0.0 && top_p <= 1.0) => {
                Err(invalid(format!("top_p must be above 0 and at most 1, found {top_p}")))
            }
            _ => Ok(()),
        }
    }

    /// The token to follow logits `[vocabulary]`; `step` counts the draws.
    fn choose(&self, logits: &[f32], step: u64) -> Result<u32> {
        if logits.iter().any(|logit| logit.is_nan()) {
            return Err(invalid("the model's logits are not numbers; its weights or an adapter are damaged".into()));
        }
        match *self {
            Sampling::Greedy => Ok(likeliest(logits)),
            Sampling::Nucleus { temperature, top_p, seed } => {
                let key = RandomKey::named(seed, "generate", step);
                let uniform = Tensor::random_uniform(&Device::cpu(), &[1], 0.0, 1.0, key)?.item::<f32>()?;
                Ok(draw(logits, f64::from(temperature), f64::from(top_p), f64::from(uniform)))
            }
        }
    }
}

fn likeliest(logits: &[f32]) -> u32 {
    let best = logits
        .iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (token, &logit)| if logit > best.1 { (token, logit) } else { best });
    best.0 as u32
}

/// The token at quantile `uniform` of the softmax of `logits / temperature`, restricted to the likeliest tokens whose
/// probabilities reach `top_p` together.
fn draw(logits: &[f32], temperature: f64, top_p: f64, uniform: f64) -> u32 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |token: usize| ((f64::from(logits[token]) - f64::from(largest)) / temperature).exp();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    // Stable: of equals the lowest id comes first. The logits have no NaN, so all pairs compare.
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let total: f64 = order.iter().map(|&token| weight(token)).sum();
    let mut nucleus = 0.0;
    let enough = |token: &&usize| {
        let before = nucleus;
        nucleus += weight(**token);
        before < top_p * total
    };
    let kept: Vec<usize> = order.iter().take_while(enough).copied().collect();
    let mut left = uniform * kept.iter().map(|&token| weight(token)).sum::<f64>();
    for &token in &kept {
        left -= weight(token);
        if left < 0.0 {
            return token as u32;
        }
    }
    // Rounding may leave a last crumb; it belongs to the last token kept, and the likeliest is always kept.
    kept.last().copied().unwrap_or(0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_takes_the_first_of_equals() {
        assert_eq!(likeliest(&[1.0, 3.0, 3.0, -1.0]), 1);
        assert_eq!(likeliest(&[f32::NEG_INFINITY, f32::NEG_INFINITY]), 0);
        assert!(Sampling::Greedy.choose(&[0.0, f32::NAN], 0).is_err());
    }

    #[test]
    fn draws_follow_the_quantiles() {
        // Probabilities 0.2, 0.5, 0.3; by likelihood: token 1, 2, 0.
        let logits = [0.2f32.ln(), 0.5f32.ln(), 0.3f32.ln()];
        for (uniform, token) in [(0.0, 1), (0.49, 1), (0.51, 2), (0.79, 2), (0.81, 0), (0.999, 0)] {
            assert_eq!(draw(&logits, 1.0, 1.0, uniform), token, "{uniform}");
        }
        // A nucleus of 0.6 keeps tokens 1 and 2, renormalised to 0.625 and 0.375.
        for (uniform, token) in [(0.62, 1), (0.63, 2), (0.999, 2)] {
            assert_eq!(draw(&logits, 1.0, 0.6, uniform), token, "{uniform}");
        }
        assert!((0..100).all(|i| draw(&logits, 1.0, 0.01, f64::from(i) / 100.0) == 1));
        assert!((0..99).all(|i| draw(&logits, 0.01, 1.0, f64::from(i) / 100.0) == 1));
        // A high temperature makes all equal.
        assert_eq!([0.1, 0.5, 0.9].map(|uniform| draw(&logits, 1e6, 1.0, uniform)), [1, 2, 0]);
        assert_eq!(draw(&[f32::NEG_INFINITY, 0.0], 1.0, 1.0, 0.9999), 1);
    }

    #[test]
    fn the_seed_decides_the_draws() {
        let logits = vec![0.0f32; 1000];
        let draws = |seed| -> Vec<u32> {
            let sampling = Sampling::Nucleus { temperature: 1.0, top_p: 1.0, seed };
            (0..20).map(|step| sampling.choose(&logits, step).expect("a token")).collect()
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
        let frequent: Vec<u32> = (0..4000)
            .map(|step| Sampling::Nucleus { temperature: 1.0, top_p: 1.0, seed: 3 }.choose(&logits[..4], step))
            .collect::<Result<_>>()
            .expect("tokens");
        for token in 0..4 {
            let count = frequent.iter().filter(|&&drawn| drawn == token).count();
            assert!((870..1130).contains(&count), "token {token}: {count} of 4000");
        }
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let check = |temperature, top_p| Sampling::Nucleus { temperature, top_p, seed: 0 }.check();
        assert!(check(0.7, 1.0).is_ok());
        for (temperature, top_p) in [(0.0, 1.0), (-1.0, 1.0), (f32::NAN, 1.0), (1.0, 0.0), (1.0, 1.5), (1.0, f32::NAN)]
        {
            assert!(check(temperature, top_p).is_err(), "{temperature}, {top_p}");
        }
    }
}
