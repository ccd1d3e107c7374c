//! One text, or two, within a length.

use tokenizers::utils::truncation::{TruncationParams, truncate_encodings};
use tokenizers::{PostProcessor, TruncationDirection, TruncationStrategy};

use super::Tokenizer;
use crate::error::{ModelError, Result};

/// The tokens of a text or of two, special tokens included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedPair {
    /// Token ids, at most as many as were asked for.
    pub ids: Vec<u32>,
    /// How many tokens of the texts were cut off.
    pub cut: usize,
}

impl Tokenizer {
    /// The tokens of `first`, or of `first` and `second`, in the tokenizer's own template, at most `max_length` of them
    /// in all. What is too long is cut at its end; of two texts the longer one first, until both are equally long, as
    /// transformers' `truncation="longest_first"` does.
    ///
    /// # Errors
    /// [`ModelError::InvalidArgument`] when `max_length` leaves no room beside the special tokens, and
    /// [`ModelError::Tokenizer`] with the tokenizer's words.
    pub fn encode_pair(&self, first: &str, second: Option<&str>, max_length: usize) -> Result<EncodedPair> {
        let template = self.inner.get_post_processor().map_or(0, |template| template.added_tokens(second.is_some()));
        let Some(room) = max_length.checked_sub(template).filter(|&room| room > 0) else {
            let message = format!("a length of {max_length} leaves no room beside {template} special tokens");
            return Err(ModelError::InvalidArgument { operation: "encode_pair", message });
        };
        let encode = |text: &str| self.inner.encode(text, false).map_err(|error| self.failed(error));
        let (first, second) = (encode(first)?, second.map(encode).transpose()?);
        let whole = first.len() + second.as_ref().map_or(0, |second| second.len());
        let cut = TruncationParams {
            max_length: room,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
            direction: TruncationDirection::Right,
        };
        let (first, second) = truncate_encodings(first, second, &cut).map_err(|error| self.failed(error))?;
        let encoding = self.inner.post_process(first, second, true).map_err(|error| self.failed(error))?;
        Ok(EncodedPair { ids: encoding.get_ids().to_vec(), cut: whole.saturating_sub(room) })
    }
}
