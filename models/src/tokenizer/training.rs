//! Trains tokenizers: Unigram models (Kudo 2018) of a text's pieces, by the `tokenizers` crate's trainer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use lora::write_whole;
use serde_json::{Value, json};
use tokenizers::models::unigram::{Unigram, UnigramTrainer};
use tokenizers::normalizers::{NFKC, Replace, Sequence, Strip, replace::ReplacePattern};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    SplitDelimiterBehavior, Tokenizer,
};

use super::convert::{template, words};
use crate::error::{ModelError, Result};

#[cfg(test)]
mod tests;

/// Words of more characters (links, rows of dashes) teach nothing and are left out of training, as SentencePiece leaves
/// out long lines; sums over their cuts would leave the range of numbers.
const LONGEST_WORD: usize = 64;

/// What the trainer adds to the lowest score for one character more that no piece of its own survived of.
const SCORE_STEP: f64 = 0.0001;

/// Whose special tokens and treatment of spaces a tokenizer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenizerFamily {
    /// `[PAD] [CLS] [SEP] [UNK] [MASK]`, texts as `[CLS] A [SEP]`; characters in compatibility form, runs of white space
    /// as one space.
    Deberta,
    /// `<unk> <s> </s>`, texts as `<s> A`; nothing is normalised, so that decoding gives the text back.
    Llama,
}

impl TokenizerFamily {
    fn special(self) -> &'static [&'static str] {
        match self {
            TokenizerFamily::Deberta => &["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"],
            TokenizerFamily::Llama => &["<unk>", "<s>", "</s>"],
        }
    }

    fn unknown(self) -> usize {
        match self {
            TokenizerFamily::Deberta => 3,
            TokenizerFamily::Llama => 0,
        }
    }

    /// The contents of tokenizer_config.json.
    fn settings(self) -> Value {
        match self {
            TokenizerFamily::Deberta => json!({
                "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false,
                "bos_token": "[CLS]", "eos_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]",
                "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]",
            }),
            TokenizerFamily::Llama => json!({
                "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false,
                "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
            }),
        }
    }

    /// A tokenizer of this family around a model whose first tokens are the special ones.
    fn tokenizer(self, model: Unigram) -> std::result::Result<Tokenizer, String> {
        let mut tokenizer = Tokenizer::new(model);
        let metaspace = match self {
            TokenizerFamily::Deberta => {
                let spaces = Replace::new(ReplacePattern::Regex(r"\s+".into()), " ").map_err(words)?;
                let normalizers = vec![NFKC.into(), spaces.into(), Strip::new(true, true).into()];
                tokenizer.with_normalizer(Some(Sequence::new(normalizers)));
                let metaspace = Metaspace::new('▁', PrependScheme::Always, true);
                tokenizer.with_pre_tokenizer(Some(metaspace.clone()));
                metaspace
            }
            TokenizerFamily::Llama => {
                let line_end = SplitPattern::String("\n".into());
                let line_end = Split::new(line_end, SplitDelimiterBehavior::Isolated, false).map_err(words)?;
                let metaspace = Metaspace::new('▁', PrependScheme::Never, true);
                let pre_tokenizers = vec![line_end.into(), metaspace.clone().into()];
                tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(pre_tokenizers)));
                metaspace
            }
        };
        tokenizer.with_decoder(Some(metaspace));
        let special: Vec<AddedToken> =
            self.special().iter().map(|text| AddedToken::from(*text, true).normalized(false)).collect();
        tokenizer.add_special_tokens(&special);
        match self {
            TokenizerFamily::Deberta => {
                let pair = "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1";
                template(&mut tokenizer, "[CLS]:0 $A:0 [SEP]:0", pair, &["[CLS]", "[SEP]"])?;
            }
            TokenizerFamily::Llama => template(&mut tokenizer, "<s>:0 $A:0", "<s>:0 $A:0 <s>:1 $B:1", &["<s>"])?,
        }
        Ok(tokenizer)
    }

    fn special_pieces(self) -> impl Iterator<Item = (String, f64)> {
        self.special().iter().map(|text| (text.to_string(), 0.0))
    }
}

/// Trains a Unigram tokenizer of at most `size` tokens, special ones included, on texts, and writes `tokenizer.json` and
/// `tokenizer_config.json` to `directory`. Returns the number of tokens, which is less where the texts do not have as many
/// pieces. The same texts give the same files.
///
/// # Errors
/// [`ModelError::InvalidArgument`] for a size that does not hold the special tokens and every character of the texts, or
/// for texts without words; what keeps files from being written.
pub fn train_unigram(texts: &[String], size: usize, family: TokenizerFamily, directory: &Path) -> Result<usize> {
    let failed = |message: String| ModelError::InvalidArgument { operation: "train_unigram", message };
    let special = family.special().len();
    let counts = counts(texts, family).map_err(failed)?;
    let characters = counts.keys().flat_map(|word| word.chars()).collect::<BTreeSet<char>>().len();
    if size <= special + characters {
        return Err(failed(format!(
            "{size} tokens do not hold {special} special ones, the {characters} different characters of the texts and \
             pieces beside them; ask for more"
        )));
    }
    let pieces = train(&counts, size - special).map_err(failed)?;
    let vocabulary: Vec<(String, f64)> = family.special_pieces().chain(pieces).collect();
    let tokens = vocabulary.len();
    let model = Unigram::from(vocabulary, Some(family.unknown()), false).map_err(|error| failed(words(error)))?;
    let tokenizer = family.tokenizer(model).map_err(failed)?;
    let text = tokenizer.to_string(true).map_err(|error| failed(words(error)))?;
    write_whole(&directory.join("tokenizer.json"), text.as_bytes())?;
    let settings = format!("{:#}\n", family.settings());
    write_whole(&directory.join("tokenizer_config.json"), settings.as_bytes())?;
    Ok(tokens)
}

type Counts = BTreeMap<String, u32>;

/// How often each word occurs, cut as the family's tokenizers cut texts. Lines are taken one by one: white space ends
/// words, and there is never one across a line's end.
fn counts(texts: &[String], family: TokenizerFamily) -> std::result::Result<Counts, String> {
    let placeholder = Unigram::from(family.special_pieces().collect(), Some(family.unknown()), false);
    let tokenizer = family.tokenizer(placeholder.map_err(words)?)?;
    let mut counts = Counts::new();
    for line in texts.iter().flat_map(|text| text.split_inclusive('\n')) {
        let mut line = NormalizedString::from(line);
        if let Some(normalizer) = tokenizer.get_normalizer() {
            normalizer.normalize(&mut line).map_err(words)?;
        }
        let mut line = PreTokenizedString::from(line);
        if let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut line).map_err(words)?;
        }
        for (word, _, _) in line.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            // The trainer ends words by zeros.
            if !word.is_empty() && !word.contains('\0') && word.chars().count() <= LONGEST_WORD {
                *counts.entry(word.to_string()).or_default() += 1;
            }
        }
    }
    if counts.is_empty() {
        return Err("the texts have no words".into());
    }
    Ok(counts)
}

/// Pieces and their log probabilities, the likeliest first.
fn train(counts: &Counts, size: usize) -> std::result::Result<Vec<(String, f64)>, String> {
    let size = u32::try_from(size).map_err(words)?;
    let trainer = UnigramTrainer::builder().show_progress(false).vocab_size(size).build().map_err(words)?;
    // In the order of the words, and on one thread: sums over threads would differ from run to run.
    let sentences = counts.iter().map(|(word, &count)| (word.clone(), count)).collect();
    let mut model = Unigram::default();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().map_err(words)?;
    pool.install(|| trainer.do_train(sentences, &mut model)).map_err(words)?;
    let mut pieces: Vec<(String, f64)> = model.iter().cloned().collect();
    settle_rare_characters(&mut pieces);
    pieces.sort_by(|(a, x), (b, y)| y.total_cmp(x).then_with(|| a.cmp(b)));
    Ok(pieces)
}

/// Characters that are no piece of the trained model get the lowest score, and 0.0001 more for each after the first, in an
/// order that the trainer leaves to chance. Gives these scores out in the characters' order.
fn settle_rare_characters(pieces: &mut [(String, f64)]) {
    let lowest = pieces.iter().map(|(_, score)| *score).fold(f64::INFINITY, f64::min);
    // By the same sums as the trainer's, so that the scores are found bit for bit.
    let steps = std::iter::successors(Some(0.0), |step| Some(step + SCORE_STEP));
    let scores: Vec<f64> = steps.take(pieces.len()).map(|step| lowest + step).collect();
    let is_rare = |(text, score): &&mut (String, f64)| text.chars().count() == 1 && scores.contains(score);
    let mut rare: Vec<&mut (String, f64)> = pieces.iter_mut().filter(is_rare).collect();
    rare.sort_by(|a, b| a.0.cmp(&b.0));
    let mut given: Vec<f64> = rare.iter().map(|(_, score)| *score).collect();
    given.sort_by(f64::total_cmp);
    for (piece, score) in rare.into_iter().zip(given) {
        piece.1 = score;
    }
}
