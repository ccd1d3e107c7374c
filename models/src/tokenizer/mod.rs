//! Text to token ids and back, by the rules of a checkpoint's tokenizer.json, or else of its SentencePiece model.

mod charsmap;
mod convert;
mod pair;
mod sentencepiece;
mod stream;
mod training;

use std::path::{Path, PathBuf};

use lora::read_small;
use serde_json::Value;

use crate::error::{ModelError, Result};
use crate::json::Object;
use convert::{Family, Settings};
pub use pair::EncodedPair;
use sentencepiece::SentencePiece;
pub use stream::TokenStream;
pub use training::{TokenizerFamily, train_unigram};

/// The largest vocabularies take some tens of megabytes; more than this is damage or malice.
const MAX_BYTES: u64 = 1 << 28;

/// A checkpoint's tokenizer with its special tokens.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    mask: Option<u32>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` in a checkpoint directory; where there is none, `spm.model` as DeBERTaV3's tokenizer or
    /// `tokenizer.model` as LLaMA's. Special tokens are those named in `tokenizer_config.json` where that file exists;
    /// for a SentencePiece model the family's own stand for absent ones.
    ///
    /// # Errors
    /// [`ModelError::Io`] when tokenizer.json cannot be read, [`ModelError::Tokenizer`] when it or the SentencePiece
    /// model is not one, [`ModelError::Json`] and [`ModelError::Field`] for a malformed tokenizer_config.json.
    pub fn read(directory: &Path) -> Result<Self> {
        let sentencepiece = ["spm.model", "tokenizer.model"].map(|name| directory.join(name));
        let [deberta, llama] = &sentencepiece;
        let path = directory.join("tokenizer.json");
        let (path, family) = match () {
            () if !path.exists() && deberta.exists() => {
                (deberta.clone(), convert(deberta, directory, convert::deberta)?)
            }
            () if !path.exists() && llama.exists() => (llama.clone(), convert(llama, directory, convert::llama)?),
            () => {
                let inner = read_json(&path)?;
                (path, Family { tokenizer: inner, bos: None, eos: None, pad: None })
            }
        };
        let known = |token: Option<&str>| token.and_then(|token| family.tokenizer.token_to_id(token));
        let (bos, eos, pad) = (known(family.bos), known(family.eos), known(family.pad));
        let mask = family.tokenizer.token_to_id("[MASK]");
        let mut tokenizer = Tokenizer { inner: family.tokenizer, path, bos, eos, pad, mask };
        let config = directory.join("tokenizer_config.json");
        if config.exists() {
            let config = Object::read(&config)?;
            tokenizer.bos = tokenizer.special(&config, "bos_token")?.or(bos);
            tokenizer.eos = tokenizer.special(&config, "eos_token")?.or(eos);
            tokenizer.pad = tokenizer.special(&config, "pad_token")?.or(pad);
            tokenizer.mask = tokenizer.special(&config, "mask_token")?.or(mask);
        }
        Ok(tokenizer)
    }

    /// A special token's id: the configuration holds its text, or an object with its text as `content`.
    fn special(&self, config: &Object, field: &str) -> Result<Option<u32>> {
        let text = match config.get(field) {
            None => return Ok(None),
            Some(Value::String(text)) => text.as_str(),
            Some(Value::Object(token)) => token
                .get("content")
                .and_then(Value::as_str)
                .ok_or_else(|| config.error(field, "must have its text as `content`"))?,
            Some(other) => return Err(config.error(field, format!("must be a text or an object, found {other}"))),
        };
        match self.inner.token_to_id(text) {
            Some(id) => Ok(Some(id)),
            None => {
                let file = self.path.file_name().unwrap_or_default().display();
                Err(config.error(field, format!("is `{text}`, which {file} does not know")))
            }
        }
    }

    /// The token that starts a sequence, as tokenizer_config.json names it.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a sequence, as tokenizer_config.json names it.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The token that fills up short sequences, as tokenizer_config.json names it.
    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    /// The token that hides another from a masked language model, as tokenizer_config.json names it, else `[MASK]`.
    pub fn mask(&self) -> Option<u32> {
        self.mask
    }

    /// The tokens that stand for no text, in order.
    pub fn special_tokens(&self) -> Vec<u32> {
        let added = self.inner.get_added_tokens_decoder().into_iter();
        let mut special: Vec<u32> = added.filter(|(_, token)| token.special).map(|(id, _)| id).collect();
        special.sort_unstable();
        special
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id of a token by its exact text.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The text of a token id.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The token ids of a text. `add_special_tokens` adds what the tokenizer's own template adds, for LLaMA the
    /// token that starts a sequence.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] with the tokenizer's words.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding = self.inner.encode(text, add_special_tokens).map_err(|error| self.failed(error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of token ids, with or without the special ones.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] with the tokenizer's words.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        self.inner.decode(ids, skip_special_tokens).map_err(|error| self.failed(error))
    }

    /// A decoder that takes one token at a time, for text that is shown while it is generated.
    pub fn stream(&self) -> TokenStream<'_> {
        TokenStream { tokenizer: self, ids: Vec::new(), shown: String::new() }
    }

    fn failed(&self, error: tokenizers::Error) -> ModelError {
        ModelError::Tokenizer { path: self.path.clone(), message: error.to_string() }
    }
}

fn read_json(path: &Path) -> Result<tokenizers::Tokenizer> {
    let bytes = read_small(path, MAX_BYTES).map_err(ModelError::unread)?;
    let failed = |error: tokenizers::Error| ModelError::Tokenizer { path: path.into(), message: error.to_string() };
    let mut tokenizer = tokenizers::Tokenizer::from_bytes(bytes).map_err(failed)?;
    // Cutting and filling belong to whoever makes batches; a file may carry its last user's settings.
    tokenizer.with_truncation(None).map_err(failed)?;
    tokenizer.with_padding(None);
    Ok(tokenizer)
}

/// Reads a SentencePiece model and turns it into a family's tokenizer.
fn convert(
    path: &Path,
    directory: &Path,
    into: fn(&SentencePiece, &Settings) -> std::result::Result<Family, String>,
) -> Result<Family> {
    let bytes = read_small(path, MAX_BYTES).map_err(ModelError::unread)?;
    let settings = Settings::read(directory)?;
    let failed = |message| ModelError::Tokenizer { path: path.to_path_buf(), message };
    SentencePiece::parse(&bytes).and_then(|model| into(&model, &settings)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tempfile::TempDir;

    use super::*;

    /// A byte-level tokenizer of a few tokens; `Ã` and `©` are the two bytes of é.
    fn directory(config: Option<Value>) -> TempDir {
        let special = |id: u32, content: &str| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        };
        let byte_level =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        let tokenizer = json!({
            "version": "1.0",
            "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
            "padding": null,
            "added_tokens": [special(0, "<s>"), special(1, "</s>")],
            "normalizer": null, "pre_tokenizer": byte_level, "decoder": byte_level,
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "ab": 4, "Ġ": 5, "Ã": 6, "©": 7}, "merges": ["a b"]}
        });
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join("tokenizer.json"), tokenizer.to_string()).expect("written");
        if let Some(config) = config {
            std::fs::write(directory.path().join("tokenizer_config.json"), config.to_string()).expect("written");
        }
        directory
    }

    #[test]
    fn text_goes_there_and_back() {
        let directory =
            directory(Some(json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": null})));
        let tokenizer = Tokenizer::read(directory.path()).expect("a tokenizer");
        assert_eq!(
            (tokenizer.bos(), tokenizer.eos(), tokenizer.pad(), tokenizer.vocab_size()),
            (Some(0), Some(1), None, 8)
        );
        let ids = tokenizer.encode("ab abé", true).expect("ids");
        assert_eq!(ids, [0, 4, 5, 4, 6, 7], "the file's own truncation must not act");
        assert_eq!(tokenizer.encode("ab", false).expect("ids"), [4]);
        assert_eq!(tokenizer.decode(&ids, true).expect("text"), "ab abé");
        assert_eq!(tokenizer.decode(&ids, false).expect("text"), "<s>ab abé");
        assert_eq!((tokenizer.token_id("ab"), tokenizer.token(4).as_deref()), (Some(4), Some("ab")));
    }

    #[test]
    fn streams_give_whole_characters() {
        let directory = directory(None);
        let tokenizer = Tokenizer::read(directory.path()).expect("a tokenizer");
        let mut stream = tokenizer.stream();
        let pieces: Vec<String> = [0, 4, 6, 7, 5, 2].map(|id| stream.push(id).expect("text")).into();
        assert_eq!(pieces, ["", "ab", "", "é", " ", "a"]);
        let mut stream = tokenizer.stream();
        let ids: Vec<u32> = [4, 5, 6, 7, 3].repeat(60);
        let mut text = ids.iter().map(|&id| stream.push(id).expect("text")).collect::<String>();
        text += &stream.finish().expect("text");
        assert_eq!(text, "ab éb".repeat(60));
        let mut stream = tokenizer.stream();
        assert_eq!(stream.push(6).expect("text"), "");
        assert_eq!(stream.finish().expect("text"), "\u{FFFD}");
    }

    #[test]
    fn malformed_files_are_named() {
        let refusal = |directory: &TempDir| Tokenizer::read(directory.path()).err().expect("refused").to_string();
        let wrong = directory(Some(json!({"bos_token": "<bos>"})));
        assert!(
            refusal(&wrong)
                .contains("tokenizer_config.json: `bos_token` is `<bos>`, which tokenizer.json does not know")
        );
        std::fs::write(wrong.path().join("tokenizer.json"), "{}").expect("written");
        assert!(refusal(&wrong).contains("tokenizer.json: tokenizer: "));
        std::fs::remove_file(wrong.path().join("tokenizer.json")).expect("removed");
        assert!(matches!(Tokenizer::read(wrong.path()), Err(ModelError::Io { .. })));
    }
}
