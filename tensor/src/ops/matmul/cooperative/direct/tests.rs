use super::thin_kernel::Config as ThinConfig;
use super::*;
use crate::device::Backend;
use crate::gpu::{assert_as_reviewed, compile_with_containers, complete_source, spirv, validate};
use crate::testing::{gpu, open_gpu};
use crate::{Device, f16};

fn configurations() -> impl Iterator<Item = Config> {
    let flags = (0..8).map(|choices| [1, 2, 4].map(|bit| choices & bit > 0));
    let low_ranks = || [LowRank::Absent, LowRank::InRows, LowRank::InTiles].into_iter();
    let with_low_rank = flags.flat_map(move |flags| low_ranks().map(move |low_rank| (flags, low_rank)));
    let with_results = |([transposed, whole_rows, biased], low_rank): ([bool; 3], LowRank)| {
        [Results::InPlace, Results::Apart, Results::Halves].map(|results| Config {
            transposed,
            whole_rows,
            low_rank,
            biased,
            results,
        })
    };
    let possible = |config: &Config| {
        (!config.biased || config.results != Results::Halves)
            && (config.whole_rows || config.low_rank != LowRank::InTiles)
    };
    with_low_rank.flat_map(with_results).filter(possible)
}

#[test]
fn every_configuration_is_valid_wgsl() {
    let names: std::collections::HashSet<_> = configurations().map(|config| config.name()).collect();
    assert_eq!(names.len(), 50);
    for config in configurations() {
        validate(&config.name(), &config.wgsl(), &[]);
    }
}

fn thin_configurations() -> impl Iterator<Item = ThinConfig> {
    [false, true]
        .into_iter()
        .flat_map(|transposed| [ThinConfig::Projection { transposed }, ThinConfig::Gradient { transposed }])
}

#[test]
fn every_thin_configuration_is_valid_wgsl() {
    for config in thin_configurations() {
        validate(&config.name(), &config.wgsl(), &[]);
    }
}

/// Two types of the same bits would be an invalid module.
#[test]
fn every_configuration_becomes_a_module_with_one_f16() {
    const TYPE_FLOAT: u32 = 22;
    let texts = configurations().map(|config| (config.name(), config.wgsl()));
    for (name, text) in texts.chain(thin_configurations().map(|config| (config.name(), config.wgsl()))) {
        let words = compile_with_containers(&complete_source(&text, true, true), "main").unwrap();
        let floats = spirv::instructions(&words).filter(|instruction| spirv::operation(instruction) == TYPE_FLOAT);
        let mut widths: Vec<u32> = floats.map(|instruction| instruction[2]).collect();
        widths.sort_unstable();
        assert_eq!(widths, [16, 32], "{name}");
    }
}

#[test]
fn generated_text_is_as_reviewed() {
    for ([transposed, whole_rows, biased], low_rank, results) in [
        ([true, true, false], LowRank::InTiles, Results::Apart),
        ([false, false, true], LowRank::InRows, Results::InPlace),
        ([true, true, false], LowRank::InRows, Results::Halves),
        ([false, true, false], LowRank::InTiles, Results::Halves),
        ([false, false, false], LowRank::Absent, Results::Halves),
    ] {
        let config = Config { transposed, whole_rows, low_rank, biased, results };
        assert_as_reviewed("matmul", &config.name(), &config.wgsl());
    }
    for config in [ThinConfig::Projection { transposed: true }, ThinConfig::Gradient { transposed: false }] {
        assert_as_reviewed("matmul", &config.name(), &config.wgsl());
    }
}

#[test]
fn what_is_added_does_not_go_with_halves() {
    let (ones, plain) = (Tensor::ones(&Device::cpu(), &[4096], DType::F32).unwrap(), Update::plain(1.0, false));
    let scaled = Update { row_scales: Some(&ones), ..plain };
    for results in [Results::InPlace, Results::Apart] {
        assert!(scaled.suits(results) && !plain.suits(results));
    }
    assert!(plain.suits(Results::Halves) && !scaled.suits(Results::Halves));
    assert!(!Update { bias: Some(&ones), ..plain }.suits(Results::Halves));
    assert!(!Update { accumulate: true, ..plain }.suits(Results::Halves));
}

#[test]
fn only_large_products_suit_and_both_directions_alike() {
    assert!(is_large(4096, 4096, 4096) && is_large(1024, 4096, 11_008) && is_large(4096, 1024, 4096));
    assert!(!is_large(1024, 1024, 4096) && !is_large(1024, 4096, 1024) && !is_large(512, 4096, 4096));
}

#[test]
#[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
fn rows_are_packed_into_tiles_wgsl() {
    let (rows, columns) = (TILE + 5, 2 * TILE);
    let values: Vec<f16> = (0..(rows + 1) * columns).map(|i| f16::from_bits((i % 31_000) as u16)).collect();
    let whole = Tensor::from_slice(gpu(), &[rows + 1, columns], &values).unwrap();
    let b = Tensor::zeros(gpu(), &[columns, TILE], DType::F16).unwrap();
    // The second row is the first of the operand.
    let product = Product::new("test", &whole.slice(0, 1, rows + 1).unwrap(), &b).unwrap();
    let Backend::Gpu(device) = gpu().backend() else { panic!("a GPU") };
    let packed = pack(device, &product).unwrap();
    assert!(Tiles::Left(columns).hold(&packed) && packed.shape()[..] == [2 * TILE, columns]);
    let found = packed.to_vec::<f16>().unwrap();
    assert_eq!(found[..rows * columns], values[columns..]);
    assert!(found[rows * columns..].iter().all(|&padding| padding == f16::ZERO));
}

/// What a kernel wrote in tiles is read as it lies.
#[test]
#[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
fn tiles_are_not_packed_again_wgsl() {
    let Backend::Gpu(device) = gpu().backend() else { panic!("a GPU") };
    let b = Tensor::zeros(gpu(), &[TILE, TILE], DType::F16).unwrap();
    for (rows, is_taken) in [(2 * TILE, true), (2 * TILE + 32, false)] {
        let source = Tensor::ones(gpu(), &[rows, TILE], DType::F16).unwrap();
        let whole = pack(device, &Product::new("test", &source, &b).unwrap()).unwrap();
        let matrix = if is_taken { whole.clone() } else { whole.slice(0, 0, rows).unwrap() };
        let packed = pack(device, &Product::new("test", &matrix, &b).unwrap()).unwrap();
        assert_eq!(packed.is_same_view(&matrix), is_taken);
    }
}

#[test]
#[cfg_attr(not(feature = "cooperative-tests"), ignore = "needs tensor cores: --features cooperative-tests")]
fn every_kernel_passes_its_test_wgsl() {
    let device = open_gpu();
    let Backend::Gpu(gpu) = device.backend() else { panic!("a GPU") };
    assert!(gpu.cooperative.direct_usable(), "the device has none of these kernels");
    for config in configurations() {
        assert_eq!(self_test::find_fault(gpu, config, &device).unwrap(), None, "{}", config.name());
    }
    for config in thin_configurations() {
        assert_eq!(thin::find_fault(gpu, config, &device).unwrap(), None, "{}", config.name());
    }
}

/// A product of eighths is exact whoever computes it; ends of the rows' tiles, both directions, a matrix read in rows again.
#[test]
#[cfg_attr(not(feature = "cooperative-tests"), ignore = "needs tensor cores: --features cooperative-tests")]
fn products_agree_with_the_cpu_wgsl() {
    for (m, n, k, transposed) in [(3072, 1024, 1024, true), (3001, 1024, 2048, false), (2945, 2048, 1024, true)] {
        let values = |count: usize, seed: u32| -> Vec<f32> {
            (0..count as u32).map(|i| ((i.wrapping_mul(0x9e37_79b9) ^ seed) >> 20) as f32 % 17.0 / 8.0 - 1.0).collect()
        };
        let (x, w) = (values(m * k, 3), values(n * k, 5));
        let product = |device: &Device| {
            let x = Tensor::from_slice(device, &[m, k], &x).unwrap().row_scaled().unwrap();
            let shape = if transposed { [n, k] } else { [k, n] };
            let w = Tensor::from_slice(device, &shape, &w).unwrap().cast(DType::F16).unwrap();
            let other = if transposed { w.t().unwrap() } else { w.clone() };
            let found = x.matmul(&other).unwrap().to_vec::<f32>().unwrap();
            let halves = x.as_left_operand().matmul_rounded(&other, None).unwrap();
            let halves = halves.restored().unwrap().to_vec::<f32>().unwrap();
            assert!(
                halves.iter().zip(&found).all(|(half, sum)| (half - sum).abs() <= sum.abs() * 2f32.powi(-11)),
                "{m} x {n} x {k} in 16 bits"
            );
            let Storage::Gpu(storage) = &w.storage else { return (found, w) };
            assert!(storage.is_in_tiles(), "another kernel computed the product");
            (found, w)
        };
        let (found, kept) = product(gpu());
        assert_eq!(kept.cast(DType::F32).unwrap().to_vec::<f32>().unwrap(), w, "the matrix, read in rows again");
        assert!(found == product(&Device::cpu()).0, "{m} x {n} x {k}");
    }
}
