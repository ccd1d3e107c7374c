use half::{bf16, f16};

use crate::testing::on_each_backend;
use crate::{DType, Tensor};

on_each_backend! {
    fn every_element_has_the_value(device) {
        for shape in [&[][..], &[0], &[1], &[3, 5], &[65_537]] {
            let n: usize = shape.iter().product();
            let full = |dtype, value| Tensor::full(device, shape, dtype, value).unwrap();
            assert_eq!(full(DType::F32, -2.5).to_vec::<f32>().unwrap(), vec![-2.5; n]);
            assert_eq!(full(DType::F16, 0.3).to_vec::<f16>().unwrap(), vec![f16::from_f32(0.3); n]);
            assert_eq!(full(DType::Bf16, 0.3).to_vec::<bf16>().unwrap(), vec![bf16::from_f32(0.3); n]);
            assert_eq!(full(DType::U32, 7.0).to_vec::<u32>().unwrap(), vec![7; n]);
            assert_eq!(full(DType::I32, -7.0).to_vec::<i32>().unwrap(), vec![-7; n]);
        }
    }

    fn values_outside_the_type_are_refused(device) {
        assert!(Tensor::full(device, &[1], DType::U32, -1.0).is_err());
        assert!(Tensor::full(device, &[1], DType::I32, 0.5).is_err());
    }
}

#[test]
fn the_kernel_is_valid_wgsl() {
    crate::gpu::validate("fill", include_str!("kernel.wgsl"), &[]);
}
