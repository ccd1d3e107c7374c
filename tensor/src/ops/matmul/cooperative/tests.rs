use proptest::prelude::*;

use super::generator::{Config, Kind};
use super::{Plan, Update, large, large_width, launch, parts, plan, self_test};
use crate::device::Backend;
use crate::gpu::{assert_as_reviewed, validate};
use crate::ops::matmul::Product;
use crate::ops::matmul::tests::{Stored, assert_product, reference};
use crate::testing::{check, open_gpu};
use crate::{DType, Device, Tensor};

fn configurations() -> impl Iterator<Item = Config> {
    let kinds = (-8i32..48).map(|choices| {
        let [first, second, third] = [1, 2, 4].map(|bit| choices & bit > 0);
        match choices {
            ..8 => Kind::Square { small: choices < 0, row_scaled: first, low_rank: second, biased: third },
            8..16 => Kind::Thin { weighted: first, transposed: second, several: third },
            16..22 => Kind::Batched { narrow: first, scales: (choices - 16) as usize / 2, halves: false },
            22..24 => Kind::Batched { narrow: first, scales: 0, halves: true },
            _ => Kind::Large {
                columns: large::WIDTHS[usize::from(first)],
                row_scaled: second == (choices >= 36),
                low_rank_slabs: (choices - 24) as usize % 12 / 4,
                biased: (choices - 24) % 12 >= 4,
                split: second,
            },
        }
    });
    let layouts = (0..16).map(|choices| [1, 2, 4, 8].map(|bit| choices & bit > 0));
    layouts
        .flat_map(move |layout| kinds.clone().map(move |kind| (layout, kind)))
        .map(|([a_depth_contiguous, b_depth_contiguous, whole_tiles, containers], kind)| Config {
            a_depth_contiguous,
            b_depth_contiguous,
            whole_tiles,
            containers,
            kind,
        })
        .filter(|config| match config.kind {
            // For one layout.
            Kind::Thin { weighted: true, .. } => !(config.a_depth_contiguous || config.b_depth_contiguous),
            Kind::Large { .. } => config.whole_tiles && config.containers,
            _ => true,
        })
}

#[test]
fn every_configuration_is_valid_wgsl() {
    for config in configurations() {
        validate(&config.name(), &config.wgsl(), &[]);
    }
}

#[test]
fn sums_of_gradients_are_valid_wgsl() {
    for slots in 1..=6 {
        validate("sum", &crate::ops::slots::expand(include_str!("factor_gradient_sum.wgsl"), slots), &[]);
    }
}

#[test]
fn names_tell_configurations_apart() {
    let names: std::collections::HashSet<_> = configurations().map(|config| config.name()).collect();
    assert_eq!(names.len(), configurations().count());
}

#[test]
fn generated_text_is_as_reviewed() {
    // Every layout, both kinds of tiles, everything that is done besides, at least once.
    let square = |small, row_scaled, low_rank, biased| Kind::Square { small, row_scaled, low_rank, biased };
    let large = |columns, low_rank_slabs, biased, split| {
        let row_scaled = low_rank_slabs > 0;
        Kind::Large { columns, row_scaled, low_rank_slabs, biased, split }
    };
    let thin = |weighted, transposed, several| Kind::Thin { weighted, transposed, several };
    let batched = |narrow, scales, halves| Kind::Batched { narrow, scales, halves };
    for (a_depth_contiguous, b_depth_contiguous, whole_tiles, kind) in [
        (true, true, true, square(false, true, false, false)),
        (true, false, false, square(false, true, true, true)),
        (false, false, true, square(false, false, false, false)),
        (true, true, false, square(true, true, true, false)),
        (true, true, true, large(256, 1, false, false)),
        (true, false, true, large(256, 1, true, true)),
        (false, false, true, large(192, 0, false, false)),
        (true, true, true, thin(false, false, false)),
        (false, false, false, thin(true, true, false)),
        (false, false, true, thin(true, false, false)),
        (true, true, true, thin(false, false, true)),
        (false, false, true, thin(true, true, true)),
        (false, false, true, batched(true, 2, false)),
        (true, true, true, batched(false, 0, true)),
    ] {
        let config = Config { a_depth_contiguous, b_depth_contiguous, whole_tiles, containers: whole_tiles, kind };
        assert_as_reviewed("matmul", &config.name(), &config.wgsl());
    }
}

/// A product of zeros, and the kernel with tiles of a width.
fn planned(columns: usize, [m, n, k]: [usize; 3]) -> (Config, Product) {
    let zeros = |shape: &[usize]| Tensor::zeros(&Device::cpu(), shape, DType::F16).unwrap();
    let kind = match columns {
        128 => Kind::Square { small: false, row_scaled: false, low_rank: false, biased: false },
        _ => Kind::Large { columns, row_scaled: false, low_rank_slabs: 0, biased: false, split: true },
    };
    let config =
        Config { a_depth_contiguous: true, b_depth_contiguous: false, whole_tiles: true, containers: true, kind };
    (config, Product::new("test", &zeros(&[m, k]), &zeros(&[k, n])).unwrap())
}

#[test]
fn parts_fill_the_gpu() {
    let parts = |columns, shape| {
        let (config, product) = planned(columns, shape);
        parts(&config, &product)
    };
    assert_eq!(parts(128, [1024, 4096, 1024]), 1);
    assert_eq!(parts(128, [512, 1024, 1024]), 2);
    assert_eq!(parts(128, [128, 128, 4096]), 8);
    assert_eq!(parts(128, [64, 64, 32]), 1);
    assert_eq!(parts(256, [1024, 4096, 4096]), 1);
    assert_eq!(parts(256, [1024, 1024, 4096]), 4);
    assert_eq!(parts(192, [1024, 768, 4096]), 4);
}

#[test]
fn large_tiles_cover_whole_results() {
    let width = |shape| large_width(&planned(128, shape).1);
    assert_eq!(width([4096, 4096, 4096]), Some(256));
    assert_eq!(width([4096, 3072, 768]), Some(256));
    // Half of the multiprocessors would have nothing to do.
    assert_eq!(width([4096, 768, 768]), Some(192));
    assert_eq!(width([4096, 576, 96]), Some(192));
    assert_eq!(width([4096, 512, 96]), None);
    assert_eq!(width([4096, 800, 768]), None);
    assert_eq!(width([100, 768, 768]), None);
}

#[test]
fn few_tiles_of_short_products_are_small() {
    let small = |m, n, k| super::is_small(m, n, k);
    assert!(small(4096, 288, 288) && small(4096, 288, 768) && small(64, 64, 32));
    // Enough tiles; a sum that can be split.
    assert!(!small(4096, 1000, 288) && !small(1024, 288, 32_000));
}

#[test]
fn whole_tiles_of_one_width_are_not_of_another() {
    let without = |columns| planned(columns, [128, 768, 64]).0.without_containers();
    assert_eq!((without(256).whole_tiles, without(192).whole_tiles), (true, false));
    assert!(!without(256).containers && !without(256).is_large());
}

#[test]
fn candidates_begin_with_the_usual_plan() {
    for (columns, shape) in
        [(256, [4096, 4096, 4096]), (192, [1024, 768, 4096]), (128, [4096, 320, 288]), (128, [128, 64, 32])]
    {
        let (config, product) = planned(columns, shape);
        let usual = Plan { config, parts: parts(&config, &product) };
        let plans = plan::candidates(&product, &Update::plain(1.0, false), usual);
        assert_eq!(plans[0], usual);
        let names: std::collections::HashSet<_> = plans.iter().map(Plan::to_string).collect();
        assert_eq!(names.len(), plans.len(), "{names:?}");
        let widths: std::collections::HashSet<_> = plans.iter().map(|plan| plan.config.tile_columns()).collect();
        let covering = large::WIDTHS.iter().filter(|width| shape[1].is_multiple_of(**width)).count();
        let small = usize::from(shape[0] * shape[1] < 4096 * 4096);
        assert_eq!(widths.len(), 1 + small + covering, "{shape:?}: {widths:?}");
        for Plan { config, parts } in &plans[1..] {
            assert!(*parts == 1 || shape[2] / parts >= 128, "{shape:?} in {parts} parts");
            match config.kind {
                Kind::Large { split, .. } => assert_eq!(split, *parts > 1),
                _ => assert_eq!(*config, config.covering(shape[0], shape[1])),
            }
        }
    }
}

/// A device that claims to have cooperative matrices, and does not understand the kernels.
#[test]
#[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
fn a_kernel_that_fails_its_test_is_not_used() {
    let device = open_gpu();
    let Backend::Gpu(gpu) = device.backend() else { panic!("the test device is a GPU") };
    let had_them = gpu.cooperative.usable();
    gpu.cooperative.pretend();
    let a = Stored::random(&[96, 64], 1, DType::F16, false, 0);
    let b = Stored::random(&[64, 100], 2, DType::F16, true, 0);
    let (shape, want) = reference(&a.shape, &a.values, &b.shape, &b.values);
    let got = a.build(&device).matmul(&b.build(&device)).unwrap();
    assert_product(&got, &shape, &want, 64).unwrap();
    assert_eq!(gpu.cooperative.usable(), had_them);
}

/// The device under test, which must have cooperative matrices.
fn gpu() -> &'static crate::gpu::Gpu {
    let Backend::Gpu(gpu) = crate::testing::gpu().backend() else { panic!("the test device is a GPU") };
    assert!(gpu.cooperative.usable(), "{} has no cooperative matrices of 16 x 16", gpu.summary.name);
    gpu
}

/// Runs the tests of the kernels that are `wanted`.
fn assert_faultless(wanted: impl Fn(&Config) -> bool) {
    for config in configurations().filter(wanted) {
        assert_eq!(self_test::find_fault(gpu(), config, crate::testing::gpu()).unwrap(), None, "{}", config.name());
    }
}

#[test]
#[cfg_attr(not(feature = "cooperative-tests"), ignore = "needs tensor cores: --features cooperative-tests")]
fn every_kernel_passes_its_test() {
    assert_faultless(|config| !config.is_large() && !config.is_thin());
}

#[test]
#[cfg_attr(not(feature = "cooperative-tests"), ignore = "needs tensor cores: --features cooperative-tests")]
fn every_kernel_with_large_tiles_passes_its_test() {
    assert_faultless(Config::is_large);
}

#[test]
#[cfg_attr(not(feature = "cooperative-tests"), ignore = "needs tensor cores: --features cooperative-tests")]
fn every_kernel_for_thin_products_passes_its_test() {
    assert_faultless(Config::is_thin);
}

#[test]
#[cfg_attr(not(feature = "cooperative-tests"), ignore = "needs tensor cores: --features cooperative-tests")]
fn products_agree_with_f64_on_tensor_cores() {
    let device = crate::testing::gpu();
    // Of all kinds of tiles, whole ones and others.
    let extent = || prop_oneof![Just(16usize), Just(32), Just(33), Just(48), Just(64), Just(96)];
    let case = (extent(), extent(), 1usize..6, any::<[bool; 4]>(), 0usize..2, any::<u64>());
    check(case, |(m, n, slabs, [a_turned, b_turned, row_scaled, small], margin, seed)| {
        let (m, n, k) = (4 * m, 4 * n, 32 * slabs);
        let a = Stored::random(&[m, k], seed, DType::F16, a_turned, 4 * margin);
        let b = Stored::random(&[k, n], seed ^ 7, DType::F16, b_turned, 4 * margin);
        let scales: Vec<f32> = (0..m).map(|row| 2f32.powi(row as i32 % 40 - 20)).collect();
        let (shape, mut want) = reference(&a.shape, &a.values, &b.shape, &b.values);
        for (i, (sum, size)) in want.iter_mut().enumerate() {
            let scale = if row_scaled { f64::from(scales[i / n]) } else { 1.0 };
            (*sum, *size) = (*sum * scale, *size * scale);
        }
        let (a, b) = (a.build(device), b.build(device));
        let product = Product::new("test", &a, &b)?;
        let row_scales = Tensor::from_slice(device, &[m], &scales)?;
        let out = Tensor::zeros(device, &[m, n], DType::F32)?;
        let row_scales = row_scaled.then_some(&row_scales);
        let update = Update { row_scales, ..Update::plain(1.0, false) };
        let config = super::config(gpu(), &product, &update).expect("a shape for tensor cores");
        // All results are small here.
        let config = match config.kind {
            Kind::Square { row_scaled, low_rank, biased, .. } => {
                Config { kind: Kind::Square { small, row_scaled, low_rank, biased }, ..config }.covering(m, n)
            }
            _ => config,
        };
        // Kernels of large tiles know whether there are several parts.
        let parts = if config.is_large() { parts(&config, &product) } else { 1 + slabs % 3 };
        launch(gpu(), config, &product, parts, &out, update)?;
        assert_product(&out, &shape, &want, k)
    });
}

#[test]
#[cfg_attr(not(feature = "cooperative-tests"), ignore = "needs tensor cores: --features cooperative-tests")]
fn every_plan_gives_the_product() {
    let device = crate::testing::gpu();
    for (layouts, [m, n, k]) in
        [([false, true], [256, 768, 512]), ([true, true], [128, 384, 768]), ([true, false], [96, 256, 256])]
    {
        let a = Stored::random(&[m, k], 1, DType::F16, layouts[0], 0);
        let b = Stored::random(&[k, n], 2, DType::F16, layouts[1], 0);
        let (shape, want) = reference(&a.shape, &a.values, &b.shape, &b.values);
        let (a, b) = (a.build(device), b.build(device));
        let product = Product::new("test", &a, &b).unwrap();
        let update = Update::plain(1.0, false);
        let usual = plan(gpu(), &product, &update).unwrap().expect("a shape for tensor cores");
        for plan in plan::candidates(&product, &update, usual) {
            assert_eq!(self_test::usable(gpu(), plan.config, device).unwrap(), Some(plan.config), "{plan}");
            let out = Tensor::zeros(device, &[m, n], DType::F32).unwrap();
            launch(gpu(), plan.config, &product, plan.parts, &out, update).unwrap();
            assert_product(&out, &shape, &want, k).unwrap_or_else(|error| panic!("{plan}: {error:?}"));
        }
    }
}
