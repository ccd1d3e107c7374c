use proptest::prelude::*;

use crate::testing::{Recipe, assert_close, check, on_each_backend, recipe_of};
use crate::{
    DType, Device, Result, Tensor, layer_norm_backward, layer_norm_parameter_gradients, rms_norm_backward,
    rms_norm_weight_gradient,
};

/// x, weight, bias and upstream gradient.
#[derive(Clone, Debug)]
struct Case {
    x: Recipe,
    weight: Recipe,
    bias: Recipe,
    upstream: Recipe,
}

fn case() -> impl Strategy<Value = Case> {
    let small = prop::collection::vec(0usize..9, 1..=4);
    let long =
        (1usize..4, prop::sample::select(vec![64usize, 257, 1028, 1030])).prop_map(|(rows, hidden)| vec![rows, hidden]);
    let tall = (150usize..260, 1usize..7).prop_map(|(rows, hidden)| vec![rows, hidden]);
    prop_oneof![2 => small, 1 => long, 1 => tall].prop_flat_map(|shape| {
        let hidden = shape[shape.len() - 1];
        let parts = (
            recipe_of(shape.clone(), -5.0..5.0),
            recipe_of(vec![hidden], -2.0..2.0),
            recipe_of(vec![hidden], -2.0..2.0),
            recipe_of(shape, -3.0..3.0),
        );
        parts.prop_map(|(x, weight, bias, upstream)| Case { x, weight, bias, upstream })
    })
}

const EPSILON: f32 = 1e-3;

/// y, dx, dweight and dbias, straight from the definitions in f64.
struct Reference {
    y: Vec<f64>,
    dx: Vec<f64>,
    dweight: Vec<f64>,
    dbias: Vec<f64>,
}

fn reference(case: &Case, centred: bool) -> Reference {
    let (x, w, b, dy) = (case.x.values(), case.weight.values(), case.bias.values(), case.upstream.values());
    let n = w.len();
    let mut out = Reference { y: vec![], dx: vec![], dweight: vec![0.0; n], dbias: vec![0.0; n] };
    let mean = |values: &[f64]| values.iter().sum::<f64>() / n as f64;
    for start in (0..x.len()).step_by(n.max(1)) {
        let (x, dy) = (&x[start..start + n], &dy[start..start + n]);
        let mu = if centred { mean(x) } else { 0.0 };
        let variance = mean(&x.iter().map(|x| (x - mu).powi(2)).collect::<Vec<_>>());
        let r = 1.0 / (variance + f64::from(EPSILON)).sqrt();
        let normal: Vec<f64> = x.iter().map(|x| (x - mu) * r).collect();
        let g: Vec<f64> = (0..n).map(|i| dy[i] * w[i]).collect();
        let mean_g = if centred { mean(&g) } else { 0.0 };
        let mean_gx = mean(&(0..n).map(|i| g[i] * normal[i]).collect::<Vec<_>>());
        for i in 0..n {
            out.y.push(normal[i] * w[i] + if centred { b[i] } else { 0.0 });
            out.dx.push(r * (g[i] - mean_g - normal[i] * mean_gx));
            out.dweight[i] += dy[i] * normal[i];
            out.dbias[i] += dy[i];
        }
    }
    out
}

fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

on_each_backend! {
    fn rms_norm_agrees_with_f64(device) {
        check(case(), |case| {
            let want = reference(&case, false);
            let (x, weight, dy) = (case.x.build(device), case.weight.build(device), case.upstream.build(device));
            let hidden = case.weight.shape();
            assert_close("y", &x.rms_norm(&weight, EPSILON)?, case.x.shape(), &want.y, 3e-6, 1e-6)?;
            let rounded = x.rms_norm_row_scaled(&weight, EPSILON)?;
            assert_eq!(rounded.shape()[..], [case.x.shape()[..case.x.shape().len() - 1].iter().product(), hidden[0]]);
            let largest = |row: usize| want.y[row * hidden[0]..][..hidden[0]].iter().fold(0.0f64, |a, y| a.max(y.abs()));
            for (i, y) in rounded.restored()?.to_vec::<f32>()?.into_iter().enumerate() {
                let bound = (want.y[i].abs() * 2.01 * 2f64.powi(-12)).max(largest(i / hidden[0]) * 2f64.powi(-25)) + 1e-6;
                assert!((f64::from(y) - want.y[i]).abs() <= bound, "rounded[{i}]: {y} instead of {}", want.y[i]);
            }
            let dx = rms_norm_backward(&x, &weight, EPSILON, &dy, None)?;
            // One column with a small x: r is up to 1/√ε and cancels.
            assert_close("dx", &dx, case.x.shape(), &want.dx, 1e-5, 2e-4)?;
            let added = rms_norm_backward(&x, &weight, EPSILON, &dy, Some(x.clone()))?;
            assert_close("x + dx", &added, case.x.shape(), &sum(&case.x.values(), &want.dx), 1e-5, 2e-4)?;
            assert_close("x, which others hold", &x, case.x.shape(), &case.x.values(), 0.0, 0.0)?;
            let dweight = rms_norm_weight_gradient(&x, EPSILON, &dy)?;
            assert_close("dweight", &dweight, hidden, &want.dweight, 1e-5, 1e-4)
        });
    }

    fn layer_norm_agrees_with_f64(device) {
        check(case(), |case| {
            let want = reference(&case, true);
            let (x, weight, bias) = (case.x.build(device), case.weight.build(device), case.bias.build(device));
            let dy = case.upstream.build(device);
            let hidden = case.weight.shape();
            assert_close("y", &x.layer_norm(&weight, &bias, EPSILON)?, case.x.shape(), &want.y, 5e-6, 2e-5)?;
            let dx = layer_norm_backward(&x, &weight, EPSILON, &dy, None)?;
            assert_close("dx", &dx, case.x.shape(), &want.dx, 1e-5, 5e-4)?;
            let added = layer_norm_backward(&x, &weight, EPSILON, &dy, Some(dy.affine(2.0, 0.0)?))?;
            let twice = case.upstream.clone().map(|dy| 2.0 * dy).values();
            assert_close("2·dy + dx", &added, case.x.shape(), &sum(&twice, &want.dx), 1e-5, 5e-4)?;
            let (dweight, dbias) = layer_norm_parameter_gradients(&x, EPSILON, &dy)?;
            assert_close("dweight", &dweight, hidden, &want.dweight, 1e-5, 2e-4)?;
            assert_close("dbias", &dbias, hidden, &want.dbias, 1e-5, 1e-4)
        });
    }

    fn backward_is_the_derivative(device) {
        // Central differences of Σ y·dy, which the closed forms above could get wrong in the same way.
        let values = |seed: f32, n: usize| (0..n).map(|i| (i as f32 * 1.7 + seed).sin() * 1.5).collect::<Vec<_>>();
        let (rows, hidden, step) = (3usize, 5usize, 1e-2f32);
        let tensor = |shape: &[usize], values: &[f32]| Tensor::from_slice(device, shape, values);
        let (x, w, b) = (values(0.3, rows * hidden), values(1.1, hidden), values(2.2, hidden));
        let dy = values(4.5, rows * hidden);
        for centred in [false, true] {
            let loss = |x: &[f32]| -> Result<f64> {
                let (x, w) = (tensor(&[rows, hidden], x)?, tensor(&[hidden], &w)?);
                let y = if centred { x.layer_norm(&w, &tensor(&[hidden], &b)?, EPSILON)? } else { x.rms_norm(&w, EPSILON)? };
                Ok(y.to_vec::<f32>()?.iter().zip(&dy).map(|(&y, &dy)| f64::from(y) * f64::from(dy)).sum())
            };
            let backward = if centred { layer_norm_backward } else { rms_norm_backward };
            let (at, weight) = (tensor(&[rows, hidden], &x).unwrap(), tensor(&[hidden], &w).unwrap());
            let got = backward(&at, &weight, EPSILON, &tensor(&[rows, hidden], &dy).unwrap(), None).unwrap();
            for (i, got) in got.to_vec::<f32>().unwrap().into_iter().enumerate() {
                let (mut up, mut down) = (x.clone(), x.clone());
                up[i] += step;
                down[i] -= step;
                let want = (loss(&up).unwrap() - loss(&down).unwrap()) / f64::from(up[i] - down[i]);
                assert!((f64::from(got) - want).abs() < 2e-3, "centred {centred}, element {i}: {got}, not {want}");
            }
        }
    }

    fn large_means_do_not_drown_the_variance(device) {
        let x: Vec<f32> = (0..512).map(|i| 4096.0 + (i % 2) as f32).collect();
        let (one, zero) = (Tensor::ones(device, &[512], DType::F32).unwrap(), Tensor::zeros(device, &[512], DType::F32));
        let x = Tensor::from_slice(device, &[1, 512], &x).unwrap();
        let y = x.layer_norm(&one, &zero.unwrap(), 0.0).unwrap().to_vec::<f32>().unwrap();
        for (i, y) in y.into_iter().enumerate() {
            assert!((y - if i % 2 == 0 { -1.0 } else { 1.0 }).abs() < 1e-5, "{y}");
        }
    }

    fn nan_and_infinity_stay_in_their_row(device) {
        let values = [1.0, f32::NAN, 2.0, f32::INFINITY, 1.0, 2.0, 1.0, -1.0, 0.5];
        let x = Tensor::from_slice(device, &[3, 3], &values).unwrap();
        let (one, zero) = (Tensor::ones(device, &[3], DType::F32).unwrap(), Tensor::zeros(device, &[3], DType::F32));
        for y in [x.rms_norm(&one, EPSILON).unwrap(), x.layer_norm(&one, &zero.unwrap(), EPSILON).unwrap()] {
            let y = y.to_vec::<f32>().unwrap();
            assert!(y[..3].iter().all(|y| y.is_nan()) && y[3].is_nan(), "{y:?}");
            assert!(y[6..].iter().all(|y| y.is_finite()), "{y:?}");
        }
    }

    fn many_rows_sum_accurately(device) {
        // 30,000 rows of one value: a long chain of equal roundings would show.
        let (rows, hidden) = (30_000, 3);
        let x: Vec<f32> = (0..rows * hidden).map(|i| [0.5, -0.1, 0.3][i % 3]).collect();
        let x = Tensor::from_slice(device, &[rows, hidden], &x).unwrap();
        let dy = Tensor::full(device, &[rows, hidden], DType::F32, 0.1).unwrap();
        let (_, dbias) = layer_norm_parameter_gradients(&x, 1e-5, &dy).unwrap();
        let want = f64::from(0.1f32) * rows as f64;
        assert_close("dbias", &dbias, &[hidden], &[want; 3], 2e-6, 0.0).unwrap();
    }
}

#[test]
fn wrong_operands_are_named() -> Result<()> {
    let device = Device::cpu();
    let (x, weight) = (Tensor::zeros(&device, &[2, 3], DType::F32)?, Tensor::zeros(&device, &[2], DType::F32)?);
    assert_eq!(x.rms_norm(&weight, 1e-6).unwrap_err().to_string(), "rms_norm: expected [3], found shape [2]");
    let message = rms_norm_weight_gradient(&x, 1e-6, &weight).unwrap_err().to_string();
    assert_eq!(message, "rms_norm_weight_gradient: expected [2, 3], found shape [2]");
    assert!(Tensor::scalar(&device, 1.0f32)?.rms_norm(&weight, 1e-6).is_err());
    assert!(x.cast(DType::F16)?.rms_norm(&weight, 1e-6).is_err());
    Ok(())
}

#[test]
fn every_variant_is_valid_wgsl() {
    for centred in [0.0, 1.0] {
        for lanes in [1.0, 2.0, 32.0, 256.0] {
            let constants = [("TEAM", lanes), ("CENTRED", centred)];
            crate::gpu::validate("norm", include_str!("kernel.wgsl"), &constants);
            for add in [0.0, 1.0] {
                let constants = [constants[0], constants[1], ("ADD", add)];
                crate::gpu::validate("norm_backward", super::gpu::BACKWARD, &constants);
                let constants = [("TEAM", lanes), ("VECTORS", 1.0 + 3.0 * centred), ("ADD", add)];
                crate::gpu::validate("rms_norm_backward", super::gpu::RMS_BACKWARD, &constants);
            }
            crate::gpu::validate("norm_statistics", include_str!("statistics.wgsl"), &constants);
            let constants = [("COLUMN_LANES", lanes), ("CENTRED", centred)];
            let source = include_str!("parameter_gradients.wgsl");
            crate::gpu::validate("norm_parameter_gradients", source, &constants);
        }
    }
}
