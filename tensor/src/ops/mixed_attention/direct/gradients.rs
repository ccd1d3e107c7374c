//! The kernels of attention's gradients: what is theirs alone.

use std::fmt::Write;

use super::super::generator::MATRIX;
use super::kernel::{BLOCKS, Config, K, Q, UPSTREAM, V};

impl Config {
    pub(super) fn query_gradient(&self) -> String {
        let mut text = self.load_rows(Q) + &self.load_rows(UPSTREAM) + &self.sums("dq");
        text += "let largest_scale = largest_scales(lane, tokens);\n\
                 let value_scale = largest_scale.x;\nlet value_inverse = inverse(value_scale);\n\
                 let key_scale = largest_scale.y;\nlet key_factor = inverse(key_scale) * SLOPE;\n\
                 let terms = (batch * params.heads + head) * params.sequence;\n\
                 let row_scale = q_scales[(tokens + first_row) / 2u + line] * params.scale * LOG2_E;\n\
                 let row_shift = log_sum_exp[(terms + first_row) / 2u + line] * LOG2_E;\n\
                 let row_delta = deltas[(terms + first_row) / 2u + line] * value_inverse;\n";
        text += &Self::loop_over_keys();
        text += &self.scores("dots", "q", K);
        text += &self.scores("slopes", "upstream", V);
        text += &self.read_rows(K);
        text += &Self::of_columns("column_scale", "k_scales", "tokens", "");
        text += &Self::of_columns("column_value", "v_scales", "tokens", " * value_inverse");
        text += &Self::keys_seen();
        for b in 0..BLOCKS {
            let _ = write!(
                text,
                "let upper{b} = select(vec4<f32>(), exp2(dots{b}.upper * (row_scale.x * column_scale{b}) - row_shift.x), \
                 seen_upper{b});\n\
                 let lower{b} = select(vec4<f32>(), exp2(dots{b}.lower * (row_scale.y * column_scale{b}) - row_shift.y), \
                 seen_lower{b});\n\
                 let column_factor{b} = column_scale{b} * key_factor;\n\
                 let changes{b} = factors(\n\
                 upper{b} * (slopes{b}.upper * column_value{b} - row_delta.x) * column_factor{b},\n\
                 lower{b} * (slopes{b}.lower * column_value{b} - row_delta.y) * column_factor{b},\n);\n"
            );
        }
        text += &self.add("dq", "changes", K);
        text += "}\nlet upstream_scale = upstream_scales[(tokens + first_row) / 2u + line];\n\
                 let result = params.scale / SLOPE * upstream_scale * value_scale * key_scale;\n";
        text + &self.turned_back("dq", "heads", "head", ["result.x", "result.y"])
    }

    /// The loop over the queries that see a key head's rows, and what its scores need.
    fn loop_over_queries() -> String {
        format!(
            "let row_scale = k_scales[(tokens + first_row) / 2u + line] * params.scale * LOG2_E;\n\
             let row_limit = first_to_see(batch, vec4<u32>(row, row + 1u, row, row)).xy;\n\
             // Queries before this one see none of the rows.\n\
             let first_column = (first_row - min(first_row, params.query_offset)) / 16u * 16u;\n\
             for (var head = kv_head * heads_a_group; head < (kv_head + 1u) * heads_a_group; head += 1u) {{\n\
             let terms = (batch * params.heads + head) * params.sequence;\n\
             for (var column = first_column; column < params.sequence; column += {}u) {{\n{}",
            MATRIX * BLOCKS,
            Self::blocks()
        )
    }

    /// The probabilities of each block: `upper{b}` and `lower{b}`.
    fn probabilities_of_keys() -> String {
        let mut text = Self::of_columns("column_scale", "q_scales", "tokens", "");
        text += &Self::of_columns("column_upstream", "upstream_scales", "tokens", " * upstream_inverse");
        text += &Self::of_columns("column_shift", "log_sum_exp", "terms", " * LOG2_E");
        for b in 0..BLOCKS {
            let _ = write!(
                text,
                "let query{b} = columns_of(column{b} + 2u * pair);\n\
                 let position{b} = select(vec4<u32>(), query{b} + 1u, query{b} < vec4<u32>(params.sequence));\n\
                 let upper{b} = select(vec4<f32>(), exp2(dots{b}.upper * (row_scale.x * column_scale{b}) - column_shift{b}), \
                 vec4<u32>(row_limit.x) < position{b});\n\
                 let lower{b} = select(vec4<f32>(), exp2(dots{b}.lower * (row_scale.y * column_scale{b}) - column_shift{b}), \
                 vec4<u32>(row_limit.y) < position{b});\n"
            );
        }
        text
    }

    pub(super) fn value_gradient(&self) -> String {
        let mut text = self.load_rows(K) + &self.sums("dv");
        text +=
            "let upstream_scale = largest_scales(lane, tokens).x;\nlet upstream_inverse = inverse(upstream_scale);\n";
        text += &Self::loop_over_queries();
        text += &self.scores("dots", "k", Q);
        text += &self.read_rows(UPSTREAM);
        text += &Self::probabilities_of_keys();
        for b in 0..BLOCKS {
            let _ = write!(
                text,
                "let value_factor{b} = column_upstream{b} * PROBABILITY;\n\
                 let weights{b} = factors(upper{b} * value_factor{b}, lower{b} * value_factor{b});\n"
            );
        }
        text += &self.add("dv", "weights", UPSTREAM);
        text += &format!(
            "}}\n}}\nlet value_result = upstream_scale / PROBABILITY;\n\
             let across = params.kv_heads * {0}u;\nlet place = (tokens + row) * across + kv_head * {0}u + pair;\n",
            self.head_dim / 4
        );
        text += &self.vectors("dv");
        for v in 0..self.fragments() {
            for (part, row) in [("upper", ""), ("lower", " + across")] {
                let _ = writeln!(text, "dv[place{row} + {}u] = dv_{part}{v} * value_result;", 4 * v);
            }
        }
        text
    }

    pub(super) fn key_gradient(&self) -> String {
        let mut text = self.load_rows(K) + &self.load_rows(V) + &self.sums("dk");
        text += "let largest_scale = largest_scales(lane, tokens);\n\
                 let value_scale = largest_scale.x;\nlet value_inverse = inverse(value_scale);\n\
                 let upstream_scale = largest_scale.y;\nlet upstream_inverse = inverse(upstream_scale);\n\
                 let query_scale = largest_scale.z;\nlet query_factor = inverse(query_scale) * SLOPE;\n\
                 let row_value = v_scales[(tokens + first_row) / 2u + line] * value_inverse;\n";
        text += &Self::loop_over_queries();
        text += &self.scores("dots", "k", Q);
        text += &self.scores("slopes", "v", UPSTREAM);
        text += &self.read_rows(Q);
        text += &Self::probabilities_of_keys();
        text += &Self::of_columns("column_delta", "deltas", "terms", " * value_inverse");
        for b in 0..BLOCKS {
            let _ = write!(
                text,
                "let key_factor{b} = column_upstream{b} * (column_scale{b} * query_factor);\n\
                 let changes{b} = factors(\n\
                 upper{b} * (slopes{b}.upper * row_value.x - column_delta{b}) * key_factor{b},\n\
                 lower{b} * (slopes{b}.lower * row_value.y - column_delta{b}) * key_factor{b},\n);\n"
            );
        }
        text += &self.add("dk", "changes", Q);
        text += "}\n}\nlet key_result = params.scale / SLOPE * upstream_scale * value_scale * query_scale;\n";
        text + &self.turned_back("dk", "kv_heads", "kv_head", ["key_result"; 2])
    }

    /// Writes sums that are gradients of what was turned, turned back, times a number for each of the two rows.
    fn turned_back(&self, sums: &str, heads: &str, head: &str, results: [&str; 2]) -> String {
        let mut text = format!(
            "let across = params.{heads} * {0}u;\nlet place = (tokens + row) * across + {head} * {0}u + pair;\n\
             let angle = row * {1}u + pair;\n{2}",
            self.head_dim / 4,
            self.head_dim / 8,
            self.vectors(sums),
        );
        let half = self.fragments() / 2;
        for v in 0..half {
            for (part, row, angles, result) in [
                ("upper", "", "", results[0]),
                ("lower", " + across", &format!(" + {}u", self.head_dim / 8)[..], results[1]),
            ] {
                let _ = write!(
                    text,
                    "{{\nlet cosine = cosines[params.cosines_offset + angle{angles} + {0}u];\n\
                     let sine = sines[params.sines_offset + angle{angles} + {0}u];\n\
                     let low = {sums}_{part}{v} * {result};\nlet high = {sums}_{part}{1} * {result};\n\
                     {sums}[place{row} + {0}u] = low * cosine + high * sine;\n\
                     {sums}[place{row} + {2}u] = high * cosine - low * sine;\n}}\n",
                    4 * v,
                    v + half,
                    4 * (v + half),
                );
            }
        }
        text
    }
}
