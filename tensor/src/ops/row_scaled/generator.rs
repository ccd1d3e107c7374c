//! Writes the WGSL of kernels that compute rows and round them: [`Config`] says of what, the kernel's own text says how.
//!
//! A team of invocations takes a row and reads it once: each invocation keeps its vectors of four in registers while the
//! team agrees on the row's largest magnitude (and before that on a sum, where the kernel has one), then writes them,
//! rounded. That needs text without loops over the vectors, hence a generator. Rows too long for registers are read
//! again for each step, four vectors at a time.

use std::fmt::Write;

use crate::ops::matmul::indent::indent;

/// 32-bit words of a row's inputs that an invocation keeps at the most.
pub(super) const MOST_WORDS: usize = 128;

/// 32-bit words of a row's inputs and results up to which an invocation keeps the results, too, until they are rounded; beyond
/// them they are computed once more from the inputs.
const MOST_WORDS_WITH_RESULTS: usize = 64;

/// Vectors read at a time where a row does not fit.
const VECTORS_AT_A_TIME: usize = 4;

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
    /// Vectors of a row for each invocation of its team.
    pub vectors: usize,
    /// f32 inputs are read in vectors: rows and offsets are multiples of 4.
    pub aligned: bool,
    /// Results are rounded by the device, in place of integer arithmetic.
    pub native: bool,
}

impl Config<'_> {
    /// What follows the kernel's name to tell every configuration apart.
    pub fn suffix(&self) -> String {
        let aligned = if self.aligned { "_aligned" } else { "" };
        let native = if self.native { "_native" } else { "" };
        format!("_{}{aligned}{native}", if self.fits() { self.vectors } else { 0 })
    }

    /// Whether a row stays in registers.
    fn fits(&self) -> bool {
        self.input_words() <= MOST_WORDS
    }

    /// Whether a row's results do as well.
    fn keeps_results(&self) -> bool {
        self.input_words() + 4 * self.outputs * self.vectors <= MOST_WORDS_WITH_RESULTS
    }

    fn input_words(&self) -> usize {
        let words = |&(_, form): &(&str, Form)| match form {
            Form::Rounded => 2,
            Form::Rows | Form::Shared => 4,
            Form::Number(_) => 0,
        };
        self.inputs.iter().map(words).sum::<usize>() * self.vectors
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
        out += &include_str!("kernels/team.wgsl").replace("MAXIMA", maxima);
        out += self.text;
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
        declarations.extend((0..self.outputs).map(|output| (format!("values{output}"), half)));
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
        *out += include_str!("kernels/main.wgsl");
        for (name, form) in self.inputs {
            let index = self.index(name);
            match form {
                Form::Rounded => line(out, format!("let {name}_scale = {name}_scales[params.offsets[{index}] + row];")),
                Form::Number(_) => line(out, format!("let {name}_number = {name}[params.offsets[{index}] + row];")),
                Form::Rows | Form::Shared => {}
            }
        }
        let fits = self.fits();
        if fits {
            self.reads(out);
        }
        line(out, "var total = 0.0;".into());
        if self.has_statistic() {
            self.sweep(out, |config, out, i| {
                let arguments = config.arguments(i);
                line(
                    out,
                    format!("total += select(0.0, statistic({arguments}), first + {i}u * TEAM < params.vectors);"),
                );
            });
            line(out, "total = team_sum(total, local, lane);".into());
        }
        let keeps_results = self.keeps_results();
        if keeps_results {
            line(out, "let first = lane;".into());
            (0..self.vectors).for_each(|i| self.result(out, i));
        }
        line(out, format!("var largest = {maxima}();"));
        self.sweep(out, |config, out, i| {
            if !keeps_results {
                config.result(out, i);
            }
            let magnitudes: Vec<_> = (0..config.outputs).map(|o| format!("magnitude(made{i}[{o}])")).collect();
            line(out, format!("largest = max(largest, {maxima}({}));", magnitudes.join(", ")));
        });
        line(out, "largest = team_max(largest, local, lane);".into());
        for output in 0..self.outputs {
            let component = if self.outputs == 1 { "" } else { [".x", ".y", ".z"][output] };
            line(out, format!("let exponent{output} = exponent_of(largest{component});"));
            line(out, format!("let factor{output} = power_of_two(-exponent{output});"));
        }
        line(out, "if (lane == 0u && present) {".into());
        for output in 0..self.outputs {
            line(out, format!("scales[{output}u * params.rows + row] = power_of_two(exponent{output});"));
        }
        line(out, "}".into());
        self.sweep(out, |config, out, i| {
            line(out, format!("if (present && first + {i}u * TEAM < params.vectors) {{"));
            if !keeps_results {
                config.result(out, i);
            }
            for output in 0..config.outputs {
                let place = format!("values{output}[row * params.vectors + first + {i}u * TEAM]");
                line(out, format!("{place} = rounded(made{i}[{output}] * factor{output});"));
            }
            line(out, "}".into());
        });
        line(out, "}".into());
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
            for (name, _) in self.vectors_of_rows() {
                let vector = format!("min({first} + {i}u * TEAM, params.vectors - 1u)");
                line(out, format!("let {name}{i} = {name}_at(row, {vector});"));
            }
        }
    }

    /// Computes the results' vectors `i`.
    fn result(&self, out: &mut String, i: usize) {
        line(out, format!("let made{i} = outputs({}, total);", self.arguments(i)));
    }

    /// The inputs' vectors `i` as numbers, and their columns where they are asked for.
    fn arguments(&self, i: usize) -> String {
        let value = |&(name, form): &(&str, Form)| match form {
            Form::Rounded => format!("unpacked({name}{i}) * {name}_scale"),
            Form::Rows | Form::Shared => format!("{name}{i}"),
            Form::Number(_) => format!("{name}_number"),
        };
        let columns = || format!("vec4<u32>(0u, 1u, 2u, 3u) + 4u * (first + {i}u * TEAM)");
        let columns = self.text.contains(COLUMNS).then(columns);
        self.inputs.iter().map(value).chain(columns).collect::<Vec<_>>().join(", ")
    }
}

fn line(out: &mut String, text: String) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{text}");
}
