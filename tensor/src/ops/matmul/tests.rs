use std::sync::Arc;

use proptest::prelude::*;

use super::generator::{Config, OperandConfig};
use super::selection::{
    CANDIDATES, Choice, TILE_16X64, TILE_32X32, TILE_64X16, TILE_64X64, TILE_128X32, TILE_128X128, choose, split,
};
use super::{Product, gpu};
use crate::device::Backend;
use crate::tensor::Storage;
use crate::testing::{check, on_each_backend, recipe_of};
use crate::{DType, Device, Result, Tensor, bf16, f16};

/// An operand as it is stored: possibly transposed, possibly a window of something larger, of any float type.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
    dtype: DType,
    transposed: bool,
    /// Elements before and after the window along each of the last two axes; they hold NaN.
    margin: usize,
}

impl Stored {
    pub fn random(shape: &[usize], seed: u64, dtype: DType, transposed: bool, margin: usize) -> Self {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let values = (0..shape.iter().product::<usize>())
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
            })
            .collect();
        Stored { shape: shape.to_vec(), values, dtype, transposed, margin }.rounded()
    }

    /// The values as the type can hold them.
    fn rounded(mut self) -> Self {
        for value in &mut self.values {
            *value = match self.dtype {
                DType::F16 => f16::from_f32(*value).to_f32(),
                DType::Bf16 => bf16::from_f32(*value).to_f32(),
                _ => *value,
            };
        }
        self
    }

    pub fn build(&self, device: &Device) -> Tensor {
        let rank = self.shape.len();
        let [rows, columns] = [self.shape[rank - 2], self.shape[rank - 1]];
        let (outer, inner) = if self.transposed { (columns, rows) } else { (rows, columns) };
        let batch: usize = self.shape[..rank - 2].iter().product();
        let (tall, wide) = (outer + 2 * self.margin, inner + 2 * self.margin);
        let mut storage = vec![f32::NAN; batch * tall * wide];
        for (index, &value) in self.values.iter().enumerate() {
            let (matrix, row, column) = (index / (rows * columns), index / columns % rows, index % columns);
            let (o, i) = if self.transposed { (column, row) } else { (row, column) };
            storage[(matrix * tall + o + self.margin) * wide + i + self.margin] = value;
        }
        let shape = [&self.shape[..rank - 2], &[tall, wide]].concat();
        let whole = match self.dtype {
            DType::F16 => {
                let half: Vec<f16> = storage.into_iter().map(f16::from_f32).collect();
                Tensor::from_vec(device, &shape, half)
            }
            DType::Bf16 => {
                let half: Vec<bf16> = storage.into_iter().map(bf16::from_f32).collect();
                Tensor::from_vec(device, &shape, half)
            }
            _ => Tensor::from_vec(device, &shape, storage),
        };
        let window = whole.unwrap().slice(rank - 2, self.margin, self.margin + outer).unwrap();
        let window = window.slice(rank - 1, self.margin, self.margin + inner).unwrap();
        if self.transposed { window.t().unwrap() } else { window }
    }
}

/// The product in f64 and the sums of the terms' magnitudes, for operands given by logical shape and values.
pub(super) fn reference(a_shape: &[usize], a: &[f32], b_shape: &[usize], b: &[f32]) -> (Vec<usize>, Vec<(f64, f64)>) {
    let [m, k] = [a_shape[a_shape.len() - 2], a_shape[a_shape.len() - 1]];
    let n = b_shape[b_shape.len() - 1];
    let (a_batch, b_batch) = (&a_shape[..a_shape.len() - 2], &b_shape[..b_shape.len() - 2]);
    let rank = a_batch.len().max(b_batch.len());
    let extent =
        |batch: &[usize], axis: usize| if axis + batch.len() < rank { 1 } else { batch[axis + batch.len() - rank] };
    let batch: Vec<usize> = (0..rank)
        .map(|axis| if extent(a_batch, axis) == 1 { extent(b_batch, axis) } else { extent(a_batch, axis) })
        .collect();
    let matrix = |own: &[usize], index: &[usize]| {
        (0..rank).fold(0, |at, axis| {
            let here = extent(own, axis);
            at * here + if here == 1 { 0 } else { index[axis] }
        })
    };
    let mut out = Vec::new();
    for flat in 0..batch.iter().product::<usize>() {
        let mut index = vec![0; rank];
        let mut rest = flat;
        for axis in (0..rank).rev() {
            index[axis] = rest % batch[axis];
            rest /= batch[axis];
        }
        let (a, b) = (&a[matrix(a_batch, &index) * m * k..], &b[matrix(b_batch, &index) * k * n..]);
        for i in 0..m {
            for j in 0..n {
                let terms = (0..k).map(|p| f64::from(a[i * k + p]) * f64::from(b[p * n + j]));
                out.push(terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs())));
            }
        }
    }
    ([&batch[..], &[m, n]].concat(), out)
}

/// |got − want| within the worst rounding of a sum of k products in f32.
pub(super) fn assert_product(got: &Tensor, shape: &[usize], want: &[(f64, f64)], k: usize) -> Result<()> {
    assert_eq!(got.shape()[..], *shape);
    for (i, (got, &(want, size))) in got.to_vec::<f32>()?.into_iter().zip(want).enumerate() {
        let bound = (k as f64 + 2.0) * f64::from(f32::EPSILON) * size;
        assert!((f64::from(got) - want).abs() <= bound, "{shape:?}[{i}]: {got} instead of {want} ± {bound}");
    }
    Ok(())
}

pub(super) fn check_pair(device: &Device, a: &Stored, b: &Stored) -> Result<()> {
    let (shape, want) = reference(&a.shape, &a.values, &b.shape, &b.values);
    let got = a.build(device).matmul(&b.build(device))?;
    assert_product(&got, &shape, &want, a.shape[a.shape.len() - 1])
}

fn dtype() -> impl Strategy<Value = DType> {
    prop_oneof![Just(DType::F32), Just(DType::F16), Just(DType::Bf16)]
}

/// Extents that meet the tiles' edges, the vectors' alignment, primes, one and zero.
fn extent() -> impl Strategy<Value = usize> {
    prop_oneof![0usize..=9, Just(16), Just(20), Just(31), Just(32), Just(36)]
}

fn stored(shape: Vec<usize>) -> impl Strategy<Value = Stored> {
    (any::<u64>(), dtype(), any::<bool>(), 0usize..=4).prop_map(move |(seed, dtype, transposed, margin)| {
        // Margins of 4 keep vectors possible.
        Stored::random(&shape, seed, dtype, transposed, if margin == 3 { 0 } else { margin })
    })
}

fn pair() -> impl Strategy<Value = (Stored, Stored)> {
    (prop::collection::vec((1usize..=3, 0u8..4), 0..=2), extent(), extent(), extent(), 0usize..=2).prop_flat_map(
        |(batch, m, n, k, lost)| {
            let axes = |thin: u8| batch.iter().map(move |&(extent, choice)| if choice == thin { 1 } else { extent });
            let a: Vec<usize> = axes(1).chain([m, k]).collect();
            let b: Vec<usize> = axes(2).skip(lost).chain([k, n]).collect();
            (stored(a), stored(b))
        },
    )
}

/// Two f32 recipes with any order of axes in storage: neither of the last two need be contiguous.
fn recipes() -> impl Strategy<Value = (crate::testing::Recipe, crate::testing::Recipe)> {
    (1usize..=3, 1usize..=7, 1usize..=7, 1usize..=7).prop_flat_map(|(batch, m, n, k)| {
        (recipe_of(vec![batch, m, k], -2.0..2.0), recipe_of(vec![batch, k, n], -2.0..2.0))
    })
}

on_each_backend! {
    fn agrees_with_f64(device) {
        check(pair(), |(a, b)| check_pair(device, &a, &b));
    }

    fn any_strides_are_read(device) {
        check(recipes(), |(a, b)| {
            let narrow = |values: Vec<f64>| values.into_iter().map(|x| x as f32).collect::<Vec<_>>();
            let (shape, want) = reference(a.shape(), &narrow(a.values()), b.shape(), &narrow(b.values()));
            assert_product(&a.build(device).matmul(&b.build(device))?, &shape, &want, a.shape()[2])
        });
    }

    fn middling_sizes_agree_with_f64(device) {
        for (m, n, k) in [(70, 130, 40), (129, 64, 33), (5, 200, 300), (200, 8, 260), (1, 300, 64)] {
            for (a_transposed, b_transposed) in [(false, true), (true, false)] {
                let a = Stored::random(&[m, k], 3, DType::F32, a_transposed, 0);
                let b = Stored::random(&[k, n], 4, DType::Bf16, b_transposed, 0);
                check_pair(device, &a, &b).unwrap();
            }
        }
    }

    fn operands_may_repeat_themselves(device) {
        // Strides of 0: a row of ones against every row of a matrix, and a repeated batch.
        let ones = Tensor::from_slice(device, &[1, 1], &[1.0f32]).unwrap().broadcast_to(&[3, 4]).unwrap();
        let b = Tensor::from_slice(device, &[4, 2], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]).unwrap();
        let got = ones.matmul(&b).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(got, [16.0, 20.0, 16.0, 20.0, 16.0, 20.0]);
        let repeated = b.unsqueeze(0).unwrap().broadcast_to(&[2, 4, 2]).unwrap();
        let got = repeated.t().unwrap().matmul(&b).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(got, [84.0, 100.0, 100.0, 120.0, 84.0, 100.0, 100.0, 120.0]);
    }

    fn empty_products(device) {
        let zeros = |shape: &[usize]| Tensor::zeros(device, shape, DType::F32).unwrap();
        let got = zeros(&[2, 0]).matmul(&zeros(&[0, 3])).unwrap();
        assert_eq!(got.shape()[..], [2, 3]);
        assert_eq!(got.to_vec::<f32>().unwrap(), [0.0; 6]);
        for (a, b, shape) in [(&[0, 4], &[4, 3], [0, 3]), (&[2, 4], &[4, 0], [2, 0])] {
            let got = zeros(a).matmul(&zeros(b)).unwrap();
            assert_eq!(got.shape()[..], shape);
            assert!(got.to_vec::<f32>().unwrap().is_empty());
        }
        assert_eq!(zeros(&[0, 2, 3]).matmul(&zeros(&[3, 5])).unwrap().shape()[..], [0, 2, 5]);
        let c = Tensor::ones(device, &[2, 3], DType::F32).unwrap();
        let c = c.matmul_accumulate(&zeros(&[2, 0]), &zeros(&[0, 3]), 2.0).unwrap();
        assert_eq!(c.to_vec::<f32>().unwrap(), [1.0; 6]);
    }

    fn accumulates_into_its_own_elements(device) {
        check((pair(), -2.0f32..2.0), |((a, b), alpha)| {
            let k = a.shape[a.shape.len() - 1];
            let (shape, want) = reference(&a.shape, &a.values, &b.shape, &b.values);
            let c = Stored::random(&shape, 5, DType::F32, false, 0);
            let want: Vec<(f64, f64)> = want
                .iter()
                .zip(&c.values)
                .map(|(&(sum, size), &c)| {
                    (f64::from(c) + f64::from(alpha) * sum, f64::from(c).abs() + f64::from(alpha.abs()) * size)
                })
                .collect();
            let (a, b) = (a.build(device), b.build(device));
            let got = c.build(device).matmul_accumulate(&a, &b, alpha)?;
            assert_product(&got, &shape, &want, k)
        });
    }

    fn accumulating_changes_no_other_holder(device) {
        let square = Tensor::from_slice(device, &[2, 2], &[1.0f32, 2.0, 3.0, 4.0]).unwrap();
        let sum = square.clone().matmul_accumulate(&square, &square, 1.0).unwrap();
        assert_eq!(sum.to_vec::<f32>().unwrap(), [8.0, 12.0, 18.0, 26.0]);
        assert_eq!(square.to_vec::<f32>().unwrap(), [1.0, 2.0, 3.0, 4.0]);
        // A view of something larger is copied first as well.
        let large = Tensor::ones(device, &[3, 2], DType::F32).unwrap();
        let sum = large.slice(0, 1, 3).unwrap().matmul_accumulate(&square, &square, 2.0).unwrap();
        assert_eq!(sum.to_vec::<f32>().unwrap(), [15.0, 21.0, 31.0, 45.0]);
        assert_eq!(large.to_vec::<f32>().unwrap(), [1.0; 6]);
    }

    fn the_only_holder_keeps_its_memory(device) {
        let address = |tensor: &Tensor| match &tensor.storage {
            Storage::Cpu(storage) => Arc::as_ptr(storage) as usize,
            Storage::Gpu(storage) => Arc::as_ptr(storage) as usize,
        };
        let a = Tensor::ones(device, &[64, 8], DType::F32).unwrap();
        let c = Tensor::zeros(device, &[64, 64], DType::F32).unwrap();
        let before = address(&c);
        let c = c.matmul_accumulate(&a, &a.t().unwrap(), 1.0).unwrap();
        assert_eq!(address(&c), before);
        assert_eq!(c.to_vec::<f32>().unwrap(), vec![8.0; 64 * 64]);
    }

    fn nan_and_infinity_stay_in_their_rows_and_columns(device) {
        for (m, n, k) in [(3, 5, 7), (33, 36, 20)] {
            let mut a = Stored::random(&[m, k], 1, DType::F32, false, 1);
            let b = Stored::random(&[k, n], 2, DType::F32, true, 1);
            a.values[2 * k + 1] = f32::NAN;
            a.values[k] = f32::INFINITY;
            let got = a.build(device).matmul(&b.build(device)).unwrap().to_vec::<f32>().unwrap();
            for (i, value) in got.into_iter().enumerate() {
                match i / n {
                    2 => assert!(value.is_nan(), "element {i} is {value}"),
                    1 => assert!(value.is_infinite(), "element {i} is {value}"),
                    _ => assert!(value.is_finite(), "element {i} is {value}"),
                }
            }
        }
    }

    fn large_magnitudes_neither_overflow_nor_vanish(device) {
        // The products stay clear of subnormal numbers, which GPUs may take for zero.
        for scale in [1e-16f32, 1e18] {
            let grow = |mut x: Stored| {
                x.values.iter_mut().for_each(|x| *x *= scale);
                x
            };
            let a = grow(Stored::random(&[9, 13], 1, DType::F32, false, 0));
            let b = grow(Stored::random(&[13, 6], 2, DType::F32, false, 0));
            check_pair(device, &a, &b).unwrap();
        }
    }

    fn more_matrices_than_one_grid_dimension_has_workgroups(device) {
        let count = 65_600;
        let values: Vec<f32> = (0..count).map(|i| (i % 251) as f32).collect();
        let a = Tensor::from_slice(device, &[count, 1, 1], &values).unwrap();
        let b = Tensor::from_slice(device, &[count, 1, 1], &values).unwrap();
        let got = a.matmul(&b).unwrap().to_vec::<f32>().unwrap();
        for (i, value) in got.into_iter().enumerate() {
            assert_eq!(value, values[i] * values[i], "matrix {i}");
        }
    }

    fn wrong_operands_are_named(device) {
        let zeros = |shape: &[usize], dtype| Tensor::zeros(device, shape, dtype).unwrap();
        let message = |a: &Tensor, b: &Tensor| a.matmul(b).unwrap_err().to_string();
        let a = zeros(&[2, 3], DType::F32);
        assert_eq!(
            message(&a, &zeros(&[4, 5], DType::F32)),
            "matmul: expected [.., 3, n] to follow a left operand of shape [2, 3], found shape [4, 5]"
        );
        assert_eq!(
            message(&a, &zeros(&[3], DType::F32)),
            "matmul: expected at least two axes, found shape [3]"
        );
        assert_eq!(
            message(&a, &zeros(&[3, 5], DType::U32)),
            "matmul: expected elements of type f32, f16 or bf16, found u32"
        );
        assert!(message(&zeros(&[2, 2, 3], DType::F32), &zeros(&[3, 3, 3], DType::F32)).contains("do not broadcast"));
        let c = zeros(&[2, 4], DType::F32).matmul_accumulate(&a, &zeros(&[3, 5], DType::F32), 1.0);
        assert_eq!(c.unwrap_err().to_string(), "matmul_accumulate: expected [2, 5], found shape [2, 4]");
    }
}

#[test]
fn batches_that_share_the_right_operand_become_rows() {
    let device = Device::cpu();
    let zeros = |shape: &[usize]| Tensor::zeros(&device, shape, DType::F32).unwrap();
    let product = Product::new("test", &zeros(&[2, 3, 4, 5]), &zeros(&[5, 6])).unwrap();
    assert_eq!((product.m, product.batches()), (24, 1));
    // Rows that do not continue from batch to batch stay apart.
    let gaps = zeros(&[2, 5, 5]).slice(1, 0, 4).unwrap();
    let product = Product::new("test", &gaps, &zeros(&[5, 6])).unwrap();
    assert_eq!((product.m, product.batches()), (4, 2));
    // One row each, far apart: a row stride is all it takes.
    let product = Product::new("test", &gaps.slice(1, 0, 1).unwrap(), &zeros(&[5, 6])).unwrap();
    assert_eq!((product.m, product.batches(), product.a.stride), (2, 1, 25));
}

#[test]
#[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
fn every_tile_and_split_agrees_with_f64() {
    let device = crate::testing::gpu();
    let Backend::Gpu(opened) = device.backend() else { panic!("the test device is a GPU") };
    for tile in CANDIDATES.map(|candidate| candidate.tile) {
        // Whole tiles with vectors, and ragged edges element by element.
        for (ragged, parts) in [(0, 2), (3, 1)] {
            let (m, n) = (tile.rows as usize + 4 + ragged, tile.columns as usize + 8 + ragged);
            let k = 3 * tile.depth as usize + 4 + ragged;
            for layout in 0..2 {
                let a = Stored::random(&[m, k], 1, DType::F32, layout == 0, 0);
                let b = Stored::random(&[k, n], 2, DType::F16, layout == 0, 0);
                let (a_built, b_built) = (a.build(device), b.build(device));
                let product = Product::new("test", &a_built, &b_built).unwrap();
                let choice = split(tile, k, parts);
                let mut out = Tensor::ones(device, &[m, n], DType::F32).unwrap();
                gpu::write_as(opened, &product, choice, &mut out, 0.5, true).unwrap();
                let (shape, want) = reference(&a.shape, &a.values, &b.shape, &b.values);
                let want: Vec<_> = want.iter().map(|&(sum, size)| (1.0 + 0.5 * sum, 1.0 + 0.5 * size)).collect();
                assert_product(&out, &shape, &want, k).unwrap();
            }
        }
    }
}

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];

fn configurations() -> impl Iterator<Item = Config> {
    let operands =
        |dtype| {
            [(false, false), (false, true), (true, false), (true, true)]
                .map(|(depth_contiguous, vectors)| OperandConfig { dtype, depth_contiguous, vectors })
        };
    CANDIDATES.into_iter().flat_map(move |candidate| {
        let tile = candidate.tile;
        // All types on one side, all layouts and widths on both.
        DTYPES.into_iter().flat_map(operands).flat_map(move |b| {
            let a = operands(DType::F32).into_iter().chain(operands(b.dtype).into_iter().take(1));
            a.map(move |a| Config { tile, a, b, vector_out: b.vectors })
        })
    })
}

#[test]
fn every_configuration_is_valid_wgsl() {
    for config in configurations() {
        crate::gpu::validate(&config.name(), &config.wgsl(), &[]);
    }
    crate::gpu::validate("reduction", include_str!("reduction.wgsl"), &[]);
}

#[test]
fn names_tell_configurations_apart() {
    let mut texts = std::collections::HashMap::new();
    for config in configurations() {
        if let Some(other) = texts.insert(config.name(), config) {
            assert_eq!(other, config, "two configurations are called {}", config.name());
        }
    }
}

/// Every tile, layout, type and width at least once.
fn shipped() -> Vec<Config> {
    let operand = |dtype, depth_contiguous, vectors| OperandConfig { dtype, depth_contiguous, vectors };
    let (f32k, f32x) = (operand(DType::F32, true, true), operand(DType::F32, false, true));
    vec![
        Config { tile: TILE_128X128, a: f32k, b: f32k, vector_out: true },
        Config { tile: TILE_128X128, a: f32k, b: operand(DType::Bf16, false, true), vector_out: true },
        Config { tile: TILE_64X64, a: f32x, b: operand(DType::F16, true, true), vector_out: true },
        Config { tile: TILE_32X32, a: operand(DType::F32, true, false), b: f32x, vector_out: true },
        Config { tile: TILE_32X32, a: f32x, b: operand(DType::F32, false, false), vector_out: false },
        Config { tile: TILE_128X32, a: f32k, b: operand(DType::Bf16, true, true), vector_out: true },
        Config { tile: TILE_64X16, a: f32k, b: operand(DType::F16, true, false), vector_out: false },
        Config { tile: TILE_16X64, a: operand(DType::Bf16, false, false), b: f32x, vector_out: true },
    ]
}

#[test]
fn generated_text_is_as_reviewed() {
    for config in shipped() {
        crate::gpu::assert_as_reviewed("matmul", &config.name(), &config.wgsl());
    }
}

#[test]
fn the_choice_fills_the_gpu() {
    let tile_and_parts = |m, n, k, batches| {
        let choice = choose(m, n, k, batches);
        (choice.tile, choice.parts)
    };
    assert_eq!(tile_and_parts(4096, 4096, 4096, 1), (TILE_128X128, 1));
    assert_eq!(tile_and_parts(4096, 768, 768, 1), (TILE_64X64, 1));
    assert_eq!(tile_and_parts(512, 4096, 4096, 1), (TILE_128X128, 2));
    assert_eq!(tile_and_parts(4096, 32, 4096, 1).0, TILE_128X32);
    assert_eq!(tile_and_parts(4096, 8, 4096, 1).0, TILE_64X16);
    assert_eq!(tile_and_parts(1, 4096, 4096, 1).0, TILE_16X64);
    assert_eq!(choose(64, 64, 64, 96).parts, 1);
    for (m, n, k) in [(8, 4096, 4096), (4096, 8, 4096), (1, 4096, 4096), (512, 512, 4096)] {
        let Choice { tile, parts, depth_per_part } = choose(m, n, k, 1);
        let workgroups = m.div_ceil(tile.rows as usize) * n.div_ceil(tile.columns as usize) * parts;
        assert!(workgroups >= 132, "{m} x {n} x {k}: {workgroups} workgroups of {tile:?}");
        assert!(depth_per_part.is_multiple_of(tile.depth as usize) && depth_per_part * parts >= k);
        assert!(depth_per_part * (parts - 1) < k, "no part is empty");
    }
}

on_each_backend! {
    fn large_products_in_every_layout_agree(device) {
        // Large enough for operands to be turned; compared at a few places, since the reference is slow.
        let (m, n, k) = (1029, 1024, 512);
        let value = |i: usize, j: usize| ((i * 31 + j * 17) % 29) as f32 / 29.0 - 0.5;
        let matrix = |rows: usize, columns: usize, turned: bool| {
            let (outer, inner) = if turned { (columns, rows) } else { (rows, columns) };
            let at = |p: usize, q: usize| if turned { value(q, p) } else { value(p, q) };
            let values: Vec<f32> = (0..outer * inner).map(|i| at(i / inner, i % inner)).collect();
            let stored = Tensor::from_vec(device, &[outer, inner], values).unwrap();
            if turned { stored.t().unwrap() } else { stored }
        };
        let mut first: Option<Vec<f32>> = None;
        for (turn_a, turn_b) in [(false, true), (false, false), (true, false), (true, true)] {
            let got = matrix(m, k, turn_a).matmul(&matrix(k, n, turn_b)).unwrap().to_vec::<f32>().unwrap();
            for place in (0..m * n).step_by(70_001) {
                let (row, column) = (place / n, place % n);
                let want: f64 = (0..k).map(|i| f64::from(value(row, i)) * f64::from(value(i, column))).sum();
                assert!((f64::from(got[place]) - want).abs() < 1e-3, "[{row}, {column}]: {} for {want}", got[place]);
            }
            let first = first.get_or_insert_with(|| got.clone());
            assert!(first.iter().zip(&got).all(|(a, b)| (a - b).abs() < 1e-3), "{turn_a} {turn_b}");
        }
    }
}
