use proptest::prelude::*;

use super::{PerOperand, gpu};
use crate::testing::{Recipe, assert_close, check, on_each_backend, recipe_of};
use crate::{DType, Device, DisentangledAttention, RandomKey, RelativeBuckets, Result, Tensor};

const KEY: RandomKey = RandomKey { seed: 3, stream: 1 << 40, step: 9 };
/// With 24 bits of a uniform number one can tell on which side of it all 32 bits lie.
const DROPPED: f32 = 0.25;

#[derive(Clone, Debug)]
pub(super) struct Case {
    pub q: Recipe,
    pub k: Recipe,
    pub v: Recipe,
    pub position_key: Option<Recipe>,
    pub position_query: Option<Recipe>,
    pub upstream: Recipe,
    pub table: Vec<u32>,
    pub count: usize,
    pub mask: Option<Vec<u32>>,
    pub dropout: bool,
}

pub(super) const ALL: PerOperand<bool> =
    PerOperand { query: true, key: true, value: true, position_key: true, position_query: true };

/// Buckets of 0 to several positions, none of them equally long, some at the end without any.
fn table(sequence: usize) -> impl Strategy<Value = (Vec<u32>, usize)> {
    let steps = prop::collection::vec(prop_oneof![3 => Just(0u32), 4 => Just(1), 1 => Just(2)], 2 * sequence - 1);
    (steps, 1usize..3).prop_map(|(steps, more)| {
        let table: Vec<u32> = steps
            .iter()
            .scan(0, |bucket, step| {
                *bucket += step;
                Some(*bucket)
            })
            .collect();
        let count = table[table.len() - 1] as usize + more;
        (table, count)
    })
}

fn case() -> impl Strategy<Value = Case> {
    let sequences = prop_oneof![6 => 1usize..=9, 1 => 10usize..=40, 1 => Just(70usize)];
    let extents = (0usize..=2, sequences, 1usize..=3, prop_oneof![Just(1usize), Just(5), Just(8)]);
    let extents = extents.prop_flat_map(|(batch, sequence, heads, head_dim)| {
        (Just([batch, sequence, heads, head_dim]), table(sequence))
    });
    extents.prop_flat_map(|([batch, sequence, heads, head_dim], (table, count))| {
        let of = move || recipe_of(vec![batch, sequence, heads, head_dim], -2.0..2.0);
        let position = move || recipe_of(vec![count, heads, head_dim], -2.0..2.0);
        let mask = prop::collection::vec(prop_oneof![1 => Just(0u32), 2 => Just(1), 1 => Just(5)], batch * sequence);
        (
            (of(), of(), of(), of()),
            (prop::option::weighted(0.8, position()), prop::option::weighted(0.8, position())),
            (prop::option::of(mask), any::<bool>()),
            Just((table, count)),
        )
            .prop_map(
                |((q, k, v, upstream), (position_key, position_query), (mask, dropout), (table, count))| Case {
                    q,
                    k,
                    v,
                    position_key,
                    position_query,
                    upstream,
                    table,
                    count,
                    mask,
                    dropout,
                },
            )
    })
}

pub(super) fn build(case: &Case, device: &Device) -> DisentangledAttention {
    let shape = case.q.shape();
    let mask = case.mask.as_ref().map(|mask| Tensor::from_slice(device, &shape[..2], mask).unwrap());
    DisentangledAttention {
        query: case.q.build(device),
        key: case.k.build(device),
        value: case.v.build(device),
        position_key: case.position_key.as_ref().map(|recipe| recipe.build(device)),
        position_query: case.position_query.as_ref().map(|recipe| recipe.build(device)),
        buckets: RelativeBuckets::new(device, &case.table, case.count).unwrap(),
        key_mask: mask,
        scale: scale(case) as f32,
        dropout: case.dropout.then_some((DROPPED, KEY)),
    }
}

fn scale(case: &Case) -> f64 {
    let terms = 1 + usize::from(case.position_key.is_some()) + usize::from(case.position_query.is_some());
    1.0 / ((case.q.shape()[3] * terms) as f64).sqrt()
}

/// Output and the gradients of q, k, v, pk and pq.
pub(super) type Reference = (Vec<f64>, [Vec<f64>; 5]);

/// Everything in f64, score by score.
pub(super) fn reference(case: &Case) -> Reference {
    let &[batch, sequence, heads, head_dim] = case.q.shape() else { unreachable!("q has four axes") };
    let position = |recipe: &Option<Recipe>| recipe.as_ref().map(Recipe::values);
    let (q, k, v, upstream) = (case.q.values(), case.k.values(), case.v.values(), case.upstream.values());
    let (pk, pq) = (position(&case.position_key), position(&case.position_query));
    let scale = scale(case);
    let blocks = sequence.div_ceil(4);
    let rows = heads * batch * sequence;
    let uniform = Tensor::random_uniform(&Device::cpu(), &[rows, 4 * blocks], 0.0, 1.0, KEY).unwrap();
    let uniform = uniform.to_vec::<f32>().unwrap();
    let mut output = vec![0.0; q.len()];
    let positions = case.count * heads * head_dim;
    let mut gradients = [q.len(), q.len(), q.len(), positions, positions].map(|count| vec![0.0; count]);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let at = |b: usize, i: usize, h: usize| ((b * sequence + i) * heads + h) * head_dim;
    let bucket_at = |i: usize, j: usize, h: usize| (case.table[i + sequence - 1 - j] as usize * heads + h) * head_dim;
    let token = |b: usize, i: usize| case.mask.as_ref().is_none_or(|mask| mask[b * sequence + i] != 0);
    for (h, b, i) in (0..heads).flat_map(|h| (0..batch).flat_map(move |b| (0..sequence).map(move |i| (h, b, i)))) {
        if !token(b, i) {
            continue;
        }
        let seen: Vec<usize> = (0..sequence).filter(|&j| token(b, j)).collect();
        let own = at(b, i, h)..at(b, i, h) + head_dim;
        let slice = |values: &[f64], start: usize| values[start..start + head_dim].to_vec();
        let score = |j: usize| {
            let (key, place) = (slice(&k, at(b, j, h)), bucket_at(i, j, h));
            let mut sum = dot(&q[own.clone()], &key);
            sum += pk.as_ref().map_or(0.0, |pk| dot(&q[own.clone()], &slice(pk, place)));
            sum += pq.as_ref().map_or(0.0, |pq| dot(&key, &slice(pq, place)));
            sum * scale
        };
        let scores: Vec<f64> = seen.iter().map(|&j| score(j)).collect();
        let total: f64 = scores.iter().map(|score| score.exp()).sum();
        let p: Vec<f64> = scores.iter().map(|score| score.exp() / total).collect();
        let row = (h * batch + b) * sequence + i;
        let factor = |j: usize| match case.dropout {
            true if uniform[row * 4 * blocks + j] < DROPPED => 0.0,
            true => 1.0 / (1.0 - f64::from(DROPPED)),
            false => 1.0,
        };
        let dp: Vec<f64> =
            seen.iter().map(|&j| factor(j) * dot(&upstream[own.clone()], &slice(&v, at(b, j, h)))).collect();
        let mean = dot(&p, &dp);
        for ((&key, p), dp) in seen.iter().zip(&p).zip(&dp) {
            let (ds, kept, place) = (scale * p * (dp - mean), factor(key) * p, bucket_at(i, key, h));
            for d in 0..head_dim {
                let (i, j, place) = (own.start + d, at(b, key, h) + d, place + d);
                output[i] += kept * v[j];
                gradients[0][i] += ds * (k[j] + pk.as_ref().map_or(0.0, |pk| pk[place]));
                gradients[1][j] += ds * (q[i] + pq.as_ref().map_or(0.0, |pq| pq[place]));
                gradients[2][j] += kept * upstream[i];
                gradients[3][place] += ds * q[i];
                gradients[4][place] += ds * k[j];
            }
        }
    }
    (output, gradients)
}

fn gradients_of(
    attention: &DisentangledAttention,
    upstream: &Tensor,
    wanted: PerOperand<bool>,
) -> Result<Vec<Option<Tensor>>> {
    let forward = attention.forward()?;
    let PerOperand { query, key, value, position_key, position_query } =
        attention.backward(&forward.probabilities, upstream, wanted)?;
    Ok(vec![query, key, value, position_key, position_query])
}

fn agrees(device: &Device, case: &Case) -> Result<()> {
    let (output, gradients) = reference(case);
    let attention = build(case, device);
    let got = attention.forward()?;
    assert!(got.output.is_contiguous());
    // Scores of some tens at the most, whose rounding exp turns into a relative error; sums of some hundred terms.
    assert_close("output", &got.output, case.q.shape(), &output, 2e-5, 2e-5)?;
    let upstream = case.upstream.build(device);
    let shapes = [case.q.shape(); 3].map(<[usize]>::to_vec).to_vec();
    let positions = vec![case.count, case.q.shape()[2], case.q.shape()[3]];
    let shapes = [shapes, vec![positions.clone(), positions]].concat();
    let there = [true, true, true, case.position_key.is_some(), case.position_query.is_some()];
    let names = ["dq", "dk", "dv", "dpk", "dpq"];
    for (operand, gradient) in gradients_of(&attention, &upstream, ALL)?.iter().enumerate() {
        assert_eq!(gradient.is_some(), there[operand], "{}", names[operand]);
        if let Some(gradient) = gradient {
            assert_close(names[operand], gradient, &shapes[operand], &gradients[operand], 5e-5, 2e-4)?;
        }
    }
    Ok(())
}

pub(super) fn noise(shape: &[usize], seed: u32) -> Recipe {
    let values = (0..shape.iter().product::<usize>() as u32)
        .map(|i| (i.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0);
    Recipe::dense(shape, values.collect())
}

/// A fixed problem with pseudo-random operands, where each of the positions nearer than 20 has a bucket of its own.
pub(super) fn fixed([batch, sequence, heads, head_dim]: [usize; 4], dropout: bool) -> Case {
    let table = (0..2 * sequence - 1).map(|t| (t + 20).saturating_sub(sequence - 1).min(39) as u32).collect();
    let (shape, positions) = ([batch, sequence, heads, head_dim], [40, heads, head_dim]);
    Case {
        q: noise(&shape, 1),
        k: noise(&shape, 77),
        v: noise(&shape, 991),
        position_key: Some(noise(&positions, 5)),
        position_query: Some(noise(&positions, 55)),
        upstream: noise(&shape, 4242),
        table,
        count: 40,
        mask: None,
        dropout,
    }
}

on_each_backend! {
    fn agrees_with_f64(device) {
        check(case(), |case| agrees(device, &case));
    }

    fn long_rows(device) {
        agrees(device, &fixed([1, 300, 2, 16], true)).unwrap();
        let mut case = fixed([2, 129, 2, 64], false);
        case.mask = Some((0..2 * 129).map(|i| u32::from(i < 200)).collect());
        agrees(device, &case).unwrap();
    }

    fn padding_neither_sees_nor_is_seen(device) {
        let mut case = fixed([2, 9, 2, 8], false);
        case.mask = Some((0..18).map(|i| u32::from(i < 5)).collect());
        let attention = build(&case, device);
        let forward = attention.forward().unwrap();
        let width = 2 * 8;
        for (position, row) in forward.output.to_vec::<f32>().unwrap().chunks(width).enumerate() {
            assert_eq!(row.iter().all(|&value| value == 0.0), position >= 5, "{position}: {row:?}");
        }
        let probabilities = forward.probabilities.to_vec::<f32>().unwrap();
        assert!(probabilities.chunks(9).all(|row| row[5..].iter().all(|&p| p == 0.0)));
        let gradients = gradients_of(&attention, &case.upstream.build(device), ALL).unwrap();
        for gradient in gradients[..3].iter().flatten() {
            let values = gradient.to_vec::<f32>().unwrap();
            assert!(values[5 * width..].iter().all(|&value| value == 0.0));
            assert!(values[..5 * width].iter().any(|&value| value != 0.0));
        }
    }

    fn large_scores_do_not_overflow(device) {
        let mut case = fixed([1, 7, 1, 8], false);
        case.q = case.q.map(|x| x * 1e4);
        case.k = case.k.map(|x| x * 1e4);
        let attention = build(&case, device);
        let gradients = gradients_of(&attention, &case.upstream.build(device), ALL).unwrap();
        for gradient in gradients.into_iter().flatten().chain([attention.forward().unwrap().output]) {
            assert!(gradient.to_vec::<f32>().unwrap().iter().all(|value| value.is_finite()));
        }
    }

    fn only_what_is_wanted_is_computed_and_always_the_same_bits(device) {
        let case = fixed([2, 20, 3, 16], true);
        let (attention, upstream) = (build(&case, device), case.upstream.build(device));
        let bits = |gradient: &Option<Tensor>| gradient.as_ref().map(|x| x.to_vec::<f32>().unwrap());
        let all: Vec<_> = gradients_of(&attention, &upstream, ALL).unwrap().iter().map(bits).collect();
        let none = PerOperand::default();
        let alone = [
            PerOperand { query: true, ..none },
            PerOperand { key: true, ..none },
            PerOperand { value: true, ..none },
            PerOperand { position_key: true, ..none },
            PerOperand { position_query: true, ..none },
        ];
        for (operand, wanted) in alone.into_iter().enumerate() {
            for (other, gradient) in gradients_of(&attention, &upstream, wanted).unwrap().iter().enumerate() {
                assert_eq!(bits(gradient), if other == operand { all[other].clone() } else { None });
            }
        }
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let device = Device::cpu();
    let message = |change: &dyn Fn(&mut DisentangledAttention)| {
        let mut attention = build(&fixed([2, 5, 2, 4], false), &device);
        change(&mut attention);
        attention.forward().unwrap_err().to_string()
    };
    let zeros = |shape: &[usize], dtype| Tensor::zeros(&device, shape, dtype).unwrap();
    assert!(message(&|a| a.query = zeros(&[2, 5, 8], DType::F32)).contains("[batch, sequence, heads, head_dim]"));
    assert!(message(&|a| a.key = zeros(&[2, 4, 2, 4], DType::F32)).contains("expected [2, 5, 2, 4]"));
    assert!(message(&|a| a.position_key = Some(zeros(&[39, 2, 4], DType::F32))).contains("expected [40, 2, 4]"));
    assert!(message(&|a| a.key_mask = Some(zeros(&[2, 5], DType::F32))).contains("u32"));
    assert!(message(&|a| a.buckets = RelativeBuckets::new(&device, &[0; 7], 40).unwrap()).contains("sequences of 4"));
    assert!(message(&|a| a.scale = f32::NAN).contains("the scale is NaN"));
    assert!(message(&|a| a.dropout = Some((1.0, KEY))).contains("1 is not a probability of dropout"));
}

#[test]
fn tables_that_are_none_are_refused() {
    let message = |table: &[u32]| RelativeBuckets::new(&Device::cpu(), table, 3).unwrap_err().to_string();
    assert!(message(&[0, 1]).contains("the table has 2"));
    assert!(message(&[0, 2, 1]).contains("after element 1"));
    assert!(message(&[0, 2, 3]).contains("beyond the 3"));
}

#[test]
fn every_variant_is_valid_wgsl() {
    for (team, on) in [(1.0, 0.0), (32.0, 1.0), (256.0, 1.0)] {
        let mut constants = vec![("TEAM", team), ("DROPOUT", on)];
        crate::gpu::validate("backward", gpu::BACKWARD, &constants);
        constants.extend([("CONTENT_TO_POSITION", on), ("POSITION_TO_CONTENT", 1.0 - on), ("MASK", on)]);
        crate::gpu::validate("forward", gpu::FORWARD, &constants);
    }
    crate::gpu::validate("bucket_sums", gpu::BUCKET_SUMS, &[]);
}
