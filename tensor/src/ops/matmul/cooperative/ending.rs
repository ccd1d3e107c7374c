//! The end of a kernel's text: sums leave their matrices through workgroup memory and are written in vectors.
//!
//! What the results are multiplied by and added to is read for a row of matrices at once, before the first of them is stored:
//! asked for one by one behind barriers, each of these reads would be waited for.

use std::fmt::Write;

use super::batched;
use super::generator::{Config, Kind, MATRIX, THREADS, VECTOR};

/// Vectors of a matrix, and of one of each subgroup.
const MATRIX_VECTORS: usize = MATRIX * MATRIX / VECTOR;
const MATRICES: usize = THREADS / 32 * MATRIX_VECTORS;

/// Vectors of a matrix that a lane writes.
const COPIES: usize = MATRIX_VECTORS / 32;

impl Config {
    /// Vectors of four f32 that matrices take in workgroup memory on their way out: there are two places, so that one is written
    /// while the other is read, unless they would come on top of the slabs (elements of containers are called f32, and a slab's
    /// place is free by then).
    pub(super) fn matrices_size(&self) -> usize {
        MATRICES * if self.containers { 2 } else { 1 }
    }

    /// `write_out`: a vector of the result, where it lies within.
    pub(super) fn writer(&self) -> String {
        let write = match self.kind {
            Kind::Thin { transposed: true, .. } => {
                format!("out[part_start + (column * params.m + row) / {VECTOR}u] = value;\n")
            }
            Kind::Thin { .. } | Kind::Square { .. } | Kind::Large { .. } => {
                format!("out[part_start + (row * params.n + column) / {VECTOR}u] = value;\n")
            }
            Kind::Batched { halves, .. } => batched::write(halves),
        };
        let write = match self.whole_tiles {
            true => write,
            false => format!("if (row < params.m && column < params.n) {{\n{write}}}\n"),
        };
        format!("fn write_out(part_start: u32, row: u32, column: u32, value: vec4<f32>) {{\n{write}}}\n\n")
    }

    /// One matrix of each subgroup after another goes through workgroup memory; a lane writes two vectors of it.
    pub(super) fn write_sums(&self) -> String {
        // Lines of a matrix in workgroup memory are its rows, or its columns where these are written as rows.
        let (store, line, along) = match self.is_transposed() {
            false => ("coopStoreT", "row", "column"),
            true => ("coopStore", "column", "row"),
        };
        let start = if self.is_batched() { "out_begin".into() } else { self.part_start() };
        let mut text = format!(
            "let part_start = {start};\nlet place = subgroup * {MATRIX_VECTORS}u;\n\
             let {line} = first_{line} + subgroup_{line} + lane / {VECTOR}u;\n\
             let {along} = first_{along} + subgroup_{along} + lane % {VECTOR}u * {VECTOR}u;\n"
        );
        let [rows, columns] = self.matrices();
        text += &self.read_bias(columns);
        let matrices = if self.containers { "a_slab" } else { "matrices" };
        let between = MATRIX / COPIES;
        for matrix_row in 0..rows {
            text += &self.read_updates(matrix_row, columns);
            for matrix in 0..columns {
                let buffer = (matrix_row * columns + matrix) % (self.matrices_size() / MATRICES) * MATRICES;
                let name = format!("{matrix_row}_{matrix}");
                let _ = writeln!(
                    text,
                    "let place{name} = place + {buffer}u;\n\
                     {store}(sum{name}, &{matrices}[place{name}], {}u);\nworkgroupBarrier();",
                    MATRIX / VECTOR
                );
                for copy in 0..COPIES {
                    let [down, across] = if self.is_transposed() { [0, copy * between] } else { [copy * between, 0] };
                    let _ = writeln!(
                        text,
                        "write_out(part_start, row + {}u, column + {}u, {matrices}[place{name} + lane + {}u]{});",
                        matrix_row * MATRIX + down,
                        matrix * MATRIX + across,
                        32 * copy,
                        self.updated(matrix_row, matrix, copy)
                    );
                }
                if self.matrices_size() == MATRICES {
                    text += "workgroupBarrier();\n";
                }
            }
        }
        text + "}\n"
    }

    fn is_square(&self) -> bool {
        matches!(self.kind, Kind::Square { .. })
    }

    /// A row of the result that may be read, and a column.
    fn within(&self, row: usize, column: usize) -> [String; 2] {
        let [row, column] = [format!("row + {row}u"), format!("column + {column}u")];
        match self.whole_tiles {
            true => [row, column],
            false => [format!("min({row}, params.m - 1u)"), format!("min({column}, params.n - {VECTOR}u)")],
        }
    }

    /// `bias{column}`: the vectors that are added to every row. Only the first part of a product that is split along `k` has them.
    fn read_bias(&self, columns: usize) -> String {
        let mut text = String::new();
        for matrix in (0..columns).filter(|_| self.is_biased()) {
            let [_, column] = self.within(0, matrix * MATRIX);
            let _ = writeln!(
                text,
                "let bias{matrix} = select(vec4<f32>(), bias[params.bias_offset + ({column}) / {VECTOR}u], group.y == 0u);"
            );
        }
        text
    }

    /// What a row of matrices is multiplied by, `factor{row}_{copy}`, and what is added, `addend{row}_{column}_{copy}`.
    fn read_updates(&self, matrix_row: usize, columns: usize) -> String {
        let (mut text, mut added) = (String::new(), String::new());
        for copy in (0..COPIES).filter(|_| self.is_square()) {
            let down = matrix_row * MATRIX + copy * MATRIX / COPIES;
            let [row, _] = self.within(down, 0);
            let scale = match self.is_row_scaled() {
                true => format!(" * row_scales[params.row_scales_offset + {row}]"),
                false => String::new(),
            };
            let _ = writeln!(text, "let factor{matrix_row}_{copy} = params.alpha{scale};");
            for matrix in 0..columns {
                let [row, column] = self.within(down, matrix * MATRIX);
                let addend = format!("addend{matrix_row}_{matrix}_{copy}");
                let first = if self.is_biased() { format!("bias{matrix}") } else { "vec4<f32>()".into() };
                let _ = writeln!(text, "var {addend} = {first};");
                let _ = writeln!(added, "{addend} += out[part_start + (({row}) * params.n + {column}) / {VECTOR}u];");
            }
        }
        if !added.is_empty() {
            let _ = writeln!(text, "if (params.accumulate != 0u) {{\n{added}}}");
        }
        text
    }

    /// What follows a sum where it is written.
    fn updated(&self, matrix_row: usize, matrix: usize, copy: usize) -> String {
        match self.is_square() {
            true => format!(" * factor{matrix_row}_{copy} + addend{matrix_row}_{matrix}_{copy}"),
            false => String::new(),
        }
    }
}
