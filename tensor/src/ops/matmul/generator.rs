//! Writes the WGSL of the product kernel for an explicit [`Config`].
//!
//! The scheme: a workgroup computes a tile of the result. Step by step along `k` it copies a slab of each operand into
//! workgroup memory, `k`-major in vectors of four, and every invocation multiplies its share from there into
//! registers. The next slab is loaded into registers while the current one is multiplied. Copies move patches of 4 x 4
//! elements, four vectors of an invocation, so that an operand that is contiguous along `k` is transposed in registers.
//!
//! Loops over constants are written out, since naga passes no unrolling hints on.

use std::fmt::Write;

use super::indent::indent;
use crate::dtype::DType;

/// The part of the result that a workgroup computes, and how it is shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tile {
    /// Rows of the tile.
    pub rows: u32,
    /// Columns of the tile.
    pub columns: u32,
    /// Extent of a slab along `k`.
    pub depth: u32,
    /// Rows of one invocation, in groups of four.
    pub thread_rows: u32,
    /// Columns of one invocation, in groups of four.
    pub thread_columns: u32,
    /// Steps along `k` that are written out; the rest of a slab is a loop.
    pub unrolled: u32,
}

/// How an operand is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct OperandConfig {
    /// `F32`, `F16` or `Bf16`.
    pub dtype: DType,
    /// Contiguous along `k`, otherwise along the result's axis.
    pub depth_contiguous: bool,
    /// Read four elements at once: the extent of the contiguous axis, the offset and all strides are multiples of 4.
    pub vectors: bool,
}

/// Everything that decides the text of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Config {
    pub tile: Tile,
    pub a: OperandConfig,
    pub b: OperandConfig,
    /// Write four elements at once: the number of columns is a multiple of 4.
    pub vector_out: bool,
}

/// The letters of a vector's components.
const COMPONENTS: [char; 4] = ['x', 'y', 'z', 'w'];

impl Tile {
    /// Invocations in a workgroup.
    pub const fn threads(&self) -> u32 {
        self.rows / self.thread_rows * (self.columns / self.thread_columns)
    }

    fn patches(&self, side: Side) -> u32 {
        side.extent(self) * self.depth / 16
    }
}

/// Which operand a piece of text is about.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    A,
    B,
}

impl Side {
    fn letter(self) -> char {
        if self == Side::A { 'a' } else { 'b' }
    }

    /// Extent of the tile along this operand's axis of the result.
    fn extent(self, tile: &Tile) -> u32 {
        if self == Side::A { tile.rows } else { tile.columns }
    }
}

impl OperandConfig {
    pub fn name(&self) -> String {
        let layout = if self.depth_contiguous { "k" } else { "x" };
        format!("{}{layout}{}", self.dtype, if self.vectors { 4 } else { 1 })
    }

    /// WGSL type of the binding's elements.
    fn storage_type(&self) -> &'static str {
        match (self.dtype, self.vectors) {
            (DType::F32, true) => "vec4<f32>",
            (DType::F32, false) => "f32",
            (_, true) => "vec2<u32>",
            (_, false) => "u32",
        }
    }

    /// Elements that one index of `read_…` stands for.
    fn width(&self) -> u32 {
        if self.vectors { 4 } else { 1 }
    }

    /// The function that reads the elements at an index, as f32.
    fn reader(&self, letter: char) -> String {
        let unpack = if self.dtype == DType::F16 { "unpack2x16float" } else { "unpack_bf16" };
        match (self.dtype, self.vectors) {
            (DType::F32, true) => format!("fn read_{letter}(i: u32) -> vec4<f32> {{\n    return {letter}[i];\n}}\n"),
            (DType::F32, false) => format!("fn read_{letter}(i: u32) -> f32 {{\n    return {letter}[i];\n}}\n"),
            (_, true) => format!(
                "fn read_{letter}(i: u32) -> vec4<f32> {{\n    let words = {letter}[i];\n    \
                 return vec4<f32>({unpack}(words.x), {unpack}(words.y));\n}}\n"
            ),
            (_, false) => format!(
                "fn read_{letter}(i: u32) -> f32 {{\n    \
                 return {unpack}({letter}[i >> 1u] >> ((i & 1u) * 16u)).x;\n}}\n"
            ),
        }
    }
}

impl Config {
    /// Names the configuration completely.
    pub fn name(&self) -> String {
        let Tile { rows, columns, depth, thread_rows, thread_columns, unrolled } = self.tile;
        let out = if self.vector_out { 4 } else { 1 };
        let (a, b) = (self.a.name(), self.b.name());
        format!("matmul_{rows}x{columns}x{depth}_{thread_rows}x{thread_columns}x{unrolled}_{a}_{b}_{out}")
    }

    /// The kernel's text.
    pub fn wgsl(&self) -> String {
        let mut text = self.declarations();
        text += &self.a.reader('a');
        text += &self.b.reader('b');
        text += &self.accessors();
        text += &self.entry_point();
        // Indentation by depth of braces: the pieces above are written flat.
        indent(&text)
    }

    fn operand(&self, side: Side) -> &OperandConfig {
        if side == Side::A { &self.a } else { &self.b }
    }

    fn declarations(&self) -> String {
        let Tile { rows, columns, depth, thread_rows, thread_columns, .. } = self.tile;
        let out = if self.vector_out { "vec4<f32>" } else { "f32" };
        format!(
            "// Generated by generator.rs: {}.\n\
             // A workgroup makes {rows} x {columns} elements of the result in slabs of {depth} along k; an invocation \
             {thread_rows} x {thread_columns}.\n\n\
             struct Params {{\nm: u32,\nn: u32,\nk: u32,\nbatches: u32,\nrow_tiles: u32,\ncolumn_tiles: u32,\n\
             workgroups: u32,\ndepth_per_part: u32,\na_offset: u32,\na_stride: u32,\nb_offset: u32,\nb_stride: u32,\n\
             alpha: f32,\naccumulate: u32,\nbatch_rank: u32,\nbatch_extents: array<u32, 4>,\n\
             a_batch_strides: array<u32, 4>,\nb_batch_strides: array<u32, 4>,\n}}\n\n\
             @group(0) @binding(0) var<storage, read> a: array<{}>;\n\
             @group(0) @binding(1) var<storage, read> b: array<{}>;\n\
             @group(0) @binding(2) var<storage, read_write> out: array<{out}>;\n\
             var<immediate> params: Params;\n\n\
             var<workgroup> a_slab: array<vec4<f32>, {}>;\n\
             var<workgroup> b_slab: array<vec4<f32>, {}>;\n\n",
            self.name(),
            self.a.storage_type(),
            self.b.storage_type(),
            rows * depth / 4,
            columns * depth / 4,
        )
    }

    /// `read_out` and `write_out`: four neighbours of a row, as far as they exist.
    fn accessors(&self) -> String {
        let read = "fn read_out(row_start: u32, column: u32) -> vec4<f32> {\nvar value = vec4<f32>();\n";
        let write = "fn write_out(row_start: u32, column: u32, value: vec4<f32>) {\n";
        if self.vector_out {
            return format!(
                "{read}if (column < params.n) {{\nvalue = out[(row_start + column) / 4u];\n}}\nreturn value;\n}}\n\n\
                 {write}if (column < params.n) {{\nout[(row_start + column) / 4u] = value;\n}}\n}}\n\n"
            );
        }
        let each = |line: &dyn Fn(&str, char) -> String| -> String {
            let text = |(offset, component): (usize, &char)| {
                let place = format!("row_start + column + {offset}u");
                format!("if (column + {offset}u < params.n) {{\n{}\n}}\n", line(&place, *component))
            };
            COMPONENTS.iter().enumerate().map(text).collect()
        };
        let reads = each(&|place, component| format!("value.{component} = out[{place}];"));
        let writes = each(&|place, component| format!("out[{place}] = value.{component};"));
        format!("{read}{reads}return value;\n}}\n\n{write}{writes}}}\n\n")
    }

    fn entry_point(&self) -> String {
        let Tile { rows, columns, depth, .. } = self.tile;
        let threads = self.tile.threads();
        let mut text = format!(
            "@compute @workgroup_size({threads})\nfn main(\n\
             @builtin(local_invocation_index) local: u32,\n@builtin(workgroup_id) group: vec3<u32>,\n\
             @builtin(num_workgroups) groups: vec3<u32>,\n) {{\n\
             let id = group.y * groups.x + group.x;\nif (id >= params.workgroups) {{\nreturn;\n}}\n\
             // Tile, part of k and matrix of this workgroup.\n\
             let first_column = (id % params.column_tiles) * {columns}u;\n\
             let row_tiles_before = id / params.column_tiles;\n\
             let first_row = (row_tiles_before % params.row_tiles) * {rows}u;\n\
             let plane = row_tiles_before / params.row_tiles;\n\
             let start = (plane / params.batches) * params.depth_per_part;\n\
             let end = min(params.k, start + params.depth_per_part);\n\
             var a_start = params.a_offset;\nvar b_start = params.b_offset;\n\
             var rest = plane % params.batches;\n\
             for (var axis = params.batch_rank; axis > 0u; axis -= 1u) {{\n\
             let here = rest % params.batch_extents[axis - 1u];\nrest /= params.batch_extents[axis - 1u];\n\
             a_start += here * params.a_batch_strides[axis - 1u];\n\
             b_start += here * params.b_batch_strides[axis - 1u];\n}}\n\n"
        );
        text += &self.place_patches();
        text += &self.place_sums();
        let (whole, edge) = (self.load_patches(false), self.load_patches(true));
        let load = |first: &str| format!("if ({first} + {depth}u <= end) {{\n{whole}}} else {{\n{edge}}}\n");
        let _ = write!(
            text,
            "{}{}workgroupBarrier();\nvar next = start + {depth}u;\nloop {{\nlet more = next < end;\n\
             if (more) {{\n{}}}\n{}workgroupBarrier();\nif (!more) {{\nbreak;\n}}\n{}workgroupBarrier();\n\
             next += {depth}u;\n}}\n\n",
            load("start"),
            self.store_patches(),
            load("next"),
            self.multiply_slab(),
            self.store_patches(),
        );
        text + &self.write_sums() + "}\n"
    }

    /// Patches per invocation, rounded up.
    fn slots(&self) -> u32 {
        let patches = self.tile.patches(Side::A) + self.tile.patches(Side::B);
        patches.div_ceil(self.tile.threads())
    }

    /// Text for patch number `slot` of an invocation: the first patches are of `a`, the rest of `b`. Branches only
    /// where a slot has both, or not enough for every invocation.
    fn each_side(&self, slot: u32, text: impl Fn(Side) -> String) -> String {
        let (threads, a) = (self.tile.threads(), self.tile.patches(Side::A));
        let all = a + self.tile.patches(Side::B);
        let first = slot * threads;
        let partial = first + threads > all;
        if first >= a {
            return match partial {
                false => text(Side::B),
                true => format!("if (local < {}u) {{\n{}}}\n", all - first, text(Side::B)),
            };
        }
        if first + threads <= a {
            return text(Side::A);
        }
        let otherwise = if partial { format!("else if (local < {}u)", all - first) } else { "else".into() };
        format!("if (local < {}u) {{\n{}}} {otherwise} {{\n{}}}\n", a - first, text(Side::A), text(Side::B))
    }

    /// Declares, for every slot, where its patch comes from and where it goes.
    fn place_patches(&self) -> String {
        let mut text = "// Patches this invocation copies: source indices of the four vectors, the first index along \
                        k, place in the slab.\n"
            .to_string();
        for slot in 0..self.slots() {
            let _ = write!(
                text,
                "var source{slot} = vec4<u32>();\nvar step{slot} = 0u;\nvar depth{slot} = 0u;\nvar last{slot} = 0u;\n\
                 var place{slot} = 0u;\n"
            );
            for vector in 0..4 {
                let _ = writeln!(text, "var patch{slot}_{vector} = vec4<f32>();");
            }
            let place = self.each_side(slot, |side| self.place_patch(side, slot));
            // A scope of its own for the names in it.
            text += &if place.starts_with("if") { place } else { format!("{{\n{place}}}\n") };
        }
        text
    }

    fn place_patch(&self, side: Side, slot: u32) -> String {
        let (operand, letter) = (self.operand(side), side.letter());
        let (groups, quads) = (side.extent(&self.tile) / 4, self.tile.depth / 4);
        let (extent, first) = if side == Side::A { ("params.m", "first_row") } else { ("params.n", "first_column") };
        let before = if side == Side::A { 0 } else { self.tile.patches(Side::A) };
        let number = match (slot * self.tile.threads()).cast_signed() - before.cast_signed() {
            0 => "local".to_string(),
            ahead if ahead > 0 => format!("(local + {ahead}u)"),
            behind => format!("(local - {}u)", -behind),
        };
        // Lanes side by side take patches that are stored side by side. An operand contiguous along k changes to the
        // next patch along k after eight, which is what one access to workgroup memory can serve, so that a warp
        // still reads whole cache lines.
        let (group, quad) = if operand.depth_contiguous && groups > 8 {
            (format!("{number} % 8u + {number} / {}u * 8u", 8 * quads), format!("{number} / 8u % {quads}u"))
        } else {
            (format!("{number} % {groups}u"), format!("{number} / {groups}u"))
        };
        let width = operand.width();
        let (depth, shorten) = (self.tile.depth, if width == 4 { " / 4u" } else { "" });
        let mut text = format!("let group_in_slab = {group};\nlet quad = {quad};\ndepth{slot} = start + quad * 4u;\n");
        if operand.depth_contiguous {
            let _ = write!(
                text,
                "let lines = min({first} + group_in_slab * 4u + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>({extent} - 1u));\n\
                 source{slot} = ({letter}_start + lines * params.{letter}_stride + depth{slot}){shorten};\n\
                 step{slot} = {}u;\n",
                depth / width
            );
        } else {
            let _ = write!(
                text,
                "let line = min({first} + group_in_slab * 4u, {extent} - {width}u);\n\
                 source{slot} = ({letter}_start + line + \
                 (depth{slot} + vec4<u32>(0u, 1u, 2u, 3u)) * params.{letter}_stride){shorten};\n\
                 step{slot} = {depth}u * params.{letter}_stride{shorten};\n"
            );
            if width == 1 {
                let _ = writeln!(text, "last{slot} = {extent} - 1u - line;");
            }
        }
        let _ = writeln!(text, "place{slot} = quad * {}u + group_in_slab;", groups * 4);
        text
    }

    /// Reads the patches of one slab into registers. With `edge`, what lies beyond the end of `k` becomes zero;
    /// beyond the last row or column the last one is read again, into sums that nobody writes.
    fn load_patches(&self, edge: bool) -> String {
        (0..self.slots())
            .map(|slot| {
                let load = self.each_side(slot, |side| match self.operand(side).vectors {
                    true => self.load_vectors(side, slot, edge),
                    false => self.load_elements(side, slot, edge),
                });
                format!("{load}source{slot} += step{slot};\ndepth{slot} += {}u;\n", self.tile.depth)
            })
            .collect()
    }

    fn load_vectors(&self, side: Side, slot: u32, edge: bool) -> String {
        let letter = side.letter();
        let mut text = String::new();
        for (vector, component) in COMPONENTS.iter().enumerate() {
            let read = format!("read_{letter}(source{slot}.{component})");
            // A vector along k is whole or absent; across k, each of the four has a position along k of its own.
            let ahead = if self.operand(side).depth_contiguous { 0 } else { vector };
            let _ = match edge {
                false => writeln!(text, "patch{slot}_{vector} = {read};"),
                true => write!(
                    text,
                    "patch{slot}_{vector} = vec4<f32>();\nif (depth{slot} + {ahead}u < end) {{\n\
                     patch{slot}_{vector} = {read};\n}}\n"
                ),
            };
        }
        text
    }

    fn load_elements(&self, side: Side, slot: u32, edge: bool) -> String {
        let (letter, depth_contiguous) = (side.letter(), self.operand(side).depth_contiguous);
        let mut text = String::new();
        for (vector, source) in COMPONENTS.iter().enumerate() {
            if edge {
                let _ = writeln!(text, "patch{slot}_{vector} = vec4<f32>();");
            }
            for (i, component) in COMPONENTS.iter().enumerate() {
                let index = match depth_contiguous {
                    true => format!("source{slot}.{source} + {i}u"),
                    false => format!("source{slot}.{source} + min({i}u, last{slot})"),
                };
                let target = format!("patch{slot}_{vector}.{component} = read_{letter}({index});");
                let ahead = if depth_contiguous { i } else { vector };
                let _ = match edge {
                    false => writeln!(text, "{target}"),
                    true => write!(text, "if (depth{slot} + {ahead}u < end) {{\n{target}\n}}\n"),
                };
            }
        }
        text
    }

    /// Writes the patches from registers to workgroup memory, vectors along the result's axis.
    fn store_patches(&self) -> String {
        let store = |slot: u32, side: Side| {
            let (letter, groups) = (side.letter(), side.extent(&self.tile) / 4);
            let mut text = String::new();
            for (line, component) in COMPONENTS.iter().enumerate() {
                let place = format!("{letter}_slab[place{slot} + {}u]", line as u32 * groups);
                let _ = match self.operand(side).depth_contiguous {
                    false => writeln!(text, "{place} = patch{slot}_{line};"),
                    true => writeln!(
                        text,
                        "{place} = vec4<f32>(patch{slot}_0.{component}, patch{slot}_1.{component}, \
                         patch{slot}_2.{component}, patch{slot}_3.{component});"
                    ),
                };
            }
            text
        };
        (0..self.slots()).map(|slot| self.each_side(slot, |side| store(slot, side))).collect()
    }

    /// Declares this invocation's place in the tile and its sums.
    fn place_sums(&self) -> String {
        let across = self.tile.columns / self.tile.thread_columns;
        let down = self.tile.rows / self.tile.thread_rows;
        let mut text = "// Place of this invocation's sums in the tile, in groups of four.\n".to_string();
        text += &if across.is_multiple_of(8) && down.is_multiple_of(4) {
            // A warp covers 8 x 4 invocations: as square as it gets, so that it reads the fewest vectors.
            let wide = across / 8;
            format!(
                "let x = local % 8u + (local / 32u) % {wide}u * 8u;\n\
                 let y = local / 8u % 4u + local / {}u * 4u;\n",
                32 * wide
            )
        } else {
            format!("let x = local % {across}u;\nlet y = local / {across}u;\n")
        };
        for row in 0..self.tile.thread_rows {
            for group in 0..self.tile.thread_columns / 4 {
                let _ = writeln!(text, "var sum{row}_{group} = vec4<f32>();");
            }
        }
        text
    }

    /// Adds the products of one slab to the sums.
    fn multiply_slab(&self) -> String {
        let Tile { depth, unrolled, .. } = self.tile;
        if unrolled == depth {
            return (0..depth).map(|step| self.multiply_step(step, "0u")).collect();
        }
        let body: String = (0..unrolled).map(|step| self.multiply_step(step, "d")).collect();
        format!("for (var d = 0u; d < {depth}u; d += {unrolled}u) {{\n{body}}}\n")
    }

    fn multiply_step(&self, step: u32, base: &str) -> String {
        let Tile { rows, columns, thread_rows, thread_columns, .. } = self.tile;
        let (down, across) = (rows / thread_rows, columns / thread_columns);
        let mut text = "{\n".to_string();
        let mut read = |letter: char, at: char, groups: u32, apart: u32, extent: u32| {
            for group in 0..groups {
                let constant = step * extent / 4 + group * apart;
                let moving = if base == "0u" { String::new() } else { format!("{base} * {}u + ", extent / 4) };
                let _ = writeln!(text, "let {letter}{group} = {letter}_slab[{moving}{at} + {constant}u];");
            }
        };
        read('a', 'y', thread_rows / 4, down, rows);
        read('b', 'x', thread_columns / 4, across, columns);
        for row in 0..thread_rows {
            let (group, component) = (row / 4, COMPONENTS[(row % 4) as usize]);
            for column in 0..thread_columns / 4 {
                let sum = format!("sum{row}_{column}");
                let _ = writeln!(text, "{sum} = fma(vec4<f32>(a{group}.{component}), b{column}, {sum});");
            }
        }
        text + "}\n"
    }

    fn write_sums(&self) -> String {
        let Tile { rows, columns, thread_rows, thread_columns, .. } = self.tile;
        let (down, across) = (rows / thread_rows, columns / thread_columns);
        let mut text = "let matrix_start = plane * params.m * params.n;\n".to_string();
        for row in 0..thread_rows {
            let constant = row / 4 * down * 4 + row % 4;
            let _ = write!(
                text,
                "{{\nlet row = first_row + y * 4u + {constant}u;\nif (row < params.m) {{\n\
                 let row_start = matrix_start + row * params.n;\n"
            );
            let groups = (0..thread_columns / 4).map(|group| (group, group * across * 4));
            // All of a row's old values are asked for before the first new one is written: a read waits for the writes
            // before it.
            for (group, _) in groups.clone() {
                let _ = writeln!(text, "var value{group} = sum{row}_{group} * params.alpha;");
            }
            text += "if (params.accumulate != 0u) {\n";
            for (group, constant) in groups.clone() {
                let _ = writeln!(text, "let old{group} = read_out(row_start, first_column + x * 4u + {constant}u);");
            }
            for (group, _) in groups.clone() {
                let _ = writeln!(text, "value{group} += old{group};");
            }
            text += "}\n";
            for (group, constant) in groups {
                let _ = writeln!(text, "write_out(row_start, first_column + x * 4u + {constant}u, value{group});");
            }
            text += "}\n}\n";
        }
        text
    }
}
