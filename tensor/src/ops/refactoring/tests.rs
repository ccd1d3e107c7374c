use proptest::prelude::*;

use super::{DenseRefactoring, FactorPair, PairShape, Refactoring, SINGULAR_VALUE_FLOOR, dense_refactoring, gpu};
use crate::testing::{check, on_each_backend};
use crate::{Device, RandomKey, Tensor};

/// A pair of factors with their values as f64.
struct Pair {
    shape: PairShape,
    a: Vec<f32>,
    b: Vec<f32>,
}

impl Pair {
    /// Factors whose singular values fall geometrically from `scale` to `scale / condition`.
    fn new(shape: PairShape, condition: f64, scales: [f64; 2], seed: u64) -> Self {
        let PairShape { rank, inputs, outputs } = shape;
        let graded = |length: usize, scale: f64, stream: u32| {
            let normal = |shape: &[usize], stream| {
                let key = RandomKey { seed, stream: u64::from(stream), step: 0 };
                Tensor::random_normal(&Device::cpu(), shape, 0.0, 1.0, key).unwrap()
            };
            let (left, _) = crate::linalg::qr(&normal(&[length, rank], stream)).unwrap();
            let (right, _) = crate::linalg::qr(&normal(&[rank, rank], stream + 1)).unwrap();
            let kept = left.shape()[1];
            let (left, right) = (left.to_vec::<f32>().unwrap(), right.to_vec::<f32>().unwrap());
            let sigma = |k: usize| scale * condition.powf(-(k as f64) / (rank.max(2) - 1) as f64);
            let at = |i: usize, j: usize| {
                let terms =
                    (0..kept).map(|k| f64::from(left[i * kept + k]) * sigma(k) * f64::from(right[k * rank + j]));
                terms.sum::<f64>() as f32
            };
            (0..length * rank).map(|index| at(index / rank, index % rank)).collect::<Vec<f32>>()
        };
        let (columns, b) = (graded(inputs, scales[0], 0), graded(outputs, scales[1], 2));
        let a = (0..rank * inputs).map(|index| columns[(index % inputs) * rank + index / inputs]).collect();
        Pair { shape, a, b }
    }

    fn tensors(&self, device: &Device) -> (Tensor, Tensor) {
        let PairShape { rank, inputs, outputs } = self.shape;
        (
            Tensor::from_slice(device, &[rank, inputs], &self.a).unwrap(),
            Tensor::from_slice(device, &[outputs, rank], &self.b).unwrap(),
        )
    }

    fn dense(&self) -> Option<DenseRefactoring> {
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        dense_refactoring(self.shape.rank, &wide(&self.a), &wide(&self.b), SINGULAR_VALUE_FLOOR)
    }
}

fn update(device: &Device, pairs: &[Pair]) -> Refactoring {
    let shapes: Vec<PairShape> = pairs.iter().map(|pair| pair.shape).collect();
    let tensors: Vec<(Tensor, Tensor)> = pairs.iter().map(|pair| pair.tensors(device)).collect();
    let mut refactoring = Refactoring::new(device, &shapes).unwrap();
    let factors: Vec<_> = tensors.iter().map(|(a, b)| FactorPair { a, b }).collect();
    refactoring.update(&factors).unwrap();
    refactoring
}

/// The largest difference beside the largest magnitude wanted.
fn departure(got: &Tensor, want: &[f64]) -> f64 {
    let got = got.to_vec::<f32>().unwrap();
    let norm = want.iter().fold(0.0f64, |norm, x| norm.max(x.abs()));
    let difference = got.iter().zip(want).fold(0.0f64, |d, (&got, want)| d.max((f64::from(got) - want).abs()));
    if difference.is_nan() { f64::INFINITY } else { difference / norm }
}

fn shapes() -> impl Strategy<Value = PairShape> {
    (1usize..=12, 1usize..=40, 1usize..=40).prop_map(|(rank, inputs, outputs)| PairShape {
        rank,
        inputs: inputs.max(rank),
        outputs: outputs.max(rank),
    })
}

on_each_backend! {
    fn agrees_with_f64_up_to_condition_1000(device) {
        let pair = (shapes(), 0.0..3.0f64, -3.0..3.0f64, -3.0..3.0f64, any::<u64>());
        check(prop::collection::vec(pair, 1..=9), |cases| {
            let pairs: Vec<Pair> = cases
                .into_iter()
                .map(|(shape, condition, a, b, seed)| {
                    Pair::new(shape, 10f64.powf(condition), [10f64.powf(a), 10f64.powf(b)], seed)
                })
                .collect();
            let refactoring = update(device, &pairs);
            for (index, pair) in pairs.iter().enumerate() {
                let dense = pair.dense().expect("full rank");
                let (s, inverse) = refactoring.matrices(index)?;
                let worst = departure(&s, &dense.s).max(departure(&inverse, &dense.inverse));
                assert!(worst < 1e-4, "{:?}: {worst:e}", pair.shape);
            }
            assert!(refactoring.undefined().to_vec::<u32>()?.iter().all(|&count| count == 0));
            Ok(())
        });
    }

    fn large_ranks_and_long_factors(device) {
        let shape = |rank, inputs, outputs| PairShape { rank, inputs, outputs };
        let pairs: Vec<Pair> = [shape(33, 70, 40), shape(256, 300, 260), shape(4, 5000, 3), shape(17, 4100, 64)]
            .into_iter()
            .map(|shape| Pair::new(shape, 1e2, [1.0, 0.01], 7))
            .collect();
        let refactoring = update(device, &pairs);
        for (index, pair) in pairs.iter().enumerate() {
            let dense = pair.dense().expect("defined");
            let (s, inverse) = refactoring.matrices(index).unwrap();
            let worst = departure(&s, &dense.s).max(departure(&inverse, &dense.inverse));
            assert!(worst < 1e-5, "{:?}: {worst:e}", pair.shape);
        }
    }
}

/// A factor of the kinds that break things: rank deficient, rows of zeros, graded to 10⁷, from 1e-20 to 1e20.
fn hard_pair(index: u64) -> Pair {
    let draw = |what: &str, count: usize| {
        let key = RandomKey::named(index, what, 0);
        let values = Tensor::random_uniform(&Device::cpu(), &[count], 0.0, 1.0, key).unwrap();
        values.to_vec::<f32>().unwrap()
    };
    let choice = draw("shape", 5);
    let pick = |x: f32, count: usize| ((x * count as f32) as usize).min(count - 1);
    let shape =
        PairShape { rank: 1 + pick(choice[0], 8), inputs: 1 + pick(choice[1], 24), outputs: 1 + pick(choice[2], 24) };
    let factor = |what: &str, length: usize, kind: usize| {
        let values = draw(what, length * shape.rank + 2);
        let scale = if kind == 5 { 10f32.powf(40.0 * values[0] - 20.0) } else { 1.0 };
        let kept = 1 + pick(values[1], shape.rank);
        let value = |k: usize, i: usize| (2.0 * values[2 + k * length + i] - 1.0) * scale;
        let element = |k: usize, i: usize| match kind {
            0 => value(k % kept, i),
            1 if k >= kept => 0.0,
            2 => value(k, i) * 10f32.powf(-7.0 * k as f32 / shape.rank as f32),
            3 => value(k % kept, i) + 1e-7 * value(k, i),
            4 if i.is_multiple_of(2) => 0.0,
            _ => value(k, i),
        };
        (0..shape.rank).flat_map(|k| (0..length).map(move |i| (k, i))).map(|(k, i)| element(k, i)).collect::<Vec<_>>()
    };
    let a = factor("a", shape.inputs, pick(choice[3], 7));
    let columns = factor("b", shape.outputs, pick(choice[4], 7));
    let b = (0..shape.outputs * shape.rank)
        .map(|index| columns[(index % shape.rank) * shape.outputs + index / shape.rank])
        .collect();
    Pair { shape, a, b }
}

on_each_backend! {
    fn ten_thousand_hard_pairs_give_finite_gradients(device) {
        const BATCH: u64 = 250;
        let mut undefined = 0;
        for batch in 0..40 {
            let pairs: Vec<Pair> = (0..BATCH).map(|index| hard_pair(batch * BATCH + index)).collect();
            let refactoring = update(device, &pairs);
            let matrices = refactoring.all_matrices().to_vec::<f32>().unwrap();
            assert!(matrices.iter().all(|x| x.is_finite()), "batch {batch}");
            let ones: Vec<(Tensor, Tensor)> = pairs
                .iter()
                .map(|Pair { shape, .. }| {
                    let ones = |shape: &[usize]| Tensor::ones(device, shape, crate::DType::F32).unwrap();
                    (ones(&[shape.rank, shape.inputs]), ones(&[shape.outputs, shape.rank]))
                })
                .collect();
            let gradients: Vec<_> = ones.iter().enumerate().map(|(index, (a, b))| (index, a, b)).collect();
            for (a, b) in refactoring.precondition(&gradients).unwrap() {
                assert!(a.to_vec::<f32>().unwrap().iter().chain(&b.to_vec::<f32>().unwrap()).all(|x| x.is_finite()));
            }
            undefined += refactoring.undefined().to_vec::<u32>().unwrap().iter().sum::<u32>();
        }
        // Products that are zero or that f32 cannot hold; the rest must not have taken the way out.
        assert!(undefined < 1000, "{undefined} of 10,000 pairs were found undefined");
    }

    fn undefined_pairs_keep_their_gradients_and_are_counted(device) {
        let shape = PairShape { rank: 2, inputs: 3, outputs: 2 };
        let pair = |a: [f32; 6], b: [f32; 4]| Pair { shape, a: a.to_vec(), b: b.to_vec() };
        let good = [1.0, 2.0, 3.0, -1.0, 0.5, 2.0];
        let pairs = [
            pair(good, [0.0; 4]),
            pair([0.0; 6], [1.0, 2.0, 3.0, 4.0]),
            pair(good, [1.0, f32::NAN, 0.0, 1.0]),
            pair(good, [f32::INFINITY, 1.0, 0.0, 1.0]),
            // B reads only what A does not write.
            pair([1.0, 2.0, 3.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 2.0]),
            pair(good, [1.0, 2.0, 3.0, 4.0]),
        ];
        let mut refactoring = update(device, &pairs);
        let tensors: Vec<_> = pairs.iter().map(|pair| pair.tensors(device)).collect();
        let factors: Vec<_> = tensors.iter().map(|(a, b)| FactorPair { a, b }).collect();
        refactoring.update(&factors).unwrap();
        assert_eq!(refactoring.undefined().to_vec::<u32>().unwrap(), [2, 2, 2, 2, 2, 0]);
        let a = Tensor::from_slice(device, &[2, 3], &good).unwrap();
        let b = Tensor::from_slice(device, &[2, 2], &[5.0f32, 6.0, 7.0, 8.0]).unwrap();
        // Some of the pairs, in another order.
        for (index, (new_a, new_b)) in
            [4, 0, 5].into_iter().zip(refactoring.precondition(&[(4, &a, &b), (0, &a, &b), (5, &a, &b)]).unwrap())
        {
            let same = new_a.to_vec::<f32>().unwrap() == good && new_b.to_vec::<f32>().unwrap() == [5.0, 6.0, 7.0, 8.0];
            assert_eq!(same, index != 5);
        }
    }

    fn gradients_are_multiplied_by_the_matrices(device) {
        check(prop::collection::vec((shapes(), any::<u64>()), 1..=20), |cases| {
            let pairs: Vec<Pair> =
                cases.iter().map(|&(shape, seed)| Pair::new(shape, 10.0, [1.0, 2.0], seed)).collect();
            let refactoring = update(device, &pairs);
            let tensors: Vec<_> = pairs.iter().map(|pair| pair.tensors(device)).collect();
            // Transposed views as gradients.
            let gradients: Vec<(Tensor, Tensor)> = tensors
                .iter()
                .map(|(a, b)| Ok((a.t()?.contiguous()?.t()?, b.t()?.contiguous()?.t()?)))
                .collect::<crate::Result<_>>()?;
            let given: Vec<_> = gradients.iter().enumerate().map(|(index, (a, b))| (index, a, b)).collect();
            for (index, (a, b)) in refactoring.precondition(&given)?.iter().enumerate() {
                let (s, inverse) = refactoring.matrices(index)?;
                for (got, want) in [(a, inverse.matmul(&tensors[index].0)?), (b, tensors[index].1.matmul(&s)?)] {
                    let want: Vec<f64> = want.to_vec::<f32>()?.into_iter().map(f64::from).collect();
                    assert!(departure(got, &want) < 1e-5);
                }
            }
            Ok(())
        });
    }
}

#[test]
fn wrong_pairs_are_refused() {
    let device = Device::cpu();
    let shape = PairShape { rank: 2, inputs: 3, outputs: 4 };
    assert!(Refactoring::new(&device, &[PairShape { rank: 0, ..shape }]).unwrap_err().to_string().contains("pair 0"));
    let mut refactoring = Refactoring::new(&device, &[shape]).unwrap();
    let pair = Pair::new(shape, 2.0, [1.0, 1.0], 1);
    let (a, b) = pair.tensors(&device);
    assert!(refactoring.update(&[]).unwrap_err().to_string().contains("1 pairs were announced, found 0"));
    assert!(refactoring.update(&[FactorPair { a: &b, b: &a }]).is_err());
    assert!(refactoring.precondition(&[(1, &a, &b)]).unwrap_err().to_string().contains("no pair 1"));
    refactoring.update(&[FactorPair { a: &a, b: &b }]).unwrap();
    let mut other = Refactoring::new(&device, &[shape]).unwrap();
    other.restore(refactoring.all_matrices(), refactoring.undefined()).unwrap();
    assert_eq!(other.all_matrices().to_vec::<f32>().unwrap(), refactoring.all_matrices().to_vec::<f32>().unwrap());
    assert!(other.restore(&a, refactoring.undefined()).is_err());
}

#[test]
fn every_variant_is_valid_wgsl() {
    for slots in 1..=gpu::SLOTS {
        crate::gpu::validate("gram", &gpu::gram_wgsl(slots), &gpu::GramTiles::new(8).constants());
        crate::gpu::validate("multiply", &gpu::multiply_wgsl(slots), &[("TILE", 8.0)]);
    }
    for (name, text) in [("sum", gpu::SUM), ("product", gpu::PRODUCT)] {
        crate::gpu::validate(name, text, &[]);
    }
    for (name, text) in [("frames", gpu::FRAMES), ("metrics", gpu::METRICS)] {
        crate::gpu::validate(name, text, &[("FLOOR", 1e-7)]);
    }
    let constants = [("WORKGROUP", 64.0), ("LANES", 8.0), ("SIDE", 8.0)];
    for (name, kernel) in [("cholesky", gpu::CHOLESKY), ("jacobi", gpu::JACOBI)] {
        let own: Vec<_> = constants.into_iter().filter(|(name, _)| kernel.in_storage.contains(name)).collect();
        crate::gpu::validate(name, kernel.in_storage, &own);
        let own: Vec<_> = constants.into_iter().filter(|(name, _)| kernel.in_workgroup.contains(name)).collect();
        crate::gpu::validate(name, kernel.in_workgroup, &own);
    }
}
