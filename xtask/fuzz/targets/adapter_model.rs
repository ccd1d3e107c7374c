//! adapter_model.safetensors for a given configuration.
#![no_main]

use std::sync::Once;

use lora::{AdapterSet, ModuleShape};
use tensor::Device;

const CONFIG: &str = r#"{"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q"], "init_lora_weights": true}"#;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    static CONFIGURATION: Once = Once::new();
    CONFIGURATION.call_once(|| drop(fuzz::file("adapter_config.json", CONFIG.as_bytes())));
    fuzz::file("adapter_model.safetensors", bytes);
    let _ = AdapterSet::load(fuzz::directory(), &[ModuleShape::new("q", 2, 2)], &Device::cpu());
});
