use proptest::prelude::*;

use crate::testing::{check, on_each_backend};
use crate::{Device, RandomKey, Tensor};

const KEY: RandomKey = RandomKey { seed: 0x0123_4567_89ab_cdef, stream: 0xfedc_ba98_7654_3210, step: 9 };

fn shape_and_key() -> impl Strategy<Value = (Vec<usize>, RandomKey)> {
    let key =
        (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(seed, stream, step)| RandomKey { seed, stream, step });
    (prop::collection::vec(0usize..12, 0..4), key)
}

fn moments(values: &[f32]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    (mean, values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n)
}

/// Largest distance between the distribution of the values and a distribution function (Kolmogorov and Smirnov).
fn distance(mut values: Vec<f32>, cumulative: impl Fn(f64) -> f64) -> f64 {
    values.sort_by(f32::total_cmp);
    let n = values.len() as f64;
    let gaps = values.iter().enumerate().map(|(i, &x)| {
        let want = cumulative(f64::from(x));
        (want - i as f64 / n).abs().max((want - (i + 1) as f64 / n).abs())
    });
    gaps.fold(0.0, f64::max)
}

fn normal_cumulative(x: f64) -> f64 {
    // Simpson's rule on the density from 0 to x.
    let steps = 200;
    let h = x / f64::from(steps);
    let density = |t: f64| (-0.5 * t * t).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let weight = |i| if i == 0 || i == steps { 1.0 } else { f64::from(2 + 2 * (i % 2)) };
    0.5 + (0..=steps).map(|i| weight(i) * density(f64::from(i) * h)).sum::<f64>() * h / 3.0
}

on_each_backend! {
    fn uniform_is_bit_equal_on_every_device(device) {
        check((shape_and_key(), -5.0f32..5.0, 0.0f32..10.0), |((shape, key), low, width)| {
            let make = |device: &Device| Tensor::random_uniform(device, &shape, low, low + width, key);
            let (got, want) = (make(device)?, make(&Device::cpu())?);
            assert_eq!(got.shape()[..], shape[..]);
            let bits = |x: Tensor| Ok::<_, crate::TensorError>(x.to_vec::<f32>()?.into_iter().map(f32::to_bits).collect());
            let (got, want): (Vec<u32>, Vec<u32>) = (bits(got)?, bits(want)?);
            assert_eq!(got, want);
            assert!(got.into_iter().map(f32::from_bits).all(|x| x >= low && (x < low + width || width == 0.0)));
            Ok(())
        });
    }

    fn normal_agrees_on_every_device(device) {
        check((shape_and_key(), -2.0f32..2.0, 0.0f32..3.0), |((shape, key), mean, deviation)| {
            let make = |device: &Device| Tensor::random_normal(device, &shape, mean, deviation, key)?.to_vec::<f32>();
            for (got, want) in make(device)?.into_iter().zip(make(&Device::cpu())?) {
                assert!((got - want).abs() <= 1e-6 * (1.0 + want.abs() + 3.0 * deviation), "{got} instead of {want}");
            }
            Ok(())
        });
    }

    fn uniform_has_the_right_distribution(device) {
        let values = Tensor::random_uniform(device, &[40_001], -1.0, 3.0, KEY).unwrap().to_vec::<f32>().unwrap();
        let (mean, variance) = moments(&values);
        assert!((mean - 1.0).abs() < 0.03 && (variance - 16.0 / 12.0).abs() < 0.03, "mean {mean}, variance {variance}");
        // 1.95/√n is exceeded once in a thousand times.
        assert!(distance(values, |x| (x + 1.0) / 4.0) < 1.95 / 200.0);
    }

    fn normal_has_the_right_distribution(device) {
        let values = Tensor::random_normal(device, &[40_001], 0.0, 1.0, KEY).unwrap().to_vec::<f32>().unwrap();
        let (mean, variance) = moments(&values);
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "mean {mean}, variance {variance}");
        // The two numbers of a pair share a radius and must still be independent.
        let products: Vec<f32> = values.chunks_exact(2).map(|pair| pair[0] * pair[1]).collect();
        assert!(moments(&products).0.abs() < 0.03);
        assert!(distance(values, normal_cumulative) < 1.95 / 200.0);
        let scaled = Tensor::random_normal(device, &[4000], 5.0, 0.1, KEY).unwrap().to_vec::<f32>().unwrap();
        let (mean, variance) = moments(&scaled);
        assert!((mean - 5.0).abs() < 0.01 && (variance - 0.01).abs() < 0.001, "mean {mean}, variance {variance}");
    }

    fn elements_depend_on_their_index_only(device) {
        let long = Tensor::random_uniform(device, &[20_000], 0.0, 1.0, KEY).unwrap().to_vec::<f32>().unwrap();
        for shape in [&[19_999][..], &[3, 7], &[]] {
            let short = Tensor::random_uniform(device, shape, 0.0, 1.0, KEY).unwrap().to_vec::<f32>().unwrap();
            assert_eq!(short[..], long[..short.len()]);
        }
    }

    fn every_part_of_the_key_matters(device) {
        let make = |key| Tensor::random_uniform(device, &[64], 0.0, 1.0, key).unwrap().to_vec::<f32>().unwrap();
        let keys = [
            KEY,
            RandomKey { seed: KEY.seed ^ 1, ..KEY },
            RandomKey { seed: KEY.seed ^ 1 << 63, ..KEY },
            RandomKey { stream: KEY.stream ^ 1, ..KEY },
            RandomKey { stream: KEY.stream ^ 1 << 63, ..KEY },
            RandomKey { step: KEY.step + 1, ..KEY },
            RandomKey { step: KEY.step + (1 << 40), ..KEY },
        ];
        let draws: Vec<_> = keys.into_iter().map(make).collect();
        for (i, draw) in draws.iter().enumerate() {
            for other in &draws[..i] {
                assert!(draw.iter().zip(other).filter(|(a, b)| a == b).count() < 3);
            }
        }
    }

    fn the_range_excludes_its_end(device) {
        let high = 1.0f32.next_up();
        let values = Tensor::random_uniform(device, &[100], 1.0, high, KEY).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(values, vec![1.0; 100]);
        let constant = Tensor::random_uniform(device, &[5], 2.5, 2.5, KEY).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(constant, vec![2.5; 5]);
    }
}

#[test]
fn names_hash_as_documented() {
    // Published test values of 64-bit FNV-1a.
    assert_eq!(RandomKey::named(1, "", 2), RandomKey { seed: 1, stream: 0xcbf2_9ce4_8422_2325, step: 2 });
    assert_eq!(RandomKey::named(1, "a", 2).stream, 0xaf63_dc4c_8601_ec8c);
    assert_eq!(RandomKey::named(1, "foobar", 2).stream, 0x8594_4171_f739_67e8);
}

#[test]
fn impossible_distributions_are_refused() {
    let device = Device::cpu();
    for (low, high) in [(1.0, 0.0), (f32::NAN, 1.0), (0.0, f32::INFINITY), (f32::MIN, f32::MAX)] {
        assert!(Tensor::random_uniform(&device, &[1], low, high, KEY).is_err(), "[{low}, {high})");
    }
    for (mean, deviation) in [(0.0, -1.0), (0.0, f32::NAN), (f32::INFINITY, 1.0)] {
        assert!(Tensor::random_normal(&device, &[1], mean, deviation, KEY).is_err(), "N({mean}, {deviation})");
    }
}

#[test]
fn every_variant_is_valid_wgsl() {
    for normal in [0.0, 1.0] {
        crate::gpu::validate("random", super::gpu::KERNEL, &[("NORMAL", normal)]);
    }
}
