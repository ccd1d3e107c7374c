//! A file of `torch.save`: the zip archive or the old layout, the pickle, and the tensors they tell of.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz::file("pytorch_model.bin", bytes);
    fuzz::read_checkpoint();
});
