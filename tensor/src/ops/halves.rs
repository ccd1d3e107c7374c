//! Rounding to f16 in kernels' texts.

/// A kernel's text with `halves`, which rounds four numbers to the type `Halves` that its bindings hold: by the device where
/// that is `native`, else in integers, since the rounding of `pack2x16float` is the driver's choice.
pub(super) fn with_halves(text: &str, native: bool) -> String {
    match native {
        true => ["enable f16;\n", text, include_str!("halves_native.wgsl")].concat(),
        false => [text, include_str!("halves_portable.wgsl")].concat(),
    }
}
