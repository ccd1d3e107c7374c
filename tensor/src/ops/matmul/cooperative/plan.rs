//! Which kernel computes a product, and in how many parts: by what is known of one GPU, or the fastest, where the device
//! measures.

use std::fmt;

use super::generator::{Config, Kind, TILE};
use super::{LowRankUpdate, RESIDENT, Update, config, covers, large, launch, parts, self_test};
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::ops::matmul::Product;
use crate::tensor::Tensor;

/// Extent of a part of `k` at the least.
const MIN_DEPTH_PER_PART: usize = 128;

/// Workgroups with square tiles at the most where `k` is split.
const MAX_SPLIT_WORKGROUPS: usize = 4 * RESIDENT;

/// A kernel, and how many parts of `k` it sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops::matmul) struct Plan {
    pub config: Config,
    pub parts: usize,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in parts: {}", self.config.name(), self.parts)
    }
}

/// The plan for a product, its kernel tested on the device; `None` where the device or the shape does not suit.
pub(in crate::ops::matmul) fn plan(gpu: &Gpu, product: &Product, update: &Update<'_>) -> Result<Option<Plan>> {
    let Some(config) = config(gpu, product, update) else { return Ok(None) };
    let mut plan = Plan { config, parts: parts(&config, product) };
    if gpu.is_tuned() {
        plan = fastest(gpu, product, update, plan)?;
    }
    let usable = self_test::usable(gpu, plan.config, product.a.tensor.device())?;
    Ok(usable.map(|config| match config == plan.config {
        true => plan,
        false => Plan { config, parts: parts(&config, product) },
    }))
}

fn fastest(gpu: &Gpu, product: &Product, update: &Update<'_>, usual: Plan) -> Result<Plan> {
    let device = product.a.tensor.device();
    let plans = candidates(product, update, usual);
    let rank = update.low_rank.map_or(0, |term| term.left.shape()[1]);
    let Product { m, n, k, .. } = product;
    let name = format!("{m} x {n} x {k}, rank {rank}, {}", square(product, usual.config, update, false).name());
    let scratch = Tensor::uninitialised(device, "matmul", product.shape, DType::F32)?;
    gpu.fastest(name, &plans, |plan| {
        if self_test::usable(gpu, plan.config, device)? != Some(plan.config) {
            return Ok(false);
        }
        launch(gpu, plan.config, product, plan.parts, &scratch, *update)?;
        Ok(true)
    })
}

/// All plans that suit the product, the usual one first.
pub(super) fn candidates(product: &Product, update: &Update<'_>, usual: Plan) -> Vec<Plan> {
    let [square, small] = [false, true].map(|small| square(product, usual.config, update, small));
    let low_rank_slabs = update.low_rank.map_or(0, LowRankUpdate::slabs);
    let large_suit = usual.config.containers && low_rank_slabs <= large::MAX_LOW_RANK_SLABS;
    let widths = large::WIDTHS.into_iter().filter(|&columns| large_suit && covers(product, columns));
    let mut plans = vec![usual];
    for parts in [1, 2, 3, 4, 6, 8, 12, 16] {
        let large = widths.clone().map(|columns| Config {
            whole_tiles: true,
            kind: Kind::Large {
                columns,
                row_scaled: update.row_scales.is_some(),
                low_rank_slabs,
                biased: update.bias.is_some(),
                split: parts > 1,
            },
            ..square
        });
        let suits = |plan: &Plan| {
            let tiles = product.m.div_ceil(TILE) * product.n.div_ceil(TILE);
            *plan != usual
                && (plan.config != small || tiles <= RESIDENT)
                && (parts == 1 || tiles * parts <= MAX_SPLIT_WORKGROUPS && product.k / parts >= MIN_DEPTH_PER_PART)
        };
        plans.extend([square, small].into_iter().chain(large).map(|config| Plan { config, parts }).filter(suits));
    }
    plans
}

/// The kernel with square tiles, or small ones, that computes what another one does.
fn square(product: &Product, config: Config, update: &Update<'_>, small: bool) -> Config {
    Config {
        kind: Kind::Square {
            small,
            row_scaled: update.row_scales.is_some(),
            low_rank: update.low_rank.is_some(),
            biased: update.bias.is_some(),
        },
        ..config
    }
    .covering(product.m, product.n)
}
