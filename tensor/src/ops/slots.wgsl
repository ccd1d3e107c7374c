
// The slot that workgroup `number` works for, SLOTS for none. Slots have consecutive lines in `table`, `width` words each,
// from line `first` on; the word `group` of a line is its first workgroup among those of all lines, and one more line than
// there are slots has it.
fn slot_of(number: u32, first: u32, width: u32, group: u32) -> u32 {
    var slot = 0u;
    while (slot < SLOTS && number >= table[(first + slot + 1u) * width + group]) {
        slot += 1u;
    }
    return slot;
}
