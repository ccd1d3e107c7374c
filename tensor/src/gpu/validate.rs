//! Test helpers for kernels' texts: naga's checks, as every device would make before compiling, and reviewed snapshots.

use super::complete_source;

/// Parses and validates a kernel with its pipeline constants, with and without immediates and 64-bit integers.
///
/// # Panics
/// When naga refuses it, with naga's message.
pub(crate) fn validate(name: &str, wgsl: &str, constants: &[(&str, f64)]) {
    for richly in [true, false] {
        let source = complete_source(wgsl, richly, richly);
        let module = match naga::front::wgsl::parse_str(&source) {
            Ok(module) => module,
            Err(error) => panic!("{name}: {}", error.emit_to_string(&source)),
        };
        let mut validator =
            naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all());
        let info = match validator.validate(&module) {
            Ok(info) => info,
            Err(error) => panic!("{name}: {}", error.emit_to_string(&source)),
        };
        let constants = constants.iter().map(|(key, value)| (key.to_string(), *value)).collect();
        if let Err(error) = naga::back::pipeline_constants::process_overrides(&module, &info, None, &constants) {
            panic!("{name}: {error}");
        }
    }
}

/// Compares generated text with its snapshot in the operation's folder `snapshots`, where changes show in review. With the
/// environment variable `TENSOR_UPDATE_SNAPSHOTS` the snapshot is written anew first.
///
/// # Panics
/// When they differ.
pub(crate) fn assert_as_reviewed(operation: &str, kernel: &str, text: &str) {
    let path = format!("{}/src/ops/{operation}/snapshots/{kernel}.wgsl", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("TENSOR_UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, text).expect("the folder of snapshots can be written");
    }
    let reviewed = std::fs::read_to_string(&path).unwrap_or_default().replace("\r\n", "\n");
    assert!(reviewed == text, "{kernel} differs from its snapshot");
}
