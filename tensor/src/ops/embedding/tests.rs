use proptest::prelude::*;

use crate::testing::{Recipe, assert_close, check, on_each_backend, recipe_of};
use crate::{DType, Device, Tensor, embedding_gradient};

/// A table, ids of some shape below its rows, and an upstream gradient.
fn case() -> impl Strategy<Value = (Recipe, Vec<usize>, Vec<u32>, Recipe)> {
    (1usize..20, 0usize..13, prop::collection::vec(0usize..5, 0..4)).prop_flat_map(|(rows, hidden, shape)| {
        let count = shape.iter().product::<usize>();
        let upstream = [&shape[..], &[hidden]].concat();
        (
            recipe_of(vec![rows, hidden], -3.0..3.0),
            Just(shape),
            prop::collection::vec(0..rows as u32, count),
            recipe_of(upstream, -3.0..3.0),
        )
    })
}

on_each_backend! {
    fn looks_up_rows_of_every_float_type(device) {
        check((case(), 0usize..3), |((table, shape, ids, dy), which)| {
            let dtype = [DType::F32, DType::F16, DType::Bf16][which];
            // Multiples of 1/8 below 4 are exact in all three types.
            let table = table.map(|x| (8.0 * x).trunc() / 8.0);
            let hidden = table.shape()[1];
            let order = [1, 0];
            // A cast makes storage contiguous; casting the transpose keeps a strided table strided.
            let built = table.build(device).permute(&order)?.cast(dtype)?.permute(&order)?;
            let got = built.embedding(&Tensor::from_slice(device, &shape, &ids)?)?;
            let values = table.values();
            let want: Vec<f64> =
                ids.iter().flat_map(|&id| values[id as usize * hidden..][..hidden].to_vec()).collect();
            assert_close("embedding", &got, dy.shape(), &want, 0.0, 0.0)
        });
    }

    fn gradient_sums_rows_by_id(device) {
        check(case(), |(table, shape, ids, dy)| {
            let (rows, hidden) = (table.shape()[0], table.shape()[1]);
            let got = embedding_gradient(&Tensor::from_slice(device, &shape, &ids)?, &dy.build(device), rows)?;
            let mut want = vec![0.0; rows * hidden];
            for (e, dy) in dy.values().into_iter().enumerate() {
                want[ids[e / hidden] as usize * hidden + e % hidden] += dy;
            }
            assert_close("embedding_gradient", &got, &[rows, hidden], &want, 1e-6, 1e-6)
        });
    }

    fn gradient_is_bit_equal_on_every_device(device) {
        let ids: Vec<u32> = (0..500u32).map(|i| i * i % 37).collect();
        let dy: Vec<f32> = (0..500 * 33).map(|i| (i as f32 * 0.37).sin() * 1e3).collect();
        let on = |device: &Device| {
            let (ids, dy) = (Tensor::from_slice(device, &[20, 25], &ids), Tensor::from_slice(device, &[20, 25, 33], &dy));
            embedding_gradient(&ids.unwrap(), &dy.unwrap(), 50).unwrap().to_vec::<f32>().unwrap()
        };
        assert_eq!(on(device), on(&Device::cpu()));
    }

    fn views_of_half_tables(device) {
        let values: Vec<half::bf16> = (0..35).map(|i| half::bf16::from_f32(i as f32)).collect();
        let table = Tensor::from_slice(device, &[5, 7], &values).unwrap().slice(0, 1, 4).unwrap().slice(1, 2, 5).unwrap();
        let ids = Tensor::from_slice(device, &[2], &[2u32, 0]).unwrap();
        assert_eq!(table.embedding(&ids).unwrap().to_vec::<f32>().unwrap(), [23.0, 24.0, 25.0, 9.0, 10.0, 11.0]);
    }

    fn ids_beyond_the_table_never_pass_silently(device) {
        let table = Tensor::from_slice(device, &[2, 2], &[1.0f32, 2.0, 3.0, 4.0]).unwrap();
        let ids = Tensor::from_slice(device, &[2], &[1u32, 2]).unwrap();
        let (rows, gradient) = (table.embedding(&ids), embedding_gradient(&ids, &table, 2));
        if device == &Device::cpu() {
            let message = rows.unwrap_err().to_string();
            assert_eq!(message, "embedding: id 2 at position 1 is out of range for an axis of 2");
            assert!(gradient.is_err());
        } else {
            let rows = rows.unwrap().to_vec::<f32>().unwrap();
            assert!(rows[..2] == [3.0, 4.0] && rows[2].is_nan() && rows[3].is_nan(), "{rows:?}");
            assert_eq!(gradient.unwrap().to_vec::<f32>().unwrap(), [0.0, 0.0, 1.0, 2.0]);
        }
    }
}

#[test]
fn shapes_and_types_are_checked() {
    let device = Device::cpu();
    let table = Tensor::from_slice(&device, &[2, 2], &[1.0f32; 4]).unwrap();
    let ids = Tensor::from_slice(&device, &[3], &[0u32; 3]).unwrap();
    assert!(table.reshape(&[4]).unwrap().embedding(&ids).is_err());
    assert!(table.cast(DType::U32).unwrap().embedding(&ids).is_err());
    assert!(table.embedding(&table).is_err());
    let message = embedding_gradient(&ids, &table, 2).unwrap_err().to_string();
    assert_eq!(message, "embedding_gradient: expected [3] and one more axis, found shape [2, 2]");
}
