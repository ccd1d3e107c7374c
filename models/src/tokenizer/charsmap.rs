//! SentencePiece's compiled table of character replacements, checked before the `tokenizers` crate walks it: that crate
//! trusts every index in it. Layout: the length of a double-array trie in bytes, the trie's 32-bit units, and the
//! replacements as texts that end in a zero byte; a leaf of the trie is the place of a text.

/// True when no text can lead a walk out of the trie, nor a leaf point outside the replacements.
pub(super) fn is_sound(charsmap: &[u8]) -> bool {
    let Some((length, rest)) = charsmap.split_first_chunk::<4>() else { return false };
    let length = u32::from_le_bytes(*length) as usize;
    let Some((trie, replacements)) = rest.split_at_checked(length / 4 * 4) else { return false };
    let Ok(replacements) = std::str::from_utf8(replacements) else { return false };
    let units: Vec<u32> = trie.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let Some(&root) = units.first() else { return false };
    let mut seen = vec![false; units.len()];
    let mut open = vec![offset(root)];
    while let Some(node) = open.pop() {
        // Nodes of one block share the upper bits, so a block within the trie holds all children of its nodes.
        if node | 0xff >= units.len() {
            return false;
        }
        if std::mem::replace(&mut seen[node], true) {
            continue;
        }
        for byte in 1..=255 {
            let child = node ^ byte;
            let unit = units[child];
            if label(unit) as usize != byte {
                continue;
            }
            let next = child ^ offset(unit);
            open.push(next);
            if has_leaf(unit) && !units.get(next).is_some_and(|&leaf| points_into(leaf, replacements)) {
                return false;
            }
        }
    }
    true
}

fn points_into(leaf: u32, replacements: &str) -> bool {
    replacements.is_char_boundary((leaf & 0x7fff_ffff) as usize)
}

fn label(unit: u32) -> u32 {
    unit & 0x8000_00ff
}

fn has_leaf(unit: u32) -> bool {
    unit >> 8 & 1 == 1
}

fn offset(unit: u32) -> usize {
    ((unit >> 10) as usize) << ((unit & 0x200) >> 6)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use tokenizers::normalizers::Precompiled;

    use super::super::sentencepiece::SentencePiece;
    use super::*;

    fn real() -> Vec<u8> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sentencepiece/deberta/spm.model");
        SentencePiece::parse(&std::fs::read(path).expect("the fixture")).expect("a model").charsmap
    }

    #[test]
    fn real_tables_pass_and_cut_ones_do_not() {
        let real = real();
        assert!(is_sound(&real));
        assert!(!is_sound(&[]) && !is_sound(&[0; 4]) && !is_sound(&[4, 0, 0, 0, 0, 0, 0, 0]));
        assert!(!is_sound(&real[..100]));
        let texts = real.len() - 4 - u32::from_le_bytes([real[0], real[1], real[2], real[3]]) as usize;
        assert!(!is_sound(&real[..real.len() - texts]), "the replacements are gone");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn sound_tables_never_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            text in "\\PC{0,20}",
        ) {
            let mut bytes = real();
            for (place, value) in changes {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            if is_sound(&bytes) && let Ok(table) = Precompiled::from(&bytes) {
                table.normalize_string(&text);
                table.normalize_string("caf\u{e9} \u{fb01}sh \u{ff21}lso e\u{301} wait\u{2026}");
            }
        }
    }
}
