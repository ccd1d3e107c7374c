//! SentencePiece model files: the few fields of their protobuf message that decide how text becomes pieces. Message:
//! `sentencepiece_model.proto`; encoding: protobuf.dev/programming-guides/encoding.

use std::collections::HashSet;

/// Pieces beyond this are damage; vocabularies of published models stay below 300 000.
const MAX_PIECES: usize = 1 << 21;
/// SentencePiece itself trains pieces of at most 16 characters by default; users may name longer ones.
const MAX_PIECE_BYTES: usize = 4096;

/// What a piece is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// One entry of the vocabulary; its place is its id.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Piece {
    pub text: String,
    /// Log probability (Unigram) or negative rank (BPE).
    pub score: f32,
    pub kind: Kind,
}

/// How a text is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Unigram,
    Bpe,
}

/// The content of a model file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SentencePiece {
    pub pieces: Vec<Piece>,
    pub algorithm: Algorithm,
    /// The piece for what no other piece covers.
    pub unknown: usize,
    /// Replacements of characters, in SentencePiece's compiled form; empty for none.
    pub charsmap: Vec<u8>,
}

type Result<T> = std::result::Result<T, String>;

impl SentencePiece {
    /// Parses a model file.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut model =
            SentencePiece { pieces: Vec::new(), algorithm: Algorithm::Unigram, unknown: 0, charsmap: Vec::new() };
        let mut fields = Fields(bytes);
        while let Some((number, field)) = fields.next()? {
            match (number, field) {
                (1, Field::Bytes(piece)) => model.pieces.push(parse_piece(piece)?),
                (2, Field::Bytes(trainer)) => model.read_trainer(trainer)?,
                (3, Field::Bytes(normalizer)) => model.read_normalizer(normalizer)?,
                _ => {}
            }
            if model.pieces.len() > MAX_PIECES {
                return Err(format!("it has more than {MAX_PIECES} pieces"));
            }
        }
        model.check()?;
        Ok(model)
    }

    fn read_trainer(&mut self, bytes: &[u8]) -> Result<()> {
        let mut fields = Fields(bytes);
        while let Some((number, field)) = fields.next()? {
            match (number, field) {
                (3, Field::Number(1)) => self.algorithm = Algorithm::Unigram,
                (3, Field::Number(2)) => self.algorithm = Algorithm::Bpe,
                (3, Field::Number(other)) => {
                    return Err(format!("its model type is {other}; Unigram (1) and BPE (2) are supported"));
                }
                (40, Field::Number(id)) => self.unknown = usize::try_from(id).unwrap_or(usize::MAX),
                _ => {}
            }
        }
        Ok(())
    }

    fn read_normalizer(&mut self, bytes: &[u8]) -> Result<()> {
        let mut fields = Fields(bytes);
        while let Some((number, field)) = fields.next()? {
            if let (2, Field::Bytes(charsmap)) = (number, field) {
                self.charsmap = charsmap.to_vec();
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        if self.unknown >= self.pieces.len() {
            return Err(format!("its unknown piece is number {} of {}", self.unknown, self.pieces.len()));
        }
        let mut seen = HashSet::with_capacity(self.pieces.len());
        for (id, piece) in self.pieces.iter().enumerate() {
            let length = piece.text.len();
            if length == 0 || length > MAX_PIECE_BYTES || !piece.score.is_finite() || !seen.insert(&piece.text) {
                let text: String = piece.text.chars().take(40).collect();
                return Err(format!("piece {id} `{text}` is empty, too long, repeated, or has no finite score"));
            }
        }
        Ok(())
    }
}

fn parse_piece(bytes: &[u8]) -> Result<Piece> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: Kind::Normal };
    let mut fields = Fields(bytes);
    while let Some((number, field)) = fields.next()? {
        match (number, field) {
            (1, Field::Bytes(text)) => {
                piece.text = String::from_utf8(text.to_vec()).map_err(|_| "a piece is not UTF-8")?;
            }
            (2, Field::Bits(bits)) => piece.score = f32::from_bits(bits),
            (3, Field::Number(kind)) => {
                piece.kind = match kind {
                    1 => Kind::Normal,
                    2 => Kind::Unknown,
                    3 => Kind::Control,
                    4 => Kind::UserDefined,
                    5 => Kind::Unused,
                    6 => Kind::Byte,
                    other => return Err(format!("a piece has the unknown type {other}")),
                };
            }
            _ => {}
        }
    }
    Ok(piece)
}

/// The value of a field, by its wire type.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Field<'a> {
    Number(u64),
    /// Eight bytes; nothing that is read here has this type.
    Wide,
    Bytes(&'a [u8]),
    Bits(u32),
}

/// The fields of a message that are still to come.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let field = match key & 7 {
            0 => Field::Number(self.varint()?),
            1 => {
                self.take(8)?;
                Field::Wide
            }
            2 => {
                let length = self.varint()?;
                Field::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?;
                // Proof: `take` gave four bytes.
                Field::Bits(u32::from_le_bytes(bytes.try_into().unwrap_or_default()))
            }
            other => return Err(format!("it has a field of wire type {other}: it is not a SentencePiece model")),
        };
        Ok(Some((key >> 3, field)))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let taken = usize::try_from(length).ok().and_then(|length| self.0.split_at_checked(length));
        let (taken, rest) = taken.ok_or("it is truncated or damaged, or not a SentencePiece model")?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("it has a number of more than 64 bits: it is damaged, or not a SentencePiece model".into())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn fixture(name: &str) -> Vec<u8> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sentencepiece").join(name);
        std::fs::read(path).expect("the fixture")
    }

    #[test]
    fn both_kinds_of_models_are_read() {
        let unigram = SentencePiece::parse(&fixture("deberta/spm.model")).expect("a model");
        assert_eq!((unigram.algorithm, unigram.unknown, unigram.pieces.len()), (Algorithm::Unigram, 3, 260));
        assert_eq!((unigram.pieces[1].text.as_str(), unigram.pieces[1].kind), ("[CLS]", Kind::Control));
        assert_eq!((unigram.pieces[4].text.as_str(), unigram.pieces[4].kind), ("<sep>", Kind::UserDefined));
        assert!(!unigram.charsmap.is_empty() && unigram.pieces[5].score < 0.0);
        let bpe = SentencePiece::parse(&fixture("llama/tokenizer.model")).expect("a model");
        assert_eq!((bpe.algorithm, bpe.unknown, bpe.pieces.len()), (Algorithm::Bpe, 0, 520));
        assert_eq!((bpe.pieces[13].text.as_str(), bpe.pieces[13].kind), ("<0x0A>", Kind::Byte));
    }

    #[test]
    fn other_files_are_refused() {
        let refusal = |bytes: &[u8]| SentencePiece::parse(bytes).expect_err("must be refused");
        assert!(refusal(b"").contains("unknown piece is number 0 of 0"));
        assert!(refusal(b"{\"version\": 1}").contains("not a SentencePiece model"));
        assert!(refusal(b"\x0a\xff\xff\xff\xff\x0f").contains("truncated"));
        assert!(refusal(b"\x0a\x03\x0a\x01a\x0a\x03\x0a\x01a").contains("piece 1 `a` is empty, too long, repeated"));
        assert!(refusal(b"\x12\x02\x18\x03").contains("model type is 3"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_model_or_an_error(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            keep: prop::sample::Index,
        ) {
            let mut bytes = fixture("deberta/spm.model");
            for (place, value) in changes {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            bytes.truncate(keep.index(bytes.len() + 1));
            let _ = SentencePiece::parse(&bytes);
        }
    }
}
