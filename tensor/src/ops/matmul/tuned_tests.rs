//! Products on a device that measures its kernels.

use super::tests::{Stored, assert_product, reference};
use crate::testing::{gpu, open_gpu};
use crate::{DType, Device, Tuning};

#[test]
#[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
fn measured_choices_agree_and_give_the_same_bits_again_wgsl() {
    let open = |table: Tuning| {
        let device = open_gpu();
        device.tune(table).unwrap();
        device
    };
    let (a, b) = ([2, 70, 300], [300, 50]);
    let (a, b) = (Stored::random(&a, 1, DType::F32, false, 0), Stored::random(&b, 2, DType::F32, true, 0));
    let (shape, want) = reference(&a.shape, &a.values, &b.shape, &b.values);
    let first = open(Tuning::new(gpu().adapter().unwrap()));
    let product = |device: &Device| a.build(device).matmul(&b.build(device)).unwrap();
    let got = product(&first);
    assert_product(&got, &shape, &want, 300).unwrap();
    let table = first.tuning().unwrap();
    assert_eq!(table.len(), 1, "{table}");
    let second = open(table.clone());
    assert_eq!(product(&second).to_vec::<f32>().unwrap(), got.to_vec::<f32>().unwrap());
    assert_eq!(second.tuning().unwrap(), table, "nothing is measured twice");
}
