//! Writes the WGSL of the product kernels for tensor cores (cooperative matrices) for an explicit [`Config`].
//!
//! The scheme, found by measurement on an NVIDIA H200: a workgroup of four subgroups computes 128 x 128 elements of the
//! result, each subgroup 64 x 64 of them in 4 x 4 matrices of 16 x 16. Step by step along `k` the workgroup copies a slab
//! of 32 of each operand into workgroup memory, in the order in which the operand lies. What decided its speed:
//!
//! - One slab of each operand, not two: with 24 KiB two workgroups share a multiprocessor.
//! - The next slab is read into registers right after the barrier, with no condition around the reads, and the operands are
//!   declared as if they were written to: else the driver moves the reads behind the multiplications (191 in place of 276
//!   TFLOP/s at 4096³). So that nothing is read beyond the operands, the last slab is read twice.
//! - Lines of a slab are padded by 8 elements, and an invocation's neighbours copy lines r and r + 4, so that stores meet
//!   no bank twice.
//! - Results leave through workgroup memory, so that rows are written in vectors.
//! - Containers of 16 bytes in place of vectors of 8: 282 / 306 / 317 TFLOP/s (NT, NN, TN at 4096³) in place of 278 / 296 / 300.
//!
//! A low-rank term is a second pair of operands whose slabs come before those of the first: the product's inner extent is
//! longer by the rank, and the adapter's product costs neither a launch nor a pass over the result. A thin product has
//! 32 columns; its four subgroups lie one below the other. Of batched products each workgroup computes a tile of one, and
//! of several thin ones as well, see [`thin`](super::thin). Results that make few tiles, of short sums, have smaller ones:
//! 4096 x 288 (`k` 288) 26 -> 15 us. Results that larger tiles cover have a kernel of their own, see [`large`].

use super::side::Side;
use super::{batched, large};
use crate::ops::matmul::indent::indent;

/// Rows of the result that a workgroup computes, and columns except of thin products.
pub(super) const TILE: usize = 128;

/// The same of results that make few such tiles.
pub(super) const SMALL_TILE: usize = 64;

/// Columns of a thin product that a workgroup computes.
pub(super) const THIN: usize = 32;

/// Extent of a slab along `k`, and of a thin product's slab in containers, whose lines of 128 bytes are what memory is read in.
pub(super) const DEPTH: usize = 32;
pub(super) const THIN_DEPTH: usize = 64;

/// Invocations in a workgroup: four subgroups.
pub(super) const THREADS: usize = 128;

/// Rows and columns of a cooperative matrix.
pub(super) const MATRIX: usize = 16;

/// Elements of a vector, in which results are moved, and operands where 16-byte containers cannot be had.
pub(super) const VECTOR: usize = 4;

/// Elements of a container of 16 bytes.
pub(super) const CONTAINER: usize = 8;

/// Row tiles that are computed at about the same time, so that they find the other operand in cache.
pub(super) const BAND: usize = 8;

/// The parameters of every kernel but the batched ones.
pub(super) const PARAMS: &str = include_str!("params.wgsl");
pub(super) const BATCHED_PARAMS: &str = include_str!("batched_params.wgsl");

/// This workgroup's tile of so many rows and columns, by its number, in bands of so many tiles.
pub(super) fn bands(band: usize, rows: usize, columns: usize, tile: &str) -> String {
    format!(
        "// Bands of {band} row tiles, column by column.\n\
         let band = {tile} / ({band}u * params.column_tiles);\n\
         let band_rows = min(params.row_tiles - band * {band}u, {band}u);\n\
         let in_band = {tile} - band * {band}u * params.column_tiles;\n\
         let first_row = (band * {band}u + in_band % band_rows) * {rows}u;\n\
         let first_column = in_band / band_rows * {columns}u;\n"
    )
}

/// Everything that decides the text of a kernel. Both operands are f16, the sums and the result f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::ops::matmul) struct Config {
    /// The left operand is contiguous along `k`, otherwise along the result's rows.
    pub a_depth_contiguous: bool,
    /// The right operand is contiguous along `k`, otherwise along the result's columns.
    pub b_depth_contiguous: bool,
    /// Rows and columns are multiples of the tile's; otherwise the last tiles reach beyond the result.
    pub whole_tiles: bool,
    /// Operands are moved in containers of 16 bytes, which WGSL cannot say: the text declares them as `vec4<f32>`, and
    /// cooperative matrices of them, and [`Source::HalvedContainers`](crate::gpu::Source) makes these f16.
    pub containers: bool,
    pub kind: Kind,
}

/// What a kernel computes besides the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::ops::matmul) enum Kind {
    /// Tiles of [`TILE`] x [`TILE`].
    Square {
        /// Tiles of [`SMALL_TILE`] x [`SMALL_TILE`] instead.
        small: bool,
        /// Each row of the result is multiplied by a factor of its own.
        row_scaled: bool,
        /// A low-rank term is added before that; its left operand is contiguous along the rank, its right one lies as `b`.
        low_rank: bool,
        /// A vector is added to each row of the result.
        biased: bool,
    },
    /// Tiles of [`TILE`] x `columns`, whole ones, in containers: see [`large`].
    Large {
        /// One of [`large::WIDTHS`].
        columns: usize,
        row_scaled: bool,
        /// The low-rank term's slabs of [`DEPTH`]; 0 for none.
        low_rank_slabs: usize,
        biased: bool,
        /// There are several parts of `k`.
        split: bool,
    },
    /// Tiles of [`TILE`] x [`THIN`]; the product's parts, without `alpha`.
    Thin {
        /// The right operand's lines, of which there may be any number, are multiplied by the products of two scales, which
        /// are powers of two.
        weighted: bool,
        /// Columns are written as rows.
        transposed: bool,
        /// Up to [`thin::SLOTS`](super::thin::SLOTS) products of one shape, each of operands of its own.
        several: bool,
    },
    /// Many products of one shape, in tiles of [`TILE`] x [`TILE`].
    Batched {
        /// Tiles have half as many columns.
        narrow: bool,
        /// By how many scales of its own each product is multiplied: up to 2.
        scales: usize,
        /// Results are f16.
        halves: bool,
    },
}

impl Config {
    /// Names the configuration completely: layouts as BLAS calls them, T for a transposed operand.
    pub fn name(&self) -> String {
        let a = if self.a_depth_contiguous { 'n' } else { 't' };
        let b = if self.b_depth_contiguous { 't' } else { 'n' };
        let edges = if self.whole_tiles { "whole" } else { "edges" };
        let more;
        let kind = match self.kind {
            Kind::Square { small, row_scaled, low_rank, biased } => {
                let tile = if small { "_64" } else { "" };
                more = format!("{tile}{}", if row_scaled { "_row_scaled" } else { "" });
                [(&*more, true), ("_low_rank", low_rank), ("_biased", biased)]
            }
            Kind::Large { columns, row_scaled, low_rank_slabs, biased, split } => {
                let split = if split { "_split" } else { "" };
                more = format!("_{columns}{split}_low_rank_{low_rank_slabs}");
                [(&*more, true), ("_row_scaled", row_scaled), ("_biased", biased)]
            }
            Kind::Thin { weighted, transposed, several } => {
                let thin = if several { "_thin_several" } else { "_thin" };
                [(thin, true), ("_weighted", weighted), ("_transposed", transposed)]
            }
            Kind::Batched { narrow, scales, halves } => {
                [(["_batched", "_batched_1", "_batched_2"][scales], true), ("_narrow", narrow), ("_halves", halves)]
            }
        };
        let kind = kind.map(|(name, on)| if on { name } else { "" });
        let containers = if self.containers { "_containers" } else { "" };
        format!("cooperative_{a}{b}_{edges}{containers}{}", kind.concat())
    }

    /// This configuration for a result of so many rows and columns: with or without edges.
    pub fn covering(self, rows: usize, columns: usize) -> Self {
        let whole_tiles = rows.is_multiple_of(self.tile_rows()) && columns.is_multiple_of(self.tile_columns());
        Config { whole_tiles, ..self }
    }

    /// Elements of a vector of the operands.
    pub fn vector(&self) -> usize {
        if self.containers { CONTAINER } else { VECTOR }
    }

    /// Rows of the result that a workgroup computes.
    pub fn tile_rows(&self) -> usize {
        if matches!(self.kind, Kind::Square { small: true, .. }) { SMALL_TILE } else { TILE }
    }

    /// Columns of the result that a workgroup computes.
    pub fn tile_columns(&self) -> usize {
        match self.kind {
            Kind::Thin { .. } => THIN,
            Kind::Large { columns, .. } => columns,
            Kind::Batched { narrow: true, .. } => TILE / 2,
            Kind::Square { small: true, .. } => SMALL_TILE,
            _ => TILE,
        }
    }

    /// What a part of `k` is a multiple of.
    pub fn step(&self) -> usize {
        if let Kind::Large { columns, .. } = self.kind { large::step(columns) } else { self.depth() }
    }

    /// Extent of a slab along `k`.
    fn depth(&self) -> usize {
        if self.is_thin() && self.containers { THIN_DEPTH } else { DEPTH }
    }

    pub(super) fn is_batched(&self) -> bool {
        matches!(self.kind, Kind::Batched { .. })
    }

    pub fn is_large(&self) -> bool {
        matches!(self.kind, Kind::Large { .. })
    }

    pub(super) fn is_low_rank(&self) -> bool {
        matches!(self.kind, Kind::Square { low_rank: true, .. })
    }

    pub(super) fn is_row_scaled(&self) -> bool {
        matches!(self.kind, Kind::Square { row_scaled: true, .. })
    }

    pub(super) fn is_biased(&self) -> bool {
        matches!(self.kind, Kind::Square { biased: true, .. })
    }

    pub(super) fn has_scales(&self, count: usize) -> bool {
        matches!(self.kind, Kind::Batched { scales, .. } if scales >= count)
    }

    pub(super) fn has_halves(&self) -> bool {
        matches!(self.kind, Kind::Batched { halves: true, .. })
    }

    /// Matrices that a subgroup holds along the result's rows and columns.
    pub(super) fn matrices(&self) -> [usize; 2] {
        if self.is_thin() { [2, 2] } else { [self.tile_rows(), self.tile_columns()].map(|extent| extent / 2 / MATRIX) }
    }

    /// The kernel's text.
    pub fn wgsl(&self) -> String {
        if let Some(text) = large::wgsl(self) {
            return indent(&text);
        }
        let sides = self.sides();
        let mut text = self.declarations();
        text += &self.beginning();
        if self.is_weighted() {
            text += &self.largest_exponent();
        }
        text += &sides.iter().map(Side::place_copies).collect::<String>();
        text += &self.each_matrix(|row, column| format!("var sum{row}_{column} = coop_mat16x16<f32, C>();\n"));
        if self.is_low_rank() {
            text += &self.low_rank_term();
        }
        text += &self.sums(&sides);
        if self.is_weighted() {
            text += &self
                .each_matrix(|row, column| format!("sum{row}_{column} = sum{row}_{column} * power_of_two(largest);\n"));
        }
        if self.is_batched() {
            text += &self.each_matrix(|row, column| format!("sum{row}_{column} = sum{row}_{column} * multiple;\n"));
        }
        text += &self.write_sums();
        indent(&text)
    }

    /// The loop along `k`: a slab goes from its registers into workgroup memory, these are filled again, and the slab is
    /// multiplied.
    fn sums(&self, sides: &[Side; 2]) -> String {
        let each = |text: &dyn Fn(&Side) -> String| sides.iter().map(text).collect::<String>();
        let read = |following: &str| match self.is_several() {
            false => each(&|side| side.read_slab(following, "end")),
            true => {
                self.of_product(|name| each(&|side| side.read(name))) + &each(&|side| side.move_on(following, "end"))
            }
        };
        let slab = self.depth();
        format!(
            "\n{}for (var depth = start; depth < end; depth += {slab}u) {{\n{}workgroupBarrier();\n{}{}\
             workgroupBarrier();\n}}\n\n",
            read(&format!("start + {slab}u")),
            each(&Side::store_slab),
            read(&format!("depth + {}u", 2 * slab)),
            self.multiply(sides),
        )
    }

    /// Multiplies the slabs' matrices.
    fn multiply(&self, sides: &[Side; 2]) -> String {
        (0..self.depth())
            .step_by(MATRIX)
            .map(|depth| {
                sides.iter().map(|side| side.load_matrices(depth)).collect::<String>()
                    + &self.each_matrix(|row, column| {
                        let sum = format!("sum{row}_{column}");
                        format!("{sum} = coopMultiplyAdd(a{depth}_{row}, b{depth}_{column}, {sum});\n")
                    })
            })
            .collect()
    }

    /// The sums of the low-rank term. Only the first part of a product that is split along `k` has it.
    fn low_rank_term(&self) -> String {
        let sides = self.sides().map(|side| {
            let letter = if side.letter == 'a' { 'p' } else { 'f' };
            let depth_contiguous = side.letter == 'a' || side.depth_contiguous;
            Side { letter, depth_contiguous, start: "0u", ..side }
        });
        let each = |text: &dyn Fn(&Side) -> String| sides.iter().map(text).collect::<String>();
        format!(
            "\n{}let rank = select(0u, params.rank, group.y == 0u);\n\
             for (var depth = 0u; depth < rank; depth += {DEPTH}u) {{\n{}{}workgroupBarrier();\n{}workgroupBarrier();\n}}\n\
             let multiple = params.update * p_scale[0] * f_scale[0];\n{}",
            each(&Side::place_copies),
            each(&|side| side.read_slab(&format!("depth + {DEPTH}u"), "rank")),
            each(&Side::store_slab),
            self.multiply(&sides),
            self.each_matrix(|row, column| format!("sum{row}_{column} = sum{row}_{column} * multiple;\n")),
        )
    }

    pub(super) fn sides(&self) -> [Side; 2] {
        let [row_matrices, column_matrices] = self.matrices();
        let weighted = self.is_weighted();
        [
            Side {
                letter: 'a',
                slab: 'a',
                depth_contiguous: self.a_depth_contiguous,
                vector: self.vector(),
                depth: self.depth(),
                tile: self.tile_rows(),
                matrices: row_matrices,
                extent: "m",
                first: "first_row",
                subgroup_first: "subgroup_row",
                start: "start",
                whole_tiles: self.whole_tiles,
                weighted: false,
                clamped: weighted,
                placed: self.is_batched() || self.is_several(),
            },
            Side {
                letter: 'b',
                slab: 'b',
                depth_contiguous: self.b_depth_contiguous,
                vector: self.vector(),
                depth: self.depth(),
                tile: self.tile_columns(),
                matrices: column_matrices,
                extent: "n",
                first: "first_column",
                subgroup_first: "subgroup_column",
                start: "start",
                // The columns of thin products are padded.
                whole_tiles: self.whole_tiles || self.is_thin(),
                weighted,
                clamped: weighted,
                placed: self.is_batched() || self.is_several(),
            },
        ]
    }

    /// The head of the entry point: this workgroup's tile and part of `k`.
    fn beginning(&self) -> String {
        let (rows, columns) = (self.tile_rows(), self.tile_columns());
        let subgroup = match self.is_thin() {
            true => format!("let subgroup_row = subgroup * {}u;\nlet subgroup_column = 0u;\n", TILE / 4),
            false => format!(
                "let subgroup_row = subgroup / 2u * {}u;\nlet subgroup_column = subgroup % 2u * {}u;\n",
                rows / 2,
                columns / 2
            ),
        };
        let (tile, part) = match self.kind {
            Kind::Batched { scales, .. } => batched::beginning(columns, scales),
            kind => (
                if matches!(kind, Kind::Thin { several: true, .. }) { self.place_product(columns) } else { bands(BAND, rows, columns, "group.x") },
                "let start = group.y * params.depth_per_part;\nlet end = min(params.k, start + params.depth_per_part);\n"
                    .to_string(),
            ),
        };
        format!(
            "@compute @workgroup_size({THREADS})\nfn main(\n@builtin(local_invocation_index) local: u32,\n\
             @builtin(workgroup_id) group: vec3<u32>,\n@builtin(subgroup_id) subgroup: u32,\n\
             @builtin(subgroup_invocation_id) lane: u32,\n) {{\n\
             {tile}{subgroup}{part}\n"
        )
    }

    /// Text for each matrix of a subgroup, given its row and column.
    fn each_matrix(&self, text: impl Fn(usize, usize) -> String) -> String {
        let [rows, columns] = self.matrices();
        (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))).map(|(r, c)| text(r, c)).collect()
    }
}
