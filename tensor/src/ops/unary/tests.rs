use proptest::prelude::*;

use crate::testing::{Recipe, assert_close, check, on_each_backend, recipe};
use crate::{Device, Result, Tensor};

type Function = (&'static str, fn(&Tensor) -> Result<Tensor>, fn(f64) -> f64);

fn functions() -> Vec<Function> {
    vec![
        ("neg", Tensor::neg, |x| -x),
        ("abs", Tensor::abs, f64::abs),
        ("square", Tensor::square, |x| x * x),
        ("sqrt", Tensor::sqrt, f64::sqrt),
        ("rsqrt", Tensor::rsqrt, |x| 1.0 / x.sqrt()),
        ("reciprocal", Tensor::reciprocal, |x| 1.0 / x),
        ("exp", Tensor::exp, f64::exp),
        ("ln", Tensor::ln, f64::ln),
        ("sin", Tensor::sin, f64::sin),
        ("cos", Tensor::cos, f64::cos),
        ("tanh", Tensor::tanh, f64::tanh),
        ("sigmoid", Tensor::sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
        ("silu", Tensor::silu, |x| x / (1.0 + (-x).exp())),
        ("gelu", Tensor::gelu, |x| 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))),
        ("relu", Tensor::relu, |x| x.max(0.0)),
        ("affine", |x| x.affine(-1.5, 0.25), |x| 0.25 - 1.5 * x),
    ]
}

/// erf in f64 by its Maclaurin series, for the arguments the tests use.
fn erf(x: f64) -> f64 {
    if x.abs() > 5.5 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    std::f64::consts::FRAC_2_SQRT_PI * sum
}

fn case() -> impl Strategy<Value = (usize, Recipe)> {
    (0..functions().len(), recipe(0..=4, 0..=7, -4.0..4.0))
}

on_each_backend! {
    fn agrees_with_f64(device) {
        check(case(), |(index, recipe)| {
            let (name, function, reference) = functions()[index];
            let positive = matches!(name, "sqrt" | "rsqrt" | "ln" | "reciprocal");
            let recipe = if positive { recipe.map(|x| x.abs() + 0.01) } else { recipe };
            let got = function(&recipe.build(device))?;
            let want: Vec<f64> = recipe.values().into_iter().map(reference).collect();
            assert_close(name, &got, recipe.shape(), &want, 2e-6, 1e-6)
        });
    }

    fn extremes_behave(device) {
        let values = [0.0, -0.0, 1e-38, -1e-30, 1e30, -1e30, 90.0, -110.0, f32::INFINITY, f32::NEG_INFINITY];
        let x = Tensor::from_slice(device, &[10], &values).unwrap();
        for (name, function, reference) in functions() {
            if matches!(name, "sin" | "cos") {
                continue; // large arguments are the driver's affair
            }
            let got = function(&x).unwrap().to_vec::<f32>().unwrap();
            for (&x, got) in values.iter().zip(got) {
                let want = reference(f64::from(x)) as f32;
                // Kernels may flush subnormal numbers to zero, and 1/−0 follows.
                let subnormal = x != 0.0 && x.abs() < 1.2e-38 || want.abs() < 1.2e-38;
                let near = (got - want).abs() <= 1e-5 * want.abs() || subnormal && got.abs() < 1.2e-38;
                // 0·∞ in the reference of silu and gelu at −∞ is NaN there and may be 0 here.
                let undefined = want.is_nan();
                assert!(near || got == want || undefined || subnormal, "{name}({x}) = {got}, not {want}");
            }
        }
    }

    fn nan_propagates(device) {
        let x = Tensor::from_slice(device, &[1], &[f32::NAN]).unwrap();
        for (name, function, _) in functions() {
            assert!(function(&x).unwrap().item::<f32>().unwrap().is_nan(), "{name}");
        }
    }
}

#[test]
fn other_types_are_refused() {
    let x = Tensor::from_slice(&Device::cpu(), &[1], &[1u32]).unwrap();
    assert_eq!(x.exp().unwrap_err().to_string(), "exp: expected elements of type f32, found u32");
}

#[test]
fn every_variant_is_valid_wgsl() {
    for operation in 0..16 {
        crate::gpu::validate("unary", include_str!("kernel.wgsl"), &[("OPERATION", f64::from(operation))]);
    }
}
