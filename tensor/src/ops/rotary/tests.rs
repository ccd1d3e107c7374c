use proptest::prelude::*;

use crate::testing::{Recipe, assert_close, check, on_each_backend, recipe_of};
use crate::{Device, Tensor, rotary, rotary_backward};

/// x, cos and sin of one random shape.
fn case() -> impl Strategy<Value = (Recipe, Recipe, Recipe)> {
    (0usize..3, 0usize..8, 0usize..4, 0usize..9).prop_flat_map(|(batch, sequence, heads, half)| {
        (
            recipe_of(vec![batch, sequence, heads, 2 * half], -50.0..50.0),
            recipe_of(vec![sequence, half], -1.0..1.0),
            recipe_of(vec![sequence, half], -1.0..1.0),
        )
    })
}

/// The rotation in f64, written element by element.
fn reference(x: &Recipe, cos: &Recipe, sin: &Recipe, direction: f64) -> Vec<f64> {
    let (shape, values, cos, sin) = (x.shape(), x.values(), cos.values(), sin.values());
    let (sequence, heads, head_dim) = (shape[1], shape[2], shape[3]);
    let half = head_dim / 2;
    (0..values.len())
        .map(|index| {
            let (element, position) = (index % head_dim, index / head_dim / heads % sequence);
            let angle = position * half + element % half;
            let (partner, sign) = if element < half { (index + half, -1.0) } else { (index - half, 1.0) };
            values[index] * cos[angle] + sign * direction * values[partner] * sin[angle]
        })
        .collect()
}

on_each_backend! {
    fn agrees_with_f64(device) {
        check(case(), |(x, cos, sin)| {
            let (tensor, c, s) = (x.build(device), cos.build(device), sin.build(device));
            let got = rotary(&tensor, &c, &s)?;
            assert!(got.is_contiguous());
            assert_close("rotary", &got, x.shape(), &reference(&x, &cos, &sin, 1.0), 1e-6, 1e-5)?;
            let got = rotary_backward(&tensor, &c, &s)?;
            assert_close("rotary_backward", &got, x.shape(), &reference(&x, &cos, &sin, -1.0), 1e-6, 1e-5)
        });
    }

    fn backward_undoes_forward_for_true_angles(device) {
        let (batch, sequence, heads, head_dim) = (2, 37, 3, 48);
        let values: Vec<f32> = (0..batch * sequence * heads * head_dim).map(|i| (i % 101) as f32 - 50.0).collect();
        let angles: Vec<f32> = (0..sequence * head_dim / 2).map(|i| i as f32 * 0.37).collect();
        let table = |function: fn(f32) -> f32| {
            let values: Vec<f32> = angles.iter().map(|&angle| function(angle)).collect();
            Tensor::from_slice(device, &[sequence, head_dim / 2], &values).unwrap()
        };
        let x = Tensor::from_slice(device, &[batch, sequence, heads, head_dim], &values).unwrap();
        let (cos, sin) = (table(f32::cos), table(f32::sin));
        let back = rotary_backward(&rotary(&x, &cos, &sin).unwrap(), &cos, &sin).unwrap();
        let want: Vec<f64> = values.iter().map(|&value| f64::from(value)).collect();
        assert_close("there and back", &back, x.shape(), &want, 1e-5, 1e-5).unwrap();
    }

    fn nan_stays_in_its_pair(device) {
        let x = Tensor::from_slice(device, &[1, 1, 1, 4], &[f32::NAN, 1.0, 2.0, 3.0]).unwrap();
        let half = Tensor::from_slice(device, &[1, 2], &[0.5f32, 0.5]).unwrap();
        let got = rotary(&x, &half, &half).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(got.iter().map(|value| value.is_nan()).collect::<Vec<_>>(), [true, false, true, false]);
    }
}

#[test]
fn wrong_shapes_are_refused() {
    let device = Device::cpu();
    let zeros = |shape: &[usize]| Tensor::zeros(&device, shape, crate::DType::F32).unwrap();
    let message = rotary(&zeros(&[1, 2, 3, 5]), &zeros(&[2, 2]), &zeros(&[2, 2])).unwrap_err().to_string();
    assert!(message.contains("even head_dim"), "{message}");
    assert!(rotary(&zeros(&[1, 2, 3]), &zeros(&[2, 2]), &zeros(&[2, 2])).is_err());
    assert!(rotary(&zeros(&[1, 2, 3, 4]), &zeros(&[3, 2]), &zeros(&[2, 2])).is_err());
    assert!(rotary(&zeros(&[1, 2, 3, 4]), &zeros(&[2, 2]), &zeros(&[2, 1])).is_err());
}

#[test]
fn the_kernel_is_valid_wgsl() {
    crate::gpu::validate("rotary", include_str!("kernel.wgsl"), &[]);
}
