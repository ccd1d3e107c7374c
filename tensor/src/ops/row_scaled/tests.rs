use proptest::prelude::*;

use super::{RowInput, RowKernel, RowNumbers};
use crate::device::Backend;
use crate::gpu::Tiles;
use crate::testing::{Recipe, check, gpu, on_each_backend, recipe_of};
use crate::{DType, Device, Result, Tensor, f16, row_scaled_together};

/// Matrices whose rows have magnitudes of their own, far beyond the range of f16.
fn matrix() -> impl Strategy<Value = Recipe> {
    let columns = prop_oneof![1usize..=9, Just(64), Just(257), Just(1030)];
    (0usize..=5, columns, prop::collection::vec(-100i32..100, 5)).prop_flat_map(|(rows, columns, exponents)| {
        recipe_of(vec![rows, columns], -2.0..2.0).prop_map(move |recipe| {
            let grown = |(i, x): (usize, f64)| x as f32 * 2f32.powi(exponents[i / columns]);
            Recipe::dense(recipe.shape(), recipe.values().into_iter().enumerate().map(grown).collect())
        })
    })
}

fn rounded(x: &Tensor) -> Result<(Vec<f16>, Vec<f32>)> {
    let rounded = x.row_scaled()?;
    Ok((rounded.values().to_vec()?, rounded.scales().to_vec()?))
}

on_each_backend! {
    fn rows_keep_eleven_bits_of_any_magnitude(device) {
        check(matrix(), |recipe| {
            let x = recipe.build(device);
            let columns = recipe.shape()[1];
            let (values, scales) = rounded(&x)?;
            let restored = x.row_scaled()?.restored()?.to_vec::<f32>()?;
            for (row, x) in recipe.values().chunks(columns).enumerate() {
                let largest = x.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
                let scale = f64::from(scales[row]);
                assert!(scale.log2().fract() == 0.0 && largest < 2.0 * scale, "row {row}: {scale} for {largest}");
                assert!(largest >= scale || largest < 2f64.powi(-126), "row {row}: {scale} for {largest}");
                for (i, &x) in x.iter().enumerate() {
                    let value = f64::from(values[row * columns + i].to_f32()) * scale;
                    let bound = (x.abs() * 2f64.powi(-11)).max(largest * 2f64.powi(-25));
                    assert!((value - x).abs() <= bound, "row {row}: {value} for {x}");
                    assert_eq!(value, f64::from(restored[row * columns + i]));
                }
            }
            Ok(())
        });
    }

    fn a_loss_scale_changes_nothing_but_the_powers(device) {
        let values: Vec<f32> = (0..3 * 70).map(|i| ((i * 37 % 101) as f32 - 50.0) * 1.7e-3).collect();
        let x = Tensor::from_slice(device, &[3, 70], &values).unwrap();
        let (plain, powers) = rounded(&x).unwrap();
        for exponent in [-60, -24, 16, 90] {
            let scale = 2f32.powi(exponent);
            let (scaled, scaled_powers) = rounded(&x.affine(scale, 0.0).unwrap()).unwrap();
            assert_eq!(plain, scaled);
            assert!(powers.iter().zip(scaled_powers).all(|(power, scaled)| power * scale == scaled));
        }
    }

    fn extreme_rows_stay_apart(device) {
        let (big, infinity) = (3e38f32, f32::INFINITY);
        let x = [[0.0, 0.0, -0.0], [big, -big, 1.0], [infinity, 1.0, -infinity], [f32::NAN, 1.0, 2.0], [1.0, 2.0, 3.0]];
        let x = Tensor::from_slice(device, &[5, 3], x.as_flattened()).unwrap();
        let restored = x.row_scaled().unwrap().restored().unwrap().to_vec::<f32>().unwrap();
        assert_eq!(restored[..3], [0.0; 3]);
        assert!((restored[3] / big - 1.0).abs() <= 2f32.powi(-11) && restored[4] == -restored[3], "{restored:?}");
        assert_eq!([restored[6], restored[8]], [infinity, -infinity]);
        assert!(restored[9].is_nan());
        assert_eq!(restored[12..], [1.0, 2.0, 3.0]);
    }

    fn products_are_those_of_the_rounded_matrix(device) {
        for (m, k, n) in [(3, 5, 7), (0, 4, 3), (2, 0, 3), (70, 64, 68), (130, 96, 132)] {
            let x: Vec<f32> = (0..m * k).map(|i| ((i * 29 % 113) as f32 - 56.0) * 10f32.powi(i as i32 % 3 - 9)).collect();
            let w: Vec<f32> = (0..k * n).map(|i| ((i * 31 % 97) as f32 - 48.0) / 64.0).collect();
            let x = Tensor::from_slice(device, &[m, k], &x).unwrap();
            let w = Tensor::from_slice(device, &[n, k], &w).unwrap();
            let rounded = x.row_scaled().unwrap();
            let exact = rounded.restored().unwrap().matmul(&w.t().unwrap()).unwrap().to_vec::<f32>().unwrap();
            for weight in [w.cast(DType::F16).unwrap(), w.clone()] {
                let got = rounded.matmul(&weight.t().unwrap()).unwrap();
                assert_eq!(got.shape()[..], [m, n]);
                for (row, (got, exact)) in got.to_vec::<f32>().unwrap().into_iter().zip(&exact).enumerate() {
                    assert!((got - exact).abs() <= 1e-6 * k as f32 * 1e-6, "{m} x {k} x {n}, {row}: {got} for {exact}");
                }
            }
        }
    }

    /// Without a term, with numbers whose sums are exact: the sums' f16 to the bit. Some are beyond its range.
    fn rounded_products_keep_the_powers_of_two(device) {
        for (m, k, n) in [(3, 5, 7), (0, 4, 3), (3, 2, 0), (2, 0, 3), (70, 64, 68), (130, 96, 132)] {
            let eighths = |count: usize, step: usize| (0..count).map(move |i| ((i * step % 17) as f32 - 8.0) / 8.0);
            // Each row with another magnitude.
            let x: Vec<f32> = eighths(m * k, 29).enumerate().map(|(i, x)| x * 2f32.powi((i / k % 9) as i32 * 9 - 40)).collect();
            let w: Vec<f32> = eighths(n * k, 31).enumerate().map(|(i, w)| if i / k == 1 { w * 32_768.0 } else { w }).collect();
            let x = Tensor::from_slice(device, &[m, k], &x).unwrap().row_scaled().unwrap();
            let w = Tensor::from_slice(device, &[n, k], &w).unwrap().cast(DType::F16).unwrap().t().unwrap();
            let sums = x.values().cast(DType::F32).unwrap().matmul(&w.cast(DType::F32).unwrap()).unwrap();
            let got = x.as_left_operand().matmul_rounded(&w, None).unwrap();
            assert_eq!(got.shape()[..], [m, n]);
            assert_eq!(got.scales().to_vec::<f32>().unwrap(), x.scales().to_vec::<f32>().unwrap());
            let want: Vec<f16> = sums.to_vec::<f32>().unwrap().into_iter().map(f16::from_f32).collect();
            assert!(got.values().to_vec::<f16>().unwrap() == want, "{m} x {k} x {n}");
            assert_eq!(want.iter().any(|value| value.is_infinite()), m * k * n > 0, "{m} x {k} x {n}");
        }
    }

    fn matrices_are_rounded_together_as_alone(device) {
        // Of one shape or of several, more of one than a launch takes, some without elements.
        let matrices = prop::collection::vec((0usize..3, prop::collection::vec(-9f32..9.0, 4 * 70)), 0..9);
        let shapes = prop::collection::vec((0usize..5, prop_oneof![0usize..=9, Just(70)]), 3);
        check((matrices, shapes), |(matrices, shapes)| {
            let build = |(which, values): &(usize, Vec<f32>)| -> Result<Tensor> {
                let (rows, columns) = shapes[*which];
                Tensor::from_slice(device, &[rows, columns], &values[..rows * columns])
            };
            let xs: Vec<Tensor> = matrices.iter().map(build).collect::<Result<_>>()?;
            let together = row_scaled_together(&xs.iter().collect::<Vec<_>>())?;
            assert_eq!(together.len(), xs.len());
            for (x, found) in xs.iter().zip(together) {
                assert_eq!(found.shape(), x.shape());
                assert_eq!((found.values().to_vec()?, found.scales().to_vec()?), rounded(x)?);
            }
            Ok(())
        });
    }

    fn long_rows_are_rounded_together_as_alone(device) {
        // Three fit the registers, two, one, none.
        for columns in [4096, 16_384, 20_000, 40_000] {
            let numbers = |seed: usize| (0..2 * columns).map(move |i| ((i * 37 + seed) % 101) as f32 * 1e-3).collect();
            let xs = [1, 2, 3].map(|seed| Tensor::from_vec(device, &[2, columns], numbers(seed)).unwrap());
            for (x, found) in xs.iter().zip(row_scaled_together(&xs.each_ref()).unwrap()) {
                assert_eq!((found.values().to_vec().unwrap(), found.scales().to_vec().unwrap()), rounded(x).unwrap());
            }
        }
    }

    fn wrong_operands_are_named(device) {
        let ones = |shape: &[usize], dtype| Tensor::ones(device, shape, dtype).unwrap();
        let message = ones(&[2, 3, 4], DType::F32).row_scaled().unwrap_err().to_string();
        assert_eq!(message, "row_scaled: expected a matrix [rows, columns], found shape [2, 3, 4]");
        let message = ones(&[2, 3], DType::F16).row_scaled().unwrap_err().to_string();
        assert_eq!(message, "row_scaled: expected elements of type f32, found f16");
        let rounded = ones(&[2, 3], DType::F32).row_scaled().unwrap();
        let message = rounded.matmul(&ones(&[1, 3, 4], DType::F16)).unwrap_err().to_string();
        assert_eq!(message, "row_scaled_matmul: expected a matrix, found shape [1, 3, 4]");
    }
}

#[test]
#[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
fn backends_round_to_the_same_bits() {
    check(matrix(), |recipe| {
        assert_eq!(rounded(&recipe.build(&Device::cpu()))?, rounded(&recipe.build(crate::testing::gpu()))?);
        Ok(())
    });
}

/// Every form of input and number of outputs, rows that stay in registers and rows that do not.
#[test]
fn every_kernel_is_valid_wgsl() {
    use super::generator::{Config, Form};
    const NORM: &str = include_str!("../norm/rounded.wgsl");
    const GATE: &str = include_str!("../gated_unit/kernels/forward.wgsl");
    const PRODUCT: &str = include_str!("../gated_unit/kernels/product.wgsl");
    const GRADIENTS: &str = include_str!("../gated_unit/kernels/gradients.wgsl");
    const LOSS: &str = include_str!("../cross_entropy/rounded.wgsl");
    use Form::{Number, Rounded, Rows, Shared};
    type Kernel = (&'static str, &'static [(&'static str, Form)], usize);
    let kernels: [Kernel; 9] = [
        (include_str!("kernels/identity.wgsl"), &[("x", Rows)], 1),
        (NORM, &[("x", Rows), ("weight", Shared)], 1),
        (GATE, &[("gate", Rows), ("up", Rows)], 3),
        (PRODUCT, &[("gate", Rounded), ("up", Rounded)], 1),
        (GRADIENTS, &[("gate", Rounded), ("up", Rounded), ("upstream", Rows)], 2),
        (GRADIENTS, &[("gate", Rounded), ("up", Rounded), ("upstream", Rounded)], 2),
        (include_str!("kernels/identity_two.wgsl"), &[("x", Rows), ("y", Rows)], 2),
        (include_str!("kernels/identity_three.wgsl"), &[("x", Rows), ("y", Rows), ("z", Rows)], 3),
        (LOSS, &[("x", Rows), ("sum", Number("f32")), ("label", Number("i32"))], 1),
    ];
    for (text, inputs, outputs) in kernels {
        for (vectors, aligned, native) in [(1, true, true), (4, false, false), (11, true, false), (100, false, true)] {
            for in_tiles in [0, 1, outputs] {
                let wgsl = Config { inputs, outputs, text, vectors, aligned, native, in_tiles }.wgsl();
                crate::gpu::validate("row_scaled", &wgsl, &[("TEAM", 64.0)]);
            }
        }
    }
    let norm =
        Config { inputs: kernels[1].1, outputs: 1, text: NORM, vectors: 2, aligned: true, native: false, in_tiles: 1 };
    crate::gpu::assert_as_reviewed("row_scaled", "rms_norm_row_scaled_2_aligned_tiles1", &norm.wgsl());
    let inputs = kernels[4].1;
    let gate = Config { inputs, outputs: 2, text: GRADIENTS, vectors: 100, aligned: false, native: true, in_tiles: 0 };
    crate::gpu::assert_as_reviewed("row_scaled", "silu_mul_gradients_0_native", &gate.wgsl());
}

/// One of two in tiles, rows that stay in registers and rows that do not.
#[test]
#[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
fn matrices_are_written_in_tiles() {
    let Backend::Gpu(backend) = gpu().backend() else { panic!("a GPU") };
    for (rows, columns) in [(32, 16), (96, 48), (32, 40_000)] {
        let values = (0..rows * columns).map(|i| (i % 1009) as f32 * 1e-3 - (i % 7) as f32).collect();
        let x = Tensor::from_vec(gpu(), &[rows, columns], values).unwrap();
        let inputs = vec![("x", RowInput::Rows(&x)), ("y", RowInput::Rows(&x))];
        let text = include_str!("kernels/identity_two.wgsl");
        let numbers = RowNumbers::default();
        let kernel = RowKernel { name: "row_scaled_two", text, inputs, shape: [rows, columns], operands: 2, numbers };
        let found = kernel.run_in_tiles(backend, 2, 1).unwrap();
        let are_held = [0, 1].map(|output: usize| Tiles::Left(columns).hold(found[output].values()));
        assert_eq!(are_held, [true, false]);
        for found in found {
            assert_eq!((found.values().to_vec().unwrap(), found.scales().to_vec().unwrap()), rounded(&x).unwrap());
        }
    }
}
