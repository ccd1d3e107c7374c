use proptest::prelude::*;

use crate::testing::{Recipe, assert_close, broadcast_values, check, on_each_backend, recipe_pair};
use crate::{Device, Result, Tensor};

type Function = (&'static str, fn(&Tensor, &Tensor) -> Result<Tensor>, fn(f64, f64) -> f64);

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn functions() -> Vec<Function> {
    vec![
        ("add", Tensor::add, |a, b| a + b),
        ("sub", Tensor::sub, |a, b| a - b),
        ("mul", Tensor::mul, |a, b| a * b),
        ("div", Tensor::div, |a, b| a / b),
        ("maximum", Tensor::maximum, f64::max),
        ("minimum", Tensor::minimum, f64::min),
        ("less", Tensor::less, |a, b| f64::from(u8::from(a < b))),
        ("equal", Tensor::equal, |a, b| f64::from(u8::from(a == b))),
        ("silu_backward", Tensor::silu_backward, |x, g| g * sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x)))),
        ("tanh_backward", Tensor::tanh_backward, |y, g| g * (1.0 - y * y)),
        ("sigmoid_backward", Tensor::sigmoid_backward, |y, g| g * y * (1.0 - y)),
        ("silu_mul", Tensor::silu_mul, |a, b| a * sigmoid(a) * b),
        ("gelu_backward", Tensor::gelu_backward, |x, g| {
            // Central difference of x·Φ(x) with Φ by its own series would repeat the unary test; the derivative of
            // gelu is checked here through tanh-free quadrature of the normal density.
            let density = |t: f64| (-0.5 * t * t).exp() / (2.0 * std::f64::consts::PI).sqrt();
            let steps = 2000;
            let h = x / f64::from(steps);
            let weight = |i| if i == 0 || i == steps { 1.0 } else { f64::from(2 + 2 * (i % 2)) };
            let area: f64 = (0..=steps).map(|i| weight(i) * density(f64::from(i) * h)).sum::<f64>() * h / 3.0;
            g * (0.5 + area + x * density(x))
        }),
    ]
}

fn case() -> impl Strategy<Value = (usize, (Recipe, Recipe))> {
    (0..functions().len(), recipe_pair(0..=4, 0..=6, -4.0..4.0))
}

on_each_backend! {
    fn agrees_with_f64(device) {
        check(case(), |(index, (a, b))| {
            let (name, function, reference) = functions()[index];
            let b = if name == "div" { b.map(|x| x + 5.0) } else { b };
            let got = function(&a.build(device), &b.build(device))?;
            let (shape, pairs) = broadcast_values(&a, &b);
            let want: Vec<f64> = pairs.into_iter().map(|(a, b)| reference(a, b)).collect();
            assert_close(name, &got, &shape, &want, 3e-6, 3e-6)
        });
    }

    fn long_rows_and_broadcast_rows(device) {
        let long: Vec<f32> = (0..70_001).map(|i| (i % 977) as f32).collect();
        let a = Tensor::from_slice(device, &[1, 70_001], &long).unwrap();
        let b = Tensor::from_slice(device, &[3, 1], &[1.0f32, 2.0, 3.0]).unwrap();
        let got = a.mul(&b).unwrap().to_vec::<f32>().unwrap();
        for (i, value) in got.into_iter().enumerate() {
            assert_eq!(value, long[i % 70_001] * (1 + i / 70_001) as f32, "element {i}");
        }
    }

    fn nan_and_infinity_propagate(device) {
        let a = Tensor::from_slice(device, &[3], &[f32::NAN, f32::INFINITY, 1.0]).unwrap();
        let b = Tensor::from_slice(device, &[3], &[1.0, f32::NEG_INFINITY, f32::NAN]).unwrap();
        for (name, function) in [("add", Tensor::add as fn(&Tensor, &Tensor) -> Result<Tensor>), ("mul", Tensor::mul)] {
            let got = function(&a, &b).unwrap().to_vec::<f32>().unwrap();
            assert!(got[0].is_nan() && got[2].is_nan() && !got[1].is_finite(), "{name}: {got:?}");
        }
        for function in [Tensor::maximum, Tensor::minimum] {
            let got = function(&a, &b).unwrap().to_vec::<f32>().unwrap();
            assert!(got[0].is_nan() && got[2].is_nan(), "{got:?}");
        }
    }
}

#[test]
fn shapes_that_do_not_broadcast_are_named() {
    let device = Device::cpu();
    let a = Tensor::from_slice(&device, &[2, 3], &[0.0f32; 6]).unwrap();
    let b = Tensor::from_slice(&device, &[2], &[0.0f32; 2]).unwrap();
    let message = a.add(&b).unwrap_err().to_string();
    assert_eq!(message, "add: shapes [2, 3] and [2] do not broadcast; each axis must be equal or 1");
}

#[test]
fn every_variant_is_valid_wgsl() {
    for operation in 0..13 {
        for dense in [0.0, 1.0] {
            let constants = [("OPERATION", f64::from(operation)), ("DENSE", dense)];
            crate::gpu::validate("binary", include_str!("kernel.wgsl"), &constants);
        }
    }
}
