//! Text from tokens that come one at a time.

use super::Tokenizer;
use crate::error::Result;

/// Turns a stream of token ids into a stream of text.
pub struct TokenStream<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    /// Tokens since the last restart, and the text of theirs that was given out.
    pub(super) ids: Vec<u32>,
    pub(super) shown: String,
}

/// Tokens are decoded together, since one character may take several; after this many the stream starts again with
/// the last few as context, so that the cost per token stays constant.
const STREAM_WINDOW: usize = 64;
const STREAM_CONTEXT: usize = 8;

impl TokenStream<'_> {
    /// The text that one more token completes; empty while a character is incomplete.
    ///
    /// # Errors
    /// [`crate::ModelError::Tokenizer`] with the tokenizer's words.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids, true)?;
        // Bytes that do not make a character yet decode to U+FFFD.
        if text.ends_with('\u{FFFD}') {
            return Ok(String::new());
        }
        let Some(new) = text.strip_prefix(self.shown.as_str()).map(str::to_owned) else {
            // The decoder rewrote what was shown (some trim spaces): nothing can be taken back.
            self.shown = text;
            return Ok(String::new());
        };
        self.shown = text;
        if self.ids.len() > STREAM_WINDOW {
            self.ids.drain(..self.ids.len() - STREAM_CONTEXT);
            self.shown = self.tokenizer.decode(&self.ids, true)?;
        }
        Ok(new)
    }

    /// The text held back by [`TokenStream::push`], once no more tokens come.
    ///
    /// # Errors
    /// [`crate::ModelError::Tokenizer`] with the tokenizer's words.
    pub fn finish(self) -> Result<String> {
        let text = self.tokenizer.decode(&self.ids, true)?;
        Ok(text.strip_prefix(self.shown.as_str()).unwrap_or_default().to_owned())
    }
}
