use proptest::prelude::*;

use crate::testing::{Recipe, assert_close, check, on_each_backend, recipe, recipe_of};
use crate::{DType, Device, Result, RoundedGate, RowScaled, Tensor, TensorError, silu_mul_backward};

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

/// Two matrices and an upstream gradient, with rows of every magnitude a feed-forward layer may have.
fn matrices() -> impl Strategy<Value = [Recipe; 3]> {
    let columns = prop_oneof![1usize..=9, Just(64), Just(257), Just(1028)];
    (0usize..=5, columns).prop_flat_map(|(rows, columns)| {
        let shape = vec![rows, columns];
        (recipe_of(shape.clone(), -9.0..9.0), recipe_of(shape.clone(), -300.0..300.0), recipe_of(shape, -1e-6..1e-6))
            .prop_map(|(gate, up, upstream)| [gate, up, upstream])
    })
}

/// Checks a rounded matrix: each element within 2⁻¹¹ of what it should be, or 2⁻²⁵ of the row's largest; `slack` is added
/// to the first, and `absolute` to both.
fn assert_rounded(what: &str, got: &RowScaled, shape: &[usize], want: &[f64], slack: f64, absolute: f64) -> Result<()> {
    assert_eq!(got.shape()[..], *shape, "{what}");
    let got = got.restored()?.to_vec::<f32>()?;
    for (got, want) in got.chunks(shape[1]).zip(want.chunks(shape[1])) {
        let largest = want.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
        for (&got, &want) in got.iter().zip(want) {
            let bound = (want.abs() * (2f64.powi(-11) + slack)).max(largest * 2f64.powi(-25)) + absolute;
            assert!((f64::from(got) - want).abs() <= bound, "{what}: {got} for {want}, largest {largest}");
        }
    }
    Ok(())
}

on_each_backend! {
    fn in_sixteen_bits_it_agrees_with_f64(device) {
        check(matrices(), |[gate, up, upstream]| {
            let (shape, sigmoid) = (gate.shape(), |x: f64| 1.0 / (1.0 + (-x).exp()));
            let (product, kept) = gate.build(device).silu_mul_row_scaled(&up.build(device))?;
            let alone = gate.build(device).silu_mul_rounded(&up.build(device))?;
            let bits = |rows: &crate::ops::RowScaled| {
                rows.values().to_vec::<crate::f16>().unwrap().into_iter().map(crate::f16::to_bits).collect::<Vec<_>>()
            };
            assert_eq!(bits(&alone), bits(&product));
            let silu_mul = |x: &[f64], u: &[f64]| x.iter().zip(u).map(|(x, u)| x * sigmoid(*x) * u).collect::<Vec<_>>();
            assert_rounded("product", &product, shape, &silu_mul(&gate.values(), &up.values()), 1e-5, 1e-6)?;

            // What is kept is rounded; the rest follows from that.
            let rounded = |recipe: &Recipe| -> Result<Vec<f64>> {
                let restored = recipe.build(device).row_scaled()?.restored()?;
                Ok(restored.to_vec::<f32>()?.into_iter().map(f64::from).collect())
            };
            let (x, u, dy) = (rounded(&gate)?, rounded(&up)?, upstream.values());
            assert_rounded("product again", &kept.product()?, shape, &silu_mul(&x, &u), 1e-5, 1e-6)?;
            let (for_gate, for_up) = kept.backward(&upstream.build(device))?;
            let want = |i: usize| dy[i] * u[i] * sigmoid(x[i]) * (1.0 + x[i] * (1.0 - sigmoid(x[i])));
            let want: Vec<f64> = (0..x.len()).map(want).collect();
            assert_rounded("dgate", &for_gate, shape, &want, 1e-5, 1e-9)?;
            let want: Vec<f64> = (0..x.len()).map(|i| dy[i] * x[i] * sigmoid(x[i])).collect();
            assert_rounded("dup", &for_up, shape, &want, 1e-5, 1e-11)?;

            // A gradient in 16 bits is its value in f32.
            let rounded_dy = upstream.build(device).row_scaled()?;
            let [got, want] = [kept.backward_rounded(&rounded_dy)?, kept.backward(&rounded_dy.restored()?)?];
            assert_eq!([bits(&got.0), bits(&got.1)], [bits(&want.0), bits(&want.1)]);
            Ok(())
        });
    }

    /// Inputs that were rounded elsewhere, with other powers of two than their largest elements'.
    fn inputs_may_be_rounded_already(device) {
        check(matrices(), |[gate, up, upstream]| {
            let (gate, up) = (gate.build(device).row_scaled()?, up.build(device).row_scaled()?);
            let double = |rows: &RowScaled| -> Result<RowScaled> {
                Ok(RowScaled::from_parts(rows.values().clone(), rows.scales().affine(2.0, 0.0)?))
            };
            let (gate, up) = (double(&gate)?, double(&up)?);
            let kept = RoundedGate::new(gate.clone(), up.clone())?;
            let exact = gate.restored()?.silu_mul(&up.restored()?)?;
            let wide = |x: &Tensor| Ok::<_, TensorError>(x.to_vec::<f32>()?.into_iter().map(f64::from).collect::<Vec<_>>());
            assert_rounded("product", &kept.product()?, upstream.shape(), &wide(&exact)?, 1e-5, 1e-6)?;
            let dy = upstream.build(device).row_scaled()?;
            let want = silu_mul_backward(&gate.restored()?, &up.restored()?, &dy.restored()?)?;
            let got = kept.backward_rounded(&dy)?;
            assert_rounded("dgate", &got.0, upstream.shape(), &wide(&want.0)?, 1e-5, 1e-9)?;
            assert_rounded("dup", &got.1, upstream.shape(), &wide(&want.1)?, 1e-5, 1e-9)
        });
    }

    fn rows_beyond_the_registers_are_read_again(device) {
        let (rows, columns) = (3, 30_004);
        let wave = |speed: f32| (0..rows * columns).map(|i| (i as f32 * speed).sin() * 3.0).collect::<Vec<f32>>();
        let tensor = |speed| Tensor::from_slice(device, &[rows, columns], &wave(speed)).unwrap();
        let (gate, up, dy) = (tensor(0.1), tensor(0.017), tensor(0.33));
        let (product, kept) = gate.silu_mul_row_scaled(&up).unwrap();
        let wide = |x: &Tensor| x.to_vec::<f32>().unwrap().into_iter().map(f64::from).collect::<Vec<_>>();
        let exact = gate.silu_mul(&up).unwrap();
        assert_rounded("product", &product, &[rows, columns], &wide(&exact), 1e-5, 1e-6).unwrap();
        let (for_gate, for_up) = kept.backward(&dy).unwrap();
        let (gate, up) = (gate.row_scaled().unwrap().restored().unwrap(), up.row_scaled().unwrap().restored().unwrap());
        let want = silu_mul_backward(&gate, &up, &dy).unwrap();
        assert_rounded("dgate", &for_gate, &[rows, columns], &wide(&want.0), 1e-5, 1e-5).unwrap();
        assert_rounded("dup", &for_up, &[rows, columns], &wide(&want.1), 1e-5, 1e-5).unwrap();
    }
}

#[test]
fn other_shapes_are_refused() {
    let (a, b) = (Tensor::zeros(&Device::cpu(), &[2], DType::F32), Tensor::zeros(&Device::cpu(), &[1], DType::F32));
    let (a, b) = (a.unwrap(), b.unwrap());
    let message = silu_mul_backward(&a, &b, &a).unwrap_err().to_string();
    assert_eq!(message, "silu_mul_backward: expected [2], found shape [1]");
    let message = a.silu_mul_row_scaled(&a).unwrap_err().to_string();
    assert_eq!(message, "silu_mul_row_scaled: expected a matrix [rows, columns], found shape [2]");
    let rounded = |rows| Tensor::zeros(&Device::cpu(), &[rows, 3], DType::F32).unwrap().row_scaled().unwrap();
    let message = RoundedGate::new(rounded(2), rounded(1)).unwrap_err().to_string();
    assert_eq!(message, "silu_mul_product: expected [2, 3], found shape [1, 3]");
    let gate = RoundedGate::new(rounded(2), rounded(2)).unwrap();
    let message = gate.backward_rounded(&rounded(1)).unwrap_err().to_string();
    assert_eq!(message, "silu_mul_gradients_rounded: expected [2, 3], found shape [1, 3]");
}

#[test]
fn the_kernel_is_valid_wgsl() {
    crate::gpu::validate("silu_mul_backward", include_str!("kernel.wgsl"), &[]);
}
