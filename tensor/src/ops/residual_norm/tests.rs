use proptest::prelude::*;

use super::{Dropout, ResidualNorm, gpu};
use crate::testing::{Recipe, check, on_each_backend, recipe_of};
use crate::{Device, RandomKey, Result, Tensor, layer_norm_backward};

const EPSILON: f32 = 1e-3;
const KEY: RandomKey = RandomKey { seed: 7, stream: 3, step: 2 };

/// x, y, weight, bias and the upstream gradient.
type Case = ([Recipe; 5], Dropout);

fn case() -> impl Strategy<Value = Case> {
    let small = prop::collection::vec(0usize..9, 1..=3);
    let widths = prop::sample::select(vec![4usize, 64, 257, 768, 1028, 4096, 4100]);
    let long = (1usize..4, widths).prop_map(|(rows, hidden)| vec![rows, hidden]);
    prop_oneof![1 => small, 2 => long].prop_flat_map(|shape| {
        let hidden = vec![shape[shape.len() - 1]];
        let rows = || recipe_of(shape.clone(), -5.0..5.0);
        let row = || recipe_of(hidden.clone(), -2.0..2.0);
        let dropout = prop::option::of(prop_oneof![Just(0.0f32), 0.1f32..0.6]);
        let operands = (rows(), rows(), row(), row(), rows());
        (operands, dropout).prop_map(|((x, y, weight, bias, upstream), dropout)| {
            ([x, y, weight, bias, upstream], dropout.map(|probability| (probability, KEY)))
        })
    })
}

/// Checks a tensor against the one that other operations compute.
fn near(name: &str, got: &Tensor, want: &Tensor, tolerance: f32) -> Result<()> {
    assert_eq!(got.elements(), want.elements(), "{name}");
    for (i, (got, want)) in got.to_vec::<f32>()?.into_iter().zip(want.to_vec::<f32>()?).enumerate() {
        assert!((got - want).abs() <= tolerance * (1.0 + want.abs()), "{name}[{i}]: {got} instead of {want}");
    }
    Ok(())
}

on_each_backend! {
    fn is_what_it_stands_for(device) {
        check(case(), |(recipes, dropout)| {
            let [x, y, weight, bias, upstream] = recipes.each_ref().map(|recipe| recipe.build(device));
            let dropped = |x: &Tensor| dropout.map_or_else(|| Ok(x.clone()), |(p, key)| x.dropout(p, key));
            let got = ResidualNorm::new([&x, &y], dropout, [&weight, &bias], EPSILON)?;
            assert_eq!((got.sum.shape(), got.normed.shape()), (x.shape(), x.shape()));
            let sum = x.add(&dropped(&y)?)?;
            near("sum", &got.sum, &sum, 1e-6)?;
            near("normed", &got.normed, &sum.layer_norm(&weight, &bias, EPSILON)?, 2e-5)?;
            near("rounded", &got.rounded.restored()?, &got.normed.as_rows()?.row_scaled()?.restored()?, 1e-6)?;
            let (dx, dy) = ResidualNorm::backward(&sum, &weight, EPSILON, dropout, &upstream)?;
            let want = layer_norm_backward(&sum, &weight, EPSILON, &upstream, None)?;
            near("dx", &dx, &want, 5e-4)?;
            near("dy", &dy.restored()?, &dropped(&dx)?.as_rows()?.row_scaled()?.restored()?, 1e-6)
        });
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let zeros = |shape: &[usize]| Tensor::zeros(&Device::cpu(), shape, crate::DType::F32).unwrap();
    let (x, row) = (zeros(&[2, 8]), zeros(&[8]));
    let fails = |y: &Tensor, dropout, bias: &Tensor| ResidualNorm::new([&x, y], dropout, [&row, bias], 1e-5).is_err();
    assert!(!fails(&x, None, &row));
    assert!(fails(&zeros(&[2, 4]), None, &row) && fails(&x, None, &zeros(&[4])) && fails(&x, Some((1.5, KEY)), &row));
    assert!(ResidualNorm::backward(&x, &zeros(&[4]), 1e-5, None, &x).is_err());
    assert!(ResidualNorm::backward(&x, &row, 1e-5, None, &zeros(&[8])).is_err());
}

#[test]
fn kernels_are_valid_wgsl() {
    for native in [true, false] {
        for (vectors, dropout) in [(1.0, 1.0), (4.0, 0.0)] {
            let constants = [("TEAM", 64.0), ("VECTORS", vectors), ("DROPOUT", dropout)];
            crate::gpu::validate("residual_norm", &gpu::text(gpu::FORWARD, native), &constants);
            crate::gpu::validate("residual_norm_backward", &gpu::text(gpu::BACKWARD, native), &constants);
        }
    }
}
