use crate::testing::{check, on_each_backend, recipe};
use crate::{DType, Device, RowScaled, Tensor};

/// Within the rounding of the one and the other: a unit in the last of 11 digits, or 2⁻²⁴ of the row's largest.
fn assert_near(name: &str, got: &RowScaled, want: &Tensor) {
    let columns = want.shape()[1];
    let (got, want) = (got.restored().unwrap().to_vec::<f32>().unwrap(), want.to_vec::<f32>().unwrap());
    for (row, (got, want)) in got.chunks(columns.max(1)).zip(want.chunks(columns.max(1))).enumerate() {
        let largest = want.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        for (got, want) in got.iter().zip(want) {
            let bound = want.abs() * 6e-4 + largest * 1e-6;
            assert!((got - want).abs() <= bound, "{name}, row {row}: {got} instead of {want}");
        }
    }
}

on_each_backend! {
    fn are_the_exact_ones_rounded(device) {
        check((recipe(2..=2, 0..=70, -6.0..6.0), -20i32..20), |(recipe, exponent)| {
            let x = recipe.build(device);
            assert_near("gelu", &x.gelu_row_scaled()?, &x.gelu()?);
            let upstream = recipe.clone().map(|x| (x + 0.5) * 2f32.powi(exponent)).build(device);
            assert_near("gradient", &x.gelu_backward_row_scaled(&upstream)?, &x.gelu_backward(&upstream)?);
            Ok(())
        });
    }
}

#[test]
fn wrong_operands_are_refused() {
    let zeros = |shape: &[usize]| Tensor::zeros(&Device::cpu(), shape, DType::F32).unwrap();
    assert!(zeros(&[2, 3]).gelu_row_scaled().is_ok() && zeros(&[2, 3, 4]).gelu_row_scaled().is_err());
    assert!(zeros(&[2, 3]).gelu_backward_row_scaled(&zeros(&[3, 2])).is_err());
}
