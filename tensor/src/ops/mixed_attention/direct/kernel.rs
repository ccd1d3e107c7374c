//! Writes the WGSL of attention whose operands go straight into registers, for a [`Config`].
//!
//! A subgroup takes 16 rows of one head, queries (forward, gradient of the queries) or keys (gradient of keys and values), and
//! goes through the head's other rows, called columns, 16 at a time. Scores stay in its registers: where a matrix of sums has
//! its elements a left operand has them too, so that probabilities are the next product's operand as they are. There is no
//! workgroup memory, nor a barrier; the four subgroups of a workgroup only share what the cache holds.
//!
//! All operands lie in tiles (`gpu/tiles.rs`). A chunk of a tile, two rows by four columns, is what an invocation holds
//! - of a left operand of 16 rows: rows 2·line and 2·line + 1 are the matrix's rows line and line + 8;
//! - of a right operand whose columns are such rows (scores: keys, along the head): the rows of chunk σ(line), with
//!   σ(2t) = t and σ(2t + 1) = t + 4, are its columns line and line + 8. So an invocation's four sums in a row are of the
//!   rows 2t, 2t + 8, 2t + 1 and 2t + 9 with t = lane mod 4 (`of_columns`);
//! - half of it of a right operand whose rows are such rows (summed values, along the keys): chunks t and t + 4 hold the keys
//!   of the four sums above, in their order, in four columns each.

use std::fmt::Write;

use super::super::generator::{MATRIX, ROWS, THREADS};
use crate::gpu::{LEFT_CHUNK, REGISTERS};
use crate::ops::matmul::indent::indent;

/// Columns of a tile, which are those of two matrices.
const TILE_COLUMNS: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    /// The output and log_sum_exp; rows are queries.
    Forward,
    /// dq; rows are queries.
    QueryGradient,
    /// dk; rows are keys. Apart from dv: the sums of both would leave too few registers for anything to be in flight.
    KeyGradient,
    /// dv; rows are keys.
    ValueGradient,
}

/// Everything that decides the text of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Config {
    pub kernel: Kernel,
    /// A multiple of 32.
    pub head_dim: usize,
    /// Some keys are hidden by a mask.
    pub masked: bool,
    /// The output is written in tiles of a left operand, not in rows.
    pub in_tiles: bool,
}

/// Blocks of 16 columns that are in flight at a time: while one's scores are waited for, there is the other's work.
pub(super) const BLOCKS: usize = 2;

/// An operand in tiles: its name, how many heads its rows hold, and which of them is read.
pub(super) type Operand = [&'static str; 3];

pub(super) const Q: Operand = ["q", "heads", "head"];
pub(super) const K: Operand = ["k", "kv_heads", "kv_head"];
pub(super) const V: Operand = ["v", "kv_heads", "kv_head"];
pub(super) const UPSTREAM: Operand = ["upstream", "heads", "head"];

impl Config {
    /// Names the configuration completely.
    pub fn name(&self) -> String {
        let kernel = match self.kernel {
            Kernel::Forward => "forward",
            Kernel::QueryGradient => "query_gradient",
            Kernel::KeyGradient => "key_gradient",
            Kernel::ValueGradient => "value_gradient",
        };
        let flag = |wanted: bool, name: &'static str| if wanted { name } else { "" };
        let (masked, in_tiles) = (flag(self.masked, "_masked"), flag(self.in_tiles, "_tiles"));
        format!("direct_attention_{kernel}_{}{masked}{in_tiles}", self.head_dim)
    }

    /// Names of the operands in tiles, in the order of their bindings.
    fn operands(&self) -> &'static [&'static str] {
        match self.kernel {
            Kernel::Forward => &["q", "k", "v"],
            Kernel::ValueGradient => &["q", "k", "upstream"],
            _ => &["q", "k", "v", "upstream"],
        }
    }

    /// Matrices across a head.
    pub(super) fn fragments(&self) -> usize {
        self.head_dim / MATRIX
    }

    /// The kernel's text.
    pub fn wgsl(&self) -> String {
        let body = match self.kernel {
            Kernel::Forward => self.forward(),
            Kernel::QueryGradient => self.query_gradient(),
            Kernel::KeyGradient => self.key_gradient(),
            Kernel::ValueGradient => self.value_gradient(),
        };
        indent(&(self.declarations() + &self.beginning() + &body + "}\n"))
    }

    fn declarations(&self) -> String {
        const CHUNKS: &str = "vec4<u32>";
        const PAIRS: &str = "vec2<f32>";
        const VECTORS: &str = "vec4<f32>";
        let operands = self.operands();
        let mut buffers: Vec<(String, &str)> = operands.iter().map(|name| (name.to_string(), CHUNKS)).collect();
        buffers.extend(operands.iter().map(|name| (format!("{name}_scales"), PAIRS)));
        let terms: &[(&str, &str)] = match self.kernel {
            Kernel::Forward => &[],
            Kernel::ValueGradient => &[("log_sum_exp", PAIRS)],
            _ => &[("log_sum_exp", PAIRS), ("deltas", PAIRS), ("cosines", VECTORS), ("sines", VECTORS)],
        };
        buffers.extend(terms.iter().map(|&(name, element)| (name.to_string(), element)));
        if self.masked {
            buffers.push(("key_mask".into(), "u32"));
        }
        let read = buffers.len();
        let results: &[(&str, &str)] = match self.kernel {
            Kernel::Forward if self.in_tiles => &[("output", CHUNKS), ("output_scales", PAIRS), ("log_sum_exp", PAIRS)],
            Kernel::Forward => &[("output", "vec2<u32>"), ("output_scales", PAIRS), ("log_sum_exp", PAIRS)],
            Kernel::QueryGradient => &[("dq", VECTORS)],
            Kernel::KeyGradient => &[("dk", VECTORS)],
            Kernel::ValueGradient => &[("dv", VECTORS)],
        };
        buffers.extend(results.iter().map(|&(name, element)| (name.to_string(), element)));
        let mut text = format!(
            "// Generated by mixed_attention/direct/kernel.rs: {}.\n\nenable wgpu_cooperative_matrix;\n\n",
            self.name()
        );
        for (number, (name, element)) in buffers.into_iter().enumerate() {
            let access = if number < read { "read" } else { "read_write" };
            let _ = writeln!(text, "@group(0) @binding({number}) var<storage, {access}> {name}: array<{element}>;");
        }
        let _ = write!(
            text,
            "\n// Rounded rows are in [-2, 2]: a score's gradient is at most 8 times their length, and f16 ends at 65504.\n\
             const SLOPE: f32 = {:?};\n\n",
            4096.0 / self.head_dim.next_power_of_two() as f64,
        );
        text += include_str!("../kernels/params.wgsl");
        text += &format!("\n{REGISTERS}\n");
        text += include_str!("common.wgsl");
        text += if self.in_tiles { LEFT_CHUNK } else { "" };
        text += if self.masked { include_str!("first_to_see_masked.wgsl") } else { include_str!("first_to_see.wgsl") };
        let pair = |name: &str| format!("{name}_scales[i].x, {name}_scales[i].y");
        let scales = match self.kernel {
            Kernel::Forward => ["v"].as_slice(),
            Kernel::QueryGradient => &["v", "k"],
            Kernel::KeyGradient => &["v", "upstream", "q"],
            Kernel::ValueGradient => &["upstream"],
        };
        let mut scales: Vec<String> = scales.iter().map(|name| format!("max({})", pair(name))).collect();
        scales.resize(4, "0.0".into());
        text + &format!("\nfn scales_at(i: u32) -> vec4<f32> {{\nreturn vec4<f32>({});\n}}\n\n", scales.join(", "))
    }

    /// What an invocation has in matrices, and where its subgroup is.
    fn beginning(&self) -> String {
        let heads = match self.kernel {
            Kernel::KeyGradient | Kernel::ValueGradient => {
                "let kv_head = group.y;\nlet heads_a_group = params.heads / params.kv_heads;\n\
                 // Under a causal mask the first rows have the most to do: they start first.\n\
                 let wanted_row = group.x * ROWS + subgroup * 16u;\n"
            }
            _ => {
                "let head = group.y;\nlet kv_head = head / (params.heads / params.kv_heads);\n\
                 // Under a causal mask the last rows have the most to do: they start first.\n\
                 let wanted_row = (params.row_blocks - 1u - group.x) * ROWS + subgroup * 16u;\n"
            }
        };
        format!(
            "@compute @workgroup_size({THREADS})\nfn main(\n@builtin(workgroup_id) group: vec3<u32>,\n\
             @builtin(subgroup_id) subgroup: u32,\n@builtin(subgroup_invocation_id) lane: u32,\n) {{\n\
             let batch = group.z;\n{}\
             // Subgroups without rows do what the last one does.\n\
             let first_row = min(wanted_row, params.sequence - 16u);\n\
             let tokens = batch * params.sequence;\nlet line = lane / 4u;\nlet pair = lane % 4u;\n\
             let row = first_row + 2u * line;\n\
             // Chunks of a right operand: with its rows as columns, and as rows.\n\
             let column_lane = line / 2u * 4u + line % 2u * 16u + pair;\n\
             let row_lane = line / 4u * 32u + pair * 4u + line / 2u % 2u + line % 2u * 2u;\n",
            heads.replace("ROWS", &format!("{ROWS}u"))
        )
    }

    pub(super) fn each_fragment(&self, text: impl Fn(usize) -> String) -> String {
        (0..self.fragments()).map(text).collect()
    }

    /// `NAME_place`: the chunk of an operand's head that begins a tile of rows, and of a lane's part of it.
    fn place(&self, [name, heads, head]: Operand, kind: &str, first: &str, lane: &str) -> String {
        let chunks = self.head_dim / TILE_COLUMNS * 64;
        format!("let {name}_{kind} = ((tokens + {first}) / 16u * params.{heads} + {head}) * {chunks}u + {lane};\n")
    }

    /// The subgroup's rows as matrices.
    pub(super) fn load_rows(&self, operand: Operand) -> String {
        let [name, ..] = operand;
        self.place(operand, "own", "first_row", "lane")
            + &self.each_fragment(|f| format!("let {name}{f} = matrix_a({name}[{name}_own + {}u]);\n", 32 * f))
    }

    pub(super) fn sums(&self, name: &str) -> String {
        self.each_fragment(|f| format!("var {name}{f} = coop_mat16x16<f32, C>();\n"))
    }

    /// The columns of each block, and the rows of its operands' tiles: beyond the sequence's end the last ones again.
    pub(super) fn blocks() -> String {
        (0..BLOCKS)
            .map(|b| {
                format!(
                    "let column{b} = column + {}u;\nlet from{b} = min(column{b}, params.sequence - 16u);\n",
                    MATRIX * b
                )
            })
            .collect()
    }

    fn each_block(text: impl Fn(usize) -> String) -> String {
        (0..BLOCKS).map(text).collect()
    }

    /// The products of the rows `rows{f}` with each block's columns of an operand, as `found{b}`.
    pub(super) fn scores(&self, found: &str, rows: &str, operand: Operand) -> String {
        let [name, ..] = operand;
        let mut text = Self::each_block(|b| {
            self.place(operand, &format!("columns{b}"), &format!("from{b}"), "column_lane")
                + &format!("var sum_{found}{b} = coop_mat16x16<f32, C>();\n")
        });
        for f in 0..self.fragments() {
            text += &Self::each_block(|b| {
                format!(
                    "sum_{found}{b} = coopMultiplyAdd({rows}{f}, matrix_b({name}[{name}_columns{b} + {}u]), sum_{found}{b});\n",
                    32 * f
                )
            });
        }
        text + &Self::each_block(|b| format!("let {found}{b} = elements(sum_{found}{b});\n"))
    }

    /// Reads the rows of each block of an operand.
    pub(super) fn read_rows(&self, operand: Operand) -> String {
        let [name, ..] = operand;
        Self::each_block(|b| {
            let mut text = self.place(operand, &format!("rows{b}"), &format!("from{b}"), "row_lane");
            for chunk in 0..self.head_dim / TILE_COLUMNS {
                for (part, chunks) in [("low", 64 * chunk), ("high", 64 * chunk + 16)] {
                    let _ = writeln!(text, "let {name}_{part}{b}_{chunk} = {name}[{name}_rows{b} + {chunks}u];");
                }
            }
            text
        })
    }

    /// Adds the products of each block's `factors{b}` with the rows of an operand that were read to sums.
    pub(super) fn add(&self, sums: &str, factors: &str, [name, ..]: Operand) -> String {
        Self::each_block(|b| {
            self.each_fragment(|f| {
                let (chunk, [x, z]) = (f / 2, [["x", "z"], ["y", "w"]][f % 2]);
                let (low, high) = (format!("{name}_low{b}_{chunk}"), format!("{name}_high{b}_{chunk}"));
                format!(
                    "{sums}{f} = coopMultiplyAdd({factors}{b}, matrix_b_of_rows(vec2<u32>({low}.{x}, {high}.{x}), \
                     vec2<u32>({low}.{z}, {high}.{z})), {sums}{f});\n"
                )
            })
        })
    }

    /// The vectors that an invocation has of the sums: `NAME_upper{v}` and `NAME_lower{v}` of columns 16·v + 4·pair on.
    pub(super) fn vectors(&self, sums: &str) -> String {
        let mut text = self.each_fragment(|f| format!("let {sums}_found{f} = elements({sums}{f});\n"));
        for v in 0..self.fragments() {
            let (first, [x, z]) = (v / 2 * 2, [["x", "z"], ["y", "w"]][v % 2]);
            for part in ["upper", "lower"] {
                let _ = writeln!(
                    text,
                    "let {sums}_{part}{v} = vec4<f32>({sums}_found{first}.{part}.{x}{z}, {sums}_found{}.{part}.{x}{z});",
                    first + 1
                );
            }
        }
        text
    }

    /// Each block's numbers of an invocation's columns from a buffer of pairs, as `NAME{b}`, times something.
    pub(super) fn of_columns(name: &str, buffer: &str, first: &str, times: &str) -> String {
        Self::each_block(|b| {
            format!(
                "let {name}{b} = of_columns({buffer}[({first} + from{b}) / 2u + pair], \
                 {buffer}[({first} + from{b}) / 2u + pair + 4u]){times};\n"
            )
        })
    }

    /// Whether the invocation's rows, queries, see its columns of each block, keys: `seen_upper{b}` and `seen_lower{b}`.
    pub(super) fn keys_seen() -> String {
        Self::each_block(|b| {
            format!(
                "let limit{b} = first_to_see(batch, columns_of(column{b} + 2u * pair));\n\
                 let seen_upper{b} = limit{b} < vec4<u32>(row + 1u);\nlet seen_lower{b} = limit{b} < vec4<u32>(row + 2u);\n"
            )
        })
    }

    fn forward(&self) -> String {
        let mut text = self.load_rows(Q) + &self.sums("output");
        text += "let value_scale = largest_scales(lane, tokens).x;\nlet value_factor = inverse(value_scale) * PROBABILITY;\n\
                 let row_scale = q_scales[(tokens + first_row) / 2u + line] * params.scale * LOG2_E;\n\
                 var maximum = vec2<f32>(LOWEST);\nvar total = vec2<f32>();\n";
        text += &Self::loop_over_keys();
        text += &self.scores("dots", "q", K);
        text += &self.read_rows(V);
        text += &Self::of_columns("column_scale", "k_scales", "tokens", "");
        text += &Self::of_columns("column_factor", "v_scales", "tokens", " * value_factor");
        text += &Self::keys_seen();
        text += "var largest = maximum;\n";
        for b in 0..BLOCKS {
            let _ = write!(
                text,
                "let upper{b} = select(vec4<f32>(LOWEST), dots{b}.upper * (row_scale.x * column_scale{b}), seen_upper{b});\n\
                 let lower{b} = select(vec4<f32>(LOWEST), dots{b}.lower * (row_scale.y * column_scale{b}), seen_lower{b});\n\
                 largest = max(largest, vec2<f32>(largest_of(upper{b}), largest_of(lower{b})));\n"
            );
        }
        text += "largest = max(largest, subgroupShuffleXor(largest, 1u));\n\
                 largest = max(largest, subgroupShuffleXor(largest, 2u));\n\
                 // The sums so far get the new reference.\n\
                 let shrink = exp2(maximum - largest);\ntotal *= shrink;\nmaximum = largest;\n";
        text += &self.each_fragment(|f| format!("output{f} = scaled(output{f}, shrink.x, shrink.y);\n"));
        for b in 0..BLOCKS {
            let _ = write!(
                text,
                "let upper_part{b} = select(vec4<f32>(), exp2(upper{b} - maximum.x), seen_upper{b});\n\
                 let lower_part{b} = select(vec4<f32>(), exp2(lower{b} - maximum.y), seen_lower{b});\n\
                 total += vec2<f32>(total_of(upper_part{b}), total_of(lower_part{b}));\n\
                 let probabilities{b} = factors(upper_part{b} * column_factor{b}, lower_part{b} * column_factor{b});\n"
            );
        }
        text += &self.add("output", "probabilities", V);
        text += &format!(
            "}}\ntotal += subgroupShuffleXor(total, 1u);\ntotal += subgroupShuffleXor(total, 2u);\n\
             let sees_any = total > vec2<f32>();\n\
             let result = select(vec2<f32>(), 1.0 / (total * PROBABILITY), sees_any);\n\
             if (pair == 0u) {{\n\
             // No constant may hold the bits of -inf.\nvar infinity = 0xff800000u;\n\
             log_sum_exp[((batch * params.heads + head) * params.sequence + first_row) / 2u + line] =\n\
             select(vec2<f32>(bitcast<f32>(infinity)), (maximum + log2(total)) / LOG2_E, sees_any);\n\
             if (head == 0u) {{\noutput_scales[(tokens + first_row) / 2u + line] = vec2<f32>(value_scale);\n}}\n}}\n\
             let across = params.heads * {0}u;\nlet vector = head * {0}u + pair;\n{1}",
            self.head_dim / 4,
            self.vectors("output"),
        );
        if self.in_tiles {
            for v in 0..self.fragments() {
                let _ = writeln!(
                    text,
                    "{{\nlet upper = output_upper{v} * result.x;\nlet lower = output_lower{v} * result.y;\n\
                     output[left_chunk(tokens + row, vector + {}u, across)] = vec4<u32>(pack2x16float(upper.xy), \
                     pack2x16float(lower.xy), pack2x16float(upper.zw), pack2x16float(lower.zw));\n}}",
                    4 * v
                );
            }
            return text;
        }
        text += "let place = (tokens + row) * across + vector;\n";
        for v in 0..self.fragments() {
            for (part, row, of) in [("upper", "", "x"), ("lower", " + across", "y")] {
                let _ = writeln!(
                    text,
                    "{{\nlet value = output_{part}{v} * result.{of};\n\
                     output[place{row} + {}u] = vec2<u32>(pack2x16float(value.xy), pack2x16float(value.zw));\n}}",
                    4 * v
                );
            }
        }
        text
    }

    pub(super) fn loop_over_keys() -> String {
        format!(
            "let columns_in_all = min(params.sequence, first_row + 16u + params.query_offset);\n\
             for (var column = 0u; column < columns_in_all; column += {}u) {{\n{}",
            MATRIX * BLOCKS,
            Self::blocks()
        )
    }
}
