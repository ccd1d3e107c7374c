use proptest::prelude::*;

use crate::gpu::Tiles;
use crate::testing::{check, on_each_backend};
use crate::{
    Addends, DType, Device, FactorGradient, LowRankTerm, Projection, Result, RoundedFactor, RowScaled, Tensor, f16,
    projections, round_factors,
};

/// A matrix of f32 numbers with rows of magnitudes of their own.
#[derive(Clone, Debug)]
struct Matrix {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
}

impl Matrix {
    fn build(&self, device: &Device) -> Tensor {
        Tensor::from_slice(device, &[self.rows, self.columns], &self.values).expect("a matrix")
    }

    fn of(tensor: &Tensor) -> Result<Self> {
        Ok(Matrix { rows: tensor.shape()[0], columns: tensor.shape()[1], values: tensor.to_vec()? })
    }

    fn transposed(&self) -> Self {
        let values = (0..self.columns).flat_map(|c| (0..self.rows).map(move |r| (r, c)));
        let values = values.map(|(r, c)| self.values[r * self.columns + c]).collect();
        Matrix { rows: self.columns, columns: self.rows, values }
    }

    fn magnitudes(&self) -> Self {
        Matrix { values: self.values.iter().map(|x| x.abs()).collect(), ..self.clone() }
    }

    /// The product in f64, and the sum of its terms' magnitudes.
    fn times(&self, other: &Matrix) -> Vec<(f64, f64)> {
        let term = |i: usize, j: usize, k: usize| {
            f64::from(self.values[i * self.columns + k]) * f64::from(other.values[k * other.columns + j])
        };
        let sum = |i, j| (0..self.columns).map(|k| term(i, j, k)).fold((0.0, 0.0), |(s, a), x| (s + x, a + x.abs()));
        (0..self.rows).flat_map(|i| (0..other.columns).map(move |j| (i, j))).map(|(i, j)| sum(i, j)).collect()
    }
}

fn matrix(rows: usize, columns: usize, exponents: std::ops::Range<i32>) -> impl Strategy<Value = Matrix> {
    let powers = prop::collection::vec(exponents, rows);
    (prop::collection::vec(-2.0f32..2.0, rows * columns), powers).prop_map(move |(values, powers)| {
        let grown = |(i, x): (usize, f32)| x * 2f32.powi(powers[i / columns.max(1)]);
        Matrix { rows, columns, values: values.into_iter().enumerate().map(grown).collect() }
    })
}

/// x `[rows, inputs]`, dy `[rows, outputs]`, W `[outputs, inputs]`, A `[rank, inputs]`, B `[outputs, rank]`.
fn layer() -> impl Strategy<Value = [Matrix; 5]> {
    let extent = || prop_oneof![1usize..=9, Just(32), Just(64), Just(96), Just(100), Just(132)];
    (prop_oneof![0usize..=5, Just(64), Just(70), Just(160)], extent(), extent(), prop_oneof![1usize..=8, Just(40)])
        .prop_flat_map(|(rows, inputs, outputs, rank)| {
            let factor = -20..-18;
            (
                matrix(rows, inputs, -30..30),
                matrix(rows, outputs, -60..-30),
                matrix(outputs, inputs, 0..1),
                matrix(rank, inputs, factor.clone()),
                matrix(outputs, rank, factor),
            )
        })
        .prop_map(|(x, dy, w, a, b)| [x, dy, w, a, b])
}

fn project(matrix: &RowScaled, factor: &RoundedFactor) -> Result<Projection> {
    Ok(projections(&[(matrix, factor)])?.remove(0))
}

fn factor_gradients(gradients: &[FactorGradient<'_>]) -> Result<Vec<Tensor>> {
    crate::factor_gradients(gradients.iter().map(|gradient| (*gradient, None)).collect())
}

/// Checks that gradients are added to totals, those that somebody else holds included, for gradients that are `alone` otherwise.
fn check_totals(gradients: &[FactorGradient<'_>], alone: &[Tensor]) -> Result<()> {
    let (mut kept, mut with_totals) = (Vec::new(), Vec::new());
    for (i, gradient) in gradients.iter().enumerate() {
        let total = Tensor::full(gradient.matrix.device(), &gradient.like.shape(), DType::F32, 0.75)?;
        if i % 3 == 1 {
            kept.push(total.clone());
        }
        with_totals.push((*gradient, (i % 3 > 0).then_some(total)));
    }
    for (i, (found, alone)) in crate::factor_gradients(with_totals)?.iter().zip(alone).enumerate() {
        let total = if i % 3 > 0 { 0.75 } else { 0.0 };
        for (found, alone) in found.to_vec::<f32>()?.into_iter().zip(alone.to_vec::<f32>()?) {
            // The product with alpha may be rounded or not before it is added.
            assert!((found - alone - total).abs() <= 1e-6 * (total + alone.abs()), "{found} for {total} + {alone}");
        }
    }
    assert!(kept.iter().all(|total| total.to_vec::<f32>().is_ok_and(|total| total.iter().all(|&x| x == 0.75))));
    Ok(())
}

/// The largest magnitude in each row.
fn row_sizes(matrix: &Matrix) -> Vec<f64> {
    let largest = |row: &[f32]| row.iter().fold(0.0f64, |largest, x| largest.max(f64::from(x.abs())));
    matrix.values.chunks(matrix.columns.max(1)).map(largest).collect()
}

on_each_backend! {
    fn factors_keep_eleven_bits_and_are_padded(device) {
        let shapes = (prop_oneof![1usize..=9, Just(33), Just(70)], prop_oneof![1usize..=9, Just(257), Just(1030)], -100i32..100, 0usize..2);
        let case = shapes.prop_flat_map(|(rows, columns, exponent, rank_axis)| {
            (matrix(rows, columns, exponent..exponent + 1), Just(rank_axis))
        });
        check(case, |(factor, rank_axis)| {
            let rounded = factor.build(device).rounded_factor(rank_axis)?;
            let largest = factor.values.iter().fold(0.0f64, |largest, x| largest.max(f64::from(x.abs())));
            let scale = f64::from(rounded.scale.to_vec::<f32>()?[0]);
            assert!(scale.log2().fract() == 0.0 && largest < 2.0 * scale && largest >= scale.min(2f64.powi(-125)));
            let padded = rounded.values.shape()[..].to_vec();
            assert_eq!(padded[rank_axis], rounded.rank.next_multiple_of(32));
            assert_eq!(rounded.shape(), [factor.rows, factor.columns]);
            for (i, value) in rounded.values.to_vec::<f16>()?.into_iter().enumerate() {
                let (row, column) = (i / padded[1], i % padded[1]);
                if row >= factor.rows || column >= factor.columns {
                    assert_eq!(value, f16::ZERO);
                    continue;
                }
                let x = f64::from(factor.values[row * factor.columns + column]);
                let bound = (x.abs() * 2f64.powi(-11)).max(largest * 2f64.powi(-25));
                assert!((f64::from(value.to_f32()) * scale - x).abs() <= bound, "{value} for {x}");
            }
            Ok(())
        });
    }

    fn products_agree_with_f64(device) {
        check(layer(), |[x, dy, w, a, b]| {
            let alpha = 1.5f32;
            let (rounded_x, rounded_dy) = (x.build(device).row_scaled()?, dy.build(device).row_scaled()?);
            let weight = w.build(device).cast(DType::F16)?;
            let (factor_a, factor_b) = (a.build(device).rounded_factor(0)?, b.build(device).rounded_factor(1)?);
            // What the products are to be of.
            let (x, dy) = (Matrix::of(&rounded_x.restored()?)?, Matrix::of(&rounded_dy.restored()?)?);
            let w = Matrix::of(&weight.cast(DType::F32)?)?;

            let h = project(&rounded_x, &factor_a)?;
            let term = LowRankTerm { projection: &h, factor: &factor_b, alpha };
            let exact_h = x.times(&a.transposed());
            let h_sizes: Vec<f64> = exact_h.chunks(a.rows).map(|row| row.iter().map(|h| h.1).sum()).collect();
            let b_size = row_sizes(&Matrix { rows: 1, columns: b.values.len(), values: b.values.clone() })[0];
            let onto = Tensor::from_vec(device, &[x.rows, w.rows], vec![0.25f32; x.rows * w.rows])?;
            let kept = onto.clone();
            let exact_y = x.times(&w.transposed());
            let bias: Vec<f32> = (0..w.rows).map(|column| column as f32 * 0.5).collect();
            let bias = Tensor::from_vec(device, &[w.rows], bias)?;
            let product = |bias, onto| {
                let addends = Addends { low_rank: Some(term), bias, onto };
                rounded_x.matmul_plus(&weight.t()?, addends)?.to_vec::<f32>()
            };
            let (plain, added) = (product(None, None)?, product(Some(&bias), Some(onto))?);
            assert!(kept.to_vec::<f32>()?.iter().all(|&x| x == 0.25), "other holders keep their values");
            let halves = rounded_x.as_left_operand().matmul_rounded(&weight.t()?, Some(term))?;
            assert_eq!(halves.scales().to_vec::<f32>()?, rounded_x.scales().to_vec::<f32>()?, "powers of two stay");
            let (halves, powers) = (halves.restored()?.to_vec::<f32>()?, rounded_x.scales().to_vec::<f32>()?);
            for (i, (base, base_size)) in exact_y.iter().enumerate() {
                let (row, column) = (i / w.rows, i % w.rows);
                let update: f64 = (0..a.rows).map(|j| exact_h[row * a.rows + j].0 * f64::from(b.values[column * a.rows + j])).sum();
                let want = base + 1.5 * update;
                let bound = base_size * 1e-5 + 3e-3 * h_sizes[row] * b_size;
                assert!((f64::from(plain[i]) - want).abs() <= bound, "{} for {want}", plain[i]);
                let lost = ((want.abs() + bound) * 2f64.powi(-11)).max(f64::from(powers[row]) * 2f64.powi(-25));
                assert!((f64::from(halves[i]) - want).abs() <= bound + lost, "{} for {want} in 16 bits", halves[i]);
                let more = 0.25 + 0.5 * column as f64;
                let bound = bound + 1e-6 * (more + want.abs());
                assert!((f64::from(added[i]) - more - want).abs() <= bound, "{} for {more} + {want}", added[i]);
            }

            let g = project(&rounded_dy, &factor_b)?;
            let of_b = FactorGradient { matrix: &rounded_dy, projection: &h, like: &factor_b, alpha };
            let of_a = FactorGradient { matrix: &rounded_x, projection: &g, like: &factor_a, alpha };
            let gradients = factor_gradients(&[of_b, of_a])?;
            let exact_g = dy.times(&b);
            let columns = a.rows;
            let exact = |values: &[(f64, f64)]| Matrix { rows: x.rows, columns, values: values.iter().map(|v| v.0 as f32).collect() };
            let sizes = |values: &[(f64, f64)]| Matrix { rows: x.rows, columns, values: values.iter().map(|v| v.1 as f32).collect() };
            let wanted_b = dy.transposed().times(&exact(&exact_h));
            let sizes_b = dy.magnitudes().transposed().times(&sizes(&exact_h));
            let wanted_a = exact(&exact_g).transposed().times(&x);
            let sizes_a = sizes(&exact_g).transposed().times(&x.magnitudes());
            for (name, got, wanted, sizes) in [("dB", &gradients[0], wanted_b, sizes_b), ("dA", &gradients[1], wanted_a, sizes_a)] {
                let got = Matrix::of(got)?;
                assert_eq!(got.values.len(), wanted.len(), "{name}");
                // Small elements of the factor, and rows far below the largest, keep an absolute precision.
                let largest = sizes.iter().map(|size| size.0).fold(0.0, f64::max);
                for ((got, (wanted, _)), (size, _)) in got.values.iter().zip(&wanted).zip(&sizes) {
                    let bound = 1.5 * (2e-3 * size + 1e-5 * largest);
                    assert!((f64::from(*got) - 1.5 * wanted).abs() <= bound, "{name}: {got} for {}", 1.5 * wanted);
                }
            }
            Ok(())
        });
    }

    fn gradients_do_not_depend_on_a_loss_scale(device) {
        let numbers = |count: usize, step: usize| -> Vec<f32> { (0..count).map(|i| ((i * step % 101) as f32 - 50.0) * 1e-3).collect() };
        let x = Tensor::from_slice(device, &[70, 64], &numbers(70 * 64, 37)).unwrap().row_scaled().unwrap();
        let dy = Tensor::from_slice(device, &[70, 32], &numbers(70 * 32, 29)).unwrap();
        let a = Tensor::from_slice(device, &[4, 64], &numbers(256, 31)).unwrap().rounded_factor(0).unwrap();
        let b = Tensor::from_slice(device, &[32, 4], &numbers(128, 17)).unwrap().rounded_factor(1).unwrap();
        let gradients = |loss_scale: f32| {
            let dy = dy.affine(loss_scale, 0.0).unwrap().row_scaled().unwrap();
            let (h, g) = (project(&x, &a).unwrap(), project(&dy, &b).unwrap());
            let of_b = FactorGradient { matrix: &dy, projection: &h, like: &b, alpha: 2.0 };
            let of_a = FactorGradient { matrix: &x, projection: &g, like: &a, alpha: 2.0 };
            let gradients = factor_gradients(&[of_a, of_b]).unwrap();
            gradients.iter().flat_map(|gradient| gradient.to_vec::<f32>().unwrap()).collect::<Vec<_>>()
        };
        let plain = gradients(1.0);
        assert!(plain.iter().any(|&x| x != 0.0));
        for exponent in [-60, -24, 16, 60] {
            let scale = 2f32.powi(exponent);
            assert!(gradients(scale).iter().zip(&plain).all(|(scaled, plain)| *scaled == plain * scale), "{exponent}");
        }
    }

    fn layers_are_computed_together_as_alone(device) {
        // Up to eight layers, of shapes that tensor cores suit and others, some alike.
        let shape = (prop_oneof![0usize..=5, Just(16), Just(64), Just(140)], 0usize..3, prop_oneof![Just(3usize), Just(40)]);
        let shape = shape.prop_map(|(rows, width, rank)| [rows, [6, 64, 72][width], rank]);
        let layers = prop::collection::vec((0usize..3, any::<[bool; 2]>(), any::<u32>()), 0..9);
        check((prop::collection::vec(shape, 3), layers), |(shapes, layers)| {
            let numbers = |shape: [usize; 2], seed: u32| {
                let value = |i: usize| ((i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32 * 1e-7 - 0.8;
                Tensor::from_vec(device, &shape, (0..shape[0] * shape[1]).map(value).collect::<Vec<f32>>())
            };
            let build = |&(shape, [by_rank, by_other_rank], seed): &(usize, [bool; 2], u32)| -> Result<_> {
                let [rows, width, rank] = shapes[shape];
                let factor = |by_rank, seed| match by_rank {
                    true => numbers([rank, width], seed)?.rounded_factor(0),
                    false => numbers([width, rank], seed)?.rounded_factor(1),
                };
                let matrix = |seed| numbers([rows, width], seed)?.row_scaled();
                Ok((matrix(seed)?, factor(by_rank, seed ^ 1)?, matrix(seed ^ 2)?, factor(by_other_rank, seed ^ 3)?))
            };
            let layers: Vec<_> = layers.iter().map(build).collect::<Result<_>>()?;
            let products: Vec<_> = layers.iter().map(|(x, a, ..)| (x, a)).collect();
            let together = projections(&products)?;
            let layers = layers.iter().zip(&together);
            let gradients: Vec<_> = layers
                .map(|((.., y, b), projection)| FactorGradient { matrix: y, projection, like: b, alpha: 0.5 })
                .collect();
            let computed = factor_gradients(&gradients)?;
            assert_eq!([together.len(), computed.len()], [products.len(); 2]);
            for (((x, a), together), (gradient, found)) in products.iter().zip(&together).zip(gradients.iter().zip(&computed)) {
                assert_eq!(together.values.to_vec::<f16>()?, project(x, a)?.values.to_vec::<f16>()?);
                assert_eq!(found.shape()[..], gradient.like.shape());
                assert_eq!(found.to_vec::<f32>()?, factor_gradients(&[*gradient])?[0].to_vec::<f32>()?);
            }
            check_totals(&gradients, &computed)
        });
    }

    fn wrong_operands_are_named(device) {
        let ones = |shape: &[usize]| Tensor::ones(device, shape, DType::F32).unwrap();
        let message = ones(&[2, 3, 4]).rounded_factor(0).unwrap_err().to_string();
        assert_eq!(message, "rounded_factor: expected a factor [rank, width] or [width, rank], found shape [2, 3, 4]");
        assert!(ones(&[2, 3]).rounded_factor(2).is_err());
        assert!(ones(&[2, 3]).cast(DType::F16).unwrap().rounded_factor(0).is_err());
        let (x, a) = (ones(&[5, 4]).row_scaled().unwrap(), ones(&[2, 3]).rounded_factor(0).unwrap());
        assert!(project(&x, &a).unwrap_err().to_string().starts_with("project: expected "));
        let (other, b) = (ones(&[6, 4]).row_scaled().unwrap(), ones(&[2, 4]).rounded_factor(0).unwrap());
        let projection = project(&other, &b).unwrap();
        let gradient = FactorGradient { matrix: &x, projection: &projection, like: &b, alpha: 1.0 };
        assert!(factor_gradients(&[gradient]).is_err());
        let a = ones(&[3, 4]).rounded_factor(0).unwrap();
        let projection = project(&x, &ones(&[3, 4]).rounded_factor(0).unwrap()).unwrap();
        let gradient = FactorGradient { matrix: &x, projection: &projection, like: &a, alpha: 1.0 };
        let message = crate::factor_gradients(vec![(gradient, Some(ones(&[4, 3])))]).unwrap_err().to_string();
        assert!(message.starts_with("factor_gradient: expected ") && message.ends_with("found shape [4, 3]"), "{message}");
        let message = round_factors(&[(&ones(&[2, 3]), 0), (&ones(&[2]), 0)]).unwrap_err().to_string();
        assert!(message.ends_with("found shape [2]"), "{message}");
    }

    fn factors_are_rounded_together_as_alone(device) {
        // Small and large ones, some as views of something larger, more than one launch takes.
        let numbers = |rows: usize, columns: usize, exponent: i32| {
            let values: Vec<f32> = (0..rows * columns).map(|i| (i * 37 % 1009) as f32 * 2f32.powi(exponent)).collect();
            Tensor::from_vec(device, &[rows, columns], values).unwrap()
        };
        let factors: Vec<(Tensor, usize)> = (0..8)
            .map(|i| match i % 4 {
                0 => (numbers(4, 100 + i, -20), 0),
                1 => (numbers(3000, 8, i as i32), 1),
                2 => (numbers(20, 70, 3).slice(0, 5, 9 + i).unwrap(), 0),
                _ => (numbers(33, 700, -60), 0),
            })
            .collect();
        let borrowed: Vec<(&Tensor, usize)> = factors.iter().map(|(factor, axis)| (factor, *axis)).collect();
        let together = round_factors(&borrowed).unwrap();
        assert_eq!(together.len(), factors.len());
        for (rounded, (factor, axis)) in together.iter().zip(&factors) {
            let alone = factor.rounded_factor(*axis).unwrap();
            assert_eq!(rounded.shape(), alone.shape());
            assert_eq!(rounded.scale.to_vec::<f32>().unwrap(), alone.scale.to_vec::<f32>().unwrap());
            assert_eq!(rounded.values.to_vec::<f16>().unwrap(), alone.values.to_vec::<f16>().unwrap());
        }
        assert!(round_factors(&[]).unwrap().is_empty());
    }
}

/// Layers side by side with more rows than a tile, of one shape and of two, whose inner extents are split alike in both ways.
#[test]
#[cfg_attr(not(feature = "cooperative-tests"), ignore = "needs tensor cores: --features cooperative-tests")]
fn large_layers_are_computed_together_as_alone() {
    let device = crate::testing::gpu();
    let numbers = |shape: &[usize], seed: usize| {
        let values = (0..shape[0] * shape[1]).map(|i| ((i * 7919 + seed * 31) % 1009) as f32 * 1e-3 - 0.5);
        Tensor::from_vec(device, shape, values.collect::<Vec<f32>>()).unwrap()
    };
    for (rows, inputs, outputs, rank) in
        [(1100, 1024, [1024; 3], 8), (256, 288, [288, 96, 96], 40), (20, 64, [64; 3], 4)]
    {
        let x = numbers(&[rows, inputs], 1).row_scaled().unwrap();
        let dys = outputs.map(|width| numbers(&[rows, width], width).row_scaled().unwrap());
        let a = [1, 2, 3].map(|seed| numbers(&[rank, inputs], seed).rounded_factor(0).unwrap());
        let b = outputs.map(|width| numbers(&[width, rank], width).rounded_factor(1).unwrap());
        let products: Vec<_> = a.iter().map(|a| (&x, a)).chain(dys.iter().zip(&b)).collect();
        let together = projections(&products).unwrap();
        let (h, g) = together.split_at(3);
        let of = |matrix, projection, like| FactorGradient { matrix, projection, like, alpha: 2.0 };
        let gradients: Vec<_> = (0..3).flat_map(|i| [of(&x, &g[i], &a[i]), of(&dys[i], &h[i], &b[i])]).collect();
        for (together, (matrix, factor)) in together.iter().zip(products) {
            let alone = project(matrix, factor).unwrap();
            assert_eq!(together.values.to_vec::<f16>().unwrap(), alone.values.to_vec::<f16>().unwrap());
        }
        let found = factor_gradients(&gradients).unwrap();
        for (found, gradient) in found.iter().zip(&gradients) {
            let alone = factor_gradients(&[*gradient]).unwrap();
            assert_eq!(found.to_vec::<f32>().unwrap(), alone[0].to_vec::<f32>().unwrap());
        }
        check_totals(&gradients, &found).unwrap();
    }
}

#[test]
fn the_kernel_is_valid_wgsl() {
    let constants = [("MAXIMA", 128.0), ("SHARE", 1024.0), ("SMALL", 8192.0)];
    for slots in 1..=6 {
        for in_tiles in [false, true] {
            crate::gpu::validate("factor", &super::gpu::text(slots, in_tiles), &constants);
        }
    }
}

#[test]
#[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
fn factors_are_written_in_tiles_as_well_wgsl() {
    let device = crate::testing::gpu();
    let crate::device::Backend::Gpu(gpu) = device.backend() else { panic!("a GPU") };
    let values: Vec<f32> = (0..96 * 40).map(|i| ((i * 37 % 1009) as f32 - 500.0) * 1e-3).collect();
    let factors = [([40, 96], 0), ([96, 40], 1)].map(|(shape, axis)| {
        super::PaddedFactor::of(&Tensor::from_slice(device, &shape, &values).unwrap(), axis).unwrap()
    });
    let [alone, both] = [false, true].map(|in_tiles| super::gpu::round_together(gpu, &factors, in_tiles).unwrap());
    for (alone, both) in alone.iter().zip(both) {
        let tiles = both.in_tiles.unwrap();
        assert!(alone.in_tiles.is_none() && Tiles::Right(tiles.shape()[1]).hold(&tiles));
        let want = alone.values.to_vec::<f16>().unwrap();
        assert!(both.values.to_vec::<f16>().unwrap() == want && tiles.to_vec::<f16>().unwrap() == want);
    }
}
