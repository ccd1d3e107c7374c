use std::sync::Arc;

use proptest::prelude::*;

use crate::tensor::Storage;
use crate::testing::{Recipe, assert_close, check, on_each_backend, recipe_of};
use crate::{
    DType, Device, Result, RowScaled, Tensor, cross_entropy, cross_entropy_backward, cross_entropy_with_gradient,
};

const IGNORE: i32 = -100;

/// Logits and labels, a third of them ignored.
fn case() -> impl Strategy<Value = (Recipe, Vec<i32>)> {
    (0usize..6, prop_oneof![1usize..40, Just(257), Just(1031)], prop_oneof![Just(3.0f32), Just(1e4)]).prop_flat_map(
        |(rows, vocabulary, range)| {
            let label = prop_oneof![1 => Just(IGNORE), 2 => 0..vocabulary as i32];
            (recipe_of(vec![rows, vocabulary], -range..range), prop::collection::vec(label, rows))
        },
    )
}

fn log_sum_exp(row: &[f64]) -> f64 {
    let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    largest + row.iter().map(|x| (x - largest).exp()).sum::<f64>().ln()
}

fn labels_on(device: &Device, labels: &[i32]) -> Tensor {
    // A slice of a longer tensor, as chunks of a batch are.
    let padded: Vec<i32> = [&[7], labels, &[9]].concat();
    Tensor::from_slice(device, &[padded.len()], &padded).unwrap().slice(0, 1, 1 + labels.len()).unwrap()
}

/// The gradient as `exact` says, but for the rounding of its rows to 16 bits and `relative` errors of its own.
fn assert_rounded(rounded: &RowScaled, exact: &[f64], relative: f64) -> Result<()> {
    let columns = rounded.shape()[1];
    let rounded = rounded.restored()?.to_vec::<f32>()?;
    assert_eq!(rounded.len(), exact.len());
    for (row, exact) in rounded.chunks(columns).zip(exact.chunks(columns)) {
        let largest = exact.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
        for (&rounded, exact) in row.iter().zip(exact) {
            // Where little is left of the label's own, its error is that of the probability.
            let bound = (exact.abs() * (2f64.powi(-10) + relative)).max(largest * 2f64.powi(-24)) + 1e-6;
            assert!((f64::from(rounded) - exact).abs() <= bound, "{rounded} for {exact} of at most {largest}");
        }
    }
    Ok(())
}

fn storage_identity(x: &Tensor) -> usize {
    match &x.storage {
        Storage::Cpu(storage) => Arc::as_ptr(storage) as usize,
        Storage::Gpu(storage) => Arc::as_ptr(storage) as usize,
    }
}

on_each_backend! {
    fn losses_agree_with_f64(device) {
        check(case(), |(logits, labels)| {
            let got = cross_entropy(&logits.build(device), &labels_on(device, &labels), IGNORE)?;
            let values = logits.values();
            let rows: Vec<&[f64]> = values.chunks(logits.shape()[1]).collect();
            let sums: Vec<f64> = rows.iter().map(|row| log_sum_exp(row)).collect();
            let loss = |r: usize| if labels[r] == IGNORE { 0.0 } else { sums[r] - rows[r][labels[r] as usize] };
            let losses: Vec<f64> = (0..labels.len()).map(loss).collect();
            assert_close("log_sum_exp", &got.log_sum_exp, &[labels.len()], &sums, 1e-6, 3e-6)?;
            assert_close("losses", &got.losses, &[labels.len()], &losses, 1e-6, 3e-6)
        });
    }

    fn gradients_agree_with_f64(device) {
        check((case(), 0.01f32..2.0), |((logits, labels), scale)| {
            let (built, on_device) = (logits.build(device), labels_on(device, &labels));
            let forward = cross_entropy(&built, &on_device, IGNORE)?;
            let got = cross_entropy_backward(built.clone(), &on_device, IGNORE, &forward.log_sum_exp, scale)?;
            let vocabulary = logits.shape()[1];
            let mut want = Vec::new();
            for (row, &label) in logits.values().chunks(vocabulary).zip(&labels) {
                let sum = log_sum_exp(row);
                want.extend(row.iter().enumerate().map(|(j, x)| match label {
                    IGNORE => 0.0,
                    _ => f64::from(scale) * ((x - sum).exp() - f64::from(u8::from(j == label as usize))),
                }));
            }
            // The logarithm of the sum is rounded to f32 in between: half a unit in its last place.
            let largest = logits.values().into_iter().fold(1.0, |a: f64, b| a.max(b.abs()));
            assert_close("dlogits", &got, logits.shape(), &want, 1e-5 + 2e-7 * largest, 1e-6)?;
            let (losses, rounded) = cross_entropy_with_gradient(&built, &on_device, IGNORE, scale)?;
            let expected: Vec<f64> = forward.losses.to_vec::<f32>()?.into_iter().map(f64::from).collect();
            assert_close("losses", &losses, &[labels.len()], &expected, 2e-6, 6e-6)?;
            assert_rounded(&rounded, &want, 2e-7 * largest)?;
            // The logits were still held here, so they must be what they were.
            assert_close("logits", &built, logits.shape(), &logits.values(), 0.0, 0.0)
        });
    }

    fn unshared_logits_become_their_gradient_in_place(device) {
        let logits = Tensor::from_slice(device, &[2, 300], &[0.5f32; 600]).unwrap();
        let labels = labels_on(device, &[3, IGNORE]);
        let sums = cross_entropy(&logits, &labels, IGNORE).unwrap().log_sum_exp;
        let before = storage_identity(&logits);
        let gradient = cross_entropy_backward(logits, &labels, IGNORE, &sums, 300.0).unwrap();
        assert_eq!(storage_identity(&gradient), before);
        let got = gradient.to_vec::<f32>().unwrap();
        assert!((got[2] - 1.0).abs() < 1e-4 && (got[3] + 299.0).abs() < 1e-3, "{} {}", got[2], got[3]);
        assert!(got[300..].iter().all(|x| x.to_bits() == 0));
    }

    fn a_large_vocabulary(device) {
        let columns = 128_256;
        let values: Vec<f32> = (0..2 * columns).map(|i| ((i * 7919) % 1009) as f32 * 0.01 - 5.0).collect();
        let logits = Tensor::from_slice(device, &[2, columns], &values).unwrap();
        let labels = labels_on(device, &[128_255, 0]);
        let got = cross_entropy(&logits, &labels, IGNORE).unwrap();
        let wide: Vec<f64> = values.into_iter().map(f64::from).collect();
        let sums: Vec<f64> = wide.chunks(columns).map(log_sum_exp).collect();
        assert_close("log_sum_exp", &got.log_sum_exp, &[2], &sums, 1e-6, 0.0).unwrap();
        let (losses, rounded) = cross_entropy_with_gradient(&logits, &labels, IGNORE, 1.0).unwrap();
        let expected: Vec<f64> = got.losses.to_vec::<f32>().unwrap().into_iter().map(f64::from).collect();
        assert_close("losses", &losses, &[2], &expected, 1e-6, 0.0).unwrap();
        let gradient = cross_entropy_backward(logits, &labels, IGNORE, &got.log_sum_exp, 1.0).unwrap();
        let expected: Vec<f64> = gradient.to_vec::<f32>().unwrap().into_iter().map(f64::from).collect();
        assert_rounded(&rounded, &expected, 1e-5).unwrap();
        for (r, row) in gradient.to_vec::<f32>().unwrap().chunks(columns).enumerate() {
            let total: f64 = row.iter().map(|&x| f64::from(x)).sum();
            assert!(total.abs() < 2e-5, "row {r} sums to {total}");
        }
    }

    /// The rest of a probability of nearly 1 is below its last bit.
    fn what_is_left_beside_a_certain_label_is_not_lost(device) {
        let logits = [[20.0f32, 0.0, 1.0, 0.0], [0.0, 60.0, 0.0, 2.0]].concat();
        let logits = Tensor::from_slice(device, &[2, 4], &logits).unwrap();
        let (losses, gradient) =
            cross_entropy_with_gradient(&logits, &labels_on(device, &[0, 1]), IGNORE, 1.0).unwrap();
        let gradient = gradient.restored().unwrap().to_vec::<f32>().unwrap();
        for (i, exponent) in [(1, -20.0f64), (2, -19.0), (3, -20.0), (4, -60.0), (6, -60.0), (7, -58.0)] {
            let want = exponent.exp();
            assert!((f64::from(gradient[i]) - want).abs() <= 1e-3 * want, "{i}: {} for {want}", gradient[i]);
        }
        assert!(gradient[0].abs() < 1e-6 && gradient[5].abs() < 1e-6, "{gradient:?}");
        assert!(losses.to_vec::<f32>().unwrap().iter().all(|loss| (0.0..1e-6).contains(loss)));
    }

    fn more_rows_than_a_grid_has_workgroups(device) {
        let rows = 66_000;
        let values: Vec<f32> = (0..rows).map(|r| (r % 17) as f32).flat_map(|x| [x, 0.0]).collect();
        let logits = Tensor::from_slice(device, &[rows, 2], &values).unwrap();
        let labels = labels_on(device, &vec![0; rows]);
        let forward = cross_entropy(&logits, &labels, IGNORE).unwrap();
        let losses = forward.losses.to_vec::<f32>().unwrap();
        let gradient = cross_entropy_backward(logits, &labels, IGNORE, &forward.log_sum_exp, 1.0).unwrap();
        let gradient = gradient.to_vec::<f32>().unwrap();
        for r in 0..rows {
            let want = (-f64::from(values[2 * r])).exp().ln_1p();
            assert!((f64::from(losses[r]) - want).abs() < 1e-6, "row {r}: {} instead of {want}", losses[r]);
            let want = 1.0 - (-want).exp();
            assert!((f64::from(gradient[2 * r + 1]) - want).abs() < 1e-6, "row {r}: {}", gradient[2 * r + 1]);
        }
    }

    fn nan_and_infinity_propagate(device) {
        let (nan, infinity) = (f32::NAN, f32::INFINITY);
        let values = [1.0, nan, 2.0, 1.0, infinity, 2.0, 1.0, -infinity, 2.0, -infinity, -infinity, -infinity];
        let logits = Tensor::from_slice(device, &[4, 3], &values).unwrap();
        let got = cross_entropy(&logits, &labels_on(device, &[0, 0, 0, 0]), IGNORE).unwrap();
        let (losses, sums) = (got.losses.to_vec::<f32>().unwrap(), got.log_sum_exp.to_vec::<f32>().unwrap());
        assert!(losses[0].is_nan() && losses[1].is_nan() && (losses[2] - 1.313_261_7).abs() < 1e-5, "{losses:?}");
        assert!(sums[0].is_nan() && sums[1].is_nan() && sums[3] == -infinity, "{sums:?}");
        let impossible = cross_entropy(&logits, &labels_on(device, &[IGNORE, IGNORE, 1, IGNORE]), IGNORE).unwrap();
        assert_eq!(impossible.losses.to_vec::<f32>().unwrap(), [0.0, 0.0, infinity, 0.0]);
        let values = [[1.0, nan, 2.0, 0.0], [1.0, infinity, 2.0, 0.0], [1.0, -infinity, 2.0, 0.0], [-infinity; 4]].concat();
        let logits = Tensor::from_slice(device, &[4, 4], &values).unwrap();
        let (losses, gradient) =
            cross_entropy_with_gradient(&logits, &labels_on(device, &[0, 0, 1, IGNORE]), IGNORE, 1.0).unwrap();
        let (losses, gradient) = (losses.to_vec::<f32>().unwrap(), gradient.restored().unwrap().to_vec::<f32>().unwrap());
        assert!(losses[0].is_nan() && losses[1].is_nan() && losses[2..] == [infinity, 0.0], "{losses:?}");
        assert!(gradient[..8].iter().all(|x| x.is_nan()) && gradient[9] == -1.0 && gradient[12..] == [0.0; 4]);
    }

    fn labels_that_are_no_columns_never_pass_silently(device) {
        let logits = Tensor::from_slice(device, &[3, 2], &[0.0f32; 6]).unwrap();
        for bad in [2, -1, i32::MIN] {
            let labels = labels_on(device, &[0, bad, IGNORE]);
            let forward = cross_entropy(&logits, &labels, IGNORE);
            let sums = Tensor::from_slice(device, &[3], &[2.0f32.ln(); 3]).unwrap();
            let backward = cross_entropy_backward(logits.clone(), &labels, IGNORE, &sums, 1.0);
            let wide = Tensor::from_slice(device, &[3, 4], &[0.0f32; 12]).unwrap();
            let with_gradient = |logits: &Tensor, bad: i32| {
                cross_entropy_with_gradient(logits, &labels_on(device, &[0, bad, IGNORE]), IGNORE, 1.0)
            };
            // Of rows that vectors fit, and of others.
            let rounded = [with_gradient(&logits, bad), with_gradient(&wide, if bad > 0 { 4 } else { bad })];
            if device == &Device::cpu() {
                let message = forward.unwrap_err().to_string();
                let want = format!("label {bad} of row 1 is neither -100 (ignored) nor one of 2 columns");
                assert_eq!(message, format!("cross_entropy: {want}"));
                assert!(backward.is_err() && rounded.iter().all(Result::is_err));
            } else {
                let losses = forward.unwrap().losses.to_vec::<f32>().unwrap();
                assert!(losses[0] > 0.0 && losses[1].is_nan() && losses[2] == 0.0, "{losses:?}");
                let mut gradients = vec![backward.unwrap().to_vec::<f32>().unwrap()];
                for (losses, rounded) in rounded.map(Result::unwrap) {
                    let losses = losses.to_vec::<f32>().unwrap();
                    assert!(losses[0] > 0.0 && losses[1].is_nan() && losses[2] == 0.0, "{losses:?}");
                    gradients.push(rounded.restored().unwrap().to_vec::<f32>().unwrap());
                }
                for gradient in gradients {
                    let rows: Vec<&[f32]> = gradient.chunks(gradient.len() / 3).collect();
                    assert!(rows[1].iter().all(|x| x.is_nan()) && rows[2].iter().all(|&x| x == 0.0), "{gradient:?}");
                }
            }
        }
    }
}

#[test]
fn shapes_and_types_are_checked() -> Result<()> {
    let device = Device::cpu();
    let logits = Tensor::zeros(&device, &[2, 3], DType::F32)?;
    let labels = Tensor::zeros(&device, &[3], DType::I32)?;
    let message = cross_entropy(&logits, &labels, IGNORE).unwrap_err().to_string();
    assert_eq!(message, "cross_entropy: expected [2], found shape [3]");
    let empty = Tensor::zeros(&device, &[3, 0], DType::F32)?;
    assert!(cross_entropy(&empty, &labels, IGNORE).is_err());
    assert!(cross_entropy(&logits, &labels.cast(DType::U32)?, IGNORE).is_err());
    let square = Tensor::zeros(&device, &[3, 3], DType::F32)?;
    let sums = Tensor::zeros(&device, &[2], DType::F32)?;
    assert!(cross_entropy_backward(square, &labels, IGNORE, &sums, 1.0).is_err());
    Ok(())
}

#[test]
fn the_kernels_are_valid_wgsl() {
    crate::gpu::validate("cross_entropy", include_str!("forward.wgsl"), &[]);
    crate::gpu::validate("cross_entropy_backward", include_str!("backward.wgsl"), &[]);
    for (threads, native) in [(256, false), (1024, true)] {
        crate::gpu::validate("cross_entropy_with_gradient", &super::gpu::with_gradient_text(threads, native), &[]);
    }
}
