use std::sync::atomic::{AtomicUsize, Ordering};

use lora::{LoraConfig, ModuleShape, Targets};
use tensor::DType;
use tensor::testing::on_each_backend;

use super::*;

/// Weights by name, counting how often they are read.
struct Matrices(BTreeMap<String, Tensor>, AtomicUsize);

impl Matrices {
    fn new<'a>(weights: impl IntoIterator<Item = (&'a str, Tensor)>) -> Self {
        Matrices(weights.into_iter().map(|(name, weight)| (name.to_string(), weight)).collect(), AtomicUsize::new(0))
    }
}

impl Weights for Matrices {
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn weight(&self, module: &str) -> Result<Tensor> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.get(module).cloned().ok_or_else(|| refused(format!("`{module}` is not there")))
    }
}

fn random(rows: usize, columns: usize, stream: u64) -> Tensor {
    let key = RandomKey { seed: 5, stream, step: 0 };
    Tensor::random_normal(&Device::cpu(), &[rows, columns], 0.0, 1.0, key).unwrap()
}

/// A matrix with given singular values.
fn with_spectrum(rows: usize, columns: usize, sigma: &[f32], stream: u64) -> Tensor {
    let (u, _) = tensor::linalg::qr(&random(rows, sigma.len(), stream)).unwrap();
    let (v, _) = tensor::linalg::qr(&random(columns, sigma.len(), stream + 1)).unwrap();
    let sigma = Tensor::from_slice(&Device::cpu(), &[sigma.len()], sigma).unwrap();
    u.mul(&sigma).unwrap().matmul(&v.t().unwrap()).unwrap()
}

fn adapter(modules: &[ModuleShape], rank: usize) -> AdapterSet {
    let names = modules.iter().map(|module| module.name.clone());
    let config = LoraConfig { rank, targets: Targets::names(names), ..LoraConfig::default() };
    AdapterSet::new(config, &modules.to_vec(), &Device::cpu(), 3).unwrap()
}

fn measure(set: &AdapterSet, old: &Matrices, new: &Matrices) -> Result<Evolution> {
    Evolution::measure(set, old, new, &EvolutionOptions::default(), None, &Device::cpu())
}

fn product_of(module: &ModuleEvolution) -> Tensor {
    module.left.matmul(&module.right).unwrap()
}

fn distance(a: &Tensor, b: &Tensor) -> f64 {
    frobenius(&a.sub(b).unwrap().to_vec::<f32>().unwrap())
}

#[test]
fn a_change_of_low_rank_is_found_and_described() {
    let change = with_spectrum(40, 60, &[3.0, 2.0, 1.0], 10);
    let old = random(40, 60, 1);
    let set = adapter(&[ModuleShape::new("q", 60, 40)], 2);
    let new = old.add(&change).unwrap();
    let evolution = measure(&set, &Matrices::new([("q", old.clone())]), &Matrices::new([("q", new)])).unwrap();
    let module = evolution.module("q").unwrap();
    let statistics = &module.statistics;
    assert_eq!((module.left.shape()[..].to_vec(), module.right.shape()[..].to_vec()), (vec![40, 8], vec![8, 60]));
    assert!(distance(&product_of(module), &change) < 1e-5);
    assert!((statistics.norm - 14f64.sqrt()).abs() < 1e-4, "{statistics:?}");
    assert!((statistics.singular_values[1] - 2.0).abs() < 1e-4 && statistics.singular_values[3] < 1e-4);
    assert!((statistics.effective_rank() - 14.0 / 9.0).abs() < 1e-3);
    assert!(statistics.relative_error() < 1e-2 && statistics.spectral_error_bound < 1e-3);
    let expected = 14f64.sqrt() / frobenius(&old.to_vec::<f32>().unwrap());
    assert!((evolution.relative_size() - expected).abs() < 1e-6);
}

#[test]
fn a_flat_spectrum_is_cut_nearly_as_well_as_possible_and_the_errors_are_honest() {
    // Singular values 1/i of a full matrix, of which the best 8 can be kept.
    let spectrum: Vec<f32> = (1..=48).map(|i| 1.0 / i as f32).collect();
    let change = with_spectrum(48, 70, &spectrum, 20);
    let zero = Tensor::zeros(&Device::cpu(), &[48, 70], DType::F32).unwrap();
    let set = adapter(&[ModuleShape::new("q", 70, 48)], 2);
    let (old, new) = (Matrices::new([("q", zero)]), Matrices::new([("q", change.clone())]));
    let evolution = measure(&set, &old, &new).unwrap();
    let module = evolution.module("q").unwrap();
    let tail: f64 = spectrum[8..].iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let found = distance(&product_of(module), &change);
    assert!(found < 1.02 * tail, "{found} against the best {tail}");
    let estimate = module.statistics.relative_error() * module.statistics.norm;
    assert!((estimate - found).abs() < 1e-3, "estimated {estimate}, found {found}");
    let rest = change.sub(&product_of(module)).unwrap();
    let largest = tensor::linalg::svd(&rest).unwrap().1.to_vec::<f32>().unwrap()[0];
    let bound = module.statistics.spectral_error_bound;
    assert!(f64::from(largest) <= bound && bound < 60.0 * f64::from(largest), "{largest} and its bound {bound}");
}

#[test]
fn no_change_has_finite_numbers() {
    let weights = Matrices::new([("q", random(12, 9, 1))]);
    let evolution = measure(&adapter(&[ModuleShape::new("q", 9, 12)], 4), &weights, &weights).unwrap();
    let module = evolution.module("q").unwrap();
    assert_eq!(product_of(module).to_vec::<f32>().unwrap(), vec![0.0; 12 * 9]);
    let statistics = &module.statistics;
    assert_eq!((evolution.relative_size(), statistics.effective_rank(), statistics.captured()), (0.0, 0.0, 1.0));
}

#[test]
fn embeddings_and_grown_vocabularies_are_measured_on_the_old_rows() {
    let change = with_spectrum(30, 8, &[2.0, 1.0], 30);
    let old = random(30, 8, 2);
    let new = Tensor::concat(&[&old.add(&change).unwrap(), &random(5, 8, 3)], 0).unwrap();
    let (old, new) = (Matrices::new([("e", old.clone()), ("h", old)]), Matrices::new([("e", new.clone()), ("h", new)]));
    let set = adapter(&[ModuleShape::new("e", 35, 8).embedding(), ModuleShape::new("h", 8, 35)], 2);
    let evolution = measure(&set, &old, &new).unwrap();
    let (e, h) = (evolution.module("e").unwrap(), evolution.module("h").unwrap());
    assert_eq!((e.statistics.added_rows, h.statistics.added_rows), (5, 5));
    let expected = change.pad(0, 0, 5, 0.0).unwrap();
    assert!(distance(&product_of(h), &expected) < 1e-5);
    assert!(distance(&product_of(e).t().unwrap().contiguous().unwrap(), &expected) < 1e-5);
}

#[test]
fn other_shapes_and_values_are_refused_by_name() {
    let set = adapter(&[ModuleShape::new("q", 9, 12)], 2);
    let weights = |rows, columns| Matrices::new([("q", random(rows, columns, 1))]);
    for new in [weights(12, 10), weights(11, 9)] {
        let error = measure(&set, &weights(12, 9), &new).unwrap_err().to_string();
        assert!(error.contains("`q` is [12, 9] in the old base"), "{error}");
    }
    let error = measure(&set, &weights(12, 9), &Matrices::new([])).unwrap_err().to_string();
    assert!(error.contains("`q` is not there"), "{error}");
    let broken = Tensor::full(&Device::cpu(), &[12, 9], DType::F32, f32::NAN).unwrap();
    let error = measure(&set, &weights(12, 9), &Matrices::new([("q", broken)])).unwrap_err().to_string();
    assert!(error.contains("q.weight") && error.contains("NaN"), "{error}");
}

#[test]
fn the_cache_gives_back_the_same_bits_and_reads_no_weights() {
    let directory = tempfile::tempdir().unwrap();
    let set = adapter(&[ModuleShape::new("a.q", 9, 12)], 1);
    let (old, new) = (Matrices::new([("a.q", random(12, 9, 1))]), Matrices::new([("a.q", random(12, 9, 2))]));
    let cached = |old_fingerprint: &str, seed: u64| {
        let cache = EvolutionCache::new(directory.path(), old_fingerprint, "new");
        let options = EvolutionOptions { seed, ..EvolutionOptions::default() };
        let before = old.1.load(Ordering::Relaxed);
        let evolution = Evolution::measure(&set, &old, &new, &options, Some(&cache), &Device::cpu()).unwrap();
        let module = evolution.module("a.q").unwrap().clone();
        (module.left.to_vec::<f32>().unwrap(), module.statistics, old.1.load(Ordering::Relaxed) - before)
    };
    let (left, statistics, reads) = cached("old", 0);
    assert_eq!(reads, 1);
    assert_eq!(cached("old", 0), (left.clone(), statistics.clone(), 0));
    assert_eq!(cached("other", 0), (left.clone(), statistics.clone(), 1), "another update has files of its own");
    assert_eq!(cached("old", 1).2, 1, "and so has another seed");
    let folder = std::fs::read_dir(directory.path()).unwrap().next().unwrap().unwrap().path();
    let shorten: fn(&mut Vec<u8>) = |bytes| bytes.truncate(bytes.len() - 4);
    let change: fn(&mut Vec<u8>) = |bytes| *bytes.last_mut().unwrap() ^= 1;
    for damage in [shorten, change] {
        for file in std::fs::read_dir(&folder).unwrap() {
            let path = file.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            damage(&mut bytes);
            std::fs::write(&path, bytes).unwrap();
        }
        let again = (cached("old", 0), cached("other", 0));
        assert_eq!(again.0.2 + again.1.2, 1, "a damaged file counts as absent");
        assert_eq!((again.0.0, again.1.0), (left.clone(), left.clone()));
    }
}

#[test]
fn alignment_tells_the_same_directions_from_others() {
    let (u, v) = (random(30, 2, 40), random(2, 20, 41));
    let change = u.matmul(&v).unwrap();
    let zero = Tensor::zeros(&Device::cpu(), &[30, 20], DType::F32).unwrap();
    let mut set = adapter(&[ModuleShape::new("q", 20, 30)], 2);
    let (old, new) = (Matrices::new([("q", zero)]), Matrices::new([("q", change)]));
    let evolution = measure(&set, &old, &new).unwrap();
    let module = evolution.module("q").unwrap();
    assert_eq!(
        module.alignment(&set.factors("q").unwrap()).unwrap(),
        Alignment { outputs: 0.0, inputs: 0.0, cosine: 0.0 },
        "an adapter without product"
    );
    set.set_factors("q", v.neg().unwrap(), u).unwrap();
    let same = module.alignment(&set.factors("q").unwrap()).unwrap();
    assert!(same.outputs > 0.999 && same.inputs > 0.999 && same.cosine < -0.999, "{same:?}");
    set.set_factors("q", v, random(30, 2, 42)).unwrap();
    let other = module.alignment(&set.factors("q").unwrap()).unwrap();
    assert!(other.outputs < 0.5 && other.inputs > 0.999 && other.cosine.abs() < 0.7, "{other:?}");
}

on_each_backend! {
    fn devices_agree(device) {
        let spectrum: Vec<f32> = (0..20).map(|i| 0.5f32.powi(i)).collect();
        let change = with_spectrum(50, 40, &spectrum, 50);
        let zero = Tensor::zeros(&Device::cpu(), &[50, 40], DType::F32).unwrap();
        let set = adapter(&[ModuleShape::new("q", 40, 50)], 3);
        let (old, new) = (Matrices::new([("q", zero)]), Matrices::new([("q", change.clone())]));
        let evolution = Evolution::measure(&set, &old, &new, &EvolutionOptions::default(), None, device).unwrap();
        let module = evolution.module("q").unwrap();
        assert!(module.left.device().is_cpu());
        assert!(distance(&product_of(module), &change) < 1.02 * 0.5f64.powi(12) / 0.75f64.sqrt());
        assert!((module.statistics.singular_values[5] - 0.5f64.powi(5)).abs() < 1e-5);
    }
}
