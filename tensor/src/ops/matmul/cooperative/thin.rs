//! What the kernels for thin products have besides: weights of lines, and several products in one launch.
//!
//! Products of one shape share a launch. Workgroups side by side compute the same tile of one after another, so that what
//! several products read they find in cache. Buffers cannot be chosen by a number: what reads them is written once for each
//! product and stands in a `switch`, a whole slab in one, since the driver moves nothing over a branch. A launch with
//! fewer products leaves slots empty.

use super::generator::{BAND, Config, Kind, TILE, VECTOR, bands};
use crate::ops::slots;

/// Products that a launch computes at the most.
pub(super) const SLOTS: usize = 3;

/// The weight of a line of the right operand: the product of two powers of two, divided by that of the exponent `largest`, and
/// 0 beyond the last line. In exponents, since the product may be beyond f32.
const WEIGHT: &str = include_str!("weight.wgsl");
const WEIGHTED_CONTAINER: &str = include_str!("weighted_container.wgsl");

/// Brings the largest exponent among what each invocation found to all.
const LARGEST_EXPONENT: &str = include_str!("largest_exponent.wgsl");

impl Config {
    pub(super) fn is_thin(&self) -> bool {
        matches!(self.kind, Kind::Thin { .. })
    }

    pub(super) fn is_weighted(&self) -> bool {
        matches!(self.kind, Kind::Thin { weighted: true, .. })
    }

    pub(super) fn is_transposed(&self) -> bool {
        matches!(self.kind, Kind::Thin { transposed: true, .. })
    }

    pub(super) fn is_several(&self) -> bool {
        matches!(self.kind, Kind::Thin { several: true, .. })
    }

    /// The kernel for this many products.
    pub(super) fn for_products(self, count: usize) -> Self {
        match self.kind {
            Kind::Thin { weighted, transposed, .. } => {
                Config { kind: Kind::Thin { weighted, transposed, several: count > 1 }, ..self }
            }
            _ => self,
        }
    }

    /// What ends the names of each product's buffers and parameters.
    pub(super) fn slot_names(&self) -> Vec<String> {
        if self.is_several() { (0..SLOTS).map(|slot| format!("_{slot}")).collect() } else { vec![String::new()] }
    }

    /// Text that names a product's buffers, for the workgroup's product.
    pub(super) fn of_product(&self, text: impl Fn(&str) -> String) -> String {
        let names = self.slot_names();
        let [first @ .., last] = &names[..] else { return String::new() };
        if first.is_empty() {
            return text(last);
        }
        let cases = first.iter().enumerate();
        let cases: String = cases.map(|(slot, name)| format!("case {slot}u: {{\n{}}}\n", text(name))).collect();
        format!("switch product {{\n{cases}default: {{\n{}}}\n}}\n", text(last))
    }

    /// The functions that weights need.
    pub(super) fn weight_functions(&self) -> String {
        match (self.is_weighted(), self.containers) {
            (true, true) => format!("{WEIGHT}\n{WEIGHTED_CONTAINER}\n"),
            (true, false) => format!("{WEIGHT}\n"),
            (false, _) => String::new(),
        }
    }

    /// Finds the largest exponent of the lines of this workgroup's part of `k`.
    pub(super) fn largest_exponent(&self) -> String {
        let look = self.of_product(|name| {
            let [first, second] = scales_of_line(name, "line");
            format!("largest = max(largest, exponent_of({first}, {second}));\n")
        });
        format!(
            "var largest = -126;\nfor (var line = start + local; line < end; line += 128u) {{\n{look}}}\n{LARGEST_EXPONENT}\n"
        )
    }

    /// Which of several products, which tile of it, and where its operands begin.
    pub(super) fn place_product(&self, columns: usize) -> String {
        let begin =
            self.of_product(|name| format!("a_begin = params.a_offset{name};\nb_begin = params.b_offset{name};\n"));
        format!(
            "let product = group.x % params.products;\nlet tile = group.x / params.products;\n\
             var a_begin: u32;\nvar b_begin: u32;\n{begin}{}",
            bands(BAND, TILE, columns, "tile")
        )
    }

    /// Where this workgroup's part of the result begins: behind each other lie the products' first parts, then their second.
    pub(super) fn part_start(&self) -> String {
        let part = if self.is_several() { "(group.y * params.products + product)" } else { "group.y" };
        format!("{part} * (params.m * params.n / {VECTOR}u)")
    }
}

/// The parameters of a kernel for several products.
pub(super) fn several_params() -> String {
    slots::expand(include_str!("several_params.wgsl"), SLOTS)
}

/// Both scales of a line.
pub(super) fn scales_of_line(name: &str, line: &str) -> [String; 2] {
    ["first", "second"].map(|side| format!("{side}_scales{name}[params.{side}_offset{name} + {line}]"))
}
