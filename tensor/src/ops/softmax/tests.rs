use proptest::prelude::*;

use crate::testing::{Recipe, assert_close, check, on_each_backend, recipe, recipe_of};
use crate::{DType, Device, Result, Tensor};

/// Softmax of each row of `columns`, and its logarithm, in f64, over the elements that `keep` names.
fn reference(x: &[f64], keep: &[bool], columns: usize) -> (Vec<f64>, Vec<f64>) {
    let mut softmax = vec![0.0; x.len()];
    let mut logarithm = vec![0.0; x.len()];
    for start in (0..x.len()).step_by(columns.max(1)) {
        let row: Vec<usize> = (start..start + columns).filter(|&i| keep[i]).collect();
        let largest = row.iter().map(|&i| x[i]).fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = row.iter().map(|&i| (x[i] - largest).exp()).sum();
        for i in row {
            softmax[i] = (x[i] - largest).exp() / total;
            logarithm[i] = x[i] - largest - total.ln();
        }
    }
    (softmax, logarithm)
}

/// Rows of 1 to 9 or, now and then, several hundred columns.
fn rows(values: std::ops::Range<f32>) -> impl Strategy<Value = Recipe> {
    let long = (1usize..3, prop::sample::select(vec![64usize, 257, 1030]));
    let long = long.prop_map(|(rows, columns)| vec![rows, columns]);
    prop_oneof![recipe(1..=4, 0..=9, values.clone()), long.prop_flat_map(move |shape| recipe_of(shape, values.clone()))]
}

fn columns(recipe: &Recipe) -> usize {
    recipe.shape()[recipe.shape().len() - 1]
}

/// A tensor and a mask that broadcasts to it: some axes of extent 1, some leading axes absent.
fn masked_case() -> impl Strategy<Value = (Recipe, Recipe, bool)> {
    (rows(-6.0..6.0), prop::collection::vec(0u8..3, 4), 0usize..3, any::<bool>()).prop_flat_map(
        |(recipe, choices, lost, float)| {
            let shape = recipe.shape().to_vec();
            let thin = |(axis, &extent): (usize, &usize)| if choices[axis] == 0 { 1 } else { extent };
            let mask: Vec<usize> = shape.iter().enumerate().map(thin).skip(lost.min(shape.len())).collect();
            // Two thirds of the elements are kept.
            let mask = recipe_of(mask, -1.0..2.0).prop_map(|mask| mask.map(|x| x.max(0.0).ceil()));
            (Just(recipe), mask, Just(float))
        },
    )
}

on_each_backend! {
    fn forward_agrees_with_f64(device) {
        check(rows(-12.0..12.0), |recipe| {
            let x = recipe.build(device);
            let keep = vec![true; x.elements()];
            let (softmax, logarithm) = reference(&recipe.values(), &keep, columns(&recipe));
            assert_close("softmax", &x.softmax()?, recipe.shape(), &softmax, 5e-6, 1e-9)?;
            assert_close("log_softmax", &x.log_softmax()?, recipe.shape(), &logarithm, 1e-6, 4e-6)
        });
    }

    fn backward_agrees_with_f64(device) {
        let case = rows(-4.0..4.0).prop_flat_map(|x| {
            let shape = x.shape().to_vec();
            (Just(x), recipe_of(shape, -3.0..3.0))
        });
        check(case, |(recipe, upstream)| {
            let (x, dy) = (recipe.build(device), upstream.build(device));
            let columns = columns(&recipe);
            let keep = vec![true; x.elements()];
            let (softmax, _) = reference(&recipe.values(), &keep, columns);
            let gradient = upstream.values();
            let row_sum = |i: usize, weighted: bool| -> f64 {
                let row = i / columns * columns..(i / columns + 1) * columns;
                row.map(|j| gradient[j] * if weighted { softmax[j] } else { 1.0 }).sum()
            };
            let want: Vec<f64> =
                (0..x.elements()).map(|i| softmax[i] * (gradient[i] - row_sum(i, true))).collect();
            assert_close("softmax", &x.softmax()?.softmax_backward(&dy)?, recipe.shape(), &want, 1e-5, 2e-6)?;
            let want: Vec<f64> =
                (0..x.elements()).map(|i| gradient[i] - softmax[i] * row_sum(i, false)).collect();
            let got = x.log_softmax()?.log_softmax_backward(&dy)?;
            assert_close("log_softmax", &got, recipe.shape(), &want, 1e-5, 1e-5)
        });
    }

    fn masks_of_both_types_agree_with_f64(device) {
        check(masked_case(), |(recipe, mask_recipe, float)| {
            let mask = mask_recipe.build(device);
            let mask = if float { mask } else { mask.cast(DType::U32)? };
            let (_, pairs) = crate::testing::broadcast_values(&recipe, &mask_recipe);
            let keep: Vec<bool> = pairs.iter().map(|(_, mask)| *mask != 0.0).collect();
            let (want, _) = reference(&recipe.values(), &keep, columns(&recipe));
            let got = recipe.build(device).softmax_masked(&mask)?;
            for (got, keep) in got.to_vec::<f32>()?.into_iter().zip(&keep) {
                assert!(*keep || got.to_bits() == 0, "a masked element is exactly 0, not {got}");
            }
            assert_close("softmax_masked", &got, recipe.shape(), &want, 5e-6, 1e-9)
        });
    }

    fn huge_values_do_not_overflow(device) {
        let x = Tensor::from_slice(device, &[2, 3], &[3e38f32, 3e38, -3e38, -1e30, -1e30, -3e38]).unwrap();
        assert_eq!(x.softmax().unwrap().to_vec::<f32>().unwrap(), [0.5, 0.5, 0.0, 0.5, 0.5, 0.0]);
        let logarithm = x.log_softmax().unwrap().to_vec::<f32>().unwrap();
        let half = std::f32::consts::LN_2;
        for place in [0, 1, 3, 4] {
            assert!((logarithm[place] + half).abs() < 1e-6, "{logarithm:?}");
        }
    }

    fn infinities_and_nan_behave_as_in_pytorch(device) {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let values = [-inf, -inf, -inf, 0.0, -inf, 0.0, inf, 0.0, 1.0, nan, 0.0, 1.0];
        let x = Tensor::from_slice(device, &[4, 3], &values).unwrap();
        let softmax = x.softmax().unwrap().to_vec::<f32>().unwrap();
        assert!(softmax[..3].iter().all(|y| y.is_nan()), "nothing but −∞: {softmax:?}");
        assert_eq!(softmax[3..6], [0.5, 0.0, 0.5]);
        assert!(softmax[6].is_nan() && softmax[9..].iter().all(|y| y.is_nan()), "{softmax:?}");
        let logarithm = x.log_softmax().unwrap().to_vec::<f32>().unwrap();
        assert!(logarithm[..3].iter().all(|y| y.is_nan()) && logarithm[4] == -inf, "{logarithm:?}");
    }

    fn masked_elements_never_matter(device) {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let x = Tensor::from_slice(device, &[3, 3], &[nan, 1.0, 1.0, inf, 2.0, 2.0, 5.0, -inf, nan]).unwrap();
        let mask = Tensor::from_slice(device, &[3, 3], &[0u32, 7, 1, 0, 1, 1, 0, 0, 0]).unwrap();
        let got = x.softmax_masked(&mask).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(got, [0.0, 0.5, 0.5, 0.0, 0.5, 0.5, 0.0, 0.0, 0.0]);
        let signed_zero = Tensor::from_slice(device, &[3], &[-0.0f32, 1.0, 1.0]).unwrap();
        let got = x.softmax_masked(&signed_zero).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(got[..6], [0.0, 0.5, 0.5, 0.0, 0.5, 0.5]);
    }

    fn more_rows_than_one_grid_dimension_holds(device) {
        // A row of one element takes one invocation: enough of them to fold the grid.
        let x = Tensor::full(device, &[65_535 * 256 + 300, 1], DType::F32, 3.0).unwrap();
        let y = x.softmax().unwrap().to_vec::<f32>().unwrap();
        assert!(y.iter().all(|&y| y == 1.0));
    }
}

#[test]
fn wrong_operands_are_named() -> Result<()> {
    let device = Device::cpu();
    let x = Tensor::zeros(&device, &[2, 3], DType::F32)?;
    let wide = Tensor::zeros(&device, &[2, 2, 3], DType::U32)?;
    assert!(x.softmax_masked(&wide).unwrap_err().to_string().contains("do not broadcast"));
    let signed = Tensor::zeros(&device, &[3], DType::I32)?;
    let message = x.softmax_masked(&signed).unwrap_err().to_string();
    assert_eq!(message, "softmax_masked: expected elements of type u32 or f32 in the mask, found i32");
    assert!(Tensor::scalar(&device, 1.0f32)?.softmax().unwrap_err().to_string().contains("at least one axis"));
    assert!(x.softmax_backward(&x.t()?).is_err());
    Ok(())
}

#[test]
fn every_variant_is_valid_wgsl() {
    for team in [1.0, 2.0, 256.0] {
        for logarithm in [0.0, 1.0] {
            for mask in [0.0, 1.0, 2.0] {
                let constants = [("TEAM", team), ("LOGARITHM", logarithm), ("MASK", mask)];
                crate::gpu::validate("softmax", include_str!("kernel.wgsl"), &constants);
            }
            let constants = [("TEAM", team), ("LOGARITHM", logarithm)];
            crate::gpu::validate("softmax_backward", include_str!("backward.wgsl"), &constants);
        }
    }
}
