//! One adapter from several on the same model, as PEFT's `add_weighted_adapter` makes it.

use std::collections::BTreeMap;

use tensor::linalg::{qr, svd};
use tensor::{Device, Tensor};

use crate::adapter::Adapter;
use crate::adapter_set::AdapterSet;
use crate::config::{LoraConfig, Overrides};
use crate::error::{LoraError, Result};
use crate::init::Initialisation;
use crate::targets::{ModuleShape, Targets};

/// How adapters with weights wᵢ become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combination {
    /// `A = Σ √(wᵢsᵢ)·Aᵢ`, `B = Σ √(wᵢsᵢ)·Bᵢ`: cheap, but the product also holds every Bᵢ·Aⱼ. Needs equal ranks and
    /// weights that are not negative.
    Linear,
    /// `A = [wᵢsᵢ·Aᵢ]`, `B = [Bᵢ]` side by side: exactly `Σ wᵢsᵢ·Bᵢ·Aᵢ`, of the sum of the ranks.
    Concatenation,
    /// The best approximation of `Σ wᵢsᵢ·Bᵢ·Aᵢ` of a given rank, by singular values: `B = U·Σ`, `A = Vᵀ`. (PEFT applies
    /// the scalings twice here.)
    SingularValues {
        /// The new rank.
        rank: usize,
    },
}

/// What one set contributes to a module: wᵢsᵢ, Aᵢ, Bᵢ.
struct Share {
    weight: f64,
    a: Tensor,
    b: Tensor,
}

impl AdapterSet {
    /// A new set from several, each with its weight. It adapts every module that one of them adapts, with scaling 1.
    ///
    /// # Errors
    /// [`LoraError::Setting`] when there are none, when one is DoRA or has modules trained as a whole, or when they do not
    /// suit the combination; [`LoraError::Tensor`] for factors of different modules, or the device's own errors.
    pub fn combine(sets: &[(&AdapterSet, f64)], combination: Combination) -> Result<AdapterSet> {
        let Some((first, _)) = sets.first() else {
            return Err(setting("there are no adapters to combine".into()));
        };
        let (mut shares, mut modules) = (BTreeMap::<String, Vec<Share>>::new(), BTreeMap::new());
        for (set, weight) in sets {
            if set.config().use_dora || set.whole_parameters().len() > 0 {
                let message = "adapters with magnitudes (use_dora) or modules trained as a whole are no sums of products; \
                               merge them into the model instead";
                return Err(setting(message.into()));
            }
            for adapter in set.adapters() {
                let weight = weight * f64::from(adapter.scaling);
                let (a, b) = set.plain_factors(&adapter.module).transpose()?.ok_or_else(|| missing(adapter))?;
                shares.entry(adapter.module.clone()).or_default().push(Share { weight, a, b });
                modules.insert(adapter.module.clone(), shape(adapter));
            }
        }
        let device = first.device();
        let joined = shares.into_iter().map(|(module, shares)| Ok((module, combination.join(&shares, device)?)));
        let joined = joined.collect::<Result<BTreeMap<_, _>>>()?;
        let rank = joined.values().map(|(a, _)| a.shape()[0]).max().unwrap_or(1);
        // Whole paths as keys, as PEFT looks them up first.
        let others = joined.iter().map(|(module, (a, _))| (module.clone(), a.shape()[0]));
        let ranks: Overrides<usize> = others.filter(|(_, other)| *other != rank).collect();
        let config = LoraConfig {
            rank,
            alpha: rank as f64,
            alpha_pattern: ranks.iter().map(|(module, rank)| (module.clone(), *rank as f64)).collect(),
            rank_pattern: ranks,
            use_rslora: false,
            targets: Targets::names(joined.keys().cloned()),
            layers_to_transform: Vec::new(),
            exclude_modules: None,
            init_lora_weights: Initialisation::Kaiming,
            ..first.config().clone()
        };
        let modules: Vec<ModuleShape> = modules.into_values().collect();
        let factors = |adapter: &Adapter| joined.get(&adapter.module).cloned().ok_or_else(|| missing(adapter));
        AdapterSet::from_factors(config, &modules, device, factors)
    }
}

impl Combination {
    fn join(self, shares: &[Share], device: &Device) -> Result<(Tensor, Tensor)> {
        match self {
            Combination::Linear => linear(shares, device),
            Combination::Concatenation => concatenated(shares, device),
            Combination::SingularValues { rank } => {
                let (a, b) = concatenated(shares, &Device::cpu())?;
                let (a, b) = best_of_rank(&a, &b, rank)?;
                Ok((a.to_device(device)?, b.to_device(device)?))
            }
        }
    }
}

fn linear(shares: &[Share], device: &Device) -> Result<(Tensor, Tensor)> {
    let mut sum: Option<(Tensor, Tensor)> = None;
    for Share { weight, a, b } in shares {
        if *weight < 0.0 {
            return Err(setting(
                "a linear combination takes the roots of the weights; negative ones need `cat`".into(),
            ));
        }
        let root = weight.sqrt() as f32;
        let (a, b) = (a.to_device(device)?.affine(root, 0.0)?, b.to_device(device)?.affine(root, 0.0)?);
        sum = Some(match sum {
            None => (a, b),
            Some((sum, _)) if sum.shape() != a.shape() => {
                return Err(setting("a linear combination needs adapters of equal ranks; use `cat` or `svd`".into()));
            }
            Some((sum_a, sum_b)) => (sum_a.add(&a)?, sum_b.add(&b)?),
        });
    }
    sum.ok_or_else(|| setting("there are no adapters to combine".into()))
}

fn concatenated(shares: &[Share], device: &Device) -> Result<(Tensor, Tensor)> {
    let a = shares.iter().map(|share| share.a.to_device(device)?.affine(share.weight as f32, 0.0));
    let b = shares.iter().map(|share| share.b.to_device(device));
    let (a, b) = (a.collect::<tensor::Result<Vec<_>>>()?, b.collect::<tensor::Result<Vec<_>>>()?);
    Ok((Tensor::concat(&a.iter().collect::<Vec<_>>(), 0)?, Tensor::concat(&b.iter().collect::<Vec<_>>(), 1)?))
}

/// The best approximation of B·A of a rank, without forming the product: with B = Q·R and Aᵀ = Q'·R', the singular values
/// of B·A are those of the small R·R'ᵀ. A rank beyond what there is is filled with zeros.
fn best_of_rank(a: &Tensor, b: &Tensor, rank: usize) -> Result<(Tensor, Tensor)> {
    if rank == 0 {
        return Err(setting("the rank must be at least 1".into()));
    }
    let (q, r) = qr(b)?;
    let (q_other, r_other) = qr(&a.t()?.contiguous()?)?;
    let (u, sigma, vt) = svd(&r.matmul(&r_other.t()?)?)?;
    let kept = rank.min(sigma.shape()[0]);
    let b = q.matmul(&u.slice(1, 0, kept)?.mul(&sigma.slice(0, 0, kept)?)?)?;
    let a = vt.slice(0, 0, kept)?.matmul(&q_other.t()?)?;
    Ok((a.pad(0, 0, rank - kept, 0.0)?, b.pad(1, 0, rank - kept, 0.0)?))
}

fn shape(adapter: &Adapter) -> ModuleShape {
    let shape = ModuleShape::new(&adapter.module, adapter.inputs, adapter.outputs);
    if adapter.embedding { shape.embedding() } else { shape }
}

fn missing(adapter: &Adapter) -> LoraError {
    setting(format!("the factors of `{}` are gone from the adapter set", adapter.module))
}

fn setting(message: String) -> LoraError {
    LoraError::Setting { setting: "combination", message }
}

#[cfg(test)]
mod tests {
    use autograd::check::TestRandom;
    use tensor::testing::on_each_backend;

    use super::*;

    fn set(device: &Device, seed: u64, modules: &[&str], rank: usize) -> AdapterSet {
        let mut random = TestRandom::new(seed);
        let shapes: Vec<_> = modules.iter().map(|name| ModuleShape::new(*name, 6, 5)).collect();
        let config = LoraConfig { rank, alpha: 3.0, ..LoraConfig::default() };
        AdapterSet::from_factors(config, &shapes, device, |adapter| {
            let a = random.tensor(device, &[adapter.rank, 6], -1.0, 1.0)?;
            Ok((a, random.tensor(device, &[5, adapter.rank], -1.0, 1.0)?))
        })
        .unwrap()
    }

    fn delta(set: &AdapterSet, module: &str) -> Vec<f32> {
        let zero = Tensor::zeros(set.device(), &[5, 6], tensor::DType::F32).unwrap();
        set.merge(module, &zero).unwrap().to_vec().unwrap()
    }

    fn assert_close(a: &[f32], b: &[f32]) {
        assert!(a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5), "{a:?} {b:?}");
    }

    on_each_backend! {
        fn sums_of_products_are_exact_and_every_module_is_there(device) {
            let (one, two) = (set(device, 1, &["x", "y"], 2), set(device, 2, &["y", "z"], 3));
            let weighted = |combination| AdapterSet::combine(&[(&one, 0.5), (&two, -2.0)], combination).unwrap();
            let sum: Vec<f32> =
                delta(&one, "y").iter().zip(delta(&two, "y")).map(|(one, two)| 0.5 * one - 2.0 * two).collect();
            let cat = weighted(Combination::Concatenation);
            assert_eq!(cat.adapters().map(|adapter| adapter.rank).collect::<Vec<_>>(), [2, 5, 3]);
            assert_close(&delta(&cat, "y"), &sum);
            assert_close(&delta(&cat, "x"), &delta(&one, "x").iter().map(|x| 0.5 * x).collect::<Vec<_>>());
            assert_close(&delta(&weighted(Combination::SingularValues { rank: 5 }), "y"), &sum);
            assert_close(&delta(&weighted(Combination::SingularValues { rank: 8 }), "y"), &sum);
            let best = weighted(Combination::SingularValues { rank: 2 });
            let whole = Tensor::from_slice(&Device::cpu(), &[5, 6], &sum).unwrap();
            let sigma = svd(&whole).unwrap().1.to_vec::<f32>().unwrap();
            let error: f32 = delta(&best, "y").iter().zip(&sum).map(|(a, b)| (a - b) * (a - b)).sum();
            let least: f32 = sigma[2..].iter().map(|s| s * s).sum();
            assert!((error - least).abs() < 1e-3 * least, "{error} {least}");
        }

        fn linear_combinations_weigh_the_factors(device) {
            let (one, two) = (set(device, 1, &["x"], 2), set(device, 2, &["x"], 2));
            let both = AdapterSet::combine(&[(&one, 0.25), (&two, 1.0)], Combination::Linear).unwrap();
            let a = |set: &AdapterSet| set.factors("x").unwrap().a.to_vec::<f32>().unwrap();
            let root = 1.5f32.sqrt();
            let want: Vec<f32> = a(&one).iter().zip(a(&two)).map(|(one, two)| root * (0.5 * one + two)).collect();
            assert_close(&a(&both), &want);
            assert_eq!(both.adapter("x").unwrap().scaling, 1.0);
            let alone = AdapterSet::combine(&[(&one, 1.0)], Combination::Linear).unwrap();
            assert_close(&delta(&alone, "x"), &delta(&one, "x"));
        }
    }

    #[test]
    fn what_does_not_suit_is_refused() {
        let device = Device::cpu();
        let (one, two) = (set(&device, 1, &["x"], 2), set(&device, 2, &["x"], 3));
        let refused =
            |sets: &[(&AdapterSet, f64)], combination| AdapterSet::combine(sets, combination).unwrap_err().to_string();
        assert!(refused(&[], Combination::Linear).contains("no adapters"));
        assert!(refused(&[(&one, 1.0), (&two, 1.0)], Combination::Linear).contains("equal ranks"));
        assert!(refused(&[(&one, -1.0)], Combination::Linear).contains("negative"));
        assert!(refused(&[(&one, 1.0)], Combination::SingularValues { rank: 0 }).contains("at least 1"));
    }
}
