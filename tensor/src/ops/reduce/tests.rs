use proptest::prelude::*;

use crate::testing::{Recipe, assert_close, check, on_each_backend, recipe};
use crate::{DType, Device, Result, Tensor};

type Function = (&'static str, fn(&Tensor, &[usize], bool) -> Result<Tensor>, fn(&[f64]) -> f64);

fn functions() -> [Function; 4] {
    [
        ("sum", Tensor::sum, |x| x.iter().sum()),
        ("mean", Tensor::mean, |x| x.iter().sum::<f64>() / x.len() as f64),
        ("max", Tensor::max, |x| x.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
        ("min", Tensor::min, |x| x.iter().copied().fold(f64::INFINITY, f64::min)),
    ]
}

/// The elements of each result, in the order of the results.
fn groups(recipe: &Recipe, axes: &[usize]) -> Vec<Vec<f64>> {
    let shape = recipe.shape();
    let kept: Vec<usize> = (0..shape.len()).filter(|axis| !axes.contains(axis)).collect();
    let mut groups = vec![Vec::new(); kept.iter().map(|&axis| shape[axis]).product()];
    for (index, value) in recipe.values().into_iter().enumerate() {
        let coordinate = |axis: usize| index / shape[axis + 1..].iter().product::<usize>() % shape[axis];
        let place = kept.iter().fold(0, |place, &axis| place * shape[axis] + coordinate(axis));
        groups[place].push(value);
    }
    groups
}

fn reduced_shape(shape: &[usize], axes: &[usize], keep_axes: bool) -> Vec<usize> {
    let extent = |(axis, &extent): (usize, &usize)| match (axes.contains(&axis), keep_axes) {
        (true, true) => Some(1),
        (true, false) => None,
        _ => Some(extent),
    };
    shape.iter().enumerate().filter_map(extent).collect()
}

fn case() -> impl Strategy<Value = (usize, Recipe, Vec<usize>, bool)> {
    (0usize..4, recipe(0..=4, 0..=9, -8.0..8.0), prop::collection::vec(any::<bool>(), 4), any::<bool>()).prop_map(
        |(function, recipe, chosen, keep)| {
            let axes = (0..recipe.shape().len()).filter(|&axis| chosen[axis]).collect();
            (function, recipe, axes, keep)
        },
    )
}

/// Reproducible numbers in −0.5..0.5.
fn noise(count: usize) -> Vec<f32> {
    (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 16_777_216.0 - 0.5).collect()
}

on_each_backend! {
    fn agrees_with_f64_over_any_axes(device) {
        check(case(), |(function, recipe, axes, keep)| {
            let (name, function, reference) = functions()[function];
            let groups = groups(&recipe, &axes);
            let x = recipe.build(device);
            let empty = axes.iter().any(|&axis| recipe.shape()[axis] == 0);
            if empty && matches!(name, "max" | "min") {
                assert!(function(&x, &axes, keep).is_err());
                return Ok(());
            }
            let want: Vec<f64> = groups.iter().map(|group| reference(group)).collect();
            let shape = reduced_shape(recipe.shape(), &axes, keep);
            assert_close(name, &function(&x, &axes, keep)?, &shape, &want, 1e-6, 1e-5)
        });
    }

    fn sum_to_undoes_broadcasting(device) {
        check(case(), |(_, recipe, axes, _)| {
            let shape = reduced_shape(recipe.shape(), &axes, true);
            let lost = shape.iter().take_while(|&&extent| extent == 1).count();
            let want: Vec<f64> = groups(&recipe, &axes).iter().map(|group| group.iter().sum()).collect();
            let x = recipe.build(device);
            for target in [&shape[..], &shape[lost..]] {
                assert_close("sum_to", &x.sum_to(target)?, target, &want, 1e-6, 1e-5)?;
            }
            Ok(())
        });
    }

    fn long_sums_are_accurate(device) {
        // Constant, alternating and random numbers, in every direction: one long row, a few, one column, a few.
        let count = 300_007;
        let constant = vec![0.1f32; count];
        let alternating: Vec<f32> = (0..count).map(|i| if i % 2 == 0 { 1.0e3 } else { -0.999e3 }).collect();
        for values in [constant, alternating, noise(count)] {
            for (rows, columns) in [(1, count), (3, count / 3), (count / 5, 5), (count, 1), (count / 40, 40)] {
                let used = &values[..rows * columns];
                let x = Tensor::from_slice(device, &[rows, columns], used).unwrap();
                for axis in 0..2 {
                    let got = x.sum(&[axis], false).unwrap().to_vec::<f32>().unwrap();
                    let mut want = vec![(0.0, 0.0); if axis == 0 { columns } else { rows }];
                    for (i, &value) in used.iter().enumerate() {
                        let (sum, magnitude) = &mut want[if axis == 0 { i % columns } else { i / columns }];
                        *sum += f64::from(value);
                        *magnitude += f64::from(value.abs());
                    }
                    for (got, (want, magnitude)) in got.into_iter().zip(want) {
                        let error = (f64::from(got) - want).abs();
                        assert!(error <= 1e-6 * magnitude, "[{rows}, {columns}] axis {axis}: {got}, not {want}");
                    }
                }
            }
        }
    }

    fn results_repeat_exactly(device) {
        let x = Tensor::from_slice(device, &[70_001], &noise(70_001)).unwrap();
        let first = x.sum(&[0], false).unwrap().item::<f32>().unwrap();
        let again = x.sum(&[0], false).unwrap().item::<f32>().unwrap();
        assert_eq!(first.to_bits(), again.to_bits());
    }

    fn broadcast_views_are_reduced(device) {
        let x = Tensor::from_slice(device, &[3, 1], &[1.0f32, 2.0, 4.0]).unwrap();
        let wide = x.broadcast_to(&[2, 3, 5]).unwrap();
        assert_eq!(wide.sum(&[0, 2], false).unwrap().to_vec::<f32>().unwrap(), [10.0, 20.0, 40.0]);
        assert_eq!(wide.max(&[1], false).unwrap().to_vec::<f32>().unwrap(), [4.0; 10]);
        assert_eq!(wide.sum_to(&[3, 1]).unwrap().to_vec::<f32>().unwrap(), [10.0, 20.0, 40.0]);
    }

    fn empty_reductions_have_their_own_rules(device) {
        let x = Tensor::zeros(device, &[2, 0], DType::F32).unwrap();
        assert_eq!(x.sum(&[1], false).unwrap().to_vec::<f32>().unwrap(), [0.0, 0.0]);
        assert!(x.mean(&[1], false).unwrap().to_vec::<f32>().unwrap().iter().all(|mean| mean.is_nan()));
        assert_eq!(x.max(&[0], false).unwrap().shape()[..], [0]);
        assert_eq!(x.argmax(0).unwrap().shape()[..], [0]);
        let message = x.min(&[1], false).unwrap_err().to_string();
        assert_eq!(message, "min: expected at least one element along the reduced axes, found shape [2, 0]");
        assert!(x.argmax(1).is_err());
    }

    fn nan_and_infinity_propagate(device) {
        for place in [0, 1, 700, 998] {
            let mut values = noise(999);
            values[place] = f32::NAN;
            for shape in [[999, 1], [1, 999]] {
                let x = Tensor::from_slice(device, &shape, &values).unwrap();
                for (name, function, _) in functions() {
                    let got = function(&x, &[0, 1], false).unwrap().item::<f32>().unwrap();
                    assert!(got.is_nan(), "{name} of a NaN at {place}: {got}");
                }
            }
            values[place] = f32::INFINITY;
            let x = Tensor::from_slice(device, &[999], &values).unwrap();
            for function in [Tensor::sum, Tensor::mean, Tensor::max] {
                assert_eq!(function(&x, &[0], false).unwrap().item::<f32>().unwrap(), f32::INFINITY);
            }
            assert!(x.min(&[0], false).unwrap().item::<f32>().unwrap().is_finite());
        }
        let x = Tensor::full(device, &[300], DType::F32, f32::NEG_INFINITY).unwrap();
        assert_eq!(x.max(&[0], false).unwrap().item::<f32>().unwrap(), f32::NEG_INFINITY);
    }

    fn argmax_agrees_with_a_scan(device) {
        // Few distinct values, so that there are ties.
        check((recipe(1..=4, 1..=9, -3.0..3.0), 0usize..4), |(recipe, axis)| {
            let recipe = recipe.map(f32::round);
            let axis = axis % recipe.shape().len();
            let want: Vec<u32> = groups(&recipe, &[axis])
                .iter()
                .map(|group| {
                    let largest = group.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    group.iter().position(|&x| x == largest).unwrap() as u32
                })
                .collect();
            let got = recipe.build(device).argmax(axis)?;
            assert_eq!(got.shape()[..], reduced_shape(recipe.shape(), &[axis], false)[..]);
            assert_eq!(got.to_vec::<u32>()?, want);
            Ok(())
        });
    }

    fn argmax_of_long_rows_takes_the_first(device) {
        let mut values = noise(2 * 300_007);
        for place in [250_000, 250_001, 300_006, 300_007 + 3, 300_007 + 299_999] {
            values[place] = 1.0;
        }
        let x = Tensor::from_slice(device, &[2, 300_007], &values).unwrap();
        assert_eq!(x.argmax(1).unwrap().to_vec::<u32>().unwrap(), [250_000, 3]);
        for place in [260_000, 270_000, 2 * 300_007 - 1] {
            values[place] = f32::NAN;
        }
        let x = Tensor::from_slice(device, &[2, 300_007], &values).unwrap();
        assert_eq!(x.argmax(1).unwrap().to_vec::<u32>().unwrap(), [260_000, 300_006]);
    }
}

#[test]
fn wrong_axes_are_named() {
    let x = Tensor::zeros(&Device::cpu(), &[2, 3], DType::F32).unwrap();
    assert_eq!(x.sum(&[2], false).unwrap_err().to_string(), "sum: axis 2 is out of range for shape [2, 3]");
    assert_eq!(x.max(&[0, 0], false).unwrap_err().to_string(), "max: axis 0 is named twice in [0, 0]");
    assert!(x.sum_to(&[3, 3]).is_err() && x.sum_to(&[4, 2, 3]).is_err());
    assert!(x.cast(DType::U32).unwrap().sum(&[0], false).is_err());
}

#[test]
fn every_variant_is_valid_wgsl() {
    for lanes in [1.0, 2.0, 64.0, 256.0] {
        for flag in [0.0, 1.0] {
            for operation in 0..3 {
                let constants = [("OPERATION", f64::from(operation)), ("REDUCE_LANES", lanes), ("COLUMNS_FIRST", flag)];
                crate::gpu::validate("reduce", include_str!("kernel.wgsl"), &constants);
            }
            crate::gpu::validate("argmax", include_str!("argmax.wgsl"), &[("TEAM", lanes), ("INDIRECT", flag)]);
        }
    }
}
