//! Test helper: checks a kernel variant with naga, as every device would before compiling it.

use super::complete_source;

/// Parses and validates a kernel with its pipeline constants, with and without immediates.
///
/// # Panics
/// When naga refuses it, with naga's message.
pub(crate) fn validate(name: &str, wgsl: &str, constants: &[(&str, f64)]) {
    for immediates in [true, false] {
        let source = complete_source(wgsl, immediates);
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
