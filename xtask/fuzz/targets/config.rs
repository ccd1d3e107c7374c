//! config.json of a model.
#![no_main]

use models::ModelConfig;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz::file("config.json", bytes);
    if let Ok(ModelConfig::Llama(config)) = ModelConfig::read(fuzz::directory()) {
        // What follows from the numbers must be numbers, too.
        let _ = (config.parameters(), models::inverse_frequencies(&config));
    }
});
