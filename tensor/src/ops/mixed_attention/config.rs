//! What each kernel of attention on tensor cores reads, sums and writes.

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kernel {
    /// The output and log_sum_exp; rows are queries.
    Forward,
    /// dq; rows are queries.
    QueryGradient,
    /// dk and dv; rows are keys.
    KeyValueGradient,
}

/// Workgroup memory up to which two workgroups share a multiprocessor.
const SHARED_BYTES: usize = 24 << 10;

/// Everything that decides the text of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Config {
    pub kernel: Kernel,
    /// A multiple of 16.
    pub head_dim: usize,
    /// Columns of a tile.
    pub columns: usize,
}

/// A 16-bit operand of a kernel.
#[derive(Clone, Copy)]
pub(super) struct Operand {
    pub name: &'static str,
    /// How many heads its rows hold.
    pub heads: &'static str,
    /// Which of them the workgroup reads.
    pub head: &'static str,
}

pub(super) const Q: Operand = Operand { name: "q", heads: "heads", head: "head" };
pub(super) const K: Operand = Operand { name: "k", heads: "kv_heads", head: "kv_head" };
pub(super) const V: Operand = Operand { name: "v", ..K };
pub(super) const UPSTREAM: Operand = Operand { name: "upstream", ..Q };

impl Config {
    /// As many columns as let two workgroups share a multiprocessor's memory.
    pub fn new(kernel: Kernel, head_dim: usize) -> Self {
        let [few, many] = [16, 32].map(|columns| Config { kernel, head_dim, columns });
        if many.workgroup_bytes() <= SHARED_BYTES { many } else { few }
    }

    /// Names the configuration completely.
    pub fn name(&self) -> String {
        let kernel = match self.kernel {
            Kernel::Forward => "forward",
            Kernel::QueryGradient => "query_gradient",
            Kernel::KeyValueGradient => "key_value_gradient",
        };
        format!("mixed_attention_{kernel}_{}x{}", self.head_dim, self.columns)
    }

    pub fn is_backward(&self) -> bool {
        self.kernel != Kernel::Forward
    }

    /// Operands that the subgroups keep their rows of.
    pub fn row_operands(&self) -> &'static [Operand] {
        match self.kernel {
            Kernel::Forward => &[Q],
            Kernel::QueryGradient => &[Q, UPSTREAM],
            Kernel::KeyValueGradient => &[K, V],
        }
    }

    /// Operands that are copied tile by tile.
    pub fn column_operands(&self) -> [Operand; 2] {
        match self.kernel {
            Kernel::Forward | Kernel::QueryGradient => [K, V],
            Kernel::KeyValueGradient => [Q, UPSTREAM],
        }
    }

    /// Names of the sums of products: of what, in the order of the kernel's outputs.
    pub fn sums(&self) -> &'static [&'static str] {
        match self.kernel {
            Kernel::Forward => &["output"],
            Kernel::QueryGradient => &["dq"],
            Kernel::KeyValueGradient => &["dk", "dv"],
        }
    }

    /// Numbers that each column of a tile has, by the names of their arrays in workgroup memory, and where they come from.
    pub fn column_terms(&self) -> &'static [(&'static str, &'static str)] {
        const K_SCALE: (&str, &str) = ("column_scale", "k_scales[tokens + last_of(column)]");
        const LIMIT: (&str, &str) = ("column_limit", "first_to_see(batch, column)");
        match self.kernel {
            Kernel::Forward => {
                &[LIMIT, K_SCALE, ("column_factor", "v_scales[tokens + last_of(column)] * value_inverse * PROBABILITY")]
            }
            Kernel::QueryGradient => &[
                LIMIT,
                K_SCALE,
                ("column_value", "v_scales[tokens + last_of(column)] * value_inverse"),
                ("column_factor", "k_scales[tokens + last_of(column)] * key_inverse * SLOPE"),
            ],
            Kernel::KeyValueGradient => &[
                ("column_position", "position(column)"),
                ("column_scale", "q_scales[tokens + last_of(column)]"),
                ("column_shift", "log_sum_exp[terms + last_of(column)] * LOG2_E"),
                ("column_delta", "deltas[terms + last_of(column)] * value_inverse"),
                ("column_value_factor", "upstream_scales[tokens + last_of(column)] * upstream_inverse * PROBABILITY"),
                (
                    "column_key_factor",
                    "upstream_scales[tokens + last_of(column)] * upstream_inverse * \
                     (q_scales[tokens + last_of(column)] * query_inverse * SLOPE)",
                ),
            ],
        }
    }

    /// Vectors of scales of which the largest are wanted.
    pub fn largest_scales(&self) -> &'static str {
        match self.kernel {
            Kernel::Forward => "v_scales[i], 0.0, 0.0",
            Kernel::QueryGradient => "v_scales[i], k_scales[i], 0.0",
            Kernel::KeyValueGradient => "v_scales[i], upstream_scales[i], q_scales[i]",
        }
    }
}

pub(super) fn element_of(term: &str) -> &'static str {
    if matches!(term, "column_limit" | "column_position") { "u32" } else { "f32" }
}

/// Gradients of what was turned before it was rounded are turned back.
pub(super) fn is_turned(sum: &str) -> bool {
    matches!(sum, "dq" | "dk")
}
