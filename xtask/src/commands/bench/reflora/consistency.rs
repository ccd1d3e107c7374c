//! Consistency: the same weight as (A, B) and as (P⁻¹·A, B·P), one step of gradient descent from each, and how much the
//! two updates of the weight differ. P is diagonal with entries that are powers of two apart, so that the two
//! factorisations have exactly the same product in f32 and differences are the method's own.

use autograd::{Gradients, Optimizer, Sgd, SgdConfig};
use lora::{AdapterSet, GradientTransform, LoraConfig, ModuleShape, Targets};
use reflora::{Method, MethodOptions};
use serde_json::json;
use tensor::{Device, RandomKey, Tensor};

use super::super::{Bench, Results};
use crate::failure::Outcome;
use crate::interrupt;
use crate::loading::lora_failure;
use crate::output::table;

const INPUTS: usize = 96;
const OUTPUTS: usize = 64;
const RANK: usize = 8;
const SEEDS: u64 = 5;
const RATE: f32 = 1e-2;
const MODULE: &str = "consistency";
/// Powers of two between the largest and the smallest entry of P.
const EXPONENTS: [i32; 5] = [0, 3, 7, 10, 13];

/// The change of B·A by one step, in f64.
fn change(device: &Device, method: Method, exponent: i32, seed: u64) -> Outcome<Vec<f64>> {
    let host = Device::cpu();
    let normal = |name: &str, shape: &[usize]| {
        Tensor::random_normal(&host, shape, 0.0, 1.0, RandomKey::named(seed, name, 0))?.to_device(device)
    };
    let entries: Vec<f32> =
        (0..RANK as i32).map(|k| 2f32.powi((exponent * k).div_euclid(RANK as i32 - 1) - exponent / 2)).collect();
    let p = Tensor::from_slice(device, &[1, RANK], &entries)?;
    let a = normal("a", &[RANK, INPUTS])?.mul(&p.reciprocal()?.t()?)?;
    let b = normal("b", &[OUTPUTS, RANK])?.mul(&p)?;
    let slope = normal("slope", &[OUTPUTS, INPUTS])?;
    let modules = [ModuleShape::new(MODULE, INPUTS, OUTPUTS)];
    let config = LoraConfig { rank: RANK, targets: Targets::names([MODULE]), ..LoraConfig::default() };
    let mut adapters =
        AdapterSet::from_factors(config, &modules[..], device, |_| Ok((a.clone(), b.clone()))).map_err(lora_failure)?;
    let options = MethodOptions { warmup_steps: 0, ..MethodOptions::default() };
    let mut transform = method.transform(&options).map_err(lora_failure)?;
    let mut optimizer = Sgd::new(SgdConfig::default());
    transform.prepare(&adapters, &mut optimizer).map_err(lora_failure)?;
    // The scalar form steps from rescaled factors.
    if method == Method::RefLoraScalar {
        transform.after_update(&mut adapters, &mut optimizer, 0).map_err(lora_failure)?;
    }
    let mut gradients = Gradients::new();
    let before = {
        let Some(factors) = adapters.factors(MODULE) else { return Ok(Vec::new()) };
        gradients.insert(format!("{MODULE}.lora_A.weight"), factors.b.t()?.matmul(&slope)?);
        gradients.insert(format!("{MODULE}.lora_B.weight"), slope.matmul(&factors.a.t()?)?);
        product(factors)?
    };
    transform.apply(&mut adapters, &mut gradients, 0).map_err(lora_failure)?;
    optimizer.step(adapters.parameters_mut(), &gradients, RATE)?;
    let Some(factors) = adapters.factors(MODULE) else { return Ok(Vec::new()) };
    Ok(product(factors)?.iter().zip(&before).map(|(after, before)| after - before).collect())
}

fn product(factors: lora::Factors<'_>) -> Outcome<Vec<f64>> {
    let (a, b) = (factors.a.to_vec::<f32>()?, factors.b.to_vec::<f32>()?);
    let element =
        |i: usize, j: usize| (0..RANK).map(|k| f64::from(b[i * RANK + k]) * f64::from(a[k * INPUTS + j])).sum::<f64>();
    Ok((0..OUTPUTS * INPUTS).map(|index| element(index / INPUTS, index % INPUTS)).collect())
}

fn norm(x: impl Iterator<Item = f64>) -> f64 {
    x.map(|x| x * x).sum::<f64>().sqrt()
}

pub fn run(bench: &Bench<'_>, results: &mut Results) -> Outcome<()> {
    let Bench { device, common, output, .. } = *bench;
    let mut rows = Vec::new();
    for method in Method::ALL {
        let mut row = vec![method.to_string()];
        for exponent in EXPONENTS {
            let mut worst = 0.0f64;
            for seed in common.seed..common.seed + SEEDS {
                let (one, two) = (change(device, method, 0, seed)?, change(device, method, exponent, seed)?);
                let difference = norm(one.iter().zip(&two).map(|(x, y)| x - y)) / norm(one.iter().copied());
                worst = if difference.is_nan() { f64::INFINITY } else { worst.max(difference) };
            }
            row.push(format!("{worst:.1e}"));
            results.push(
                "consistency",
                json!({
                    "method": method.name(), "condition": 2f64.powi(exponent), "worst_relative_difference": worst,
                }),
            );
        }
        interrupt::check()?;
        rows.push(row);
    }
    let conditions: Vec<String> =
        EXPONENTS.iter().map(|&exponent| format!("cond {:.0}", 2f64.powi(exponent))).collect();
    let header: Vec<&str> = std::iter::once("method").chain(conditions.iter().map(String::as_str)).collect();
    output.say(format!(
        "\nconsistency: relative difference of one gradient step's change of B·A between (A, B) and (P⁻¹·A, B·P)\n{}",
        table(&header, &rows)
    ));
    Ok(())
}
