use proptest::prelude::*;

use super::{AdamWStep, AdamWTarget, adamw_update_in_place, gpu};
use crate::tensor::Storage;
use crate::testing::{Recipe, assert_close, check, on_each_backend, recipe_of};
use crate::{DType, Device, Tensor};

const STEP: AdamWStep =
    AdamWStep { learning_rate: 1e-2, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.1, step: 1 };

/// One element's state in f64, updated as PyTorch writes it.
fn reference(state: &mut [f64; 3], g: f64, step: &AdamWStep) {
    let [p, m, v] = state;
    *p *= 1.0 - step.learning_rate * step.weight_decay;
    *m = step.beta1 * *m + (1.0 - step.beta1) * g;
    *v = step.beta2 * *v + (1.0 - step.beta2) * g * g;
    let t = step.step as i32;
    let denominator = v.sqrt() / (1.0 - step.beta2.powi(t)).sqrt() + step.epsilon;
    *p -= step.learning_rate / (1.0 - step.beta1.powi(t)) * *m / denominator;
}

/// Parameter and three steps' gradients of one shape, possibly views.
fn target() -> impl Strategy<Value = (Recipe, Vec<Recipe>)> {
    prop::collection::vec(0usize..=7, 0..=3).prop_flat_map(|shape| {
        let gradients = prop::collection::vec(recipe_of(shape.clone(), -3.0..3.0), 3);
        (recipe_of(shape, -2.0..2.0), gradients)
    })
}

/// Identifies the memory behind a tensor.
fn place(tensor: &Tensor) -> usize {
    match &tensor.storage {
        Storage::Cpu(_) => tensor.cpu_slice::<f32>().unwrap().as_ptr() as usize,
        Storage::Gpu(storage) => storage.buffer().id as usize,
    }
}

fn constant(device: &Device, shape: &[usize], value: f32) -> Tensor {
    Tensor::full(device, shape, DType::F32, value).unwrap()
}

on_each_backend! {
    fn three_steps_agree_with_f64(device) {
        // Up to eleven targets: more than one dispatch has slots for.
        let steps = (prop::collection::vec(target(), 0..=11), 0.0..0.5f64, 1e-4..0.1f64);
        check(steps, |(cases, weight_decay, learning_rate)| {
            let mut state = Vec::new();
            for (parameter, _) in &cases {
                let p = parameter.build(device);
                state.push((p.clone(), p.zeros_like()?, p.zeros_like()?));
            }
            let mut wanted: Vec<Vec<[f64; 3]>> =
                cases.iter().map(|(p, _)| p.values().into_iter().map(|p| [p, 0.0, 0.0]).collect()).collect();
            for index in 0..3 {
                let step = AdamWStep { step: index as u64 + 1, weight_decay, learning_rate, ..STEP };
                let gradients: Vec<Tensor> = cases.iter().map(|(_, g)| g[index].build(device)).collect();
                let mut targets: Vec<_> = state
                    .iter_mut()
                    .zip(&gradients)
                    .map(|((p, m, v), gradient)| AdamWTarget {
                        parameter: p,
                        gradient,
                        first_moment: m,
                        second_moment: v,
                    })
                    .collect();
                adamw_update_in_place(&mut targets, &step)?;
                for (want, (_, gradients)) in wanted.iter_mut().zip(&cases) {
                    want.iter_mut().zip(gradients[index].values()).for_each(|(state, g)| reference(state, g, &step));
                }
            }
            for (((p, m, v), want), (recipe, _)) in state.iter().zip(&wanted).zip(&cases) {
                for (which, tensor) in [p, m, v].into_iter().enumerate() {
                    let want: Vec<f64> = want.iter().map(|state| state[which]).collect();
                    // The first steps are ±learning rate whatever the gradient, hence the absolute part.
                    assert_close("adamw", tensor, recipe.shape(), &want, 3e-6, 3e-6 * learning_rate + 1e-9)?;
                }
            }
            Ok(())
        });
    }

    fn late_steps_and_large_gradients(device) {
        for (t, magnitude) in [(1u64, 1e15), (1000, 1e-12), (1_000_000, 1.0)] {
            let step = AdamWStep { step: t, ..STEP };
            let mut p = constant(device, &[300], 0.5);
            let gradient = constant(device, &[300], magnitude);
            let (mut m, mut v) = (gradient.clone(), gradient.square().unwrap());
            let mut want = [0.5, f64::from(magnitude), f64::from(magnitude).powi(2)];
            let mut targets = [AdamWTarget {
                parameter: &mut p,
                gradient: &gradient,
                first_moment: &mut m,
                second_moment: &mut v,
            }];
            adamw_update_in_place(&mut targets, &step).unwrap();
            reference(&mut want, f64::from(magnitude), &step);
            assert_close("late", &p, &[300], &[want[0]; 300], 2e-6, 0.0).unwrap();
        }
    }

    fn other_holders_keep_their_values(device) {
        let mut p = constant(device, &[4, 3], 1.0);
        let (before, part) = (p.clone(), p.slice(0, 1, 2).unwrap());
        let (mut m, mut v) = (p.zeros_like().unwrap(), p.zeros_like().unwrap());
        // The parameter itself as the gradient: reading must not see the writing.
        let gradient = p.clone();
        let mut targets =
            [AdamWTarget { parameter: &mut p, gradient: &gradient, first_moment: &mut m, second_moment: &mut v }];
        adamw_update_in_place(&mut targets, &AdamWStep { weight_decay: 0.0, ..STEP }).unwrap();
        assert_eq!(before.to_vec::<f32>().unwrap(), vec![1.0; 12]);
        assert_eq!(part.to_vec::<f32>().unwrap(), vec![1.0; 3]);
        assert_close("p", &p, &[4, 3], &[0.99; 12], 1e-6, 0.0).unwrap();
    }

    fn nan_propagates(device) {
        let mut p = constant(device, &[2], 1.0);
        let (mut m, mut v) = (p.zeros_like().unwrap(), p.zeros_like().unwrap());
        let gradient = Tensor::from_slice(device, &[2], &[f32::NAN, 1.0]).unwrap();
        let mut targets =
            [AdamWTarget { parameter: &mut p, gradient: &gradient, first_moment: &mut m, second_moment: &mut v }];
        adamw_update_in_place(&mut targets, &STEP).unwrap();
        let got = p.to_vec::<f32>().unwrap();
        assert!(got[0].is_nan() && got[1].is_finite());
    }

    fn unshared_storage_is_updated_where_it_lies(device) {
        let mut p = constant(device, &[5000], 1.0);
        let (mut m, mut v) = (p.zeros_like().unwrap(), p.zeros_like().unwrap());
        let gradient = constant(device, &[5000], 1.0);
        let places = [&p, &m, &v].map(place);
        let mut targets =
            [AdamWTarget { parameter: &mut p, gradient: &gradient, first_moment: &mut m, second_moment: &mut v }];
        adamw_update_in_place(&mut targets, &STEP).unwrap();
        assert_eq!([&p, &m, &v].map(place), places);
    }
}

#[test]
fn wrong_arguments_change_nothing() {
    let device = Device::cpu();
    let mut p = constant(&device, &[2], 1.0);
    let (mut m, mut v) = (p.zeros_like().unwrap(), p.zeros_like().unwrap());
    let good = constant(&device, &[2], 1.0);
    let long = constant(&device, &[3], 1.0);
    let mut attempt = |gradient: &Tensor, step: AdamWStep| {
        let mut targets = [AdamWTarget { parameter: &mut p, gradient, first_moment: &mut m, second_moment: &mut v }];
        adamw_update_in_place(&mut targets, &step).unwrap_err().to_string()
    };
    assert_eq!(attempt(&long, STEP), "adamw_update_in_place: expected [2], found shape [3]");
    let step_zero = attempt(&good, AdamWStep { step: 0, ..STEP });
    assert_eq!(step_zero, "adamw_update_in_place: steps are counted from 1, found 0");
    let beta = attempt(&good, AdamWStep { beta2: 1.0, ..STEP });
    assert_eq!(beta, "adamw_update_in_place: beta2 must lie in [0, 1), found 1");
    assert_eq!(p.to_vec::<f32>().unwrap(), [1.0, 1.0]);
}

#[test]
fn every_variant_is_valid_wgsl() {
    for slots in 1..=crate::ops::slots::SLOTS {
        crate::gpu::validate("adamw", &gpu::wgsl(slots), &[]);
    }
}
