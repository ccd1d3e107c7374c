//! Writes the WGSL of the product kernel for tensor cores (cooperative matrices) for an explicit [`Config`].
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

use std::fmt::Write;

use crate::ops::matmul::indent::indent;

/// Rows and columns of the result that a workgroup computes.
pub(super) const TILE: usize = 128;

/// Extent of a slab along `k`.
pub(super) const DEPTH: usize = 32;

/// Invocations in a workgroup: four subgroups.
const THREADS: usize = 128;

/// Rows and columns of a cooperative matrix.
const MATRIX: usize = 16;

/// Matrices that a subgroup holds along each axis of the result.
const MATRICES: usize = 4;

/// Elements of a vector, in which everything is moved.
const VECTOR: usize = 4;

/// Vectors of one slab that an invocation copies.
const COPIES: usize = TILE * DEPTH / VECTOR / THREADS;

/// Elements added to the lines of a slab.
const PADDING: usize = 8;

/// Row tiles that are computed at about the same time, so that they find the other operand in cache.
const BAND: usize = 8;

/// Everything that decides the text of a kernel. Both operands are f16, the sums and the result f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Config {
    /// The left operand is contiguous along `k`, otherwise along the result's rows.
    pub a_depth_contiguous: bool,
    /// The right operand is contiguous along `k`, otherwise along the result's columns.
    pub b_depth_contiguous: bool,
    /// Rows and columns are multiples of [`TILE`]; otherwise the last tiles reach beyond the result.
    pub whole_tiles: bool,
    /// Each row of the result is multiplied by a factor of its own.
    pub row_scaled: bool,
}

/// Which operand a piece of text is about.
#[derive(Clone, Copy)]
struct Side {
    letter: char,
    depth_contiguous: bool,
    /// Of the result: the parameter with its extent, the workgroup's first element, the subgroup's first.
    extent: &'static str,
    first: &'static str,
    subgroup_first: &'static str,
}

impl Side {
    /// Vectors from one line of the slab to the next.
    fn line(&self) -> usize {
        (if self.depth_contiguous { DEPTH } else { TILE } + PADDING) / VECTOR
    }

    /// Vectors in the slab.
    fn slab(&self) -> usize {
        self.line() * if self.depth_contiguous { TILE } else { DEPTH }
    }

    /// Lines between two vectors that an invocation copies.
    fn lines_between_copies(&self) -> usize {
        THREADS * VECTOR / if self.depth_contiguous { DEPTH } else { TILE }
    }

    /// Declares where the invocation's vectors come from and where in the slab they go.
    ///
    /// Beyond the last row or column the last one is copied again, into sums that nobody writes.
    fn place_copies(&self, whole_tiles: bool) -> String {
        let Side { letter, extent, first, .. } = self;
        let (between, line) = (self.lines_between_copies(), self.line());
        let mut text = String::new();
        if self.depth_contiguous {
            let vectors = DEPTH / VECTOR;
            let _ = writeln!(
                text,
                "let {letter}_line = local / 64u * 8u + local / 16u % 4u + local / 8u % 2u * 4u;\n\
                 let {letter}_place = {letter}_line * {line}u + local % {vectors}u;"
            );
            let start = format!("params.{letter}_offset + start / {VECTOR}u + local % {vectors}u");
            if whole_tiles {
                let _ = writeln!(
                    text,
                    "var {letter}_source = {start} + ({first} + {letter}_line) * params.{letter}_stride;\n\
                     let {letter}_apart = {between}u * params.{letter}_stride;"
                );
            } else {
                let _ = writeln!(text, "var {letter}_source = {start};");
                for copy in 0..COPIES {
                    let _ = writeln!(
                        text,
                        "let {letter}_line{copy} = min({first} + {letter}_line + {}u, params.{extent} - 1u) * \
                         params.{letter}_stride;",
                        copy * between
                    );
                }
            }
            let _ = writeln!(text, "let {letter}_step = {vectors}u;");
        } else {
            let vectors = TILE / VECTOR;
            let column = format!("{first} / {VECTOR}u + local % {vectors}u");
            let column = if whole_tiles { column } else { format!("min({column}, params.{extent} / {VECTOR}u - 1u)") };
            let _ = writeln!(
                text,
                "let {letter}_place = local / {vectors}u * {line}u + local % {vectors}u;\n\
                 var {letter}_source = params.{letter}_offset + (start + local / {vectors}u) * params.{letter}_stride + \
                 {column};\nlet {letter}_apart = {between}u * params.{letter}_stride;\n\
                 let {letter}_step = {DEPTH}u * params.{letter}_stride;"
            );
        }
        for copy in 0..COPIES {
            let _ = writeln!(text, "var {letter}_next{copy}: vec4<f16>;");
        }
        text
    }

    /// Reads the next slab's vectors into registers and moves on along `k`, if there is a slab at `following`.
    fn read_slab(&self, whole_tiles: bool, following: &str) -> String {
        let letter = self.letter;
        let mut text = String::new();
        for copy in 0..COPIES {
            let line = match copy {
                _ if self.depth_contiguous && !whole_tiles => format!(" + {letter}_line{copy}"),
                0 => String::new(),
                _ => format!(" + {copy}u * {letter}_apart"),
            };
            let _ = writeln!(text, "{letter}_next{copy} = {letter}[{letter}_source{line}];");
        }
        text + &format!("{letter}_source += select(0u, {letter}_step, {following} < end);\n")
    }

    fn store_slab(&self) -> String {
        let (letter, apart) = (self.letter, self.lines_between_copies() * self.line());
        (0..COPIES)
            .map(|copy| format!("{letter}_slab[{letter}_place + {}u] = {letter}_next{copy};\n", copy * apart))
            .collect()
    }

    /// Loads the subgroup's matrices at one place along `k`.
    fn load_matrices(&self, depth: usize) -> String {
        let Side { letter, subgroup_first, .. } = self;
        let (line, role) = (self.line(), letter.to_ascii_uppercase());
        // T stands for row-major memory; the left operand's rows and the right one's columns are the result's axes.
        let load = if self.depth_contiguous == (*letter == 'a') { "coopLoadT" } else { "coopLoad" };
        (0..MATRICES)
            .map(|matrix| {
                let along = format!("({subgroup_first} + {}u)", matrix * MATRIX);
                let place = match self.depth_contiguous {
                    true => format!("{along} * {line}u + {}u", depth / VECTOR),
                    false => format!("{}u + {along} / {VECTOR}u", depth * line),
                };
                format!(
                    "let {letter}{depth}_{matrix}_place = {place};\nlet {letter}{depth}_{matrix} = \
                     {load}<coop_mat16x16<f16, {role}>>(&{letter}_slab[{letter}{depth}_{matrix}_place], {line}u);\n"
                )
            })
            .collect()
    }
}

impl Config {
    /// Names the configuration completely: layouts as BLAS calls them, T for a transposed operand.
    pub fn name(&self) -> String {
        let a = if self.a_depth_contiguous { 'n' } else { 't' };
        let b = if self.b_depth_contiguous { 't' } else { 'n' };
        let edges = if self.whole_tiles { "whole" } else { "edges" };
        format!("cooperative_{a}{b}_{edges}{}", if self.row_scaled { "_row_scaled" } else { "" })
    }

    /// The kernel's text.
    pub fn wgsl(&self) -> String {
        let sides = self.sides();
        let each = |text: &dyn Fn(&Side) -> String| sides.iter().map(text).collect::<String>();
        let mut text = self.declarations();
        text += &self.beginning();
        text += &each(&|side| side.place_copies(self.whole_tiles));
        text += &each_matrix(|row, column| format!("var sum{row}_{column} = coop_mat16x16<f32, C>();\n"));
        let read = |following: &str| each(&|side| side.read_slab(self.whole_tiles, following));
        let _ = write!(
            text,
            "\n{}for (var depth = start; depth < end; depth += {DEPTH}u) {{\n{}workgroupBarrier();\n{}",
            read(&format!("start + {DEPTH}u")),
            each(&Side::store_slab),
            read(&format!("depth + {}u", 2 * DEPTH)),
        );
        for depth in (0..DEPTH).step_by(MATRIX) {
            text += &each(&|side| side.load_matrices(depth));
            text += &each_matrix(|row, column| {
                let sum = format!("sum{row}_{column}");
                format!("{sum} = coopMultiplyAdd(a{depth}_{row}, b{depth}_{column}, {sum});\n")
            });
        }
        text += "workgroupBarrier();\n}\n\n";
        text += &self.write_sums();
        indent(&text)
    }

    fn sides(&self) -> [Side; 2] {
        [
            Side {
                letter: 'a',
                depth_contiguous: self.a_depth_contiguous,
                extent: "m",
                first: "first_row",
                subgroup_first: "subgroup_row",
            },
            Side {
                letter: 'b',
                depth_contiguous: self.b_depth_contiguous,
                extent: "n",
                first: "first_column",
                subgroup_first: "subgroup_column",
            },
        ]
    }

    fn declarations(&self) -> String {
        let [a, b] = self.sides();
        let scales = match self.row_scaled {
            true => "@group(0) @binding(3) var<storage, read> row_scales: array<f32>;\n",
            false => "",
        };
        format!(
            "// Generated by cooperative/generator.rs: {}.\n\
             // Offsets and strides of the operands count vectors of {VECTOR}.\n\n\
             enable f16;\nenable wgpu_cooperative_matrix;\n\n\
             struct Params {{\nm: u32,\nn: u32,\nk: u32,\nrow_tiles: u32,\ncolumn_tiles: u32,\ndepth_per_part: u32,\n\
             a_offset: u32,\na_stride: u32,\nb_offset: u32,\nb_stride: u32,\nrow_scales_offset: u32,\nalpha: f32,\n\
             accumulate: u32,\n}}\n\n\
             // The operands are only read.\n\
             @group(0) @binding(0) var<storage, read_write> a: array<vec4<f16>>;\n\
             @group(0) @binding(1) var<storage, read_write> b: array<vec4<f16>>;\n\
             @group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;\n{scales}\
             var<immediate> params: Params;\n\n\
             var<workgroup> a_slab: array<vec4<f16>, {}>;\nvar<workgroup> b_slab: array<vec4<f16>, {}>;\n\
             // A matrix of each subgroup on its way out.\n\
             var<workgroup> matrices: array<vec4<f32>, {}>;\n\n",
            self.name(),
            a.slab(),
            b.slab(),
            THREADS / 32 * MATRIX * MATRIX / VECTOR,
        ) + &self.writer()
    }

    /// `write_out`: a vector of the result, where it lies within.
    fn writer(&self) -> String {
        let scale = if self.row_scaled { " * row_scales[params.row_scales_offset + row]" } else { "" };
        let write = format!(
            "let i = part_start + (row * params.n + column) / {VECTOR}u;\n\
             var value = sum * (params.alpha{scale});\n\
             if (params.accumulate != 0u) {{\nvalue += out[i];\n}}\nout[i] = value;\n"
        );
        let write = match self.whole_tiles {
            true => write,
            false => format!("if (row < params.m && column < params.n) {{\n{write}}}\n"),
        };
        format!("fn write_out(part_start: u32, row: u32, column: u32, sum: vec4<f32>) {{\n{write}}}\n\n")
    }

    /// The head of the entry point: this workgroup's tile and part of `k`.
    fn beginning(&self) -> String {
        let subgroup = MATRICES * MATRIX;
        format!(
            "@compute @workgroup_size({THREADS})\nfn main(\n@builtin(local_invocation_index) local: u32,\n\
             @builtin(workgroup_id) group: vec3<u32>,\n@builtin(subgroup_id) subgroup: u32,\n\
             @builtin(subgroup_invocation_id) lane: u32,\n) {{\n\
             // Bands of {BAND} row tiles, column by column.\n\
             let band = group.x / ({BAND}u * params.column_tiles);\n\
             let band_rows = min(params.row_tiles - band * {BAND}u, {BAND}u);\n\
             let in_band = group.x - band * {BAND}u * params.column_tiles;\n\
             let first_row = (band * {BAND}u + in_band % band_rows) * {TILE}u;\n\
             let first_column = in_band / band_rows * {TILE}u;\n\
             let subgroup_row = subgroup / 2u * {subgroup}u;\nlet subgroup_column = subgroup % 2u * {subgroup}u;\n\
             let start = group.y * params.depth_per_part;\n\
             let end = min(params.k, start + params.depth_per_part);\n\n"
        )
    }

    /// One matrix of each subgroup after another goes through workgroup memory; a lane writes two vectors of it.
    fn write_sums(&self) -> String {
        let vectors = MATRIX * MATRIX / VECTOR;
        let mut text = format!(
            "let part_start = group.y * (params.m * params.n / {VECTOR}u);\nlet place = subgroup * {vectors}u;\n\
             let row = first_row + subgroup_row + lane / {VECTOR}u;\n\
             let column = first_column + subgroup_column + lane % {VECTOR}u * {VECTOR}u;\n"
        );
        let half = vectors / 2;
        text += &each_matrix(|matrix_row, matrix_column| {
            let (down, across) = (matrix_row * MATRIX, matrix_column * MATRIX);
            format!(
                "coopStoreT(sum{matrix_row}_{matrix_column}, &matrices[place], {}u);\nworkgroupBarrier();\n\
                 write_out(part_start, row + {down}u, column + {across}u, matrices[place + lane]);\n\
                 write_out(part_start, row + {}u, column + {across}u, matrices[place + lane + {half}u]);\n\
                 workgroupBarrier();\n",
                MATRIX / VECTOR,
                down + MATRIX / 2
            )
        });
        text + "}\n"
    }
}

/// Text for each matrix of a subgroup, given its row and column.
fn each_matrix(text: impl Fn(usize, usize) -> String) -> String {
    (0..MATRICES).flat_map(|row| (0..MATRICES).map(move |column| (row, column))).map(|(r, c)| text(r, c)).collect()
}
