//! Texts for masked language modelling: sequences between the tokens that begin and end them.

use lora::{MaskedSequences, MaskingTokens};
use models::Tokenizer;

use super::{Data, Shape, Sources};
use crate::failure::{Failure, Outcome};

/// Validation masks are the same in every run, whatever its seed, so that its losses can be compared.
const VALIDATION_SEED: u64 = 0;

/// Training batches, with other masks in every epoch, and validation batches.
pub fn sources(training: Data, validation: Data, shape: Shape, tokenizer: &Tokenizer) -> Outcome<Sources> {
    let (training_tokens, validation_tokens) = (training.tokens(), validation.tokens());
    let (training_cut, validation_cut) = (training.too_long(shape.sequence), validation.too_long(shape.sequence));
    let rows = sequences(training, tokenizer, shape.sequence)?;
    let training = MaskedSequences::shuffled(rows, tokens(tokenizer)?, shape.batch, shape.seed).map_err(wrong)?;
    let validation = self::validation(validation, shape, tokenizer)?;
    let (training, validation) = (Box::new(training), Box::new(validation));
    Ok(Sources { training, validation, training_tokens, validation_tokens, training_cut, validation_cut })
}

/// Batches in order with masks that stay.
pub fn validation(data: Data, shape: Shape, tokenizer: &Tokenizer) -> Outcome<MaskedSequences> {
    let rows = sequences(data, tokenizer, shape.sequence)?;
    MaskedSequences::in_order(rows, tokens(tokenizer)?, shape.batch, VALIDATION_SEED).map_err(wrong)
}

fn wrong(error: lora::LoraError) -> Failure {
    Failure::input(format!("--data: {error}"))
}

fn tokens(tokenizer: &Tokenizer) -> Outcome<MaskingTokens> {
    let missing =
        || Failure::input("--task masked-lm: the tokenizer has no mask token; tokenizer_config.json names it");
    Ok(MaskingTokens {
        mask: tokenizer.mask().ok_or_else(missing)?,
        padding: tokenizer.pad().unwrap_or(0),
        special: tokenizer.special_tokens(),
        vocabulary: tokenizer.vocab_size() as u32,
    })
}

/// Text is cut into sequences of one length, rows are sequences of their own and lose what is too long; each stands between
/// the tokenizer's first and last token.
fn sequences(data: Data, tokenizer: &Tokenizer, length: usize) -> Outcome<Vec<Vec<u32>>> {
    let (first, last): (Vec<u32>, Vec<u32>) =
        (tokenizer.bos().into_iter().collect(), tokenizer.eos().into_iter().collect());
    let room = length.checked_sub(first.len() + last.len()).filter(|&room| room > 0);
    let room = room.ok_or_else(|| Failure::input(format!("--seq {length} leaves no room for a text")))?;
    Ok(match data {
        Data::Text(tokens) => tokens.chunks(room).map(|tokens| [&first, tokens, &last].concat()).collect(),
        Data::Examples(examples) => {
            let cut = |mut ids: Vec<u32>| {
                if ids.len() > length {
                    ids.truncate(length - last.len());
                    ids.extend(&last);
                }
                ids
            };
            examples.into_iter().map(|example| cut(example.ids)).collect()
        }
    })
}
