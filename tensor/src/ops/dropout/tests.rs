use proptest::prelude::*;

use crate::testing::{check, on_each_backend, recipe};
use crate::{Device, RandomKey, Tensor};

const KEY: RandomKey = RandomKey { seed: 7, stream: 11, step: 13 };

fn bits(x: &Tensor) -> Vec<u32> {
    x.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

on_each_backend! {
    fn is_bit_equal_on_every_device_and_keeps_scaled_values(device) {
        let case = (recipe(0..=4, 0..=7, -4.0..4.0), 0.01f32..0.99, any::<u64>());
        check(case, |(recipe, probability, step)| {
            let key = RandomKey { step, ..KEY };
            let got = recipe.build(device).dropout(probability, key)?;
            assert_eq!(got.shape()[..], *recipe.shape());
            assert_eq!(bits(&got), bits(&recipe.build(&Device::cpu()).dropout(probability, key)?));
            for (got, x) in got.to_vec::<f32>()?.into_iter().zip(recipe.values()) {
                let kept = x / (1.0 - f64::from(probability));
                assert!(got == 0.0 || (f64::from(got) - kept).abs() <= 2e-7 * kept.abs(), "{x} became {got}");
            }
            Ok(())
        });
    }

    fn drops_the_wanted_share_and_nothing_depends_on_values(device) {
        let n = 50_003;
        let ones = Tensor::ones(device, &[n], crate::DType::F32).unwrap();
        for probability in [0.05f32, 0.5, 0.9] {
            let kept = ones.dropout(probability, KEY).unwrap().to_vec::<f32>().unwrap();
            let dropped = kept.iter().filter(|&&x| x == 0.0).count() as f64 / n as f64;
            assert!((dropped - f64::from(probability)).abs() < 0.01, "{dropped} instead of {probability}");
            // The mask of the upstream gradient, of any values, is the same.
            let upstream = Tensor::full(device, &[n], crate::DType::F32, -3.0).unwrap();
            let gradient = upstream.dropout(probability, KEY).unwrap().to_vec::<f32>().unwrap();
            assert!(kept.iter().zip(&gradient).all(|(a, b)| (*a == 0.0) == (*b == 0.0)));
        }
    }

    fn masks_follow_the_random_words(device) {
        // A number below the probability in `random_uniform` is a dropped element here: one generator, one order.
        let uniform = Tensor::random_uniform(device, &[1000], 0.0, 1.0, KEY).unwrap().to_vec::<f32>().unwrap();
        let kept = Tensor::ones(device, &[10, 100], crate::DType::F32).unwrap().dropout(0.25, KEY).unwrap();
        for (u, kept) in uniform.into_iter().zip(kept.to_vec::<f32>().unwrap()) {
            assert_eq!(kept == 0.0, u < 0.25);
        }
    }

    fn extremes(device) {
        let x = Tensor::from_slice(device, &[3], &[1.0, f32::NAN, f32::INFINITY]).unwrap();
        assert_eq!(bits(&x.dropout(0.0, KEY).unwrap()), bits(&x));
        assert_eq!(x.dropout(1.0, KEY).unwrap().to_vec::<f32>().unwrap(), [0.0; 3]);
        let step = (0..1000).find(|&step| {
            let key = RandomKey { step, ..KEY };
            let ones = Tensor::ones(&Device::cpu(), &[3], crate::DType::F32).unwrap();
            ones.dropout(0.5, key).unwrap().to_vec::<f32>().unwrap().iter().all(|&kept| kept != 0.0)
        });
        let kept = x.dropout(0.5, RandomKey { step: step.unwrap(), ..KEY }).unwrap().to_vec::<f32>().unwrap();
        assert!(kept[0] == 2.0 && kept[1].is_nan() && kept[2] == f32::INFINITY, "{kept:?}");
    }
}

#[test]
fn other_numbers_are_no_probabilities() {
    let x = Tensor::ones(&Device::cpu(), &[1], crate::DType::F32).unwrap();
    for probability in [-0.1, 1.5, f32::NAN] {
        let message = x.dropout(probability, KEY).unwrap_err().to_string();
        assert_eq!(message, format!("dropout: {probability} is not a probability between 0 and 1"));
    }
}

#[test]
fn the_kernel_is_valid_wgsl() {
    crate::gpu::validate("dropout", super::gpu::KERNEL, &[]);
}
