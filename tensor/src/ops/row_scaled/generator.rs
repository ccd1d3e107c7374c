//! Writes the WGSL of kernels that compute rows and round them: [`Config`] says of what, the kernel's own text says how.
//!
//! A team of invocations takes a row and reads it once: each invocation keeps its vectors of four in registers while the
//! team agrees on the row's largest magnitude (and before that on a sum, where the kernel has one), then writes them,
//! rounded. That needs text without loops over the vectors, hence a generator. Rows too long for registers are read
//! again for each step, four vectors at a time.
//!
//! For tiles a team takes two rows, which share its chunks: half a chunk written by one team and half by another takes 80 % more
//! time (the gradients of a gated unit, 4096 x 14336, on an NVIDIA H200: 323 us in place of 180).

use std::fmt::Write;

use crate::gpu::{LEFT_CHUNK, ROW_WORKGROUP};
use crate::ops::matmul::indent::indent;

/// 32-bit words of a row's inputs that an invocation keeps at the most.
pub(super) const MOST_WORDS: usize = 128;

/// 32-bit words of a row's inputs and results up to which an invocation keeps the results, too, until they are rounded; beyond
/// them they are computed once more from the inputs.
const MOST_WORDS_WITH_RESULTS: usize = 64;

/// The same of kernels that write one matrix in tiles and read only matrices in 16 bits.
const MOST_WORDS_READ_AGAIN: usize = 32;

/// Vectors read at a time where a row does not fit.
const VECTORS_AT_A_TIME: usize = 4;

/// Invocations in a workgroup, of kernels that write rows alone and of those that write tiles.
pub(super) const THREADS: [usize; 2] = [ROW_WORKGROUP, 512];

/// Numbers of a vector's columns, which may lie beyond the row's end.
const COLUMNS: &str = "columns: vec4<u32>";

/// How an input lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Form {
    /// f32 rows.
    Rows,
    /// One f32 row that all rows are combined with.
    Shared,
    /// Rows in f16 with their powers of two.
    Rounded,
    /// One number of this type for each row.
    Number(&'static str),
}

/// Everything that the text of a kernel depends on, beside its own text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Config<'a> {
    /// Names and forms of the inputs.
    pub inputs: &'a [(&'static str, Form)],
    /// Number of matrices that come out, 1 to 3.
    pub outputs: usize,
    /// The kernel's own text: a function `outputs` from a vector of each input, its columns (where its text asks for
    /// [`COLUMNS`]) and the row's total to a vector of each output, and, where there is a total, `statistic` from the same
    /// but the total to its part of it.
    pub text: &'static str,
    /// Vectors of a row, or of each of two, for each invocation of its team.
    pub vectors: usize,
    /// f32 inputs are read in vectors: rows and offsets are multiples of 4.
    pub aligned: bool,
    /// Results are rounded by the device, in place of integer arithmetic.
    pub native: bool,
    /// So many of the matrices, the first ones, are written in tiles of left operands, the others in rows.
    pub in_tiles: usize,
}

impl Config<'_> {
    /// What follows the kernel's name to tell every configuration apart.
    pub fn suffix(&self) -> String {
        let aligned = if self.aligned { "_aligned" } else { "" };
        let native = if self.native { "_native" } else { "" };
        let in_tiles = if self.in_tiles > 0 { format!("_tiles{}", self.in_tiles) } else { String::new() };
        format!("_{}{aligned}{native}{in_tiles}", if self.fits() { self.vectors } else { 0 })
    }

    /// Whether a row stays in registers. Where there is little to read again and to write, it is better that two workgroups fit a
    /// multiprocessor (a gated unit's product, 4096 x 14336, NVIDIA H200: 115 us in place of 133; its gradients 219 in place of
    /// 202).
    fn fits(&self) -> bool {
        let is_small = self.outputs == 1 && self.inputs.iter().all(|(_, form)| *form == Form::Rounded);
        self.input_words() <= if self.in_tiles > 0 && is_small { MOST_WORDS_READ_AGAIN } else { MOST_WORDS }
    }

    /// Whether a row's results do as well.
    fn keeps_results(&self) -> bool {
        self.input_words() + 4 * self.outputs * self.vectors * self.rows().len() <= MOST_WORDS_WITH_RESULTS
    }

    fn input_words(&self) -> usize {
        let words = |&(_, form): &(&str, Form)| match form {
            Form::Rounded => 2,
            Form::Rows | Form::Shared => 4,
            Form::Number(_) => 0,
        };
        self.inputs.iter().map(words).sum::<usize>() * self.vectors * self.rows().len()
    }

    /// What ends the names of each of a team's rows.
    fn rows(&self) -> &'static [&'static str] {
        if self.in_tiles > 0 { &["_upper", "_lower"] } else { &[""] }
    }

    /// The inputs that have more than a number for each row.
    fn vectors_of_rows(&self) -> impl Iterator<Item = (&'static str, Form)> {
        self.inputs.iter().copied().filter(|(_, form)| !matches!(form, Form::Number(_)))
    }

    fn has_statistic(&self) -> bool {
        self.text.contains("fn statistic(")
    }

    /// The complete kernel.
    pub fn wgsl(&self) -> String {
        let mut out = String::new();
        if self.native {
            out += "enable f16;\n";
        }
        out += include_str!("kernels/head.wgsl");
        self.bindings(&mut out);
        for (name, form) in self.vectors_of_rows() {
            self.reader(&mut out, name, form);
        }
        let maxima = ["u32", "vec2<u32>", "vec3<u32>"][self.outputs - 1];
        let team = match (self.in_tiles, self.native) {
            (0, _) => include_str!("kernels/team.wgsl"),
            (_, false) => include_str!("kernels/team_of_pairs.wgsl"),
            // Where the device rounds, subgroups have 32 invocations.
            (_, true) => include_str!("kernels/team_of_subgroups.wgsl"),
        };
        out += &team.replace("MAXIMA", maxima);
        out += include_str!("kernels/numbers.wgsl");
        out += self.text;
        if self.in_tiles > 0 {
            out += LEFT_CHUNK;
        }
        self.main(&mut out, maxima);
        indent(&out)
    }

    fn bindings(&self, out: &mut String) {
        let float = if self.aligned { "vec4<f32>" } else { "f32" };
        let half = if self.native { "vec4<f16>" } else { "vec2<u32>" };
        let mut declarations = Vec::new();
        for &(name, form) in self.inputs {
            match form {
                Form::Rounded => {
                    declarations.push((format!("{name}_values"), "vec2<u32>"));
                    declarations.push((format!("{name}_scales"), "f32"));
                }
                Form::Number(element) => declarations.push((name.to_string(), element)),
                Form::Rows | Form::Shared => declarations.push((name.to_string(), float)),
            }
        }
        let chunks_or_halves = |output| if output < self.in_tiles { "vec4<u32>" } else { half };
        declarations.extend((0..self.outputs).map(|output| (format!("values{output}"), chunks_or_halves(output))));
        declarations.push(("scales".to_string(), "f32"));
        for (binding, (name, element)) in declarations.iter().enumerate() {
            line(out, format!("@group(0) @binding({binding}) var<storage, read_write> {name}: array<{element}>;"));
        }
        let stored = if self.native {
            "vec4<f16>(value)"
        } else {
            "vec2<u32>(f16_bits(value.x) | (f16_bits(value.y) << 16u), f16_bits(value.z) | (f16_bits(value.w) << 16u))"
        };
        line(out, format!("fn rounded(value: vec4<f32>) -> {half} {{\nreturn {stored};\n}}"));
        if self.in_tiles > 0 {
            let words = if self.native { PACKED } else { "rounded(value)" };
            line(out, format!("fn words_of(value: vec4<f32>) -> vec2<u32> {{\nreturn {words};\n}}"));
        }
    }

    /// `NAME_at(row, vector)` reads what is kept of an input's vector.
    fn reader(&self, out: &mut String, name: &str, form: Form) {
        let row = if form == Form::Shared { "0u" } else { "row" };
        let index = self.index(name);
        let (kept, body) = match form {
            Form::Rounded => ("vec2<u32>", format!("return {name}_values[row * params.vectors + vector];")),
            _ if self.aligned => {
                ("vec4<f32>", format!("return {name}[params.offsets[{index}] / 4u + {row} * params.vectors + vector];"))
            }
            _ => (
                "vec4<f32>",
                format!(
                    "let start = params.offsets[{index}] + {row} * params.columns;
                    let last = params.columns - 1u;
                    let column = vec4<u32>(0u, 1u, 2u, 3u) + 4u * vector;
                    let read = vec4<f32>({name}[start + min(column.x, last)], {name}[start + min(column.y, last)],
                    {name}[start + min(column.z, last)], {name}[start + min(column.w, last)]);
                    return select(vec4<f32>(), read, column <= vec4<u32>(last));"
                ),
            ),
        };
        line(out, format!("fn {name}_at(row: u32, vector: u32) -> {kept} {{\n{body}\n}}"));
    }

    fn index(&self, name: &str) -> usize {
        self.inputs.iter().take_while(|(other, _)| *other != name).count()
    }

    fn main(&self, out: &mut String, maxima: &str) {
        *out += match self.in_tiles {
            0 => include_str!("kernels/main.wgsl"),
            _ => include_str!("kernels/main_in_tiles.wgsl"),
        };
        for row in self.rows() {
            for (name, form) in self.inputs {
                let index = self.index(name);
                match form {
                    Form::Rounded => {
                        line(
                            out,
                            format!("let {name}_scale{row} = {name}_scales[params.offsets[{index}] + row{row}];"),
                        );
                    }
                    Form::Number(_) => {
                        line(out, format!("let {name}_number{row} = {name}[params.offsets[{index}] + row{row}];"));
                    }
                    Form::Rows | Form::Shared => {}
                }
            }
        }
        let fits = self.fits();
        if fits {
            self.reads(out);
        }
        self.each_row(out, |_, out, row| line(out, format!("var total{row} = 0.0;")));
        if self.has_statistic() {
            self.sweep(out, |config, out, i| {
                config.each_row(out, |config, out, row| {
                    let (arguments, inside) =
                        (config.arguments(i, row), format!("first + {i}u * TEAM < params.vectors"));
                    line(out, format!("total{row} += select(0.0, statistic({arguments}), {inside});"));
                });
            });
            self.each_row(out, |_, out, row| {
                line(out, format!("total{row} = team_sum(total{row}, {}local, lane);", which(row)))
            });
        }
        let keeps_results = self.keeps_results();
        if keeps_results {
            line(out, "let first = lane;".into());
            (0..self.vectors).for_each(|i| self.results(out, i));
        }
        self.each_row(out, |_, out, row| line(out, format!("var largest{row} = {maxima}();")));
        self.sweep(out, |config, out, i| {
            if !keeps_results {
                config.results(out, i);
            }
            config.each_row(out, |config, out, row| {
                let magnitude = |output| format!("magnitude(made{row}{i}[{output}])");
                let magnitudes: Vec<_> = (0..config.outputs).map(magnitude).collect();
                line(out, format!("largest{row} = max(largest{row}, {maxima}({}));", magnitudes.join(", ")));
            });
        });
        self.each_row(out, |_, out, row| {
            line(out, format!("largest{row} = team_max(largest{row}, {}local, lane);", which(row)))
        });
        self.each_row(out, |config, out, row| {
            for output in 0..config.outputs {
                let component = if config.outputs == 1 { "" } else { [".x", ".y", ".z"][output] };
                line(out, format!("let exponent{row}{output} = exponent_of(largest{row}{component});"));
                line(out, format!("let factor{row}{output} = power_of_two(-exponent{row}{output});"));
            }
        });
        line(out, "if (lane == 0u && present) {".into());
        self.each_row(out, |config, out, row| {
            for output in 0..config.outputs {
                let scale = format!("scales[{output}u * params.rows + row{row}]");
                line(out, format!("{scale} = power_of_two(exponent{row}{output});"));
            }
        });
        line(out, "}".into());
        self.sweep(out, |config, out, i| {
            line(out, format!("if (present && first + {i}u * TEAM < params.vectors) {{"));
            if !keeps_results {
                config.results(out, i);
            }
            for output in 0..config.outputs {
                config.write(out, output, i);
            }
            line(out, "}".into());
        });
        line(out, "}".into());
    }

    fn each_row(&self, out: &mut String, text: impl Fn(&Self, &mut String, &str)) {
        self.rows().iter().for_each(|row| text(self, out, row));
    }

    /// Writes the vectors `i` of an output.
    fn write(&self, out: &mut String, output: usize, i: usize) {
        let vector = format!("first + {i}u * TEAM");
        let value = |row: &str| format!("made{row}{i}[{output}] * factor{row}{output}");
        if output < self.in_tiles {
            let chunk = format!("values{output}[left_chunk(row_upper, {vector}, params.vectors)]");
            let [upper, lower] = ["_upper", "_lower"].map(value);
            return line(out, format!("{chunk} = vec4<u32>(words_of({upper}), words_of({lower})).xzyw;"));
        }
        for row in self.rows() {
            let place = format!("values{output}[row{row} * params.vectors + {vector}]");
            line(out, format!("{place} = rounded({});", value(row)));
        }
    }

    /// Text for each vector, behind reads and in a loop where the row does not stay in registers.
    fn sweep(&self, out: &mut String, text: impl Fn(&Self, &mut String, usize)) {
        if self.fits() {
            line(out, "{\nlet first = lane;".into());
            (0..self.vectors).for_each(|i| text(self, out, i));
        } else {
            let step = format!("{VECTORS_AT_A_TIME}u * TEAM");
            line(out, format!("for (var first = lane; first < params.vectors; first += {step}) {{"));
            self.reads(out);
            (0..VECTORS_AT_A_TIME).for_each(|i| text(self, out, i));
        }
        line(out, "}".into());
    }

    /// Reads an invocation's vectors; beyond the row's end the last one again, which changes no maximum.
    fn reads(&self, out: &mut String) {
        let (count, first) = if self.fits() { (self.vectors, "lane") } else { (VECTORS_AT_A_TIME, "first") };
        for i in 0..count {
            for (name, form) in self.vectors_of_rows() {
                let vector = format!("min({first} + {i}u * TEAM, params.vectors - 1u)");
                match form {
                    Form::Shared => line(out, format!("let {name}{i} = {name}_at(0u, {vector});")),
                    _ => self.each_row(out, |_, out, row| {
                        line(out, format!("let {name}{row}{i} = {name}_at(row{row}, {vector});"));
                    }),
                }
            }
        }
    }

    /// Computes the results' vectors `i`.
    fn results(&self, out: &mut String, i: usize) {
        self.each_row(out, |config, out, row| {
            line(out, format!("let made{row}{i} = outputs({}, total{row});", config.arguments(i, row)));
        });
    }

    /// The inputs' vectors `i` as numbers, and their columns where they are asked for.
    fn arguments(&self, i: usize, row: &str) -> String {
        let value = |&(name, form): &(&str, Form)| match form {
            Form::Rounded => format!("unpacked({name}{row}{i}) * {name}_scale{row}"),
            Form::Rows => format!("{name}{row}{i}"),
            Form::Shared => format!("{name}{i}"),
            Form::Number(_) => format!("{name}_number{row}"),
        };
        let columns = || format!("vec4<u32>(0u, 1u, 2u, 3u) + 4u * (first + {i}u * TEAM)");
        let columns = self.text.contains(COLUMNS).then(columns);
        self.inputs.iter().map(value).chain(columns).collect::<Vec<_>>().join(", ")
    }
}

/// Which of a team's two rows, as an argument.
fn which(row: &str) -> &'static str {
    match row {
        "_upper" => "0u, ",
        "_lower" => "1u, ",
        _ => "",
    }
}

/// The words of a vector, rounded by the device.
const PACKED: &str = "vec2<u32>(pack2x16float(value.xy), pack2x16float(value.zw))";

fn line(out: &mut String, text: String) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{text}");
}
