use proptest::prelude::*;

use super::{BalancePair, BalanceTarget, LARGEST_EXPONENT, balance_in_place, gpu};
use crate::testing::{assert_close, check, on_each_backend};
use crate::{Device, Tensor};

fn vector(device: &Device, values: &[f32]) -> Tensor {
    Tensor::from_slice(device, &[1, values.len()], values).unwrap()
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

/// Values between −1 and 1 for a factor and its two moments, and the exponent of the factor's scale.
fn factor() -> impl Strategy<Value = (Vec<[f32; 3]>, f32)> {
    (prop::collection::vec([-1.0..1.0f32, -1.0..1.0, 0.0..1.0], 1..6000), -20.0..20.0f32)
}

on_each_backend! {
    fn agrees_with_f64(device) {
        check(prop::collection::vec((factor(), factor()), 1..=20), |cases| {
            let column = |(values, exponent): &(Vec<[f32; 3]>, f32), which: usize| -> Vec<f32> {
                let scale = if which == 0 { 10f32.powf(*exponent) } else { 1.0 };
                values.iter().map(|value| value[which] * scale).collect()
            };
            let mut state: Vec<[Tensor; 3]> = cases
                .iter()
                .flat_map(|(a, b)| [a, b])
                .map(|factor| [0, 1, 2].map(|which| vector(device, &column(factor, which))))
                .collect();
            let mut targets = state.iter_mut().map(|[factor, first, second]| BalanceTarget {
                factor,
                first_moment: Some(first),
                second_moment: Some(second),
            });
            let mut pairs = Vec::new();
            while let (Some(a), Some(b)) = (targets.next(), targets.next()) {
                pairs.push(BalancePair { a, b });
            }
            balance_in_place(&mut pairs)?;
            for ((a, b), state) in cases.iter().zip(state.chunks(2)) {
                let limit = 2f64.powi(LARGEST_EXPONENT);
                let (norm_a, norm_b) = (norm(&column(a, 0)), norm(&column(b, 0)));
                let defined = norm_a > 0.0 && norm_b > 0.0;
                let s = if defined { (norm_b / norm_a).clamp(limit.recip(), limit) } else { 1.0 };
                for (factor, state, p) in [(a, &state[0], s.sqrt()), (b, &state[1], s.sqrt().recip())] {
                    for (which, power) in [1, -1, -2].into_iter().enumerate() {
                        let want: Vec<f64> =
                            column(factor, which).iter().map(|&x| f64::from(x) * p.powi(power)).collect();
                        assert_close("balance", &state[which], &[1, want.len()], &want, 5e-6, 1e-37)?;
                    }
                }
            }
            Ok(())
        });
    }

    fn moments_may_be_absent_and_undefined_pairs_stay(device) {
        let rows = [[1.0f32, 2.0], [8.0, -4.0], [0.0, 0.0], [3.0, 1.0], [f32::NAN, 1.0], [1.0, 1.0]];
        let mut factors = rows.map(|row| vector(device, &row));
        let mut moment = vector(device, &[1.0, 1.0]);
        let mut first_moment = Some(&mut moment);
        let mut targets = factors.iter_mut().map(|factor| BalanceTarget {
            factor,
            first_moment: first_moment.take(),
            second_moment: None,
        });
        let mut pairs = Vec::new();
        while let (Some(a), Some(b)) = (targets.next(), targets.next()) {
            pairs.push(BalancePair { a, b });
        }
        balance_in_place(&mut pairs).unwrap();
        // ‖B‖/‖A‖ = 4.
        assert_close("a", &factors[0], &[1, 2], &[2.0, 4.0], 1e-6, 0.0).unwrap();
        assert_close("b", &factors[1], &[1, 2], &[4.0, -2.0], 1e-6, 0.0).unwrap();
        assert_close("moment", &moment, &[1, 2], &[0.5, 0.5], 1e-6, 0.0).unwrap();
        for (factor, row) in factors.iter().zip(rows).skip(2) {
            let got = factor.to_vec::<f32>().unwrap();
            assert!(got.iter().zip(row).all(|(got, want)| got.to_bits() == want.to_bits() || want.is_nan()));
        }
    }
}

#[test]
fn every_variant_is_valid_wgsl() {
    for slots in 1..=gpu::SLOTS {
        crate::gpu::validate("balance_norms", &gpu::norms_wgsl(slots), &[]);
        crate::gpu::validate("balance_scale", &gpu::scale_wgsl(slots), &[("LARGEST_EXPONENT", 50.0)]);
    }
}
