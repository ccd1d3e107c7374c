//! Writes the WGSL of the product kernels for large results: whole tiles of 128 x 256 or 128 x 192, operands in containers.
//!
//! A workgroup of eight subgroups has a multiprocessor for itself; each subgroup computes 64 x 64 (or 64 x 48) elements in
//! matrices of 16 x 16. What decided the speed, measured on an NVIDIA H200 (TFLOP/s for NT, NN at 4096³; kernels for tiles of
//! 128 x 128 reach 287, 313):
//!
//! - Memory is read in whole lines of 128 bytes. Along `k` that is two slabs: half of the invocations that share a line hold
//!   what belongs to the first slab, the others what belongs to the second. So every invocation reads two lines, four
//!   rows apart, in opposite order, and picks for each slab the half that it needs: 300, 326 -> 325, 338.
//! - When a slab's last matrices are loaded, the next slab is stored while these are multiplied.
//! - Reads stand in a condition, which the driver does not move them out of, and operands are declared as only read: 310, 325
//!   where they are declared as if they were written to.
//! - What the result is added to is read in groups of eight vectors, not one by one: 288, 296 -> 313, 323, and 151, 152 ->
//!   209, 211 where `k` is 768.
//!
//! Tiles of 192 columns are for results that make too few of the larger ones: 4096 x 768 (`k` 768) 169, 172 -> 196, 203. They
//! read one slab ahead, in the operands' own order, which is enough where the loop is short.

use std::fmt::Write;

use super::generator::{BAND, Config, DEPTH, Kind, MATRIX, PARAMS, TILE, VECTOR, bands};

/// Invocations in a workgroup: eight subgroups, in two rows of four.
const THREADS: usize = 256;
const SUBGROUP_COLUMNS: usize = 4;

/// Containers from one line of a slab to the next that holds [`DEPTH`] elements: four, and one so that stores and loads of
/// matrices meet no bank twice.
const DEPTH_LINE: usize = 5;

/// Matrices that a subgroup holds along the result's rows.
const ROW_MATRICES: usize = 4;

/// Columns of the larger tiles, and of the smaller ones.
pub(super) const WIDTHS: [usize; 2] = [256, 192];

/// Slabs of a low-rank term at the most, which are written out one after another.
pub(super) const MAX_LOW_RANK_SLABS: usize = 2;

/// Extent along `k` that the loop goes through at a time.
pub(super) const fn step(columns: usize) -> usize {
    if is_paired(columns) { 2 * DEPTH } else { DEPTH }
}

/// Whether slabs are read in pairs.
const fn is_paired(columns: usize) -> bool {
    columns == WIDTHS[0]
}

/// One operand's way from memory through a slab into matrices.
#[derive(Clone, Copy)]
struct Side {
    letter: char,
    /// Whose matrices it becomes: A or B.
    role: char,
    depth_contiguous: bool,
    /// Rows or columns of the tile.
    extent: usize,
    first: &'static str,
    subgroup_first: &'static str,
    /// Matrices that a subgroup holds along this axis.
    matrices: usize,
    /// Where its slab begins, in containers.
    slab: usize,
    paired: bool,
}

impl Side {
    /// Containers from one line of the slab to the next.
    fn line(&self) -> usize {
        if self.depth_contiguous { DEPTH_LINE } else { self.extent / 8 + 1 }
    }

    fn slab_size(&self) -> usize {
        self.line() * if self.depth_contiguous { self.extent } else { DEPTH }
    }

    /// Containers of a slab that an invocation copies.
    fn copies(&self) -> usize {
        self.extent * DEPTH / 8 / THREADS
    }

    /// Lines of 128 bytes hold both slabs of a pair.
    fn shares_lines(&self) -> bool {
        self.paired && self.depth_contiguous
    }

    /// Containers of the slab between two that an invocation copies.
    fn apart(&self) -> usize {
        if self.depth_contiguous { THREADS / 4 * DEPTH_LINE } else { 8 }
    }

    /// Declares where the invocation's containers come from and where in the slab they go.
    fn place(&self, start: &str) -> String {
        let Side { letter, first, .. } = self;
        let (line, read) = (self.line(), format!("params.{letter}_offset"));
        if self.shares_lines() {
            return format!(
                "// Eight invocations share a line; the later ones hold its second half first.\n\
                 let {letter}_late = local % 8u >= 4u;\nlet {letter}_line = local / 32u * 8u + local / 8u % 4u;\n\
                 let {letter}_place = ({letter}_line + select(0u, 4u, {letter}_late)) * {line}u + local % 4u;\n\
                 let {letter}_other_place = ({letter}_line + select(4u, 0u, {letter}_late)) * {line}u + local % 4u;\n\
                 var {letter}_source = {read} + {start} / 8u + local % 8u + ({first} + {letter}_line) * \
                 params.{letter}_stride;\n\
                 let {letter}_other = 4u * params.{letter}_stride + select(4u, 0u - 4u, {letter}_late);\n\
                 let {letter}_step = 8u;\n"
            );
        }
        if self.depth_contiguous {
            return format!(
                "let {letter}_line = local / 32u * 8u + local / 8u % 4u + local / 4u % 2u * 4u;\n\
                 let {letter}_place = {letter}_line * {line}u + local % 4u;\n\
                 var {letter}_source = {read} + {start} / 8u + local % 4u + ({first} + {letter}_line) * \
                 params.{letter}_stride;\nlet {letter}_step = 4u;\n"
            );
        }
        format!(
            "let {letter}_place = local / 8u * {line}u + local % 8u;\n\
             var {letter}_source = {read} + ({start} + local / 8u) * params.{letter}_stride + {first} / 8u + local % 8u;\n\
             let {letter}_step = {DEPTH}u * params.{letter}_stride;\n"
        )
    }

    /// Declares the registers between memory and slab.
    fn registers(&self) -> String {
        let sets: &[&str] = match (self.paired, self.depth_contiguous) {
            (true, true) => &["first", "second", "kept"],
            (true, false) => &["first", "second"],
            (false, _) => &["first"],
        };
        let declare = |set: &&str| {
            (0..self.copies()).map(|copy| format!("var {}_{set}{copy}: vec4<f32>;\n", self.letter)).collect::<String>()
        };
        sets.iter().map(declare).collect()
    }

    /// Reads one set of registers and moves on along `k`.
    fn read(&self, set: &str) -> String {
        let letter = self.letter;
        let mut text = String::new();
        let other = if self.shares_lines() && set == "second" { format!(" + {letter}_other") } else { String::new() };
        for copy in 0..self.copies() {
            let along = match copy {
                0 => String::new(),
                _ if self.depth_contiguous => format!(" + {}u * params.{letter}_stride", copy * THREADS / 4),
                _ => format!(" + {}u", copy * 8),
            };
            let _ = writeln!(text, "{letter}_{set}{copy} = {letter}[{letter}_source{other}{along}];");
        }
        // Both sets of a shared line lie at the same place.
        if !self.shares_lines() || set == "second" {
            let _ = writeln!(text, "{letter}_source += {letter}_step;");
        }
        text
    }

    fn store(&self, set: &str) -> String {
        let (letter, slab, mut text) = (self.letter, self.slab, String::new());
        for copy in 0..self.copies() {
            let place = slab + copy * self.apart();
            let _ = match (self.shares_lines(), set) {
                (true, "first") => writeln!(
                    text,
                    "slabs[{letter}_place + {place}u] = select({letter}_first{copy}, {letter}_second{copy}, {letter}_late);\n\
                     {letter}_kept{copy} = select({letter}_second{copy}, {letter}_first{copy}, {letter}_late);"
                ),
                (true, _) => writeln!(text, "slabs[{letter}_other_place + {place}u] = {letter}_kept{copy};"),
                (false, _) => writeln!(text, "slabs[{letter}_place + {place}u] = {letter}_{set}{copy};"),
            };
        }
        text
    }

    /// Loads the subgroup's matrices at one place along `k`.
    fn load_matrices(&self, depth: usize) -> String {
        let Side { role, subgroup_first, slab, .. } = self;
        let (line, name) = (self.line(), role.to_ascii_lowercase());
        // T stands for row-major memory; the left operand's rows and the right one's columns are the result's axes.
        let load = if self.depth_contiguous == (*role == 'A') { "coopLoadT" } else { "coopLoad" };
        let matrix = |matrix: usize| {
            let along = format!("({subgroup_first} + {}u)", matrix * MATRIX);
            let place = match self.depth_contiguous {
                true => format!("{along} * {line}u + {}u", slab + depth / 8),
                false => format!("{}u + {along} / 8u", slab + depth * line),
            };
            format!(
                "let {name}{depth}_{matrix}_place = {place};\nlet {name}{depth}_{matrix} = \
                 {load}<coop_mat16x16<f32, {role}>>(&slabs[{name}{depth}_{matrix}_place], {line}u);\n"
            )
        };
        (0..self.matrices).map(matrix).collect()
    }
}

impl Config {
    /// The kernel that computes the same without containers.
    pub fn without_containers(self) -> Self {
        let (kind, whole_tiles) = match self.kind {
            Kind::Large { columns, row_scaled, low_rank_slabs, biased, .. } => (
                Kind::Square { small: false, row_scaled, low_rank: low_rank_slabs > 0, biased },
                columns.is_multiple_of(TILE),
            ),
            kind => (kind, self.whole_tiles),
        };
        Config { containers: false, kind, whole_tiles, ..self }
    }
}

/// What a kernel is generated from.
struct Kernel {
    name: String,
    columns: usize,
    row_scaled: bool,
    low_rank_slabs: usize,
    biased: bool,
    split: bool,
    sides: [Side; 2],
}

/// The text of the kernel of a [`Kind::Large`]; nothing for other kinds.
pub(super) fn wgsl(config: &Config) -> Option<String> {
    let Kind::Large { columns, row_scaled, low_rank_slabs, biased, split } = config.kind else { return None };
    let paired = is_paired(columns);
    let a = Side {
        letter: 'a',
        role: 'A',
        depth_contiguous: config.a_depth_contiguous,
        extent: TILE,
        first: "first_row",
        subgroup_first: "subgroup_row",
        matrices: ROW_MATRICES,
        slab: 0,
        paired,
    };
    // The low-rank term's left operand, which is contiguous along the rank, goes through the same slab.
    let slab = a.slab_size().max(if low_rank_slabs > 0 { TILE * DEPTH_LINE } else { 0 });
    let b = Side {
        letter: 'b',
        role: 'B',
        depth_contiguous: config.b_depth_contiguous,
        extent: columns,
        first: "first_column",
        subgroup_first: "subgroup_column",
        matrices: columns / SUBGROUP_COLUMNS / MATRIX,
        slab,
        paired,
    };
    let kernel = Kernel { name: config.name(), columns, row_scaled, low_rank_slabs, biased, split, sides: [a, b] };
    Some(kernel.declarations() + &kernel.beginning() + &kernel.sums() + &kernel.write_sums())
}

impl Kernel {
    fn declarations(&self) -> String {
        let (low_rank, containers, floats) = (self.low_rank_slabs > 0, "array<vec4<f32>>", "array<f32>");
        let more = [
            ("row_scales", floats, self.row_scaled),
            ("p", containers, low_rank),
            ("f", containers, low_rank),
            ("p_scale", floats, low_rank),
            ("f_scale", floats, low_rank),
            ("bias", containers, self.biased),
        ];
        let wanted = more.iter().filter(|(_, _, wanted)| *wanted).enumerate();
        let declare = |(binding, (name, kind, _)): (usize, &(&str, &str, bool))| {
            format!("@group(0) @binding({}) var<storage, read> {name}: {kind};\n", binding + 3)
        };
        let matrices = THREADS / 32 * MATRIX * self.out_line();
        let slabs = self.sides[1].slab + self.sides[1].slab_size();
        format!(
            "// Generated by cooperative/large.rs: {}.\n\
             // Offsets and strides of the operands count containers of eight elements.\n\n\
             enable wgpu_cooperative_matrix;\n\n{PARAMS}\n\
             @group(0) @binding(0) var<storage, read> a: {containers};\n\
             @group(0) @binding(1) var<storage, read> b: {containers};\n\
             @group(0) @binding(2) var<storage, read_write> out: {containers};\n{}\
             var<immediate> params: Params;\n\n\
             // A slab of each operand; in the end a row of matrices of each subgroup.\n\
             var<workgroup> slabs: array<vec4<f32>, {}>;\n\n",
            self.name,
            wanted.map(declare).collect::<String>(),
            slabs.max(matrices),
        )
    }

    /// The head of the entry point: this workgroup's tile and part of `k`, empty sums, the operands' places.
    fn beginning(&self) -> String {
        let sides = self.sides.iter().map(|side| side.place("start") + &side.registers()).collect::<String>();
        // Numbers that are known spare registers.
        let part = match self.split {
            true => {
                "let part = group.y;\nlet start = part * params.depth_per_part;\n\
                 let end = min(params.k, start + params.depth_per_part);\n"
            }
            false => "let part = 0u;\nlet start = 0u;\nlet end = params.k;\n",
        };
        format!(
            "@compute @workgroup_size({THREADS})\nfn main(\n@builtin(local_invocation_index) local: u32,\n\
             @builtin(workgroup_id) group: vec3<u32>,\n@builtin(subgroup_id) subgroup: u32,\n\
             @builtin(subgroup_invocation_id) lane: u32,\n) {{\n{}\
             let subgroup_row = subgroup / {SUBGROUP_COLUMNS}u * {}u;\n\
             let subgroup_column = subgroup % {SUBGROUP_COLUMNS}u * {}u;\n\
             {part}\n{sides}{}\n",
            bands(BAND, TILE, self.columns, "group.x"),
            ROW_MATRICES * MATRIX,
            self.columns / SUBGROUP_COLUMNS,
            self.each_matrix(0..ROW_MATRICES, |row, column| format!(
                "var sum{row}_{column} = coop_mat16x16<f32, C>();\n"
            )),
        )
    }

    /// The loop along `k`. When a slab's turn begins, it is in workgroup memory and the next one is in registers.
    fn sums(&self) -> String {
        let paired = self.sides[0].paired;
        let sets: &[&str] = if paired { &["first", "second"] } else { &["first"] };
        let step = step(self.columns);
        let mut text: String = sets.iter().map(|set| self.read(set)).collect();
        text += &self.low_rank_term();
        text += &self.store("first");
        let _ = write!(
            text,
            "if (start + {step}u < end) {{\n{}}}\nworkgroupBarrier();\n\
             for (var depth = start; depth < end; depth += {step}u) {{\n",
            self.read("first")
        );
        if paired {
            text += &self.turn("second", step);
        }
        text += &self.turn("first", 2 * step);
        text + "}\n\n"
    }

    /// Multiplies the slab in workgroup memory, puts the one in the registers `next` into its place, and reads these again
    /// if the inner extent goes on `ahead` from here.
    fn turn(&self, next: &str, ahead: usize) -> String {
        let last = DEPTH - MATRIX;
        // The driver takes the order in which reads, stores and multiplications are written as a hint.
        let rows = if self.sides[0].paired { [1, 2] } else { [0, 0] };
        format!(
            "{{\n{}{}{}workgroupBarrier();\n{}{}{}if (depth + {ahead}u < end) {{\n{}}}\n{}workgroupBarrier();\n}}\n",
            self.load_matrices(&self.sides, 0),
            self.multiply(0, 0..ROW_MATRICES),
            self.load_matrices(&self.sides, last),
            self.multiply(last, 0..rows[0]),
            self.store(next),
            self.multiply(last, rows[0]..rows[1]),
            self.read(next),
            self.multiply(last, rows[1]..ROW_MATRICES),
        )
    }

    /// The sums of the low-rank term, slab by slab. Only the first part of a product that is split along `k` has it.
    fn low_rank_term(&self) -> String {
        if self.low_rank_slabs == 0 {
            return String::new();
        }
        let [p, f] = self.sides.map(|side| {
            let letter = if side.letter == 'a' { 'p' } else { 'f' };
            Side { letter, depth_contiguous: side.letter == 'a' || side.depth_contiguous, paired: false, ..side }
        });
        let each = |text: &dyn Fn(&Side) -> String| text(&p) + &text(&f);
        let mut text = each(&|side| side.place("0u") + &side.registers());
        for _ in 0..self.low_rank_slabs {
            let _ = write!(
                text,
                "{{\n{}{}workgroupBarrier();\n",
                each(&|side| side.read("first")),
                each(&|side| side.store("first"))
            );
            for depth in (0..DEPTH).step_by(MATRIX) {
                text += &self.load_matrices(&[p, f], depth);
                text += &self.multiply(depth, 0..ROW_MATRICES);
            }
            text += "workgroupBarrier();\n}\n";
        }
        text += "let multiple = select(0.0, params.update * p_scale[0] * f_scale[0], part == 0u);\n";
        text + &self
            .each_matrix(0..ROW_MATRICES, |row, column| format!("sum{row}_{column} = sum{row}_{column} * multiple;\n"))
    }

    fn read(&self, set: &str) -> String {
        self.sides.iter().map(|side| side.read(set)).collect()
    }

    fn store(&self, set: &str) -> String {
        self.sides.iter().map(|side| side.store(set)).collect()
    }

    fn load_matrices(&self, sides: &[Side; 2], depth: usize) -> String {
        sides.iter().map(|side| side.load_matrices(depth)).collect()
    }

    fn multiply(&self, depth: usize, rows: std::ops::Range<usize>) -> String {
        self.each_matrix(rows, |row, column| {
            let sum = format!("sum{row}_{column}");
            format!("{sum} = coopMultiplyAdd(a{depth}_{row}, b{depth}_{column}, {sum});\n")
        })
    }

    /// Text for each matrix of a subgroup in some of its rows, given row and column.
    fn each_matrix(&self, rows: std::ops::Range<usize>, text: impl Fn(usize, usize) -> String) -> String {
        let columns = self.sides[1].matrices;
        rows.flat_map(|row| (0..columns).map(move |column| (row, column))).map(|(r, c)| text(r, c)).collect()
    }

    /// Vectors along a subgroup's part of a row of the result.
    fn out_vectors(&self) -> usize {
        self.columns / SUBGROUP_COLUMNS / VECTOR
    }

    /// Vectors from one row to the next in workgroup memory.
    fn out_line(&self) -> usize {
        self.out_vectors() + 1
    }

    /// One row of matrices of each subgroup after another goes through workgroup memory, so that rows are written in vectors.
    fn write_sums(&self) -> String {
        let (vectors, line) = (self.out_vectors(), self.out_line());
        let mut text = format!(
            "let part_start = part * (params.m * params.n / {VECTOR}u);\n\
             let place = subgroup * {}u;\nlet row = first_row + subgroup_row;\n\
             let column = (first_column + subgroup_column) / {VECTOR}u;\n",
            MATRIX * line
        );
        let each = |text: &dyn Fn(usize) -> String| (0..MATRIX * vectors / 32).map(text).collect::<String>();
        for matrix_row in 0..ROW_MATRICES {
            for matrix in 0..self.sides[1].matrices {
                let _ = write!(
                    text,
                    "let place{matrix_row}_{matrix} = place + {}u;\n\
                     coopStoreT(sum{matrix_row}_{matrix}, &slabs[place{matrix_row}_{matrix}], {line}u);\n",
                    matrix * MATRIX / VECTOR
                );
            }
            let _ = write!(
                text,
                "workgroupBarrier();\n{{\n{}if (params.accumulate != 0u) {{\n{}}}\n{}}}\nworkgroupBarrier();\n",
                each(&|copy| self.value(matrix_row, copy)),
                each(&|copy| format!("value{copy} += out[i{copy}];\n")),
                each(&|copy| format!("out[i{copy}] = value{copy};\n")),
            );
        }
        text + "}\n"
    }

    /// A vector of the result and its place.
    fn value(&self, matrix_row: usize, copy: usize) -> String {
        let (vectors, line, index) = (self.out_vectors(), self.out_line(), format!("(lane + {}u)", 32 * copy));
        let scale =
            if self.row_scaled { format!(" * row_scales[params.row_scales_offset + row{copy}]") } else { "".into() };
        let mut text = format!(
            "let line{copy} = {index} / {vectors}u;\nlet row{copy} = row + {}u + line{copy};\n\
             let column{copy} = column + {index} % {vectors}u;\n\
             let i{copy} = part_start + row{copy} * (params.n / {VECTOR}u) + column{copy};\n\
             var value{copy} = slabs[place + line{copy} * {line}u + {index} % {vectors}u] * (params.alpha{scale});\n",
            matrix_row * MATRIX
        );
        if self.biased {
            let _ = writeln!(text, "if (part == 0u) {{\nvalue{copy} += bias[params.bias_offset + column{copy}];\n}}");
        }
        text
    }
}
