use proptest::prelude::*;

use crate::testing::{Recipe, assert_close, check, on_each_backend, recipe_of};
use crate::{DType, Device, Tensor, check_ids, scatter_add};

/// A shape with `extent` at `axis`, the same with `count` there, values for both and indices for the second. Indices
/// may be a view of larger storage, like the values.
#[derive(Clone, Debug)]
struct Case {
    axis: usize,
    x: Recipe,
    dy: Recipe,
    indices: Recipe,
    ids: Vec<u32>,
}

fn case() -> impl Strategy<Value = Case> {
    (prop::collection::vec(0usize..6, 1..5), 0usize..4, 1usize..8, 0usize..8).prop_flat_map(
        |(mut shape, axis, extent, count)| {
            let axis = axis % shape.len();
            shape[axis] = extent;
            let mut picked = shape.clone();
            picked[axis] = count;
            (
                Just(axis),
                recipe_of(shape, -3.0..3.0),
                recipe_of(picked.clone(), -3.0..3.0),
                recipe_of(picked, 0.0..extent as f32),
                prop::collection::vec(0..extent as u32, count),
            )
                .prop_map(|(axis, x, dy, indices, ids)| Case {
                    axis,
                    x,
                    dy,
                    indices: indices.map(f32::trunc),
                    ids,
                })
        },
    )
}

/// A u32 tensor whose elements are the recipe's, strided like it: storage is reinterpreted after a cast of the view's
/// permuted form, so transposed layouts stay transposed.
fn build_indices(recipe: &Recipe, device: &Device, reversed: bool) -> Tensor {
    let dense = recipe.build(device);
    let order: Vec<usize> = (0..dense.rank()).rev().collect();
    if reversed {
        dense.permute(&order).unwrap().cast(DType::U32).unwrap().permute(&order).unwrap()
    } else {
        dense.cast(DType::U32).unwrap()
    }
}

/// Positions of `[outer, middle, inner]` around an axis.
fn around(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product())
}

on_each_backend! {
    fn gather_agrees_with_its_definition(device) {
        check((case(), any::<bool>()), |(case, reversed)| {
            let got = case.x.build(device).gather(case.axis, &build_indices(&case.indices, device, reversed))?;
            let (outer, extent, inner) = around(case.x.shape(), case.axis);
            let count = case.ids.len();
            let (x, indices) = (case.x.values(), case.indices.values());
            let want: Vec<f64> = (0..outer * count * inner)
                .map(|e| x[(e / inner / count * extent + indices[e] as usize) * inner + e % inner])
                .collect();
            assert_close("gather", &got, case.indices.shape(), &want, 0.0, 0.0)
        });
    }

    fn index_select_agrees_with_its_definition(device) {
        check(case(), |case| {
            let ids = Tensor::from_slice(device, &[case.ids.len()], &case.ids)?;
            let got = case.x.build(device).index_select(case.axis, &ids)?;
            let (outer, extent, inner) = around(case.x.shape(), case.axis);
            let x = case.x.values();
            let mut want = Vec::new();
            for o in 0..outer {
                for &id in &case.ids {
                    want.extend((0..inner).map(|c| x[(o * extent + id as usize) * inner + c]));
                }
            }
            assert_close("index_select", &got, case.dy.shape(), &want, 0.0, 0.0)
        });
    }

    fn scatter_add_agrees_with_its_definition(device) {
        check((case(), any::<bool>()), |(case, reversed)| {
            let (outer, extent, inner) = around(case.x.shape(), case.axis);
            let indices = build_indices(&case.indices, device, reversed);
            let got = scatter_add(&case.dy.build(device), &indices, case.axis, extent)?;
            let (count, dy, indices) = (case.ids.len(), case.dy.values(), case.indices.values());
            let mut want = vec![0.0; outer * extent * inner];
            for (e, dy) in dy.into_iter().enumerate() {
                want[(e / inner / count * extent + indices[e] as usize) * inner + e % inner] += dy;
            }
            assert_close("scatter_add", &got, case.x.shape(), &want, 1e-6, 1e-6)
        });
    }

    fn broadcast_ids_scatter_like_repeated_ones(device) {
        check(case(), |case| {
            let extent = case.x.shape()[case.axis];
            let mut line = vec![1; case.dy.shape().len()];
            line[case.axis] = case.ids.len();
            let ids = Tensor::from_slice(device, &line, &case.ids)?.broadcast_to(case.dy.shape())?;
            let dy = case.dy.build(device);
            let got = scatter_add(&dy, &ids, case.axis, extent)?;
            let want = scatter_add(&dy, &ids.copied()?, case.axis, extent)?.to_vec::<f32>()?;
            let want: Vec<f64> = want.into_iter().map(f64::from).collect();
            assert_close("scatter_add", &got, case.x.shape(), &want, 0.0, 0.0)
        });
    }

    fn integers_are_gathered_bit_by_bit(device) {
        let x = Tensor::from_slice(device, &[2, 3], &[-1i32, 2, i32::MIN, 4, i32::MAX, 6]).unwrap();
        let indices = Tensor::from_slice(device, &[2, 2], &[2u32, 0, 1, 1]).unwrap();
        let got = x.gather(1, &indices).unwrap().to_vec::<i32>().unwrap();
        assert_eq!(got, [i32::MIN, -1, i32::MAX, i32::MAX]);
        let x = Tensor::from_slice(device, &[3], &[7u32, u32::MAX, 9]).unwrap();
        let ids = Tensor::from_slice(device, &[2], &[1u32, 0]).unwrap();
        assert_eq!(x.index_select(0, &ids).unwrap().to_vec::<u32>().unwrap(), [u32::MAX, 7]);
    }

    fn long_scatters_keep_their_order(device) {
        // More indices than one dispatch walks; the sum of 2^24 and ones depends on the order.
        let n = 40_000;
        let ids: Vec<u32> = (0..n).map(|i| i % 3).collect();
        let dy: Vec<f32> = (0..n).map(|i| if i == 0 { 16_777_216.0 } else { 1.0 }).collect();
        let dy = Tensor::from_slice(device, &[n as usize], &dy).unwrap();
        let indices = Tensor::from_slice(device, &[n as usize], &ids).unwrap();
        let got = scatter_add(&dy, &indices, 0, 4).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(got, [16_777_216.0, 13_333.0, 13_333.0, 0.0]);
    }

    fn indices_out_of_range_never_pass_silently(device) {
        let x = Tensor::from_slice(device, &[3], &[1.0f32, 2.0, 3.0]).unwrap();
        let ids = Tensor::from_slice(device, &[3], &[0u32, 3, 2]).unwrap();
        let (gathered, summed) = (x.gather(0, &ids), scatter_add(&x, &ids, 0, 3));
        if device == &Device::cpu() {
            let message = gathered.unwrap_err().to_string();
            assert_eq!(message, "gather: id 3 at position 1 is out of range for an axis of 3");
            assert!(summed.is_err() && x.index_select(0, &ids).is_err());
        } else {
            let gathered = gathered.unwrap().to_vec::<f32>().unwrap();
            assert!(gathered[0] == 1.0 && gathered[1].is_nan() && gathered[2] == 3.0, "{gathered:?}");
            assert_eq!(summed.unwrap().to_vec::<f32>().unwrap(), [1.0, 0.0, 3.0]);
            let integers = x.cast(DType::U32).unwrap().index_select(0, &ids).unwrap();
            assert_eq!(integers.to_vec::<u32>().unwrap(), [1, u32::MAX, 3]);
        }
    }

    fn nan_and_infinity_propagate(device) {
        let dy = Tensor::from_slice(device, &[4], &[f32::NAN, f32::INFINITY, 1.0, f32::NEG_INFINITY]).unwrap();
        let ids = Tensor::from_slice(device, &[4], &[0u32, 1, 1, 2]).unwrap();
        let got = scatter_add(&dy, &ids, 0, 3).unwrap().to_vec::<f32>().unwrap();
        assert!(got[0].is_nan() && got[1] == f32::INFINITY && got[2] == f32::NEG_INFINITY, "{got:?}");
    }
}

#[test]
fn shapes_and_types_are_checked() {
    let device = Device::cpu();
    let x = Tensor::from_slice(&device, &[2, 3], &[0.0f32; 6]).unwrap();
    let indices = Tensor::from_slice(&device, &[3, 1], &[0u32; 3]).unwrap();
    assert_eq!(x.gather(1, &indices).unwrap_err().to_string(), "gather: expected [2, 1], found shape [3, 1]");
    assert!(x.gather(2, &indices).is_err() && x.gather(1, &x).is_err() && x.index_select(0, &indices).is_err());
    assert!(x.cast(DType::F16).unwrap().gather(1, &indices).is_err());
    assert!(scatter_add(&x, &indices, 0, 3).is_err());
    assert!(check_ids(&[0, 1, 2], 3).is_ok() && check_ids(&[], 0).is_ok() && check_ids(&[3], 3).is_err());
}

#[test]
fn every_variant_is_valid_wgsl() {
    for format in 0..3 {
        crate::gpu::validate("gather", include_str!("gather.wgsl"), &[("FORMAT", f64::from(format))]);
    }
    crate::gpu::validate("scatter", include_str!("scatter.wgsl"), &[]);
}
