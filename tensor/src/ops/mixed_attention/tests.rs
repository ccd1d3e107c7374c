use proptest::prelude::*;

use super::config::{Config, Kernel};
use super::gpu;
use super::self_test::{self, Kernels};
use crate::device::Backend;
use crate::gpu::{Tiles, assert_as_reviewed, validate};
use crate::testing::{Recipe, assert_close, check, on_each_backend, recipe_of};
use crate::{
    AttentionConfig, Device, MixedAttention, Result, Tensor, attention, attention_backward, rotary, rotary_backward,
};

#[derive(Clone, Debug)]
struct Case {
    q: Recipe,
    k: Recipe,
    v: Recipe,
    upstream: Recipe,
    angles: Recipe,
    mask: Option<Vec<u32>>,
    config: AttentionConfig,
}

/// `[batch, sequence, heads, kv_heads, head_dim]`.
type Extents = [usize; 5];

fn case_of([batch, sequence, heads, kv_heads, head_dim]: Extents, causal: bool) -> impl Strategy<Value = Case> {
    let of = |heads: usize| recipe_of(vec![batch, sequence, heads, head_dim], -2.0..2.0);
    let angles = recipe_of(vec![sequence, head_dim / 2], -3.0..3.0);
    let mask = prop::option::of(prop::collection::vec(prop_oneof![1 => Just(0u32), 3 => Just(1)], batch * sequence));
    (of(heads), of(kv_heads), of(kv_heads), of(heads), angles, mask).prop_map(
        move |(q, k, v, upstream, angles, mask)| {
            let config = AttentionConfig { causal, scale: 1.0 / (head_dim as f32).sqrt(), query_offset: 0 };
            Case { q, k, v, upstream, angles, mask, config }
        },
    )
}

fn case() -> impl Strategy<Value = Case> {
    let head_dims = prop_oneof![Just(2usize), Just(6), Just(16)];
    (0usize..=2, 0usize..=9, 1usize..=2, 1usize..=3, head_dims, any::<bool>()).prop_flat_map(
        |(batch, sequence, kv_heads, group, head_dim, causal)| {
            case_of([batch, sequence, kv_heads * group, kv_heads, head_dim], causal)
        },
    )
}

/// Results in f32 of the unrounded operands: output, dq, dk, dv.
fn exact(case: &Case) -> Result<[Vec<f64>; 4]> {
    let device = &Device::cpu();
    let [q, k, v, upstream, angles] = case.build(device);
    let (cosines, sines) = (angles.cos()?, angles.sin()?);
    let (q, k) = (rotary(&q, &cosines, &sines)?, rotary(&k, &cosines, &sines)?);
    let mask = case.mask(device);
    let forward = attention(&q, &k, &v, mask.as_ref(), &case.config)?;
    let (dq, dk, dv) = attention_backward(&q, &k, &v, mask.as_ref(), &case.config, &forward, &upstream)?;
    let turned_back = |x: &Tensor| rotary_backward(x, &cosines, &sines);
    let values = |x: &Tensor| Ok(x.to_vec::<f32>()?.into_iter().map(f64::from).collect());
    Ok([values(&forward.output)?, values(&turned_back(&dq)?)?, values(&turned_back(&dk)?)?, values(&dv)?])
}

impl Case {
    fn build(&self, device: &Device) -> [Tensor; 5] {
        [&self.q, &self.k, &self.v, &self.upstream, &self.angles].map(|recipe| recipe.build(device))
    }

    fn mask(&self, device: &Device) -> Option<Tensor> {
        let shape = [self.q.shape()[0], self.q.shape()[1]];
        self.mask.as_ref().map(|mask| Tensor::from_slice(device, &shape, mask).unwrap())
    }

    fn forward(&self, device: &Device) -> Result<MixedAttention> {
        let [q, k, v, _, angles] = self.build(device);
        let mask = self.mask(device);
        MixedAttention::new([&q, &k, &v], [&angles.cos()?, &angles.sin()?], mask.as_ref(), &self.config)
    }

    fn upstream(&self, device: &Device) -> Result<Tensor> {
        let shape = self.q.shape();
        self.upstream.build(device).reshape(&[shape[0], shape[1], shape[2] * shape[3]])
    }
}

/// Compares with the exact results; `tolerance` is relative to the largest element of each.
fn near_exact(device: &Device, case: &Case, tolerance: f64) -> Result<()> {
    let [output, dq, dk, dv] = exact(case)?;
    let got = case.forward(device)?;
    let gradients = got.backward(&case.upstream(device)?)?;
    let largest = |values: &[f64]| values.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
    let shape = case.q.shape();
    let merged = [shape[0] * shape[1], shape[2] * shape[3]];
    assert_close("output", &got.output().restored()?, &merged, &output, 0.0, tolerance * largest(&output))?;
    let all = gradients.iter().zip([("dq", &dq, &case.q), ("dk", &dk, &case.k), ("dv", &dv, &case.v)]);
    for (gradient, (name, want, of)) in all {
        // Where dS vanishes, as for a single key, what is left is the difference of rounded numbers of the size of dv.
        let size = largest(want).max(0.1 * largest(&dv));
        assert_close(name, gradient, of.shape(), want, 0.0, tolerance * size)?;
    }
    Ok(())
}

on_each_backend! {
    fn is_attention_of_turned_rows_within_their_rounding(device) {
        check(case(), |case| near_exact(device, &case, 4e-3));
    }

    fn operands_of_any_magnitude_neither_overflow_nor_vanish(device) {
        check((case(), prop::collection::vec(-40i32..40, 3)), |(mut case, exponents)| {
            let [q, v, upstream] = [0, 1, 2].map(|i| 2f32.powi(exponents[i]));
            let plain = case.forward(device)?;
            let gradients = plain.backward(&case.upstream(device)?)?;
            // Scores stay what they are.
            case.q = case.q.map(|x| x * q);
            case.k = case.k.map(|x| x / q);
            case.v = case.v.map(|x| x * v);
            case.upstream = case.upstream.map(|x| x * upstream);
            let scaled = case.forward(device)?;
            let same = |a: &Tensor, factor: f32, b: &Tensor| -> Result<()> {
                let want: Vec<f32> = a.to_vec::<f32>()?.iter().map(|x| x * factor).collect();
                assert_eq!(want, b.to_vec::<f32>()?);
                Ok(())
            };
            same(&plain.output().restored()?, v, &scaled.output().restored()?)?;
            let [dq, dk, dv] = scaled.backward(&case.upstream(device)?)?;
            same(&gradients[0], v * upstream / q, &dq)?;
            same(&gradients[1], v * upstream * q, &dk)?;
            same(&gradients[2], upstream, &dv)
        });
    }
}

#[test]
fn wrong_operands_are_refused() {
    let device = Device::cpu();
    let zeros = |shape: &[usize]| Tensor::zeros(&device, shape, crate::DType::F32).unwrap();
    let (q, table) = (zeros(&[1, 3, 2, 4]), zeros(&[3, 2]));
    let config = AttentionConfig { causal: true, scale: 0.5, query_offset: 0 };
    let fails = |k: &Tensor, table: &Tensor| MixedAttention::new([&q, k, k], [table, table], None, &config).is_err();
    assert!(!fails(&q, &table));
    assert!(fails(&zeros(&[1, 4, 2, 4]), &table));
    assert!(fails(&q, &zeros(&[3, 4])));
    let got = MixedAttention::new([&q; 3], [&table; 2], None, &config).unwrap();
    assert!(got.backward(&q).is_err());
}

fn configurations() -> impl Iterator<Item = Config> {
    [Kernel::Forward, Kernel::QueryGradient, Kernel::KeyValueGradient]
        .into_iter()
        .flat_map(|kernel| MixedAttention::HEAD_DIMS.map(|head_dim| Config::new(kernel, head_dim)))
}

#[test]
fn every_kernel_is_valid_wgsl() {
    for config in configurations() {
        validate(&config.name(), &config.wgsl(), &[]);
    }
    let constants = [("TEAM", 64.0), ("TILED", 1.0), ("OUTPUT_TILED", 1.0)];
    validate("round", gpu::ROUND, &constants[..2]);
    validate("round_upstream", gpu::ROUND_UPSTREAM, &constants);
}

#[test]
fn two_workgroups_share_a_multiprocessor() {
    for config in configurations() {
        assert!(config.workgroup_bytes() <= 24 << 10, "{}", config.name());
    }
}

#[test]
fn generated_text_is_as_reviewed() {
    // One of a power of two, and one whose middle lies within a matrix.
    for config in configurations().filter(|config| [48, 128].contains(&config.head_dim)) {
        assert_as_reviewed("mixed_attention", &config.name(), &config.wgsl());
    }
}

/// The device under test, which must have cooperative matrices.
fn tensor_cores() -> (&'static crate::gpu::Gpu, &'static Device) {
    let device = crate::testing::gpu();
    let Backend::Gpu(gpu) = device.backend() else { panic!("the test device is a GPU") };
    assert!(gpu.cooperative.usable(), "{} has no cooperative matrices of 16 x 16", gpu.summary.name);
    (gpu, device)
}

#[test]
#[cfg_attr(not(feature = "cooperative-tests"), ignore = "needs tensor cores: --features cooperative-tests")]
fn every_kernel_passes_its_test() {
    let (gpu, device) = tensor_cores();
    for head_dim in MixedAttention::HEAD_DIMS {
        let direct = gpu.cooperative.direct_usable() && head_dim.is_multiple_of(Tiles::WIDE[1]);
        let flags = [(false, false), (false, true), (true, false), (true, true)].into_iter().filter(|_| direct);
        let direct = flags.map(|(masked, output_in_tiles)| Kernels::Direct { masked, output_in_tiles });
        for kernels in direct.chain([Kernels::InWorkgroupMemory]) {
            let fault = self_test::find_fault(gpu, kernels, head_dim, device).unwrap();
            assert_eq!(fault, None, "{kernels:?}, head_dim {head_dim}");
        }
    }
}

#[test]
#[cfg_attr(not(feature = "cooperative-tests"), ignore = "needs tensor cores: --features cooperative-tests")]
fn is_attention_on_tensor_cores() {
    let (_, device) = tensor_cores();
    let sequences = prop_oneof![
        Just(16usize),
        Just(63),
        Just(64),
        Just(129),
        17usize..200,
        (1usize..20).prop_map(|tiles| 16 * tiles)
    ];
    let head_dims = prop::sample::select(&MixedAttention::HEAD_DIMS[..]);
    // Many heads make rows that do not stay in registers while they are rounded.
    let kv_heads = prop_oneof![8 => 1usize..=2, 1 => Just(5), 1 => Just(20)];
    let case = (1usize..=2, sequences, kv_heads, 1usize..=2, head_dims, any::<bool>());
    let case = case.prop_flat_map(|(batch, sequence, kv_heads, group, head_dim, causal)| {
        case_of([batch, sequence, kv_heads * group, kv_heads, head_dim], causal)
    });
    check(case, |case| near_exact(device, &case, 4e-3));
}
