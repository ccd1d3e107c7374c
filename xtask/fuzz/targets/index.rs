//! The index of a checkpoint in shards, of which there is one.
#![no_main]

use std::sync::Once;

/// Two tensors, `a` and `b`.
const SHARD: &str = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    static SHARDS: Once = Once::new();
    SHARDS.call_once(|| {
        let length = (SHARD.len() as u64).to_le_bytes();
        fuzz::file("s.safetensors", &[&length[..], SHARD.as_bytes(), &[0; 8]].concat());
    });
    fuzz::file("model.safetensors.index.json", bytes);
    fuzz::read_checkpoint();
});
