//! Writes the WGSL of attention on tensor cores (cooperative matrices) for an explicit [`Config`].
//!
//! The three kernels have one scheme. A workgroup of four subgroups takes 64 rows of one head, each subgroup 16 of them, whose
//! 16-bit elements stay in its matrices: queries (forward, gradient of the queries) or keys (gradient of keys and values). It goes
//! through the head's other rows, called columns, in tiles that all four subgroups share in workgroup memory. For 16 columns at a
//! time a subgroup computes a matrix of scores, which passes through workgroup memory, since its elements have no other way out;
//! there they become probabilities, or their gradients, in f16, which are multiplied by a tile again and summed in matrices that
//! stay in registers to the end.
//!
//! - The forward kernel goes through the keys twice: sums in matrices cannot be rescaled row by row when a larger score turns up,
//!   so the first pass finds each row's largest.
//! - The next tile is read into registers right after the barrier, with no condition around the reads, and operands are declared as
//!   if they were written to: `matmul/cooperative/generator.rs` says why.
//! - A row of a 16-bit operand stands for `scale · row`. Scales of the rows of a product multiply scores or results. Those of
//!   summed rows (values, for the output) multiply the f16 factors beside them, relative to the largest scale of the batch row, so
//!   that no factor can overflow; what underflows is below 2⁻²⁵ of the largest.

use std::fmt::Write;

use super::config::{Config, K, Kernel, Operand, Q, UPSTREAM, V, element_of};
use crate::ops::matmul::indent::indent;

/// Rows that a workgroup takes.
pub(super) const ROWS: usize = 64;

/// Invocations in a workgroup: four subgroups.
pub(super) const THREADS: usize = 128;

/// Rows and columns of a cooperative matrix.
pub(super) const MATRIX: usize = 16;

/// Elements of a vector, in which everything is moved.
pub(super) const VECTOR: usize = 4;

/// Elements added to the lines of a tile, so that neighbouring lines do not meet in the same banks.
const PADDING: usize = 8;

/// Vectors from one row to the next of a matrix of scores, and of one of factors, in workgroup memory. It is scarce: a workgroup
/// with more than 24 KiB has a multiprocessor to itself.
pub(super) const SCORE_LINE: usize = 5;
const FACTOR_LINE: usize = 4;

/// Vectors of a subgroup's matrix of scores, and of one of factors.
pub(super) const SCORES: usize = MATRIX * SCORE_LINE;
const FACTORS: usize = MATRIX * FACTOR_LINE;

impl Config {
    /// The kernel's text.
    pub fn wgsl(&self) -> String {
        let mut text = self.declarations();
        text += &self.beginning();
        let (columns, sums) = (self.column_operands(), self.sums());
        // What is far away is asked for before anything waits.
        for (number, operand) in self.row_operands().iter().enumerate() {
            text += &self.load_rows(number, operand);
        }
        text += &self.declare_copies();
        text += &self.read_vectors(&columns, "0u");
        text += self.row_constants();
        text += &self.read_terms("0u");
        for sum in sums {
            text += &self.each_fragment(|f| format!("var {sum}{f} = coop_mat16x16<f32, C>();\n"));
        }
        if self.kernel == Kernel::Forward {
            // After the last tile comes the first of the next pass.
            let next = "select(tile + 1u, 0u, tile + 1u == tiles_in_all)";
            text += &self.pass(&columns[..1], next, &|block| self.find_maximum(block));
            text += "maximum = max(maximum, subgroupShuffleXor(maximum, 1u));\n";
        }
        text += &self.pass(&columns, "min(tile + 1u, tiles_in_all - 1u)", &|block| self.add_block(block));
        text += &self.ending();
        indent(&(text + "}\n"))
    }

    /// Matrices across a head.
    pub fn fragments(&self) -> usize {
        self.head_dim / MATRIX
    }

    /// Vectors of a head.
    pub fn vectors(&self) -> usize {
        self.head_dim / VECTOR
    }

    /// Vectors from one line of a tile to the next.
    fn line(&self) -> usize {
        (self.head_dim + PADDING) / VECTOR
    }

    /// Copies of a tile after which an invocation is at the same place of a line again: lines of 12 vectors are no part of what
    /// 128 invocations copy at once, but three times that is a whole number of lines.
    fn turns(&self) -> usize {
        self.vectors() >> self.vectors().trailing_zeros()
    }

    /// Lines that the workgroup copies in so many turns.
    fn lines_in_turns(&self) -> usize {
        self.turns() * THREADS / self.vectors()
    }

    /// Workgroup memory that the kernel takes.
    pub fn workgroup_bytes(&self) -> usize {
        let (halves, floats) = (2 * VECTOR, 4 * VECTOR);
        let factors_and_tiles = 4 * FACTORS * self.sums().len() + 2 * self.columns * self.line();
        let scores = 4 * SCORES * self.row_operands().len();
        halves * factors_and_tiles
            + floats * scores
            + 4 * (ROWS * self.sums().len() + self.column_terms().len() * self.columns)
    }

    fn each_fragment(&self, text: impl Fn(usize) -> String) -> String {
        (0..self.fragments()).map(text).collect()
    }

    fn declarations(&self) -> String {
        let mut text = format!(
            "// Generated by mixed_attention/generator.rs: {}.\n\nenable f16;\nenable wgpu_cooperative_matrix;\n\n",
            self.name()
        );
        let mut bindings: Vec<(&str, &str)> = Vec::new();
        let operands = if self.is_backward() { &[Q, K, V, UPSTREAM][..] } else { &[Q, K, V] };
        // Most are only read; see the generator.
        bindings.extend(operands.iter().map(|operand| (operand.name, "vec4<f16>")));
        bindings.extend(["q_scales", "k_scales", "v_scales"].map(|name| (name, "f32")));
        if self.is_backward() {
            bindings.extend(["upstream_scales", "log_sum_exp", "deltas"].map(|name| (name, "f32")));
            bindings.extend(["cosines", "sines"].map(|name| (name, "vec4<f32>")));
        }
        bindings.push(("key_mask", "u32"));
        match self.kernel {
            Kernel::Forward => {
                bindings.extend([("output", "vec4<f16>"), ("output_scales", "f32"), ("log_sum_exp", "f32")])
            }
            _ => bindings.extend(self.sums().iter().map(|name| (*name, "vec4<f32>"))),
        }
        for (number, (name, element)) in bindings.into_iter().enumerate() {
            let name = if self.sums().contains(&name) { format!("{name}_rows") } else { name.to_string() };
            let _ = writeln!(text, "@group(0) @binding({number}) var<storage, read_write> {name}: array<{element}>;");
        }
        let _ = write!(
            text,
            "\nconst ROWS: u32 = {ROWS}u;\nconst COLUMNS: u32 = {}u;\nconst HEAD_VECTORS: u32 = {}u;\n\
             const TILE_LINE: u32 = {}u;\nconst SCORES: u32 = {SCORES}u;\nconst SCORE_LINE: u32 = {SCORE_LINE}u;\n\
             const FACTORS: u32 = {FACTORS}u;\nconst FACTOR_LINE: u32 = {FACTOR_LINE}u;\n\
             const OUT_VECTORS: u32 = {}u;\n\
             // Rounded rows are in [-2, 2]: a score's gradient is at most 8 times their length, and f16 ends at 65504.\n\
             const SLOPE: f32 = {:?};\n\n\
             var<workgroup> tiles: array<vec4<f16>, {}>;\nvar<workgroup> scores: array<vec4<f32>, {}>;\n\
             var<workgroup> factors: array<vec4<f16>, {}>;\nvar<workgroup> row_results: array<f32, {}>;\n",
            self.columns,
            self.vectors(),
            self.line(),
            self.out_vectors(),
            4096.0 / self.head_dim.next_power_of_two() as f64,
            2 * self.columns * self.line(),
            4 * SCORES * self.row_operands().len(),
            4 * FACTORS * self.sums().len(),
            ROWS * self.sums().len(),
        );
        for (name, _) in self.column_terms() {
            let element = element_of(name);
            let _ = writeln!(text, "var<workgroup> {name}: array<vec4<{element}>, {}>;", self.columns / VECTOR);
        }
        text = text + "\n" + concat!(include_str!("kernels/params.wgsl"), include_str!("kernels/common.wgsl"));
        let _ = write!(
            text,
            "\nfn scales_at(i: u32) -> vec4<f32> {{\nreturn vec4<f32>({}, 0.0);\n}}\n",
            self.largest_scales()
        );
        for sum in self.sums() {
            let writer = match *sum {
                "output" => include_str!("kernels/write.wgsl"),
                "dv" => include_str!("kernels/write_halves.wgsl"),
                _ => include_str!("kernels/write_turned.wgsl"),
            };
            text += &writer.replace("$sum", sum);
        }
        text
    }

    fn beginning(&self) -> String {
        let rows = match self.kernel {
            Kernel::KeyValueGradient => include_str!("kernels/keys.wgsl"),
            _ => include_str!("kernels/queries.wgsl"),
        };
        let mut text = [include_str!("kernels/main.wgsl"), rows, include_str!("kernels/lanes.wgsl")].concat();
        text += "// What an invocation copies of a tile, turn by turn.\n";
        for turn in 0..self.turns() {
            let _ = writeln!(
                text,
                "let vector{turn} = (local + {0}u) % HEAD_VECTORS;\nlet line{turn} = (local + {0}u) / HEAD_VECTORS;\n\
                 let tile_place{turn} = line{turn} * TILE_LINE + vector{turn};",
                turn * THREADS
            );
        }
        text
    }

    fn row_constants(&self) -> &'static str {
        match self.kernel {
            Kernel::Forward => include_str!("kernels/forward_row.wgsl"),
            Kernel::QueryGradient => include_str!("kernels/query_row.wgsl"),
            Kernel::KeyValueGradient => include_str!("kernels/key_value_row.wgsl"),
        }
    }

    /// The subgroup's rows of an operand as matrices `rows{number}_{fragment}`. Storage goes on behind the last block's rows.
    fn load_rows(&self, number: usize, operand: &Operand) -> String {
        let Operand { name, heads, head } = operand;
        let first = format!(
            "let rows{number}_stride = params.{heads} * HEAD_VECTORS;\n\
             let rows{number}_place = (tokens + first_row + subgroup * {MATRIX}u) * rows{number}_stride + {head} * HEAD_VECTORS;\n"
        );
        first
            + &self.each_fragment(|f| {
                let rows = format!("rows{number}_{f}");
                format!(
                    "let {rows}_place = rows{number}_place + {}u;\n\
                     let {rows} = coopLoadT<coop_mat16x16<f16, A>>(&{name}[{rows}_place], rows{number}_stride);\n",
                    f * MATRIX / VECTOR
                )
            })
    }

    /// Vectors of a tile that an invocation copies, the last one perhaps only some of the invocations.
    fn copies(&self) -> usize {
        (self.columns * self.vectors()).div_ceil(THREADS)
    }

    /// A copy's turn, and the lines that the turns before it have copied.
    fn turn_of(&self, copy: usize) -> (usize, usize) {
        (copy % self.turns(), copy / self.turns() * self.lines_in_turns())
    }

    fn declare_copies(&self) -> String {
        let mut text = String::new();
        for operand in self.column_operands() {
            for copy in 0..self.copies() {
                let _ = writeln!(text, "var next_{}{copy}: vec4<f16>;", operand.name);
            }
        }
        for (name, _) in self.column_terms() {
            let _ = writeln!(text, "var next_{name}: {};", element_of(name));
        }
        text
    }

    /// Reads the operands' vectors of the tile of `step` into registers.
    fn read_vectors(&self, operands: &[Operand], step: &str) -> String {
        let mut text = format!("{{\nlet step = {step};\n{}", self.tile_place());
        for operand in operands {
            let Operand { name, heads, head } = operand;
            for copy in 0..self.copies() {
                let (turn, lines) = self.turn_of(copy);
                let _ = writeln!(
                    text,
                    "next_{name}{copy} = {name}[((tokens + last_of(first_column + line{turn} + {lines}u)) * params.{heads} \
                     + {head}) * HEAD_VECTORS + vector{turn}];"
                );
            }
        }
        text + "}\n"
    }

    /// Reads the terms of the tile of `step` into registers.
    fn read_terms(&self, step: &str) -> String {
        let mut text = format!("{{\nlet step = {step};\n{}", self.tile_place());
        text += "let column = first_column + local % COLUMNS;\n";
        for (name, what) in self.column_terms() {
            let _ = writeln!(text, "next_{name} = {what};");
        }
        text + "}\n"
    }

    fn tile_place(&self) -> &'static str {
        match self.kernel {
            Kernel::KeyValueGradient => {
                "let head = first_head + step / tiles_a_head;\n\
                 let first_column = (first_tile + step % tiles_a_head) * COLUMNS;\n\
                 let terms = (batch * params.heads + head) * params.sequence;\n"
            }
            _ => "let first_column = step * COLUMNS;\n",
        }
    }

    fn store_tile(&self, operands: &[Operand]) -> String {
        let mut text = String::new();
        for (number, operand) in operands.iter().enumerate() {
            for copy in 0..self.copies() {
                let (turn, lines) = self.turn_of(copy);
                let place = (number * self.columns + lines) * self.line();
                let store = format!("tiles[tile_place{turn} + {place}u] = next_{}{copy};\n", operand.name);
                let left = self.columns * self.vectors() - copy * THREADS;
                text += &if left < THREADS { format!("if (local < {left}u) {{\n{store}}}\n") } else { store };
            }
        }
        text += "if (local < COLUMNS) {\n";
        for (name, _) in self.column_terms() {
            let _ = writeln!(text, "{name}[local / 4u][local % 4u] = next_{name};");
        }
        text + "}\n"
    }

    /// One way through all tiles, the first of which is in registers; `block` is done for every 16 columns.
    fn pass(&self, operands: &[Operand], next: &str, block: &dyn Fn(usize) -> String) -> String {
        let mut text = "for (var tile = 0u; tile < tiles_in_all; tile += 1u) {\nworkgroupBarrier();\n".to_string();
        text += &self.store_tile(operands);
        text += "workgroupBarrier();\n";
        text += &self.read_vectors(operands, next);
        text += &self.read_terms(next);
        for number in 0..self.columns / MATRIX {
            text += "{\n";
            text += &block(number);
            text += "}\n";
        }
        text + "}\n"
    }

    /// The products of the subgroup's rows with 16 columns of a tile, left in workgroup memory and read by their lanes as
    /// `dots_low`, `dots_high` (and `slopes_low`, `slopes_high` of the second operands).
    fn multiply_rows(&self, block: usize) -> String {
        let (line, operands) = (self.line(), self.row_operands().len());
        let mut text = String::new();
        for number in 0..operands {
            let _ = writeln!(text, "var scores{number} = coop_mat16x16<f32, C>();");
        }
        if operands == 1 {
            text += "var scores0_odd = coop_mat16x16<f32, C>();\n";
        }
        text += &self.each_fragment(|f| {
            let multiply = |number: usize| {
                let odd = if operands == 1 && f % 2 == 1 { "_odd" } else { "" };
                let place = (number * self.columns + block * MATRIX) * line + f * MATRIX / VECTOR;
                format!(
                    "let columns{number}_{f} = coopLoad<coop_mat16x16<f16, B>>(&tiles[{place}u], {line}u);\n\
                     scores{number}{odd} = coopMultiplyAdd(rows{number}_{f}, columns{number}_{f}, scores{number}{odd});\n"
                )
            };
            (0..operands).map(multiply).collect()
        });
        if operands == 1 {
            text += "scores0 = scores0 + scores0_odd;\n";
        }
        for number in 0..operands {
            let _ = writeln!(
                text,
                "let scores{number}_place = subgroup * {SCORES}u + {}u;\n\
                 coopStoreT(scores{number}, &scores[scores{number}_place], {SCORE_LINE}u);",
                number * 4 * SCORES
            );
        }
        text += "workgroupBarrier();\n";
        for (number, name) in ["dots", "slopes"].iter().enumerate().take(operands) {
            let first = number * 4 * SCORES;
            let _ = writeln!(
                text,
                "let {name}_low = scores[score_place + {first}u];\nlet {name}_high = scores[score_place + {}u];",
                first + 1
            );
        }
        for (name, _) in self.column_terms() {
            let first = block * MATRIX / VECTOR;
            let short = name.trim_start_matches("column_");
            let _ = writeln!(
                text,
                "let {short}_low = {name}[{first}u + 2u * side];\nlet {short}_high = {name}[{}u + 2u * side];",
                first + 1
            );
        }
        text
    }

    fn find_maximum(&self, block: usize) -> String {
        self.multiply_rows(block) + include_str!("kernels/forward_maximum.wgsl") + "workgroupBarrier();\n"
    }

    /// Adds the products of 16 columns' factors with their rows.
    fn add_block(&self, block: usize) -> String {
        let mut text = self.multiply_rows(block);
        text += match self.kernel {
            Kernel::Forward => include_str!("kernels/forward_factors.wgsl"),
            Kernel::QueryGradient => include_str!("kernels/query_factors.wgsl"),
            Kernel::KeyValueGradient => include_str!("kernels/key_value_factors.wgsl"),
        };
        text += "workgroupBarrier();\n";
        let line = self.line();
        for (number, sum) in self.sums().iter().enumerate() {
            // dk sums rows of q, the first operand, dv those of the second.
            let tile = match *sum {
                "dq" | "dk" => 0,
                _ => 1,
            };
            let tile = (tile * self.columns + block * MATRIX) * line;
            let _ = writeln!(
                text,
                "let {sum}_place = subgroup * {FACTORS}u + {}u;\n\
                 let {sum}_factors = coopLoadT<coop_mat16x16<f16, A>>(&factors[{sum}_place], {FACTOR_LINE}u);",
                number * 4 * FACTORS
            );
            text += &self.each_fragment(|f| {
                let place = tile + f * MATRIX / VECTOR;
                format!(
                    "let {sum}_tile{f} = coopLoadT<coop_mat16x16<f16, B>>(&tiles[{place}u], {line}u);\n\
                     {sum}{f} = coopMultiplyAdd({sum}_factors, {sum}_tile{f}, {sum}{f});\n"
                )
            });
        }
        text
    }
}
