use crate::testing::{assert_close, check, on_each_backend, recipe};
use crate::{DType, Device, Tensor};

on_each_backend! {
    fn agrees_with_its_definition(device) {
        let case = (recipe(1..=4, 0..=6, -9.0..9.0), 0usize..4, 0usize..4, 0usize..4, -2.0f32..2.0);
        check(case, |(recipe, axis, before, after, value)| {
            let axis = axis % recipe.shape().len();
            let got = recipe.build(device).pad(axis, before, after, value)?;
            let mut shape = recipe.shape().to_vec();
            let (extent, inner) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
            shape[axis] += before + after;
            let values = recipe.values();
            let want: Vec<f64> = (0..shape.iter().product())
                .map(|e: usize| {
                    let (outer, place) = (e / inner / shape[axis], e / inner % shape[axis]);
                    match place.checked_sub(before) {
                        Some(i) if i < extent => values[(outer * extent + i) * inner + e % inner],
                        _ => f64::from(value),
                    }
                })
                .collect();
            assert_close("pad", &got, &shape, &want, 0.0, 0.0)
        });
    }

    fn integers_and_nan(device) {
        let x = Tensor::from_slice(device, &[2], &[u32::MAX, 1]).unwrap();
        assert_eq!(x.pad(0, 1, 2, 7.0).unwrap().to_vec::<u32>().unwrap(), [7, u32::MAX, 1, 7, 7]);
        let y = Tensor::from_slice(device, &[1], &[1.0f32]).unwrap().pad(0, 0, 1, f32::NAN).unwrap();
        assert!(y.to_vec::<f32>().unwrap()[1].is_nan());
    }
}

#[test]
fn arguments_are_checked() {
    let x = Tensor::zeros(&Device::cpu(), &[2], DType::U32).unwrap();
    assert!(x.pad(1, 0, 1, 0.0).is_err());
    assert!(x.pad(0, 0, 1, 0.5).is_err());
    assert!(x.cast(DType::F16).unwrap().pad(0, 0, 1, 0.5).is_err());
}
