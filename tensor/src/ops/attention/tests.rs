use proptest::prelude::*;

use super::generate::{Config, Kernel, generate};
use crate::testing::{Recipe, assert_close, check, on_each_backend, recipe_of};
use crate::{AttentionConfig, DType, Device, Result, Tensor, attention, attention_backward};

/// One problem with its operands.
#[derive(Clone, Debug)]
struct Case {
    q: Recipe,
    k: Recipe,
    v: Recipe,
    upstream: Recipe,
    /// One row per batch element.
    mask: Option<Vec<u32>>,
    config: AttentionConfig,
}

/// `[batch, queries, heads, keys, kv_heads, head_dim]`.
type Extents = [usize; 6];

fn operands(extents: Extents, range: f32) -> impl Strategy<Value = (Recipe, Recipe, Recipe, Recipe)> {
    let [batch, queries, heads, keys, kv_heads, head_dim] = extents;
    let of = move |shape: [usize; 4]| recipe_of(shape.to_vec(), -range..range);
    let (q, k) = ([batch, queries, heads, head_dim], [batch, keys, kv_heads, head_dim]);
    (of(q), of(k), of(k), of(q))
}

/// No mask, left padding, right padding, or anything (whole rows of zeros included).
fn mask(batch: usize, keys: usize) -> impl Strategy<Value = Option<Vec<u32>>> {
    let padded = move |left: bool| {
        prop::collection::vec(0..=keys, batch).prop_map(move |lengths| {
            let kept = |length: usize, key: usize| if left { key >= length } else { key < length };
            Some(lengths.iter().flat_map(|&length| (0..keys).map(move |key| u32::from(kept(length, key)))).collect())
        })
    };
    prop_oneof![
        Just(None),
        padded(true),
        padded(false),
        prop::collection::vec(prop_oneof![Just(0u32), Just(1), Just(7)], batch * keys).prop_map(Some)
    ]
}

fn case() -> impl Strategy<Value = Case> {
    // Few, since each is a kernel of its own, which a software GPU compiles slowly.
    let head_dims = prop_oneof![Just(1usize), Just(5), Just(20)];
    let lengths = || prop_oneof![4 => 0usize..=9, 1 => 10usize..=40, 1 => Just(70usize)];
    (0usize..=2, lengths(), lengths(), 1usize..=2, 1usize..=3, head_dims, prop_oneof![Just(2.0f32), Just(20.0)])
        .prop_flat_map(|(batch, queries, keys, kv_heads, group, head_dim, range)| {
            let heads = kv_heads * group;
            (
                operands([batch, queries, heads, keys, kv_heads, head_dim], range),
                mask(batch, keys),
                any::<bool>(),
                0..=keys + 1,
            )
        })
        .prop_map(|((q, k, v, upstream), mask, causal, query_offset)| {
            let scale = 1.0 / (q.shape()[3] as f32).sqrt();
            Case { q, k, v, upstream, mask, config: AttentionConfig { causal, scale, query_offset } }
        })
}

struct Reference {
    output: Vec<f64>,
    log_sum_exp: Vec<f64>,
    dq: Vec<f64>,
    dk: Vec<f64>,
    dv: Vec<f64>,
}

/// Output and gradients in f64, from whole rows of probabilities.
fn reference(case: &Case) -> Reference {
    let &[batch, queries, heads, head_dim] = case.q.shape() else { unreachable!("q has four axes") };
    let (keys, kv_heads) = (case.k.shape()[1], case.k.shape()[2]);
    let (q, k, v, upstream) = (case.q.values(), case.k.values(), case.v.values(), case.upstream.values());
    let scale = f64::from(case.config.scale);
    let mut out = Reference {
        output: vec![0.0; q.len()],
        log_sum_exp: vec![f64::NEG_INFINITY; batch * heads * queries],
        dq: vec![0.0; q.len()],
        dk: vec![0.0; k.len()],
        dv: vec![0.0; k.len()],
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for (b, i, h) in (0..batch).flat_map(|b| (0..queries).flat_map(move |i| (0..heads).map(move |h| (b, i, h)))) {
        let at = ((b * queries + i) * heads + h) * head_dim;
        let key_at = |j: usize| ((b * keys + j) * kv_heads + h / (heads / kv_heads)) * head_dim;
        let seen: Vec<usize> = (0..keys)
            .filter(|&j| !case.config.causal || j <= i + case.config.query_offset)
            .filter(|&j| case.mask.as_ref().is_none_or(|mask| mask[b * keys + j] != 0))
            .collect();
        if seen.is_empty() {
            continue;
        }
        let (query, upstream) = (&q[at..at + head_dim], &upstream[at..at + head_dim]);
        let scores: Vec<f64> = seen.iter().map(|&j| scale * dot(query, &k[key_at(j)..][..head_dim])).collect();
        let maximum = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|score| (score - maximum).exp()).sum();
        out.log_sum_exp[(b * heads + h) * queries + i] = maximum + total.ln();
        let p: Vec<f64> = scores.iter().map(|score| (score - maximum).exp() / total).collect();
        for (&j, p) in seen.iter().zip(&p) {
            for d in 0..head_dim {
                out.output[at + d] += p * v[key_at(j) + d];
            }
        }
        let delta = dot(&out.output[at..at + head_dim], upstream);
        for (&j, p) in seen.iter().zip(&p) {
            let ds = scale * p * (dot(upstream, &v[key_at(j)..][..head_dim]) - delta);
            for d in 0..head_dim {
                out.dq[at + d] += ds * k[key_at(j) + d];
                out.dk[key_at(j) + d] += ds * query[d];
                out.dv[key_at(j) + d] += p * upstream[d];
            }
        }
    }
    out
}

fn agrees(device: &Device, case: &Case) -> Result<()> {
    let want = reference(case);
    let (q, k, v) = (case.q.build(device), case.k.build(device), case.v.build(device));
    let (q_shape, k_shape) = (case.q.shape(), case.k.shape());
    let mask = case.mask.as_ref().map(|mask| Tensor::from_slice(device, &[k_shape[0], k_shape[1]], mask).unwrap());
    let got = attention(&q, &k, &v, mask.as_ref(), &case.config)?;
    assert!(got.output.is_contiguous());
    // Scores are sums of head_dim products: rounding grows with their size, and exp turns it into a relative error.
    let largest = |recipe: &Recipe| recipe.values().iter().fold(1.0f64, |m, x| m.max(x.abs()));
    let score = largest(&case.q) * largest(&case.k) * f64::from(case.config.scale) * q_shape[3] as f64;
    let relative = 1e-6 * (2.0 + score);
    let values = largest(&case.v);
    assert_close("output", &got.output, q_shape, &want.output, relative, relative * values)?;
    let rows = [q_shape[0], q_shape[2], q_shape[1]];
    assert_close("log_sum_exp", &got.log_sum_exp, &rows, &want.log_sum_exp, 1e-6, 1e-6 * (2.0 + score))?;
    let upstream = case.upstream.build(device);
    let (dq, dk, dv) = attention_backward(&q, &k, &v, mask.as_ref(), &case.config, &got, &upstream)?;
    // dS is a difference of sums of head_dim products of the size of v and upstream.
    let slope = 4.0 * values * largest(&case.upstream) * q_shape[3] as f64 * f64::from(case.config.scale);
    let many = (q_shape[1] * q_shape[2] / k_shape[2]).max(1) as f64;
    assert_close("dq", &dq, q_shape, &want.dq, relative, relative * slope * largest(&case.k))?;
    assert_close("dk", &dk, k_shape, &want.dk, relative, relative * slope * largest(&case.q) * many.sqrt())?;
    assert_close("dv", &dv, k_shape, &want.dv, relative, relative * largest(&case.upstream) * many.sqrt())
}

/// A fixed problem with pseudo-random operands.
fn fixed(extents: Extents, config: AttentionConfig) -> Case {
    let [batch, queries, heads, keys, kv_heads, head_dim] = extents;
    let noise = |shape: [usize; 4], seed: u32| {
        let values = (0..shape.iter().product::<usize>() as u32)
            .map(|i| (i.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0);
        Recipe::dense(&shape, values.collect())
    };
    let (q, k) = ([batch, queries, heads, head_dim], [batch, keys, kv_heads, head_dim]);
    Case { q: noise(q, 1), k: noise(k, 77), v: noise(k, 991), upstream: noise(q, 4242), mask: None, config }
}

fn causal(head_dim: usize, query_offset: usize) -> AttentionConfig {
    AttentionConfig { causal: true, scale: 1.0 / (head_dim as f32).sqrt(), query_offset }
}

on_each_backend! {
    fn agrees_with_f64(device) {
        check(case(), |case| agrees(device, &case));
    }

    fn many_tiles_and_every_head_dim(device) {
        let shapes = [
            ([1, 130, 2, 130, 1, 48], 0),
            ([1, 70, 1, 150, 1, 96], 80),
            ([1, 20, 1, 20, 1, 255], 0),
            ([1, 40, 1, 40, 1, 80], 0),
            ([1, 70, 1, 33, 1, 128], 0),
            ([1, 66, 1, 35, 1, 33], 3),
            ([1, 20, 2, 66, 1, 256], 40),
        ];
        // A software GPU takes long to compile the kernels of long heads.
        let count = if device.adapter().is_some_and(|adapter| adapter.is_software()) { 3 } else { shapes.len() };
        for (extents, offset) in shapes.into_iter().take(count) {
            agrees(device, &fixed(extents, causal(extents[5], offset))).unwrap();
        }
    }

    fn one_query_and_many_keys(device) {
        let extents = [2, 1, 6, 301, 2, 64];
        agrees(device, &fixed(extents, causal(64, 300))).unwrap();
        // The cache may be longer than what is filled: keys beyond the query are not seen.
        agrees(device, &fixed(extents, causal(64, 130))).unwrap();
    }

    fn large_scores_do_not_overflow(device) {
        let mut case = fixed([1, 5, 1, 40, 1, 8], causal(8, 40));
        case.q = case.q.map(|x| x * 1e4);
        case.k = case.k.map(|x| x * 1e4);
        let (q, k, v) = (case.q.build(device), case.k.build(device), case.v.build(device));
        let got = attention(&q, &k, &v, None, &case.config).unwrap();
        // Scores some millions apart: the softmax picks one key.
        assert_close("output", &got.output, case.q.shape(), &reference(&case).output, 1e-6, 1e-6).unwrap();
        let (dq, dk, dv) = attention_backward(&q, &k, &v, None, &case.config, &got, &case.upstream.build(device)).unwrap();
        for gradient in [dq, dk, dv] {
            assert!(gradient.to_vec::<f32>().unwrap().iter().all(|value| value.is_finite()));
        }
    }

    fn queries_that_see_nothing_give_zero(device) {
        let mut case = fixed([2, 3, 2, 37, 2, 16], causal(16, 0));
        case.mask = Some((0..2 * 37).map(|i| u32::from(i >= 37)).collect());
        agrees(device, &case).unwrap();
        let mask = Tensor::zeros(device, &[2, 37], DType::U32).unwrap();
        let (q, k, v) = (case.q.build(device), case.k.build(device), case.v.build(device));
        let got = attention(&q, &k, &v, Some(&mask), &case.config).unwrap();
        assert!(got.output.to_vec::<f32>().unwrap().iter().all(|&value| value == 0.0));
        assert!(got.log_sum_exp.to_vec::<f32>().unwrap().iter().all(|&value| value == f32::NEG_INFINITY));
        let (dq, dk, dv) =
            attention_backward(&q, &k, &v, Some(&mask), &case.config, &got, &case.upstream.build(device)).unwrap();
        for gradient in [dq, dk, dv] {
            assert!(gradient.to_vec::<f32>().unwrap().iter().all(|&value| value == 0.0));
        }
    }

    fn a_seen_nan_reaches_only_its_queries(device) {
        // Key 35 is in the second tile; queries before it do not see it.
        let case = fixed([1, 40, 1, 40, 1, 16], causal(16, 0));
        let (q, v) = (case.q.build(device), case.v.build(device));
        let mut k = case.k.values().iter().map(|&x| x as f32).collect::<Vec<_>>();
        k[35 * 16 + 3] = f32::NAN;
        let k = Tensor::from_vec(device, case.k.shape(), k).unwrap();
        let got = attention(&q, &k, &v, None, &case.config).unwrap();
        for (index, row) in got.output.to_vec::<f32>().unwrap().chunks(16).enumerate() {
            assert_eq!(row.iter().all(|value| value.is_nan()), index >= 35, "query {index}: {row:?}");
        }
        let (dq, _, _) = attention_backward(&q, &k, &v, None, &case.config, &got, &case.upstream.build(device)).unwrap();
        assert!(dq.to_vec::<f32>().unwrap()[35 * 16..].iter().all(|value| value.is_nan()));
    }

    fn gradients_are_the_same_bits_every_time(device) {
        let case = fixed([2, 50, 4, 50, 2, 32], causal(32, 0));
        let (q, k, v, upstream) =
            (case.q.build(device), case.k.build(device), case.v.build(device), case.upstream.build(device));
        let run = || {
            let forward = attention(&q, &k, &v, None, &case.config).unwrap();
            let (dq, dk, dv) = attention_backward(&q, &k, &v, None, &case.config, &forward, &upstream).unwrap();
            [forward.output, dq, dk, dv].map(|tensor| tensor.to_vec::<f32>().unwrap())
        };
        assert_eq!(run(), run());
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let device = Device::cpu();
    let zeros = |shape: &[usize]| Tensor::zeros(&device, shape, DType::F32).unwrap();
    let config = causal(4, 0);
    let message = |q: &[usize], k: &[usize], v: &[usize], mask: Option<&[usize]>| {
        let mask = mask.map(|shape| Tensor::zeros(&device, shape, DType::U32).unwrap());
        attention(&zeros(q), &zeros(k), &zeros(v), mask.as_ref(), &config).unwrap_err().to_string()
    };
    let (q, k) = ([1, 2, 6, 4], [1, 5, 4, 4]);
    assert!(message(&q, &k, &k, None).contains("kv_heads that divide 6"));
    assert!(message(&[2, 6, 4], &k, &k, None).contains("[batch, queries, heads, head_dim]"));
    assert!(message(&[1, 2, 6, 257], &k, &k, None).contains("1..=256"));
    let k = [1, 5, 3, 4];
    assert!(message(&q, &k, &[1, 4, 3, 4], None).contains("[1, 5, 3, 4]"));
    assert!(message(&q, &k, &k, Some(&[1, 4])).contains("[1, 5]"));
    let config = AttentionConfig { scale: f32::NAN, ..config };
    assert!(attention(&zeros(&q), &zeros(&k), &zeros(&k), None, &config).is_err());
}

#[test]
fn every_variant_is_valid_wgsl() {
    for kernel in [Kernel::Forward, Kernel::QueryGradient, Kernel::KeyValueGradient] {
        for (head_dim, aligned) in [(1, false), (48, true), (64, false), (64, true), (81, false), (256, true)] {
            for block_rows in [1, 2, 4] {
                let config = Config { kernel, head_dim, block_rows, aligned };
                crate::gpu::validate(&config.name(), &generate(&config), &[]);
            }
        }
    }
    crate::gpu::validate("row_terms", include_str!("kernels/row_terms.wgsl"), &[]);
}

#[test]
fn generated_kernels_are_the_snapshots() {
    let config = |kernel, head_dim, block_rows, aligned| Config { kernel, head_dim, block_rows, aligned };
    for config in [
        config(Kernel::Forward, 64, 4, true),
        config(Kernel::QueryGradient, 64, 4, true),
        config(Kernel::KeyValueGradient, 64, 4, true),
        config(Kernel::Forward, 5, 1, false),
    ] {
        crate::gpu::assert_as_reviewed("attention", &config.name(), &generate(&config));
    }
}
