//! Makes the WGSL of the tiled kernels from the templates in `kernels/`: register blocks become named variables and
//! short loops become text, because drivers are not told to unroll. A line `@rows …`, `@pair …`, `@four …` or
//! `@chunks …` is repeated with `$…` replaced (see [`substitute`]); `@lanes`, `@multiply` and `@accumulate` insert a
//! fragment. Snapshots of the output are in `snapshots/`.

use std::fmt::Write;

/// Columns of a tile: keys, or queries where the rows are keys.
pub(super) const COLUMNS: usize = 32;

/// Elements of a head that are in workgroup memory at a time.
const CHUNK: usize = 32;

/// Rows of a tile for each row of a register block.
pub(super) const ROWS_PER_BLOCK_ROW: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    /// Output and log_sum_exp; rows are queries.
    Forward,
    /// dq; rows are queries.
    QueryGradient,
    /// dk and dv; rows are keys.
    KeyValueGradient,
}

/// Everything that the text of a kernel depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Config {
    pub kernel: Kernel,
    pub head_dim: usize,
    /// Rows of the register block, 1 to 4: a tile has sixteen times as many rows.
    pub block_rows: usize,
    /// Operands are read in vectors of four: offsets, strides and head_dim are multiples of 4.
    pub aligned: bool,
}

impl Config {
    /// Rows of a tile.
    pub fn rows(&self) -> usize {
        ROWS_PER_BLOCK_ROW * self.block_rows
    }

    /// A name that tells every configuration apart.
    pub fn name(&self) -> String {
        let kernel = match self.kernel {
            Kernel::Forward => "attention_forward",
            Kernel::QueryGradient => "attention_query_gradient",
            Kernel::KeyValueGradient => "attention_key_value_gradient",
        };
        let aligned = if self.aligned { "_aligned" } else { "" };
        format!("{kernel}_{}x{}{aligned}", self.head_dim, self.rows())
    }

    fn chunks(&self) -> usize {
        self.head_dim.div_ceil(CHUNK)
    }
}

/// The WGSL of one configuration.
pub(super) fn generate(config: &Config) -> String {
    let mut out = String::new();
    let (inputs, terms, outputs, template) = match config.kernel {
        Kernel::Forward => (&["q", "k", "v"][..], None, &["output"][..], include_str!("kernels/forward.wgsl")),
        Kernel::QueryGradient => (
            &["q", "k", "v", "upstream"][..],
            Some("row_terms"),
            &["dq"][..],
            include_str!("kernels/query_gradient.wgsl"),
        ),
        Kernel::KeyValueGradient => (
            &["q", "k", "v", "upstream"][..],
            Some("row_terms"),
            &["dk", "dv"][..],
            include_str!("kernels/key_value_gradient.wgsl"),
        ),
    };
    line(&mut out, &format!("// Generated: {}", config.name()));
    line(&mut out, &format!("const HEAD_DIM: u32 = {}u;", config.head_dim));
    line(&mut out, &format!("const ROWS: u32 = {}u;", config.rows()));
    line(&mut out, &format!("const COLUMNS: u32 = {COLUMNS}u;\n"));
    let mut bindings = Bindings { out: &mut out, next: 0 };
    for name in inputs {
        bindings.add(name, "read", if config.aligned { "vec4<f32>" } else { "f32" });
    }
    if let Some(terms) = terms {
        bindings.add(terms, "read", "vec2<f32>");
    }
    bindings.add("key_mask", "read", "u32");
    let vector_output = config.head_dim.is_multiple_of(4);
    for name in outputs {
        bindings.add(name, "read_write", if vector_output { "vec4<f32>" } else { "f32" });
    }
    if config.kernel == Kernel::Forward {
        bindings.add("log_sum_exp", "read_write", "f32");
    }
    out.push('\n');
    out.push_str(include_str!("kernels/common.wgsl"));
    for name in inputs {
        out.push_str(&loader(config, name));
    }
    for name in outputs {
        out.push_str(&storer(vector_output, name));
    }
    out.push('\n');
    expand(config, template, &mut out);
    out
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

struct Bindings<'a> {
    out: &'a mut String,
    next: usize,
}

impl Bindings<'_> {
    fn add(&mut self, name: &str, access: &str, element: &str) {
        let binding = format!("@group(0) @binding({}) var<storage, {access}> {name}: array<{element}>;", self.next);
        line(self.out, &binding);
        self.next += 1;
    }
}

/// `load_NAME(base, row, column)`: four elements of a row, 0 beyond the operand.
fn loader(config: &Config, name: &str) -> String {
    let rows = if matches!(name, "q" | "upstream") { "queries" } else { "keys" };
    let mut text = format!(
        "
fn load_{name}(base: u32, row: u32, column: u32) -> vec4<f32> {{
    if (row >= params.{rows} || column >= HEAD_DIM) {{
        return vec4<f32>();
    }}
    let at = base + row * params.{name}.z + column;
"
    );
    if config.aligned {
        text += &format!("    return {name}[at >> 2u];\n}}\n");
        return text;
    }
    text += &format!("    var value = vec4<f32>({name}[at], 0.0, 0.0, 0.0);\n");
    for (index, component) in ["y", "z", "w"].iter().enumerate() {
        let next = index + 1;
        text += &format!("    if (column + {next}u < HEAD_DIM) {{ value.{component} = {name}[at + {next}u]; }}\n");
    }
    text + "    return value;\n}\n"
}

/// `store_NAME(row_start, column, value)`: four elements of a dense row, none beyond its end.
fn storer(vector: bool, name: &str) -> String {
    let mut text = format!("\nfn store_{name}(row_start: u32, column: u32, value: vec4<f32>) {{\n");
    if vector {
        text += &format!("    if (column < HEAD_DIM) {{ {name}[(row_start + column) >> 2u] = value; }}\n");
    } else {
        for (index, component) in ["x", "y", "z", "w"].iter().enumerate() {
            let at = format!("column + {index}u");
            text += &format!("    if ({at} < HEAD_DIM) {{ {name}[row_start + {at}] = value.{component}; }}\n");
        }
    }
    text + "}\n"
}

/// Writes a template's lines, repeating and inserting as they ask.
fn expand(config: &Config, template: &str, out: &mut String) {
    for text in template.lines() {
        let body = text.trim_start();
        let indent = &text[..text.len() - body.len()];
        let (directive, rest) = body.split_once(' ').unwrap_or((body, ""));
        match directive {
            "@rows" => repeat(config, config.block_rows, indent, rest, out, substitute),
            "@pair" => repeat(config, 2, indent, rest, out, substitute),
            "@four" => repeat(config, 4, indent, rest, out, substitute),
            "@chunks" => repeat(config, config.chunks(), indent, rest, out, substitute_chunk),
            "@lanes" => expand(config, include_str!("kernels/lanes.wgsl"), out),
            "@multiply" => expand(config, &multiply(config, rest), out),
            "@accumulate" => expand(config, &accumulate(config, rest), out),
            _ => line(out, text),
        }
    }
}

fn repeat(
    config: &Config,
    count: usize,
    indent: &str,
    text: &str,
    out: &mut String,
    substitute: fn(&str, usize) -> String,
) {
    for index in 0..count {
        expand(config, &format!("{indent}{}", substitute(text, index)), out);
    }
}

/// `$i` the index, `$t` its row of the tile, `$s` that row's place in the tile, `$e` the place of the index's column,
/// `$n` the place of a neighbouring row, `$p` the place of a permuted row (see `lanes.wgsl`).
fn substitute(text: &str, index: usize) -> String {
    let places = [("$i", 1), ("$t", 16), ("$s", 16 * 9), ("$e", 8 * 9), ("$n", 9), ("$p", 2 * 9)];
    places.iter().fold(text.to_string(), |text, (name, step)| text.replace(name, &(index * step).to_string()))
}

/// `$c` the index of a chunk of the head, `$k` its first element.
fn substitute_chunk(text: &str, index: usize) -> String {
    text.replace("$c", &index.to_string()).replace("$k", &(index * CHUNK).to_string())
}

/// Replaces `{result}`, `{a}`, `{a_base}`, `{a_first}` and the same for `b` by the words of a directive such as
/// `s q:query_base:first_query k:key_base:first_key`. A single operand is `b`.
fn fill(fragment: &str, arguments: &str) -> String {
    let mut words = arguments.split(' ');
    let result = words.next().unwrap_or("");
    let operands: Vec<&str> = words.collect();
    let mut text = fragment.replace("{result}", result);
    for (name, operand) in ["b", "a"].iter().zip(operands.iter().rev()) {
        for (suffix, word) in ["", "_base", "_first"].iter().zip(operand.split(':')) {
            text = text.replace(&format!("{{{name}{suffix}}}"), word);
        }
    }
    text
}

fn multiply(config: &Config, arguments: &str) -> String {
    // The last chunk may be short; loads beyond head_dim give 0, but need not be multiplied.
    let steps = match config.head_dim % CHUNK {
        0 => "8u",
        _ => "min(8u, (HEAD_DIM - chunk + 3u) / 4u)",
    };
    fill(include_str!("kernels/multiply.wgsl"), arguments).replace("{steps}", steps)
}

fn accumulate(config: &Config, arguments: &str) -> String {
    let fragment = fill(include_str!("kernels/accumulate.wgsl"), arguments);
    let mut text = String::new();
    for chunk in 0..config.chunks() {
        if chunk > 0 {
            text += "        workgroupBarrier();\n";
        }
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "{}",
            fragment.replace("{chunk}", &chunk.to_string()).replace("{column}", &(chunk * CHUNK).to_string())
        );
    }
    text
}
