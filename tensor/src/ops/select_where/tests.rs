use proptest::prelude::*;

use crate::testing::{Recipe, assert_close, broadcast_values, check, on_each_backend, recipe_of};
use crate::{DType, Device, Tensor};

/// Three recipes whose shapes broadcast: each axis is 1 in the operands that its bits name; any may lose leading axes.
fn case() -> impl Strategy<Value = [Recipe; 3]> {
    let axes = prop::collection::vec((0usize..6, 0u8..8), 0..5);
    (axes, 0usize..5, 0usize..3).prop_flat_map(|(axes, lost, shorter)| {
        let shape = |which: usize| -> Vec<usize> {
            let lost = if which == shorter { lost.min(axes.len()) } else { 0 };
            axes[lost..].iter().map(|&(extent, ones)| if ones >> which & 1 == 1 { 1 } else { extent }).collect()
        };
        [recipe_of(shape(0), 0.0..3.0), recipe_of(shape(1), -9.0..9.0), recipe_of(shape(2), -9.0..9.0)]
    })
}

on_each_backend! {
    fn agrees_with_its_definition(device) {
        check(case(), |[condition, a, b]| {
            let condition = condition.map(f32::trunc);
            let reversed: Vec<usize> = (0..condition.shape().len()).rev().collect();
            // A cast makes storage contiguous; casting the reversed view keeps the condition strided.
            let built = condition.build(device).permute(&reversed)?.cast(DType::U32)?.permute(&reversed)?;
            let got = built.select_where(&a.build(device), &b.build(device))?;
            let (pair_shape, pairs) = broadcast_values(&a, &b);
            // Chosen by position, so that the third operand broadcasts through the same helper.
            let places = Recipe::dense(&pair_shape, (0..pairs.len()).map(|i| i as f32).collect());
            let (shape, chosen) = broadcast_values(&condition, &places);
            let pick = |(c, place): (f64, f64)| if c != 0.0 { pairs[place as usize].0 } else { pairs[place as usize].1 };
            let want: Vec<f64> = chosen.into_iter().map(pick).collect();
            assert_close("select_where", &got, &shape, &want, 0.0, 0.0)
        });
    }

    fn long_and_short_rows(device) {
        for (rows, columns) in [(3, 20_011), (5_003, 4)] {
            let n = rows * columns;
            let condition: Vec<u32> = (0..n).map(|i| (i % 3) as u32).collect();
            let condition = Tensor::from_slice(device, &[rows, columns], &condition).unwrap();
            let a = Tensor::from_slice(device, &[columns], &(0..columns as u32).collect::<Vec<_>>()).unwrap();
            let b = Tensor::from_slice(device, &[rows, 1], &(0..rows as u32).collect::<Vec<_>>()).unwrap();
            let got = condition.select_where(&a, &b).unwrap().to_vec::<u32>().unwrap();
            for (i, value) in got.into_iter().enumerate() {
                assert_eq!(value as usize, if i % 3 != 0 { i % columns } else { i / columns }, "element {i}");
            }
        }
    }

    fn what_is_not_chosen_has_no_effect(device) {
        let condition = Tensor::from_slice(device, &[3], &[1u32, 0, u32::MAX]).unwrap();
        let a = Tensor::from_slice(device, &[3], &[1.0, f32::NAN, f32::INFINITY]).unwrap();
        let b = Tensor::from_slice(device, &[3], &[f32::NAN, -2.0, f32::NAN]).unwrap();
        assert_eq!(condition.select_where(&a, &b).unwrap().to_vec::<f32>().unwrap(), [1.0, -2.0, f32::INFINITY]);
        assert!(condition.select_where(&b, &a).unwrap().to_vec::<f32>().unwrap().iter().all(|x| x.is_nan()));
    }
}

#[test]
fn shapes_and_types_are_checked() {
    let device = Device::cpu();
    let condition = Tensor::zeros(&device, &[2], DType::U32).unwrap();
    let x = Tensor::zeros(&device, &[3], DType::F32).unwrap();
    assert!(condition.select_where(&x, &x).is_err());
    let y = Tensor::zeros(&device, &[2], DType::F32).unwrap();
    assert!(y.select_where(&y, &y).is_err() && condition.select_where(&y, &condition).is_err());
    let half = y.cast(DType::F16).unwrap();
    assert!(condition.select_where(&half, &half).is_err());
}

#[test]
fn the_kernel_is_valid_wgsl() {
    crate::gpu::validate("select_where", include_str!("kernel.wgsl"), &[]);
}
