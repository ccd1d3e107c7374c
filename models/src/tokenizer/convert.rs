//! SentencePiece models as tokenizers of the `tokenizers` crate, by the rules of transformers
//! (`convert_slow_tokenizer.py` 4.46: `DebertaV2Converter`, `LlamaConverter`).

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip as StripDecoder;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::{Lowercase, NormalizerWrapper, Precompiled, Prepend, Replace, Sequence, Strip};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::punctuation::Punctuation;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, ModelWrapper, SplitDelimiterBehavior, Tokenizer};

use super::charsmap;
use super::sentencepiece::{Algorithm, Kind, SentencePiece};
use crate::error::Result;
use crate::json::Object;

/// Stands for a space.
const SPACE: &str = "▁";

type Converted<T> = std::result::Result<T, String>;

/// A converted tokenizer and the special tokens that its family has unless tokenizer_config.json says otherwise.
pub(super) struct Family {
    pub tokenizer: Tokenizer,
    pub bos: Option<&'static str>,
    pub eos: Option<&'static str>,
    pub pad: Option<&'static str>,
}

/// What tokenizer_config.json and added_tokens.json say that matters here.
pub(super) struct Settings {
    lower_case: bool,
    split_punctuation: bool,
    prefix_space: bool,
    legacy: bool,
    add_bos: bool,
    add_eos: bool,
    /// Tokens beyond the pieces, by id.
    added: BTreeMap<u32, AddedToken>,
}

impl Settings {
    /// Reads the two files where they exist.
    pub fn read(directory: &Path) -> Result<Self> {
        let read = |name: &str| match directory.join(name) {
            path if path.exists() => Object::read(&path),
            path => Object::parse(&path, "{}"),
        };
        let config = read("tokenizer_config.json")?;
        let mut settings = Settings {
            lower_case: config.flag("do_lower_case", false)?,
            split_punctuation: config.flag("split_by_punct", false)?,
            prefix_space: config.flag("add_prefix_space", true)?,
            legacy: config.flag("legacy", true)?,
            add_bos: config.flag("add_bos_token", true)?,
            add_eos: config.flag("add_eos_token", false)?,
            added: BTreeMap::new(),
        };
        for (text, id) in read("added_tokens.json")?.fields() {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = id.ok_or_else(|| config.error(&format!("added_tokens.json: {text}"), "must be a token id"))?;
            settings.added.insert(id, AddedToken::from(text.clone(), true).normalized(false));
        }
        if let Some(decoder) = config.object("added_tokens_decoder")? {
            for (id, token) in decoder.fields() {
                let parsed = id.parse::<u32>().ok().zip(token.as_object().and_then(added_token));
                let (id, token) = parsed.ok_or_else(|| decoder.error(id, "must describe a token by its id"))?;
                settings.added.insert(id, token);
            }
        }
        Ok(settings)
    }
}

fn added_token(token: &Map<String, Value>) -> Option<AddedToken> {
    let flag = |name: &str| token.get(name).and_then(Value::as_bool).unwrap_or(false);
    let text = token.get("content")?.as_str()?;
    Some(
        AddedToken::from(text, flag("special"))
            .normalized(flag("normalized"))
            .lstrip(flag("lstrip"))
            .rstrip(flag("rstrip"))
            .single_word(flag("single_word")),
    )
}

/// DeBERTaV2 and V3: `[CLS] A [SEP]`, `[CLS] A [SEP] B [SEP]`; `[MASK]` after the pieces.
pub(super) fn deberta(model: &SentencePiece, settings: &Settings) -> Converted<Family> {
    let mut tokenizer = Tokenizer::new(subwords(model, false)?);
    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    if settings.lower_case {
        normalizers.push(Lowercase.into());
    }
    normalizers.push(Strip::new(true, true).into());
    if !model.charsmap.is_empty() {
        normalizers.push(precompiled(&model.charsmap)?.into());
    }
    let spaces = tokenizers::normalizers::replace::ReplacePattern::Regex(" {2,}".into());
    normalizers.push(Replace::new(spaces, " ").map_err(words)?.into());
    tokenizer.with_normalizer(Some(Sequence::new(normalizers)));

    let metaspace = Metaspace::new('▁', prepend_scheme(settings), true);
    let punctuation = settings.split_punctuation.then(|| Punctuation::new(SplitDelimiterBehavior::Isolated).into());
    let pre_tokenizers = punctuation.into_iter().chain([metaspace.clone().into()]).collect();
    tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(pre_tokenizers)));
    tokenizer.with_decoder(Some(metaspace));

    let special = ["[CLS]", "[UNK]", "[SEP]", "[PAD]", "[MASK]"];
    // The unknown token alone is looked for after normalisation, as transformers declares it.
    let special = special.map(|text| AddedToken::from(text, true).normalized(text == "[UNK]"));
    add_tokens(&mut tokenizer, model, &special, settings)?;
    template(&mut tokenizer, "[CLS]:0 $A:0 [SEP]:0", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", &["[CLS]", "[SEP]"])?;
    Ok(Family { tokenizer, bos: Some("[CLS]"), eos: Some("[SEP]"), pad: Some("[PAD]") })
}

/// LLaMA 1 and 2: characters without a piece become bytes; `<s> A`.
pub(super) fn llama(model: &SentencePiece, settings: &Settings) -> Converted<Family> {
    let mut tokenizer = Tokenizer::new(subwords(model, true)?);
    let mut decoders =
        vec![Replace::new(SPACE, " ").map_err(words)?.into(), ByteFallback::new().into(), Fuse::new().into()];
    if settings.prefix_space {
        decoders.push(StripDecoder::new(' ', 1, 0).into());
    }
    tokenizer.with_decoder(Some(Decoders::new(decoders)));
    if settings.legacy {
        let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
        if settings.prefix_space {
            normalizers.push(Prepend::new(SPACE.into()).into());
        }
        normalizers.push(Replace::new(" ", SPACE).map_err(words)?.into());
        tokenizer.with_normalizer(Some(Sequence::new(normalizers)));
    } else {
        tokenizer.with_pre_tokenizer(Some(Metaspace::new('▁', prepend_scheme(settings), false)));
    }
    let special = ["<unk>", "<s>", "</s>"].map(|text| AddedToken::from(text, true).normalized(false));
    add_tokens(&mut tokenizer, model, &special, settings)?;
    let part = |segment: &str, number: u8| {
        let bos = if settings.add_bos { format!("<s>:{number} ") } else { String::new() };
        let eos = if settings.add_eos { format!(" </s>:{number}") } else { String::new() };
        format!("{bos}${segment}:{number}{eos}")
    };
    let (first, second) = (part("A", 0), part("B", 1));
    template(&mut tokenizer, &first, &format!("{first} {second}"), &["<s>", "</s>"])?;
    Ok(Family { tokenizer, bos: Some("<s>"), eos: Some("</s>"), pad: None })
}

fn prepend_scheme(settings: &Settings) -> PrependScheme {
    match (settings.prefix_space, settings.legacy) {
        (false, _) => PrependScheme::Never,
        (true, true) => PrependScheme::Always,
        (true, false) => PrependScheme::First,
    }
}

/// The model that cuts words into pieces.
fn subwords(model: &SentencePiece, byte_fallback: bool) -> Converted<ModelWrapper> {
    match model.algorithm {
        Algorithm::Unigram => {
            let pieces = model.pieces.iter().map(|piece| (piece.text.clone(), f64::from(piece.score))).collect();
            Ok(Unigram::from(pieces, Some(model.unknown), byte_fallback).map_err(words)?.into())
        }
        Algorithm::Bpe => {
            let ids = model.pieces.iter().zip(0u32..).map(|(piece, id)| (piece.text.clone(), id));
            let built = BPE::builder()
                .vocab_and_merges(ids.collect::<Vocab>(), merges(model))
                .unk_token(model.pieces[model.unknown].text.clone())
                .fuse_unk(true)
                .byte_fallback(byte_fallback)
                .build();
            Ok(built.map_err(words)?.into())
        }
    }
}

/// SentencePiece joins whichever neighbours make the piece of the highest score; the crate wants a list of joins. All
/// ways to cut a piece in two, in the order of the pieces' scores.
fn merges(model: &SentencePiece) -> Vec<(String, String)> {
    let ids: HashMap<&str, usize> =
        model.pieces.iter().enumerate().map(|(id, piece)| (piece.text.as_str(), id)).collect();
    let mut merges = Vec::new();
    for piece in &model.pieces {
        let cuts = piece.text.char_indices().skip(1).map(|(at, _)| piece.text.split_at(at));
        let mut known: Vec<(usize, usize, &str, &str)> =
            cuts.filter_map(|(left, right)| Some((*ids.get(left)?, *ids.get(right)?, left, right))).collect();
        known.sort_by_key(|&(left, right, ..)| (left, right));
        merges.extend(known.into_iter().map(|(_, _, left, right)| (piece.score, left, right)));
    }
    let length = |text: &str| text.chars().count();
    // Proof of the total order: scores are finite (checked by the reader).
    merges.sort_by(|a, b| {
        (b.0.total_cmp(&a.0)).then_with(|| (length(b.1), length(b.2)).cmp(&(length(a.1), length(a.2))))
    });
    merges.into_iter().map(|(_, left, right)| (left.to_owned(), right.to_owned())).collect()
}

fn precompiled(table: &[u8]) -> Converted<Precompiled> {
    const DAMAGED: &str = "its table of character replacements is damaged";
    if !charsmap::is_sound(table) {
        return Err(DAMAGED.into());
    }
    Precompiled::from(table).map_err(|_| DAMAGED.into())
}

/// Declares the tokens that are found in a text before it is cut: the pieces for control and those of users, the
/// family's special tokens, and what the checkpoint's own files add. Those that are no pieces get the next ids, which
/// must be the ones that the files say.
fn add_tokens(
    tokenizer: &mut Tokenizer,
    model: &SentencePiece,
    special: &[AddedToken],
    settings: &Settings,
) -> Converted<()> {
    let declared = model.pieces.iter().filter(|piece| matches!(piece.kind, Kind::Control | Kind::UserDefined));
    let declared: Vec<AddedToken> = declared
        .map(|piece| AddedToken::from(piece.text.clone(), piece.kind == Kind::Control).normalized(false))
        .collect();
    tokenizer.add_tokens(&declared);
    let listed: Vec<AddedToken> = settings.added.values().cloned().collect();
    let is_listed = |token: &AddedToken| listed.iter().any(|other| other.content == token.content);
    let missing: Vec<AddedToken> = special.iter().filter(|token| !is_listed(token)).cloned().collect();
    let known: Vec<AddedToken> =
        missing.iter().filter(|token| tokenizer.token_to_id(&token.content).is_some()).cloned().collect();
    tokenizer.add_tokens(&known);
    tokenizer.add_tokens(&listed);
    tokenizer.add_tokens(&missing);
    for (&id, token) in &settings.added {
        if tokenizer.token_to_id(&token.content) != Some(id) {
            let found = tokenizer.token_to_id(&token.content);
            return Err(format!("added token `{}` should have id {id}, but would get {found:?}", token.content));
        }
    }
    Ok(())
}

pub(super) fn template(tokenizer: &mut Tokenizer, single: &str, pair: &str, special: &[&str]) -> Converted<()> {
    let special: Vec<(String, u32)> = special
        .iter()
        .map(|text| match tokenizer.token_to_id(text) {
            Some(id) => Ok((text.to_string(), id)),
            None => Err(format!("it has no piece `{text}`")),
        })
        .collect::<Converted<_>>()?;
    let template = TemplateProcessing::builder()
        .try_single(single)
        .and_then(|builder| builder.try_pair(pair))
        .map(|builder| builder.special_tokens(special).build());
    let template = template.map_err(words)?.map_err(words)?;
    tokenizer.with_post_processor(Some(template));
    Ok(())
}

pub(super) fn words(error: impl ToString) -> String {
    error.to_string()
}
