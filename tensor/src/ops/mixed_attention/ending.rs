//! The end of a kernel of attention: sums leave their matrices through workgroup memory and are written row by row.
//!
//! Gradients of what was turned are turned back on the way, a column of a head's first half together with its partner in the
//! second; for one scheme, dv is written by halves, too. A head of an odd number of matrices has its middle within one: it is
//! written in steps of half a matrix, others in steps of a whole one.

use std::fmt::Write;

use super::config::{Config, K, Kernel, Q, is_turned};
use super::generator::{MATRIX, ROWS, SCORE_LINE, SCORES, THREADS, VECTOR};

impl Config {
    /// Vectors of a row that are written at once: those of a matrix; where halves of a head are written together and its middle
    /// lies within a matrix, of half of one.
    pub fn out_vectors(&self) -> usize {
        let halved = self.is_backward() && self.fragments() % 2 == 1;
        MATRIX / VECTOR / if halved { 2 } else { 1 }
    }

    /// Writes the sums, row by row.
    pub fn ending(&self) -> String {
        let mut text = match self.kernel {
            Kernel::Forward => include_str!("kernels/forward_ending.wgsl"),
            Kernel::QueryGradient => include_str!("kernels/query_ending.wgsl"),
            Kernel::KeyValueGradient => include_str!("kernels/key_value_ending.wgsl"),
        }
        .to_string();
        text += include_str!("kernels/ending.wgsl");
        for (number, sum) in self.sums().iter().enumerate() {
            let heads = if self.kernel == Kernel::KeyValueGradient { K } else { Q };
            let _ = writeln!(
                text,
                "let {sum}_out = ((tokens + out_row) * params.{0} + {1}) * HEAD_VECTORS + lane % OUT_VECTORS;\n\
                 let {sum}_stride = params.{0} * HEAD_VECTORS;",
                heads.heads, heads.head
            );
            if is_turned(sum) {
                text += &self.read_angles();
            }
            for step in 0..self.steps() {
                text += &self.write_step(number, sum, step);
            }
        }
        text
    }

    /// Parts of a head's row that are written one after another: halves side by side in the backward kernels.
    fn halves(&self) -> usize {
        if self.is_backward() { 2 } else { 1 }
    }

    /// Steps in which these are written.
    fn steps(&self) -> usize {
        self.vectors() / self.halves() / self.out_vectors()
    }

    /// Rows, counted from its first one, of which an invocation writes a vector (of each half).
    fn rows_of_lane(&self) -> impl Iterator<Item = usize> + use<> {
        (0..MATRIX).step_by(THREADS / 4 / self.out_vectors())
    }

    /// Writes some columns of a sum: the matrices that hold them go through workgroup memory.
    fn write_step(&self, number: usize, sum: &str, step: usize) -> String {
        let mut text = "workgroupBarrier();\n".to_string();
        let mut places = Vec::new();
        for half in 0..self.halves() {
            let column = step * self.out_vectors() * VECTOR + half * self.head_dim / 2;
            let (name, first) = (format!("{sum}{step}_place{half}"), half * 4 * SCORES);
            let _ = writeln!(
                text,
                "let {name} = subgroup * {SCORES}u + {first}u;\n\
                 coopStoreT({sum}{}, &scores[{name}], {SCORE_LINE}u);",
                column / MATRIX
            );
            places.push(first + column % MATRIX / VECTOR);
        }
        text += "workgroupBarrier();\n";
        for row in self.rows_of_lane() {
            let places = places.iter().map(|place| format!("out_place + {}u", place + row * SCORE_LINE));
            let angles = match is_turned(sum) {
                true => format!(", cosines{step}_{row}, sines{step}_{row}"),
                false => String::new(),
            };
            let _ = writeln!(
                text,
                "write_{sum}(out_row + {row}u, {}, {sum}_out + {row}u * {sum}_stride + {}u, \
                 row_results[out_row_of_block + {}u]{angles});",
                places.collect::<Vec<_>>().join(", "),
                step * self.out_vectors(),
                number * ROWS + row,
            );
        }
        text
    }

    /// The angles of all that an invocation will turn, asked for at once.
    fn read_angles(&self) -> String {
        let mut text = String::new();
        for row in self.rows_of_lane() {
            let _ = writeln!(
                text,
                "let angles{row} = last_of(out_row + {row}u) * (HEAD_VECTORS / 2u) + lane % OUT_VECTORS;"
            );
            for step in 0..self.steps() {
                for table in ["cosines", "sines"] {
                    let across = step * self.out_vectors();
                    let _ = writeln!(
                        text,
                        "let {table}{step}_{row} = {table}[params.{table}_offset + angles{row} + {across}u];"
                    );
                }
            }
        }
        text
    }
}
