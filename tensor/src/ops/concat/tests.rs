use proptest::prelude::*;

use crate::testing::{Recipe, assert_close, check, on_each_backend, recipe_of};
use crate::{DType, Device, Tensor};

/// One to four tensors that differ in one axis.
fn case() -> impl Strategy<Value = (usize, Vec<Recipe>)> {
    (prop::collection::vec(0usize..6, 1..5), 0usize..4, prop::collection::vec(0usize..7, 1..5)).prop_flat_map(
        |(shape, axis, extents)| {
            let axis = axis % shape.len();
            let parts: Vec<_> = extents
                .into_iter()
                .map(|extent| {
                    let mut shape = shape.clone();
                    shape[axis] = extent;
                    recipe_of(shape, -9.0..9.0)
                })
                .collect();
            (Just(axis), parts)
        },
    )
}

on_each_backend! {
    fn agrees_with_its_definition(device) {
        check(case(), |(axis, parts)| {
            let built: Vec<Tensor> = parts.iter().map(|part| part.build(device)).collect();
            let got = Tensor::concat(&built.iter().collect::<Vec<_>>(), axis)?;
            let mut shape = parts[0].shape().to_vec();
            shape[axis] = parts.iter().map(|part| part.shape()[axis]).sum();
            let (outer, inner) = (shape[..axis].iter().product::<usize>(), shape[axis + 1..].iter().product::<usize>());
            let values: Vec<Vec<f64>> = parts.iter().map(Recipe::values).collect();
            let mut want = Vec::new();
            for o in 0..outer {
                for (part, values) in parts.iter().zip(&values) {
                    let run = part.shape()[axis] * inner;
                    want.extend_from_slice(&values[o * run..(o + 1) * run]);
                }
            }
            assert_close("concat", &got, &shape, &want, 0.0, 0.0)
        });
    }

    fn large_and_broadcast_parts(device) {
        let values: Vec<f32> = (0..30_000).map(|i| i as f32).collect();
        let x = Tensor::from_slice(device, &[300, 100], &values).unwrap();
        let row = Tensor::from_slice(device, &[1, 100], &values[..100]).unwrap().broadcast_to(&[300, 100]).unwrap();
        let got = Tensor::concat(&[&row, &x, &x], 1).unwrap().to_vec::<f32>().unwrap();
        for (i, value) in got.into_iter().enumerate() {
            let (r, c) = (i / 300, i % 300);
            assert_eq!(value, if c < 100 { c } else { r * 100 + c % 100 } as f32, "row {r}, column {c}");
        }
    }

    fn integers_and_special_values_keep_their_bits(device) {
        let x = Tensor::from_slice(device, &[2], &[i32::MIN, -1]).unwrap();
        let y = Tensor::from_slice(device, &[1], &[i32::MAX]).unwrap();
        assert_eq!(Tensor::concat(&[&x, &y], 0).unwrap().to_vec::<i32>().unwrap(), [i32::MIN, -1, i32::MAX]);
        let x = Tensor::from_slice(device, &[2], &[f32::NAN, -0.0]).unwrap();
        let got = Tensor::concat(&[&x, &x], 0).unwrap().to_vec::<f32>().unwrap();
        assert!(got[2].is_nan() && got[3].to_bits() == 1 << 31);
    }
}

#[test]
fn parts_must_fit() {
    let device = Device::cpu();
    let x = Tensor::zeros(&device, &[2, 3], DType::F32).unwrap();
    let y = Tensor::zeros(&device, &[3, 3], DType::F32).unwrap();
    let message = Tensor::concat(&[&x, &y], 1).unwrap_err().to_string();
    assert_eq!(message, "concat: expected [2, 3], found shape [3, 3]");
    assert!(Tensor::concat(&[], 0).is_err() && Tensor::concat(&[&x], 2).is_err());
    assert!(Tensor::concat(&[&x, &Tensor::zeros(&device, &[2], DType::F32).unwrap()], 1).is_err());
    assert!(Tensor::concat(&[&x, &x.cast(DType::U32).unwrap()], 0).is_err());
    let half = x.cast(DType::F16).unwrap();
    assert!(Tensor::concat(&[&half, &half], 0).is_err());
}

#[test]
fn the_kernel_is_valid_wgsl() {
    crate::gpu::validate("concat", include_str!("kernel.wgsl"), &[]);
}
