//! Properties of fusion and transfer, against products formed whole in f64.

use std::collections::BTreeMap;

use lora::{AdapterSet, Base, LoraConfig, ModuleShape, Targets};
use proptest::prelude::*;
use relora::{Coefficients, Evolution, Fusion, ModuleEvolution, Statistics, fill_idle_directions, fuse, transfer};
use tensor::testing::on_each_backend;
use tensor::{DType, Device, RandomKey, Tensor};

fn random(shape: [usize; 2], seed: u64, stream: u64) -> Tensor {
    Tensor::random_normal(&Device::cpu(), &shape, 0.0, 1.0, RandomKey { seed, stream, step: 0 }).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_vec::<f32>().unwrap().into_iter().map(f64::from).collect()
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}

/// a `[m, k]` times b `[k, n]`.
fn product(a: &[f64], b: &[f64], k: usize) -> Vec<f64> {
    let (m, n) = (a.len() / k, b.len() / k);
    let at = |index: usize| (0..k).map(|j| a[index / n * k + j] * b[j * n + index % n]).sum();
    (0..m * n).map(at).collect()
}

/// s·B·A of a module.
fn update(set: &AdapterSet, module: &str) -> Vec<f64> {
    let (rank, factors) = (set.adapter(module).unwrap().rank, set.factors(module).unwrap());
    product(&values(factors.b), &values(factors.a), rank).iter().map(|x| x * f64::from(factors.scaling)).collect()
}

/// An adapter on one module `q` with random factors, and an evolution of rank k of its weight.
#[derive(Debug)]
struct Case {
    inputs: usize,
    outputs: usize,
    set: AdapterSet,
    evolution: Evolution,
    change: Vec<f64>,
}

fn case(inputs: usize, outputs: usize, rank: usize, k: usize, alpha: f64, seed: u64, device: &Device) -> Case {
    let config = LoraConfig { rank, alpha, targets: Targets::names(["q"]), ..LoraConfig::default() };
    let set = AdapterSet::from_factors(config, &[ModuleShape::new("q", inputs, outputs)], device, |_| {
        Ok((random([rank, inputs], seed, 1).to_device(device)?, random([outputs, rank], seed, 2).to_device(device)?))
    })
    .unwrap();
    let (left, right) = (random([outputs, k], seed, 3), random([k, inputs], seed, 4));
    let change = product(&values(&left), &values(&right), k);
    Case { inputs, outputs, set, evolution: evolution_of(left, right, norm(&change)), change }
}

fn evolution_of(left: Tensor, right: Tensor, norm: f64) -> Evolution {
    let statistics = Statistics {
        norm,
        weight_norm: 1.0,
        singular_values: vec![norm],
        spectral_error_bound: 0.0,
        power_iterations: 0,
        added_rows: 0,
    };
    Evolution::from_modules(BTreeMap::from([("q".to_string(), ModuleEvolution { left, right, statistics })]))
}

fn singular_values(matrix: &[f64], rows: usize) -> Vec<f64> {
    let matrix: Vec<f32> = matrix.iter().map(|&x| x as f32).collect();
    let tensor = Tensor::from_vec(&Device::cpu(), &[rows, matrix.len() / rows], matrix).unwrap();
    values(&tensor::linalg::svd(&tensor).unwrap().1)
}

/// α·s·B·A + β·E.
fn wanted(case: &Case, alpha: f64, beta: f64) -> Vec<f64> {
    update(&case.set, "q").iter().zip(&case.change).map(|(old, change)| alpha * old + beta * change).collect()
}

/// BᵀB − AAᵀ, relative to their size.
fn imbalance(set: &AdapterSet) -> f64 {
    let (rank, factors) = (set.adapter("q").unwrap().rank, set.factors("q").unwrap());
    let transposed = |tensor: &Tensor| values(&tensor.t().unwrap().contiguous().unwrap());
    let of_b = product(&transposed(factors.b), &values(factors.b), factors.b.shape()[0]);
    let of_a = product(&values(factors.a), &transposed(factors.a), factors.a.shape()[1]);
    assert_eq!(of_b.len(), rank * rank);
    distance(&of_b, &of_a) / norm(&of_b).max(f64::MIN_POSITIVE)
}

fn cases() -> impl Strategy<Value = Case> {
    (2usize..24, 2usize..24, 1usize..5, 1usize..9, 0.5f64..32.0, any::<u64>()).prop_map(
        |(inputs, outputs, rank, k, alpha, seed)| {
            case(inputs, outputs, rank, k.min(inputs).min(outputs), alpha, seed, &Device::cpu())
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_and_nothing_gives_the_old_product(case in cases()) {
        let fused = fuse(&case.set, &case.evolution, 1.0, 0.0).unwrap();
        let (old, new) = (update(&case.set, "q"), update(&fused, "q"));
        // A rank beyond the weight's own loses nothing: the product has no more.
        prop_assert!(distance(&old, &new) <= 2e-6 * norm(&old), "{} of {}", distance(&old, &new), norm(&old));
        prop_assert!(imbalance(&fused) < 1e-5);
    }

    #[test]
    fn nothing_and_nothing_is_zero_with_finite_factors(case in cases()) {
        let fused = fuse(&case.set, &case.evolution, 0.0, 0.0).unwrap();
        prop_assert!(update(&fused, "q").iter().all(|&x| x == 0.0));
        let filled = fill_idle_directions(&fused, 1).unwrap();
        prop_assert!(update(&filled, "q").iter().all(|&x| x == 0.0));
        let a = values(filled.factors("q").unwrap().a);
        prop_assert!(a.chunks(case.inputs).all(|row| norm(row) > 0.0), "every direction can learn");
    }

    #[test]
    fn the_error_is_that_of_the_best_approximation(case in cases(), alpha in 0.0f64..1.5, beta in -1.25f64..0.75) {
        let fused = fuse(&case.set, &case.evolution, alpha, beta).unwrap();
        let (wanted, rank) = (wanted(&case, alpha, beta), fused.config().rank);
        let tail = norm(&singular_values(&wanted, case.outputs)[rank.min(case.inputs).min(case.outputs)..]);
        let error = distance(&wanted, &update(&fused, "q"));
        prop_assert!((error - tail).abs() <= 1e-4 * norm(&wanted) + 1e-6, "{error}, the best has {tail}");
        prop_assert!(imbalance(&fused) < 1e-4);
    }

    #[test]
    fn how_the_old_adapter_was_factored_does_not_matter(case in cases(), scale in 0.1f32..10.0, beta in -1.0f64..0.5) {
        let mut other = case.set.clone();
        let factors = case.set.factors("q").unwrap();
        let (a, b) = (factors.a.affine(scale, 0.0).unwrap(), factors.b.affine(1.0 / scale, 0.0).unwrap());
        // Directions in reverse order besides.
        let rank = a.shape()[0];
        let order: Vec<u32> = (0..rank as u32).rev().collect();
        let order = Tensor::from_slice(&Device::cpu(), &[rank], &order).unwrap();
        let (a, b) = (a.index_select(0, &order).unwrap(), b.index_select(1, &order).unwrap());
        other.set_factors("q", a.contiguous().unwrap(), b.contiguous().unwrap()).unwrap();
        let [first, second] = [&case.set, &other].map(|set| update(&fuse(set, &case.evolution, 0.8, beta).unwrap(), "q"));
        // Where two singular values at the cut are nearly equal, either is best; the errors then agree, not the products.
        let spectrum = singular_values(&wanted(&case, 0.8, beta), case.outputs);
        let gap = match (spectrum.get(rank - 1), spectrum.get(rank)) {
            (Some(kept), Some(cut)) => (kept - cut) / spectrum[0],
            _ => 1.0,
        };
        prop_assume!(gap > 1e-3);
        prop_assert!(distance(&first, &second) <= 1e-5 / gap * norm(&first) + 1e-6);
    }

    #[test]
    fn without_evolution_beta_has_no_effect(case in cases(), beta in -1.25f64..0.75) {
        let zero = evolution_of(
            Tensor::zeros(&Device::cpu(), &[case.outputs, 2], DType::F32).unwrap(),
            Tensor::zeros(&Device::cpu(), &[2, case.inputs], DType::F32).unwrap(),
            0.0,
        );
        let (still, moved) = (fuse(&case.set, &zero, 1.0, 0.0).unwrap(), fuse(&case.set, &zero, 1.0, beta).unwrap());
        let (old, first, second) = (update(&case.set, "q"), update(&still, "q"), update(&moved, "q"));
        prop_assert_eq!(&first, &second);
        prop_assert!(distance(&old, &first) <= 2e-6 * norm(&old));
    }
}

#[test]
fn a_rebase_at_full_rank_is_exact() {
    // Rank 6 of a weight with 6 outputs: W_new + Δ(1, −1) = W_old + s·B·A.
    let case = case(9, 6, 6, 6, 12.0, 7, &Device::cpu());
    let fused = fuse(&case.set, &case.evolution, 1.0, -1.0).unwrap();
    let wanted = wanted(&case, 1.0, -1.0);
    assert!(distance(&wanted, &update(&fused, "q")) < 3e-6 * norm(&wanted));
}

#[test]
fn scaling_is_honoured_whatever_its_sign() {
    for alpha in [0.25, 64.0, -8.0] {
        let case = case(10, 8, 2, 4, alpha, 3, &Device::cpu());
        let fused = fuse(&case.set, &case.evolution, 1.0, 0.0).unwrap();
        assert_eq!(fused.factors("q").unwrap().scaling, case.set.factors("q").unwrap().scaling);
        let old = update(&case.set, "q");
        assert!(distance(&old, &update(&fused, "q")) < 2e-6 * norm(&old), "{alpha}");
        assert!(imbalance(&fused) < 1e-5, "{alpha}");
    }
    let zero = case(10, 8, 2, 4, 0.0, 3, &Device::cpu());
    let error = fuse(&zero.set, &zero.evolution, 1.0, 0.0).unwrap_err().to_string();
    assert!(error.contains("`q` has the scaling 0"), "{error}");
}

#[test]
fn a_fusion_made_ready_gives_any_number_of_candidates_the_same_bits() {
    let case = case(20, 16, 3, 8, 6.0, 9, &Device::cpu());
    let fusion = Fusion::new(&case.set, &case.evolution).unwrap();
    let bits = |set: &AdapterSet| (values(set.factors("q").unwrap().a), values(set.factors("q").unwrap().b));
    let first = bits(&fusion.at(0.7, -0.3).unwrap());
    fusion.at(0.1, 0.5).unwrap();
    let by_module = fusion.with(|_| Coefficients { alpha: 0.7, beta: -0.3 }).unwrap();
    assert_eq!((&first, &first), (&bits(&by_module), &bits(&fuse(&case.set, &case.evolution, 0.7, -0.3).unwrap())));
}

#[test]
fn what_was_not_measured_is_named() {
    let case = case(10, 8, 2, 4, 4.0, 3, &Device::cpu());
    let error = fuse(&case.set, &Evolution::default(), 1.0, 0.0).unwrap_err().to_string();
    assert!(error.contains("not measured for `q`"), "{error}");
    let other = evolution_of(random([8, 2], 1, 1), random([2, 11], 1, 2), 1.0);
    let error = fuse(&case.set, &other, 1.0, 0.0).unwrap_err().to_string();
    assert!(error.contains("[2, 11]") && error.contains("10 inputs"), "{error}");
}

#[test]
fn a_subtracted_initial_product_is_part_of_what_is_restored() {
    let mut case = case(10, 8, 2, 4, 4.0, 3, &Device::cpu());
    case.set.subtract_initial_product().unwrap();
    case.set.set_factors("q", random([2, 10], 5, 1), random([8, 2], 5, 2)).unwrap();
    let subtracted = case.set.subtracted_product("q").unwrap();
    let initial = product(&values(subtracted.b), &values(subtracted.a), 2);
    let scaling = f64::from(subtracted.scaling);
    let expected: Vec<f64> = update(&case.set, "q").iter().zip(&initial).map(|(x, y)| x - scaling * y).collect();
    let fused = fuse(&case.set, &case.evolution, 1.0, 0.0).unwrap();
    assert_eq!(fused.adapter("q").unwrap().rank, 4);
    assert!(distance(&expected, &update(&fused, "q")) < 2e-6 * norm(&expected));
}

on_each_backend! {
    fn devices_agree(device) {
        let (here, there) = (case(24, 20, 4, 8, 8.0, 2, &Device::cpu()), case(24, 20, 4, 8, 8.0, 2, device));
        let [first, second] = [&here, &there].map(|case| {
            let fused = fuse(&case.set, &case.evolution, 0.9, -0.4).unwrap();
            update(&fused, "q")
        });
        assert!(distance(&first, &second) < 1e-5 * norm(&first));
    }
}

#[test]
fn adapters_move_to_a_base_whose_vocabulary_grew() {
    let device = Device::cpu();
    let base = |vocabulary: usize, whole: f32| {
        let modules = vec![
            ModuleShape::new("embed", vocabulary, 6).embedding(),
            ModuleShape::new("q", 6, 6),
            ModuleShape::new("head", 6, vocabulary).head(),
        ];
        let weight = Tensor::full(&device, &[vocabulary, 3], DType::F32, whole).unwrap();
        Base::from_parts(modules, BTreeMap::from([("score".to_string(), vec![("weight".to_string(), weight)])]))
    };
    let config = LoraConfig {
        rank: 2,
        targets: Targets::names(["embed", "q", "head"]),
        modules_to_save: vec!["score".into()],
        ..LoraConfig::default()
    };
    let old = AdapterSet::from_factors(config, base(10, 1.0), &device, |part| {
        Ok((random([2, part.inputs], 1, 1), random([part.outputs, 2], 1, 2)))
    })
    .unwrap();
    let moved = transfer(&old, &base(13, 5.0), &device).unwrap();
    let (a, b) = (moved.factors("embed").unwrap().a, moved.factors("head").unwrap().b);
    assert_eq!((a.shape()[..].to_vec(), b.shape()[..].to_vec()), (vec![2, 13], vec![13, 2]));
    assert_eq!(values(&a.slice(1, 0, 10).unwrap().contiguous().unwrap()), values(old.factors("embed").unwrap().a));
    assert_eq!(values(&b.slice(0, 10, 13).unwrap().contiguous().unwrap()), [0.0; 6]);
    assert_eq!(values(moved.factors("q").unwrap().a), values(old.factors("q").unwrap().a));
    let whole = values(moved.whole_parameter("score.weight").unwrap());
    assert_eq!((&whole[..30], &whole[30..]), (&[1.0; 30][..], &[5.0; 9][..]), "new rows are the new base's");

    let error = transfer(&old, &base(9, 1.0), &device).unwrap_err().to_string();
    assert!(error.contains("`embed`") && error.contains("only a vocabulary may grow"), "{error}");
    let wider = Base::from(&[ModuleShape::new("q", 7, 6), ModuleShape::new("embed", 10, 6).embedding()]);
    assert!(transfer(&old, &wider, &device).unwrap_err().to_string().contains("`q` maps 6 inputs"));
    let fewer = base(10, 1.0).modules()[..2].to_vec();
    let fewer = Base::from_parts(fewer, BTreeMap::new());
    assert!(transfer(&old, &fewer, &device).unwrap_err().to_string().contains("`head`, which the new base lacks"));
}
