//! The operations, one folder each: API and shape rules in `mod.rs`, the CPU's version in `cpu.rs`, the kernel in
//! `kernel.wgsl` with its launch in `gpu.rs`, tests in `tests.rs`. To add one, copy a folder and name it here.

mod adamw_update;
mod attention;
mod balance;
mod binary;
mod concat;
mod copy;
mod cross_entropy;
mod disentangled_attention;
mod dropout;
mod embedding;
mod fill;
mod gated_unit;
mod gather;
mod gelu;
mod global_norm;
mod halves;
pub mod linalg;
mod low_rank;
mod matmul;
mod mixed_attention;
mod norm;
mod pad;
mod random;
mod reduce;
mod refactoring;
mod residual_norm;
mod rotary;
mod row_scaled;
mod select_where;
mod sgd_update;
mod slots;
mod softmax;
mod unary;

pub use adamw_update::{AdamWStep, AdamWTarget, adamw_update_in_place};
pub use attention::{AttentionConfig, AttentionOutput, attention, attention_backward};
pub use balance::{BalancePair, BalanceTarget, balance_in_place};
pub use cross_entropy::{CrossEntropy, cross_entropy, cross_entropy_backward, cross_entropy_with_gradient};
pub use disentangled_attention::{
    DisentangledAttention, DisentangledOutput, MixedDisentangledAttention, PerOperand, RelativeBuckets,
};
pub use embedding::embedding_gradient;
pub use gated_unit::{RoundedGate, silu_mul_backward};
pub use gather::{check_ids, scatter_add};
pub use global_norm::{clip_scale, scale_in_place, sum_of_squares};
pub use low_rank::{
    FactorGradient, LowRankTerm, Projection, RoundedFactor, factor_gradients, projections, round_factors,
};
pub use matmul::{Addends, LeftOperand, is_better_rounded};
pub use mixed_attention::MixedAttention;
pub use norm::{layer_norm_backward, layer_norm_parameter_gradients, rms_norm_backward, rms_norm_weight_gradient};
pub use random::RandomKey;
pub use refactoring::{DenseRefactoring, FactorPair, PairShape, Refactoring, SINGULAR_VALUE_FLOOR, dense_refactoring};
pub use residual_norm::ResidualNorm;
pub use rotary::{rotary, rotary_backward};
pub use row_scaled::{RowScaled, row_scaled_together};
pub use sgd_update::{SgdStep, SgdTarget, sgd_update_in_place};
