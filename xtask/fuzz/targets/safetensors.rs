//! The header of a safetensors file, and the tensors it tells of.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz::file("model.safetensors", bytes);
    fuzz::read_checkpoint();
});
