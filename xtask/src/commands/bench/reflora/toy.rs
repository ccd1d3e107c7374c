//! The paper's toy problem: ½‖B·A − Y‖² for a Y of rank 6, by full-batch gradient descent from B = 0. One adapter on a
//! frozen weight of zero is exactly this. The first step is plain LoRA for every method, since B = 0 has no S̃.

use autograd::{Gradients, Optimizer, Sgd, SgdConfig};
use lora::{AdapterSet, GradientTransform, LoraConfig, ModuleShape, Targets};
use reflora::{Method, MethodOptions};
use serde_json::json;
use tensor::{Device, RandomKey, Tensor};

use super::super::progress::Meter;
use super::super::timing::median;
use super::super::{Bench, Results};
use crate::failure::Outcome;
use crate::loading::lora_failure;
use crate::output::table;

const SIZE: usize = 128;
const RANK: usize = 6;
const ITERATIONS: usize = 100;
/// ½‖Y‖² of the paper's figure.
const FIRST_LOSS: f64 = 1480.0;
/// What counts as solved.
const SOLVED: f64 = 1e-2;
const RATES: [f32; 2] = [0.01, 0.03];
const MODULE: &str = "toy";

/// What the paper's figure shows, in numbers of an earlier reproduction over 20 seeds.
fn published(method: Method, rate: f32) -> &'static str {
    match (method, rate > 0.02) {
        (Method::RefLora, false) => "< 1e-2 at iteration 30-36",
        (Method::RefLora, true) => "< 1e-2 at iteration 10-18",
        (Method::RefLoraScalar, false) => "0.83 at iteration 37",
        (Method::RefLoraScalar, true) => "1e-4 at iteration 37",
        (Method::Lora, false) => "160-400 after 100",
        (Method::Lora, true) => "diverges",
        (Method::Scaled, true) => "1.8-3.1 after 100",
        (Method::Scaled, false) | (Method::LoraPlus, _) => "-",
    }
}

/// Y and A of one seed, on the device.
fn problem(device: &Device, seed: u64) -> tensor::Result<(Tensor, Tensor)> {
    let normal =
        |name: &str, shape: &[usize]| Tensor::random_normal(device, shape, 0.0, 1.0, RandomKey::named(seed, name, 0));
    let y = normal("left", &[SIZE, RANK])?.matmul(&normal("right", &[RANK, SIZE])?)?;
    let half_square = 0.5 * f64::from(y.square()?.sum(&[0, 1], false)?.item::<f32>()?);
    Ok((y.affine((FIRST_LOSS / half_square).sqrt() as f32, 0.0)?, normal("a", &[RANK, SIZE])?))
}

/// The losses before each of the iterations and after the last.
fn descend(device: &Device, seed: u64, method: Method, rate: f32) -> Outcome<Vec<f64>> {
    let (y, a) = problem(device, seed)?;
    let modules = [ModuleShape::new(MODULE, SIZE, SIZE)];
    let config =
        LoraConfig { rank: RANK, alpha: RANK as f64, targets: Targets::names([MODULE]), ..LoraConfig::default() };
    let b = Tensor::zeros(device, &[SIZE, RANK], tensor::DType::F32)?;
    let mut adapters =
        AdapterSet::from_factors(config, &modules[..], device, |_| Ok((a.clone(), b.clone()))).map_err(lora_failure)?;
    let options = MethodOptions { warmup_steps: 1, ..MethodOptions::default() };
    let mut transform = method.transform(&options).map_err(lora_failure)?;
    let mut optimizer = Sgd::new(SgdConfig::default());
    transform.prepare(&adapters, &mut optimizer).map_err(lora_failure)?;
    let mut losses = Vec::with_capacity(ITERATIONS + 1);
    for step in 0..=ITERATIONS as u64 {
        let (difference, for_a, for_b) = {
            let Some(factors) = adapters.factors(MODULE) else { break };
            let difference = factors.b.matmul(factors.a)?.sub(&y)?;
            let (for_a, for_b) = (factors.b.t()?.matmul(&difference)?, difference.matmul(&factors.a.t()?)?);
            (difference, for_a, for_b)
        };
        losses.push(0.5 * f64::from(difference.square()?.sum(&[0, 1], false)?.item::<f32>()?));
        let mut gradients = Gradients::new();
        gradients.insert(format!("{MODULE}.lora_A.weight"), for_a);
        gradients.insert(format!("{MODULE}.lora_B.weight"), for_b);
        if step > 0 {
            transform.apply(&mut adapters, &mut gradients, step).map_err(lora_failure)?;
        }
        optimizer.step(adapters.parameters_mut(), &gradients, rate)?;
        transform.after_update(&mut adapters, &mut optimizer, step).map_err(lora_failure)?;
    }
    Ok(losses)
}

/// The first iteration with a loss below [`SOLVED`].
fn solved_at(losses: &[f64]) -> Option<usize> {
    losses.iter().position(|&loss| loss < SOLVED)
}

pub fn run(bench: &Bench<'_>, results: &mut Results) -> Outcome<()> {
    let Bench { device, common, plan, output, .. } = *bench;
    let (seed, seeds) = (common.seed, plan.reflora.toy_seeds);
    let mut rows = Vec::new();
    let meter = Meter::new(output, (Method::ALL.len() * RATES.len()) as u64);
    for method in Method::ALL {
        for rate in RATES {
            let curves: Vec<Vec<f64>> =
                (seed..seed + seeds).map(|seed| descend(device, seed, method, rate)).collect::<Outcome<_>>()?;
            let mut solved: Vec<usize> = curves.iter().filter_map(|losses| solved_at(losses)).collect();
            solved.sort_unstable();
            let at = |iteration: usize| {
                let mut losses: Vec<f64> = curves.iter().map(|losses| losses[iteration]).collect();
                let middle = median(&mut losses);
                (losses[0], middle, losses[losses.len() - 1])
            };
            let (low, middle, high) = at(ITERATIONS);
            let last = if middle.is_finite() && middle < 1e3 * FIRST_LOSS {
                format!("{low:.2e} to {high:.2e}")
            } else {
                "diverges".into()
            };
            rows.push(vec![
                method.to_string(),
                format!("{rate}"),
                format!("{} of {seeds}", solved.len()),
                solved.first().zip(solved.last()).map_or("-".into(), |(first, last)| format!("{first}-{last}")),
                format!("{:.2e}", at(37).1),
                last,
                published(method, rate).into(),
            ]);
            results.push(
                "toy",
                json!({
                    "method": method.name(), "learning_rate": rate, "seeds": seeds, "solved": solved.len(),
                    "solved_at": solved, "curves": curves, "published": published(method, rate),
                }),
            );
            meter.advance(1)?;
        }
    }
    drop(meter);
    let header = ["method", "rate", "below 1e-2", "at iteration", "median at 37", "after 100", "published"];
    output.say(format!("\ntoy problem, 128 x 128, rank 6, {seeds} seeds\n{}", table(&header, &rows)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reflora_solves_the_toy_problem_when_the_paper_says() {
        let device = Device::cpu();
        for seed in 0..20 {
            let at = |rate| solved_at(&descend(&device, seed, Method::RefLora, rate).unwrap()).unwrap();
            assert!((30..=36).contains(&at(0.01)), "seed {seed}: {}", at(0.01));
            assert!((10..=18).contains(&at(0.03)), "seed {seed}: {}", at(0.03));
            let last = |method, rate| *descend(&device, seed, method, rate).unwrap().last().unwrap();
            let plain = last(Method::Lora, 0.01);
            assert!((130.0..450.0).contains(&plain), "seed {seed}: {plain}");
            let plain = last(Method::Lora, 0.03);
            assert!(plain.is_nan() || plain >= 10.0 * FIRST_LOSS, "seed {seed}: {plain} did not diverge");
            let scaled = last(Method::Scaled, 0.03);
            assert!((1.5..3.5).contains(&scaled), "seed {seed}: {scaled}");
        }
    }
}
