use proptest::prelude::*;

use super::{SgdStep, SgdTarget, gpu, sgd_update_in_place};
use crate::testing::{Recipe, assert_close, check, on_each_backend, recipe_of};
use crate::{Device, Tensor};

const STEP: SgdStep = SgdStep { learning_rate: 0.1, momentum: 0.0, weight_decay: 0.0, nesterov: false };

/// One element in f64, as PyTorch writes it, where the first step's buffer is the gradient itself.
fn reference(p: &mut f64, buffer: &mut Option<f64>, g: f64, step: &SgdStep) {
    let mut g = g + step.weight_decay * *p;
    if step.momentum != 0.0 {
        let b = buffer.map_or(g, |b| step.momentum * b + g);
        *buffer = Some(b);
        g = if step.nesterov { g + step.momentum * b } else { b };
    }
    *p -= step.learning_rate * g;
}

fn target() -> impl Strategy<Value = (Recipe, Vec<Recipe>)> {
    prop::collection::vec(0usize..=7, 0..=3).prop_flat_map(|shape| {
        let gradients = prop::collection::vec(recipe_of(shape.clone(), -3.0..3.0), 3);
        (recipe_of(shape, -2.0..2.0), gradients)
    })
}

fn steps() -> impl Strategy<Value = SgdStep> {
    (0.01..0.5f64, 0.0..0.3f64, prop_oneof![Just((0.0, false)), Just((0.9, false)), Just((0.7, true))]).prop_map(
        |(learning_rate, weight_decay, (momentum, nesterov))| SgdStep {
            learning_rate,
            momentum,
            weight_decay,
            nesterov,
        },
    )
}

on_each_backend! {
    fn three_steps_agree_with_f64(device) {
        check((prop::collection::vec(target(), 0..=10), steps()), |(cases, step)| {
            let mut state = Vec::new();
            for (parameter, _) in &cases {
                let p = parameter.build(device);
                state.push((p.clone(), p.zeros_like()?));
            }
            let mut wanted: Vec<Vec<(f64, Option<f64>)>> =
                cases.iter().map(|(p, _)| p.values().into_iter().map(|p| (p, None)).collect()).collect();
            for index in 0..3 {
                let gradients: Vec<Tensor> = cases.iter().map(|(_, g)| g[index].build(device)).collect();
                let mut targets: Vec<_> = state
                    .iter_mut()
                    .zip(&gradients)
                    .map(|((parameter, momentum), gradient)| SgdTarget {
                        parameter,
                        gradient,
                        momentum: Some(momentum),
                    })
                    .collect();
                sgd_update_in_place(&mut targets, &step)?;
                for (want, (_, gradients)) in wanted.iter_mut().zip(&cases) {
                    let gradients = gradients[index].values();
                    want.iter_mut().zip(gradients).for_each(|((p, b), g)| reference(p, b, g, &step));
                }
            }
            for (((p, b), want), (recipe, _)) in state.iter().zip(&wanted).zip(&cases) {
                let parameters: Vec<f64> = want.iter().map(|(p, _)| *p).collect();
                let buffers: Vec<f64> = want.iter().map(|(_, b)| b.unwrap_or(0.0)).collect();
                assert_close("parameter", p, recipe.shape(), &parameters, 3e-6, 3e-6)?;
                assert_close("momentum", b, recipe.shape(), &buffers, 3e-6, 3e-6)?;
            }
            Ok(())
        });
    }

    fn other_holders_keep_their_values(device) {
        let mut p = Tensor::from_slice(device, &[3], &[1.0f32, 2.0, f32::NAN]).unwrap();
        let before = p.clone();
        let gradient = Tensor::from_slice(device, &[3], &[10.0f32, 1e20, 0.0]).unwrap();
        let mut targets = [SgdTarget { parameter: &mut p, gradient: &gradient, momentum: None }];
        sgd_update_in_place(&mut targets, &STEP).unwrap();
        assert_eq!(before.to_vec::<f32>().unwrap()[..2], [1.0, 2.0]);
        let got = p.to_vec::<f32>().unwrap();
        // A fused multiply-add sees that 0.1 in f32 is not a tenth.
        assert!(got[0].abs() < 1e-7 && (got[1] + 1e19).abs() < 1e13 && got[2].is_nan(), "{got:?}");
    }
}

#[test]
fn wrong_arguments_change_nothing() {
    let mut p = Tensor::from_slice(&Device::cpu(), &[1], &[1.0f32]).unwrap();
    let gradient = p.clone();
    let mut attempt = |step: SgdStep| {
        let mut targets = [SgdTarget { parameter: &mut p, gradient: &gradient, momentum: None }];
        sgd_update_in_place(&mut targets, &step).unwrap_err().to_string()
    };
    let missing = attempt(SgdStep { momentum: 0.9, ..STEP });
    assert!(missing.contains("needs a momentum tensor"), "{missing}");
    let nesterov = attempt(SgdStep { nesterov: true, ..STEP });
    assert!(nesterov.contains("nesterov needs a momentum"), "{nesterov}");
    assert_eq!(p.item::<f32>().unwrap(), 1.0);
}

#[test]
fn every_variant_is_valid_wgsl() {
    for slots in 1..=crate::ops::slots::SLOTS {
        crate::gpu::validate("sgd", &gpu::wgsl(false, slots), &[]);
        crate::gpu::validate("sgd with momentum", &gpu::wgsl(true, slots), &[]);
    }
}
