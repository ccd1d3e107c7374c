//! adapter_config.json, and what it would adapt.
#![no_main]

use lora::{AdapterSet, ModuleShape, read_adapter_config, write_adapter_config};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let path = fuzz::file("adapter_config.json", bytes);
    let Ok((config, origin)) = read_adapter_config(&path) else { return };
    let modules = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj", "lm_head"];
    let mut modules = modules.map(|name| ModuleShape::new(name, 4, 4)).to_vec();
    modules.push(ModuleShape::new("model.embed_tokens", 4, 4).embedding());
    let _ = AdapterSet::plan(&config, &modules);
    let text = write_adapter_config(&config, &origin).expect("what was read can be written");
    let path = fuzz::file("again.json", text.as_bytes());
    let (again, _) = read_adapter_config(&path).expect("what was written can be read");
    assert_eq!(again.rank, config.rank);
});
