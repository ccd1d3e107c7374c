//! How a SPIR-V module is read: its instructions, one after another.

/// Words of a module's header.
pub(crate) const HEADER: usize = 5;

/// The instructions of a module behind its header: a word of length and operation, then the operands.
pub(crate) fn instructions(words: &[u32]) -> impl Iterator<Item = &[u32]> {
    let mut rest = &words[HEADER.min(words.len())..];
    std::iter::from_fn(move || {
        let length = (rest.first()? >> 16) as usize;
        let (instruction, following) = rest.split_at(length.clamp(1, rest.len()));
        rest = following;
        Some(instruction)
    })
}

/// An instruction's operation.
pub(crate) fn operation(instruction: &[u32]) -> u32 {
    instruction[0] & 0xffff
}
