use proptest::prelude::*;

use super::{clip_scale, gpu, scale_in_place, sum_of_squares};
use crate::testing::{Recipe, assert_close, check, on_each_backend, recipe};
use crate::{DType, Device, Tensor};

fn tensors() -> impl Strategy<Value = Vec<Recipe>> {
    prop::collection::vec(recipe(0..=3, 0..=9, -3.0..3.0), 1..=20)
}

on_each_backend! {
    fn sums_agree_with_f64(device) {
        check(tensors(), |recipes| {
            let built: Vec<Tensor> = recipes.iter().map(|recipe| recipe.build(device)).collect();
            let want: f64 = recipes.iter().flat_map(Recipe::values).map(|x| x * x).sum();
            let got = sum_of_squares(&built.iter().collect::<Vec<_>>())?;
            assert_close("sum of squares", &got, &[], &[want], 2e-6, 0.0)
        });
    }

    fn long_sums_are_accurate_and_repeatable(device) {
        // 4096² elements or fewer take two passes, more take three; here two, with a partial last block.
        let values: Vec<f32> = (0..150_001u32).map(|i| ((i * 7919) % 1013) as f32 * 1e-3 + 1e-4).collect();
        let want: f64 = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let x = Tensor::from_slice(device, &[150_001], &values).unwrap();
        let first = sum_of_squares(&[&x, &x]).unwrap().item::<f32>().unwrap();
        assert!((f64::from(first) - 2.0 * want).abs() < 2e-6 * want, "{first} instead of {}", 2.0 * want);
        let again = sum_of_squares(&[&x, &x]).unwrap().item::<f32>().unwrap();
        assert_eq!(first.to_bits(), again.to_bits());
    }

    fn clipping_scales_to_the_largest_norm(device) {
        for (sum, max_norm, want) in [(25.0, 1.0, 0.2), (25.0, 5.1, 1.0), (0.0, 1.0, 1.0), (4.0, 0.0, 0.0)] {
            let sum = Tensor::scalar(device, sum).unwrap();
            let got = clip_scale(&sum, max_norm).unwrap();
            assert_close("factor", &got, &[], &[want], 1e-6, 0.0).unwrap();
        }
        for sum in [f32::INFINITY, f32::NAN, -f32::NAN] {
            let sum = Tensor::scalar(device, sum).unwrap();
            assert_eq!(clip_scale(&sum, 1.0).unwrap().item::<f32>().unwrap(), 0.0);
            assert!(clip_scale(&sum, -1.0).is_err());
        }
    }

    fn a_factor_of_zero_removes_what_is_not_finite(device) {
        let mut x = Tensor::from_slice(device, &[4], &[1.5, f32::NAN, f32::INFINITY, f32::NEG_INFINITY]).unwrap();
        scale_in_place(&mut [&mut x], &Tensor::scalar(device, 0.0f32).unwrap()).unwrap();
        assert_eq!(x.to_vec::<f32>().unwrap(), [0.0; 4]);
    }

    fn scaling_changes_only_the_targets(device) {
        check((tensors(), -2.0..2.0f32), |(recipes, factor)| {
            let originals: Vec<Tensor> = recipes.iter().map(|recipe| recipe.build(device)).collect();
            let mut scaled = originals.clone();
            // The factor as one element of a larger tensor: its offset counts.
            let factors = Tensor::from_slice(device, &[3], &[f32::NAN, factor, f32::NAN])?;
            scale_in_place(&mut scaled.iter_mut().collect::<Vec<_>>(), &factors.select(0, 1)?)?;
            for ((recipe, original), scaled) in recipes.iter().zip(&originals).zip(&scaled) {
                let want: Vec<f64> = recipe.values().iter().map(|x| x * f64::from(factor)).collect();
                assert_close("scaled", scaled, recipe.shape(), &want, 1e-6, 0.0)?;
                assert_close("original", original, recipe.shape(), &recipe.values(), 0.0, 0.0)?;
            }
            Ok(())
        });
    }

    fn large_and_undefined_values_propagate(device) {
        let sum = |values: &[f32]| {
            let x = Tensor::from_slice(device, &[values.len()], values).unwrap();
            sum_of_squares(&[&x]).unwrap().item::<f32>().unwrap()
        };
        assert!((sum(&[1e15, 1e15]) / 2e30 - 1.0).abs() < 1e-6);
        assert_eq!(sum(&[1e30]), f32::INFINITY);
        assert!(sum(&[1.0, f32::NAN]).is_nan());
        assert_eq!(sum(&[]), 0.0);
    }
}

#[test]
fn wrong_arguments_are_refused() {
    let device = Device::cpu();
    assert!(sum_of_squares(&[]).unwrap_err().to_string().contains("at least one tensor"));
    let ids = Tensor::zeros(&device, &[2], DType::U32).unwrap();
    assert!(sum_of_squares(&[&ids]).is_err());
    let two = Tensor::zeros(&device, &[2], DType::F32).unwrap();
    assert!(clip_scale(&two, 1.0).is_err());
    assert!(scale_in_place(&mut [&mut two.clone()], &two).is_err());
}

#[test]
fn every_variant_is_valid_wgsl() {
    for slots in 1..=crate::ops::slots::SLOTS {
        crate::gpu::validate("sum of squares", &gpu::sum_wgsl(slots), &[("SQUARE", 1.0)]);
        crate::gpu::validate("scale", &gpu::scale_wgsl(slots), &[]);
    }
    crate::gpu::validate("clip", include_str!("clip.wgsl"), &[]);
}
