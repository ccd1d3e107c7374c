use proptest::prelude::*;

use crate::testing::{assert_close, check, on_each_backend, recipe, recipe_of};
use crate::{DType, Device, Tensor, silu_mul_backward};

on_each_backend! {
    fn agrees_with_f64(device) {
        let case = recipe(0..=4, 0..=9, -9.0..9.0).prop_flat_map(|gate| {
            let shape = gate.shape().to_vec();
            (Just(gate), recipe_of(shape.clone(), -4.0..4.0), recipe_of(shape, -4.0..4.0))
        });
        check(case, |(gate, up, upstream)| {
            let (x, u, dy) = (gate.values(), up.values(), upstream.values());
            let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
            let for_gate = |i: usize| dy[i] * u[i] * sigmoid(x[i]) * (1.0 + x[i] * (1.0 - sigmoid(x[i])));
            let for_up = |i: usize| dy[i] * x[i] * sigmoid(x[i]);
            let (dgate, dup) = silu_mul_backward(&gate.build(device), &up.build(device), &upstream.build(device))?;
            let want: Vec<f64> = (0..x.len()).map(for_gate).collect();
            assert_close("dgate", &dgate, gate.shape(), &want, 4e-6, 4e-6)?;
            let want: Vec<f64> = (0..x.len()).map(for_up).collect();
            assert_close("dup", &dup, gate.shape(), &want, 4e-6, 1e-6)
        });
    }

    fn agrees_with_the_separate_operations_on_many_elements(device) {
        let count = 70_001;
        let wave = |speed: f32| (0..count).map(|i| (i as f32 * speed).sin() * 3.0).collect::<Vec<f32>>();
        let tensor = |speed| Tensor::from_slice(device, &[count], &wave(speed)).unwrap();
        let (gate, up, dy) = (tensor(0.1), tensor(0.017), tensor(0.33));
        let (dgate, dup) = silu_mul_backward(&gate, &up, &dy).unwrap();
        let wide = |x: Tensor| x.to_vec::<f32>().unwrap().into_iter().map(f64::from).collect::<Vec<_>>();
        let want = wide(gate.silu_backward(&dy.mul(&up).unwrap()).unwrap());
        assert_close("dgate", &dgate, &[count], &want, 1e-6, 1e-6).unwrap();
        let want = wide(gate.silu_mul(&dy).unwrap());
        assert_close("dup", &dup, &[count], &want, 1e-6, 1e-6).unwrap();
    }

    fn nan_propagates_and_large_gates_stay_finite(device) {
        let gate = Tensor::from_slice(device, &[3], &[f32::NAN, 200.0, -200.0]).unwrap();
        let one = Tensor::ones(device, &[3], DType::F32).unwrap();
        let (dgate, dup) = silu_mul_backward(&gate, &one, &one).unwrap();
        let (dgate, dup) = (dgate.to_vec::<f32>().unwrap(), dup.to_vec::<f32>().unwrap());
        assert!(dgate[0].is_nan() && dup[0].is_nan());
        assert_eq!((dgate[1], dup[1]), (1.0, 200.0));
        assert!(dgate[2].abs() < 1e-30 && dup[2].abs() < 1e-30, "{dgate:?} {dup:?}");
    }
}

#[test]
fn other_shapes_are_refused() {
    let (a, b) = (Tensor::zeros(&Device::cpu(), &[2], DType::F32), Tensor::zeros(&Device::cpu(), &[1], DType::F32));
    let (a, b) = (a.unwrap(), b.unwrap());
    let message = silu_mul_backward(&a, &b, &a).unwrap_err().to_string();
    assert_eq!(message, "silu_mul_backward: expected [2], found shape [1]");
}

#[test]
fn the_kernel_is_valid_wgsl() {
    crate::gpu::validate("silu_mul_backward", include_str!("kernel.wgsl"), &[]);
}
