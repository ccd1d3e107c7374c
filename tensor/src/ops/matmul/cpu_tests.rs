//! How the CPU divides a product among threads.

use super::tests::{Stored, check_pair};
use crate::{DType, Device};

#[test]
fn blocks_of_columns_agree_with_f64() {
    let device = Device::cpu();
    // Whole blocks, and a last one of one column; some rows of a left operand that is a window of something larger.
    for (rows, columns, margin) in [(17, 640, 0), (9, 577, 3)] {
        for transposed in [false, true] {
            let a = Stored::random(&[rows, 450], 1, DType::F32, false, margin);
            let b = Stored::random(&[450, columns], 2, DType::F32, transposed, margin);
            check_pair(&device, &a, &b).unwrap();
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let device = Device::cpu();
    let cases = [
        ([300, 700], [700, 260]),
        ([40, 130], [130, 1000]),
        ([1, 512], [512, 9000]),
        ([8, 5000], [5000, 300]),
        ([6000, 8], [8, 64]),
    ];
    for (a_shape, b_shape) in cases {
        for transposed in [false, true] {
            let a = Stored::random(&a_shape, 1, DType::F32, transposed, 0).build(&device);
            let b = Stored::random(&b_shape, 2, DType::Bf16, !transposed, 0).build(&device);
            let bits = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let values = pool.install(|| a.matmul(&b).unwrap().to_vec::<f32>().unwrap());
                values.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            let one = bits(1);
            assert!(one == bits(2) && one == bits(5), "{a_shape:?} x {b_shape:?}");
        }
    }
}
