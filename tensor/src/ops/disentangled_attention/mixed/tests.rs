use super::super::tests::{ALL, Case, build, fixed, noise, reference};
use super::{MixedDisentangledAttention, kernels, launch, rounded_blocks};
use crate::device::Backend;
use crate::testing::{assert_close, on_each_backend};
use crate::{Device, PerOperand, RelativeBuckets, Result, Tensor, f16};

/// Sums of products of numbers of 11 bits, relative to the largest.
const TOLERANCE: f64 = 4e-3;

/// A problem that there are kernels for: where the positions nearer than `own` have buckets of their own.
fn case(extents: [usize; 4], own: usize, buckets: usize, dropout: bool) -> Case {
    let [_, sequence, heads, head_dim] = extents;
    // Where all do, bucket t is that of element t.
    let first = if own == sequence { 0 } else { sequence - 1 };
    let bucket = |t: usize| (t + own % sequence).saturating_sub(first).min(2 * own - 1) as u32;
    let (table, positions) = ((0..2 * sequence - 1).map(bucket).collect(), [buckets, heads, head_dim]);
    let case = fixed(extents, dropout);
    Case {
        table,
        count: buckets,
        position_key: Some(noise(&positions, 5)),
        position_query: Some(noise(&positions, 55)),
        ..case
    }
}

fn run(case: &Case, device: &Device) -> Result<[Tensor; 6]> {
    let forward = MixedDisentangledAttention::new(&build(case, device))?;
    let gradients = forward.backward(&case.upstream.build(device), ALL)?;
    let PerOperand { query, key, value, position_key, position_query } = gradients;
    let zero = || Tensor::zeros(device, &[], crate::DType::F32);
    let or_zero = |gradient: Option<Tensor>| gradient.map_or_else(zero, Ok);
    Ok([
        forward.output().clone(),
        or_zero(query)?,
        or_zero(key)?,
        or_zero(value)?,
        or_zero(position_key)?,
        or_zero(position_query)?,
    ])
}

fn near_exact(device: &Device, case: &Case) {
    let (output, gradients) = reference(case);
    let got = run(case, device).unwrap();
    let positions = [case.count, case.q.shape()[2], case.q.shape()[3]];
    let names = ["output", "dq", "dk", "dv", "dpk", "dpq"];
    for (i, (got, want)) in got.iter().zip([output].into_iter().chain(gradients)).enumerate() {
        if [&case.position_key, &case.position_query][i % 2].is_none() && i > 3 {
            continue;
        }
        let largest = want.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
        let shape: &[usize] = if i > 3 { &positions } else { case.q.shape() };
        assert_close(names[i], got, shape, &want, 0.0, TOLERANCE * largest).unwrap();
    }
}

on_each_backend! {
    fn agrees_with_f64_where_there_are_kernels(device) {
        near_exact(device, &case([2, 64, 2, 64], 40, 96, true));
        near_exact(device, &case([1, 64, 2, 64], 64, 128, true));
        let mut masked = case([2, 96, 1, 128], 16, 32, false);
        masked.mask = Some((0..2 * 96).map(|i| u32::from(i % 96 < 70 && i != 3)).collect());
        near_exact(device, &masked);
    }

    fn agrees_with_f64_elsewhere(device) {
        near_exact(device, &fixed([2, 9, 2, 8], true));
        near_exact(device, &Case { position_key: None, ..fixed([1, 70, 1, 5], false) });
    }

    fn operands_of_any_magnitude_neither_overflow_nor_vanish(device) {
        let plain = case([1, 64, 2, 64], 32, 64, true);
        let want = run(&plain, device).unwrap();
        for [q, v, dy] in [[30, -40, 35], [-25, 20, -60]] {
            let [q, v, dy] = [q, v, dy].map(|exponent| 2f32.powi(exponent));
            // Scores stay what they are.
            let scaled = Case {
                q: plain.q.clone().map(|x| x * q),
                k: plain.k.clone().map(|x| x / q),
                v: plain.v.clone().map(|x| x * v),
                position_key: plain.position_key.as_ref().map(|recipe| recipe.clone().map(|x| x / q)),
                position_query: plain.position_query.as_ref().map(|recipe| recipe.clone().map(|x| x * q)),
                upstream: plain.upstream.clone().map(|x| x * dy),
                ..plain.clone()
            };
            let factors = [v, v * dy / q, v * dy * q, dy, v * dy * q, v * dy / q];
            for ((got, want), factor) in run(&scaled, device).unwrap().iter().zip(&want).zip(factors) {
                let want: Vec<f32> = want.to_vec::<f32>().unwrap().iter().map(|x| x * factor).collect();
                assert_eq!(got.to_vec::<f32>().unwrap(), want);
            }
        }
    }

    fn only_what_is_wanted_is_computed(device) {
        let case = case([1, 64, 1, 64], 8, 32, false);
        let forward = MixedDisentangledAttention::new(&build(&case, device)).unwrap();
        let upstream = case.upstream.build(device);
        let wanted = PerOperand { key: true, position_query: true, ..PerOperand::default() };
        let some = forward.backward(&upstream, wanted).unwrap();
        assert!(some.query.is_none() && some.value.is_none() && some.position_key.is_none());
        let all = forward.backward(&upstream, ALL).unwrap();
        let values = |gradient: Option<Tensor>| gradient.unwrap().to_vec::<f32>().unwrap();
        assert_eq!(values(some.key), values(all.key));
        assert_eq!(values(some.position_query), values(all.position_query));
        assert!(forward.backward(&upstream.reshape(&[64, 64]).unwrap(), ALL).is_err());
    }
}

#[test]
#[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
fn heads_are_rounded_as_on_the_cpu() {
    let device = crate::testing::gpu();
    let Backend::Gpu(gpu) = device.backend() else { panic!("the test device is a GPU") };
    // The second has more rows than an invocation keeps vectors of.
    for extents in [[2, 5, 3, 8], [1, 600, 2, 16]] {
        let recipes = [1, 7, 30].map(|seed| noise(&extents, seed).map(|x| x.powi(3) * 1e-3));
        let tensors = recipes.each_ref().map(|recipe| recipe.build(device));
        for count in 1..=3 {
            let got = launch::round(gpu, extents, &tensors.each_ref()[..count]).unwrap();
            for (i, recipe) in recipes[..count].iter().enumerate() {
                let by_head = recipe.build(&Device::cpu()).permute(&[2, 0, 1, 3]).unwrap();
                let want = rounded_blocks(&by_head, 2).unwrap().to_vec::<f32>().unwrap();
                let values = got.values.select(0, i).unwrap().to_vec::<f16>().unwrap();
                let scales = got.scales.select(0, i).unwrap().to_vec::<f32>().unwrap();
                let each = extents[1] * extents[3];
                let got = values.iter().enumerate().map(|(i, x)| x.to_f32() * scales[i / each]);
                assert_eq!(got.collect::<Vec<_>>(), want, "{extents:?}, {count} at once, tensor {i}");
            }
        }
    }
}

#[test]
fn kernels_are_for_extents_that_suit_them() {
    let suits = |extents, buckets| MixedDisentangledAttention::suits(extents, buckets);
    assert!(suits([32, 128, 12, 64], 256) && suits([1, 64, 1, 128], 32));
    assert!(!suits([32, 127, 12, 64], 256) && !suits([32, 128, 12, 64], 252) && !suits([32, 128, 12, 32], 256));
    assert!(!suits([0, 128, 12, 64], 256) && !suits([1, 8192, 12, 64], 256));
}

/// The bound of the module's head: p·(g − Σ p·g) with |g| at most 4·head_dim for numbers below 2.
#[test]
fn no_gradient_of_a_score_overflows() {
    for head_dim in [64, 128, 192, 256, 4096] {
        assert!(kernels::slope(head_dim) * (2 * 4 * head_dim) as f32 <= f32::from(f16::MAX), "{head_dim}");
    }
}

#[test]
fn every_kernel_is_valid_wgsl() {
    for native in [true, false] {
        for tensors in 1..=3 {
            crate::gpu::validate("round", &launch::round_text(tensors, native), &[]);
        }
        for (team, on) in [(1.0, 0.0), (8.0, 1.0), (256.0, 1.0)] {
            let constants = [("TEAM", team), ("MASK", on), ("DROPOUT", on), ("IDENTITY", on)];
            crate::gpu::validate("probabilities", &launch::probabilities_text(native), &constants);
            crate::gpu::validate("score_gradient", &launch::score_gradient_text(native), &constants[..1]);
        }
        for identity in [0.0, 1.0] {
            crate::gpu::validate("bucket_sums", &launch::bucket_sums_text(native), &[("IDENTITY", identity)]);
        }
    }
}

#[test]
fn buckets_tell_what_they_hold() {
    let told = |table: &[u32]| {
        let buckets = RelativeBuckets::new(&Device::cpu(), table, 5).unwrap();
        (buckets.widest, buckets.is_identity)
    };
    assert_eq!([told(&[0, 1, 2]), told(&[0, 0, 3, 3, 3]), told(&[4])], [(1, true), (3, false), (1, false)]);
}
