//! One operand in the text of a kernel: its way from memory through a slab in workgroup memory into matrices.

use std::fmt::Write;

use super::generator::{CONTAINER, MATRIX, THREADS};
use super::thin::scales_of_line;

/// Elements added to the lines of a slab.
const PADDING: usize = 8;

/// Which operand a piece of text is about.
#[derive(Clone, Copy)]
pub(super) struct Side {
    /// Begins the names of the operand's variables and parameters.
    pub letter: char,
    /// Whose slab it goes through: `a` on the left, `b` on the right.
    pub slab: char,
    pub depth_contiguous: bool,
    /// Elements of a vector, in which the operand is moved.
    pub vector: usize,
    /// Extent of a slab along `k`.
    pub depth: usize,
    /// Extent of the workgroup's tile along the operand's axis of the result.
    pub tile: usize,
    /// Matrices that a subgroup holds along this axis.
    pub matrices: usize,
    /// Of the result: the parameter with its extent, the workgroup's first element, the subgroup's first.
    pub extent: &'static str,
    pub first: &'static str,
    pub subgroup_first: &'static str,
    /// Where the inner extent begins.
    pub start: &'static str,
    /// The tiles lie within the result.
    pub whole_tiles: bool,
    /// Lines have weights, and may lie beyond the operand's last, where their weight is 0.
    pub weighted: bool,
    /// The inner extent may end within a slab: lines beyond it are the last one again.
    pub clamped: bool,
    /// Each of several products has its own place in the operand: the text says where it begins.
    pub placed: bool,
}

impl Side {
    /// What the text calls an element: containers of eight are declared as if they held four f32, see [`crate::gpu`].
    fn element(&self) -> &'static str {
        if self.vector == CONTAINER { "f32" } else { "f16" }
    }

    /// The type of a vector.
    pub fn container(&self) -> String {
        format!("vec4<{}>", self.element())
    }

    /// Where the operand begins.
    fn offset(&self) -> String {
        let letter = self.letter;
        if self.placed { format!("{letter}_begin") } else { format!("params.{letter}_offset") }
    }

    /// Elements along a line of the slab.
    fn length(&self) -> usize {
        if self.depth_contiguous { self.depth } else { self.tile }
    }

    /// Vectors from one line of the slab to the next.
    fn line(&self) -> usize {
        (self.length() + PADDING) / self.vector
    }

    /// Vectors in the slab.
    pub fn slab_size(&self) -> usize {
        self.line() * if self.depth_contiguous { self.tile } else { self.depth }
    }

    /// Vectors of the slab that an invocation copies.
    fn copies(&self) -> usize {
        self.tile * self.depth / self.vector / THREADS
    }

    /// Lines between two vectors that an invocation copies.
    fn lines_between_copies(&self) -> usize {
        THREADS * self.vector / self.length()
    }

    /// Declares where the invocation's vectors come from and where in the slab they go.
    ///
    /// Beyond the last row or column the last one is copied again, into sums that nobody writes.
    pub fn place_copies(&self) -> String {
        let Side { letter, extent, first, start, vector, depth, .. } = self;
        let (between, line, vectors) = (self.lines_between_copies(), self.line(), self.length() / self.vector);
        let offset = self.offset();
        let mut text = String::new();
        if self.depth_contiguous {
            let _ = writeln!(
                text,
                "let {letter}_line = local / {}u * 8u + local / {}u % 4u + local / {vectors}u % 2u * 4u;\n\
                 let {letter}_place = {letter}_line * {line}u + local % {vectors}u;",
                8 * vectors,
                2 * vectors
            );
            let start = format!("{offset} + {start} / {vector}u + local % {vectors}u");
            if self.whole_tiles {
                let _ = writeln!(
                    text,
                    "var {letter}_source = {start} + ({first} + {letter}_line) * params.{letter}_stride;\n\
                     let {letter}_apart = {between}u * params.{letter}_stride;"
                );
            } else {
                let _ = writeln!(text, "var {letter}_source = {start};");
                for copy in 0..self.copies() {
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
            let column = format!("{first} / {vector}u + local % {vectors}u");
            let column = match self.whole_tiles {
                true => column,
                false => format!("min({column}, params.{extent} / {vector}u - 1u)"),
            };
            let _ = writeln!(text, "let {letter}_place = local / {vectors}u * {line}u + local % {vectors}u;");
            if self.clamped {
                let _ = writeln!(
                    text,
                    "var {letter}_line = {start} + local / {vectors}u;\n\
                     let {letter}_column = {offset} + {column};"
                );
            } else {
                let _ = writeln!(
                    text,
                    "var {letter}_source = {offset} + ({start} + local / {vectors}u) * \
                     params.{letter}_stride + {column};\nlet {letter}_apart = {between}u * params.{letter}_stride;\n\
                     let {letter}_step = {depth}u * params.{letter}_stride;"
                );
            }
        }
        for copy in 0..self.copies() {
            let _ = writeln!(text, "var {letter}_next{copy}: {};", self.container());
            if self.weighted {
                for name in ["first", "second", "weight"] {
                    let _ = writeln!(text, "var {letter}_{name}{copy}: f32;");
                }
            }
        }
        text
    }

    /// Reads the next slab's vectors into registers and moves on along `k`, if `following` is before `end`.
    pub fn read_slab(&self, following: &str, end: &str) -> String {
        self.read("") + &self.move_on(following, end)
    }

    /// Reads the next slab's vectors into registers, from buffers whose names end in `name`.
    pub fn read(&self, name: &str) -> String {
        let letter = self.letter;
        let mut text = String::new();
        for copy in 0..self.copies() {
            let place = match copy {
                _ if self.clamped => {
                    format!("{letter}_column + {} * params.{letter}_stride", self.last_of(copy))
                }
                _ if self.depth_contiguous && !self.whole_tiles => format!("{letter}_source + {letter}_line{copy}"),
                0 => format!("{letter}_source"),
                _ => format!("{letter}_source + {copy}u * {letter}_apart"),
            };
            let _ = writeln!(text, "{letter}_next{copy} = {letter}{name}[{place}];");
            if self.weighted {
                let [first, second] = scales_of_line(name, &self.last_of(copy));
                let _ = writeln!(text, "{letter}_first{copy} = {first};\n{letter}_second{copy} = {second};");
            }
        }
        text
    }

    /// Moves on along `k` from what was read, if `following` is before `end`.
    pub fn move_on(&self, following: &str, end: &str) -> String {
        let Side { letter, depth, .. } = self;
        if !self.clamped {
            return format!("{letter}_source += select(0u, {letter}_step, {following} < {end});\n");
        }
        let weigh = |copy: usize| {
            let exponent = format!("exponent_of({letter}_first{copy}, {letter}_second{copy})");
            format!("{letter}_weight{copy} = line_weight({}, {exponent}, largest);\n", self.line_of(copy))
        };
        let weights: String = (0..self.copies()).filter(|_| self.weighted).map(weigh).collect();
        weights + &format!("{letter}_line += select(0u, {depth}u, {following} < {end});\n")
    }

    /// The line of a copy where the inner extent may end within a slab.
    fn line_of(&self, copy: usize) -> String {
        format!("{}_line + {}u", self.letter, copy * self.lines_between_copies())
    }

    /// The same, or the operand's last.
    fn last_of(&self, copy: usize) -> String {
        format!("min({}, params.k - 1u)", self.line_of(copy))
    }

    pub fn store_slab(&self) -> String {
        let Side { letter, slab, .. } = self;
        let apart = self.lines_between_copies() * self.line();
        let store = |copy: usize| {
            let value = match (self.weighted, self.vector == CONTAINER) {
                (true, true) => format!("weighted({letter}_next{copy}, {letter}_weight{copy})"),
                (true, false) => format!("vec4<f16>(vec4<f32>({letter}_next{copy}) * {letter}_weight{copy})"),
                (false, _) => format!("{letter}_next{copy}"),
            };
            format!("{slab}_slab[{letter}_place + {}u] = {value};\n", copy * apart)
        };
        (0..self.copies()).map(store).collect()
    }

    /// Loads the subgroup's matrices at one place along `k`.
    pub fn load_matrices(&self, depth: usize) -> String {
        let Side { slab, subgroup_first, vector, .. } = self;
        let (line, role, element) = (self.line(), slab.to_ascii_uppercase(), self.element());
        // T stands for row-major memory; the left operand's rows and the right one's columns are the result's axes.
        let load = if self.depth_contiguous == (*slab == 'a') { "coopLoadT" } else { "coopLoad" };
        (0..self.matrices)
            .map(|matrix| {
                let along = format!("({subgroup_first} + {}u)", matrix * MATRIX);
                let place = match self.depth_contiguous {
                    true => format!("{along} * {line}u + {}u", depth / vector),
                    false => format!("{}u + {along} / {vector}u", depth * line),
                };
                format!(
                    "let {slab}{depth}_{matrix}_place = {place};\nlet {slab}{depth}_{matrix} = \
                     {load}<coop_mat16x16<{element}, {role}>>(&{slab}_slab[{slab}{depth}_{matrix}_place], {line}u);\n"
                )
            })
            .collect()
    }
}
