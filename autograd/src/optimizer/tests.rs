//! Both optimizers against their equations in f64, and what the trait promises.

use tensor::testing::on_each_backend;
use tensor::{DType, Device, Tensor};

use super::*;
use crate::check::TestRandom;

fn parameters(device: &Device, values: &[(&str, Vec<f32>)]) -> Parameters {
    let mut parameters = Parameters::new();
    for (name, values) in values {
        parameters.insert(*name, Tensor::from_slice(device, &[values.len()], values).unwrap()).unwrap();
    }
    parameters
}

fn gradients(device: &Device, values: &[(&str, Vec<f32>)]) -> Gradients {
    let mut gradients = Gradients::new();
    for (name, values) in values {
        gradients.insert(*name, Tensor::from_slice(device, &[values.len()], values).unwrap());
    }
    gradients
}

fn values(parameters: &Parameters, name: &str) -> Vec<f32> {
    parameters.get(name).unwrap().to_vec().unwrap()
}

fn assert_near(got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!((f64::from(*got) - want).abs() < 1e-6 * (1.0 + want.abs()), "{got} instead of {want}");
    }
}

/// PyTorch's AdamW for one number, from the gradients of its steps.
fn adamw_reference(config: &AdamWConfig, start: f64, rate: f64, gradients: &[f64]) -> f64 {
    let (mut p, mut m, mut v) = (start, 0.0, 0.0);
    for (index, g) in gradients.iter().enumerate() {
        let t = index as i32 + 1;
        p *= 1.0 - rate * config.weight_decay;
        m = config.beta1 * m + (1.0 - config.beta1) * g;
        v = config.beta2 * v + (1.0 - config.beta2) * g * g;
        let (m_hat, v_hat) = (m / (1.0 - config.beta1.powi(t)), v / (1.0 - config.beta2.powi(t)));
        p -= rate * m_hat / (v_hat.sqrt() + config.epsilon);
    }
    p
}

on_each_backend! {
    fn exempted_parameters_do_not_decay(device) {
        let optimizers: [fn(f64) -> Box<dyn Optimizer>; 2] = [
            |weight_decay| Box::new(AdamW::new(AdamWConfig { weight_decay, ..AdamWConfig::default() })),
            |weight_decay| Box::new(Sgd::new(SgdConfig { weight_decay, ..SgdConfig::default() })),
        ];
        for make in optimizers {
            let run = |weight_decay, exempt: &[&str]| {
                let mut optimizer = make(weight_decay);
                exempt.iter().for_each(|name| optimizer.exempt_from_decay(name));
                let mut parameters = parameters(device, &[("a", vec![1.0, -2.0]), ("b", vec![3.0])]);
                let gradients = gradients(device, &[("a", vec![0.1, 0.2]), ("b", vec![-0.5])]);
                optimizer.step(&mut parameters, &gradients, 0.1).unwrap();
                ["a", "b"].map(|name| values(&parameters, name))
            };
            let ([plain, _], [decayed, other]) = (run(0.0, &[]), run(0.5, &[]));
            assert_ne!(plain, decayed);
            assert_eq!(run(0.5, &["a"]), [plain, other]);
        }
    }

    fn adamw_follows_its_equation(device) {
        let config = AdamWConfig { weight_decay: 0.1, ..AdamWConfig::default() };
        let mut optimizer = AdamW::new(config);
        optimizer.set_rate_multiplier("b", 4.0);
        let mut parameters = parameters(device, &[("a", vec![1.0, -2.0]), ("b", vec![0.5])]);
        // `b` has no gradient in the second step: it is skipped, and its third gradient is its second step.
        for step in [0.3f32, -0.7, 1.1] {
            let mut list = vec![("a", vec![step, 2.0 * step])];
            if step > 0.0 {
                list.push(("b", vec![-step]));
            }
            optimizer.step(&mut parameters, &gradients(device, &list), 0.01).unwrap();
        }
        let a = |start: f64, factor: f64| {
            adamw_reference(&config, start, 0.01, &[0.3 * factor, -0.7 * factor, 1.1 * factor])
        };
        assert_near(&values(&parameters, "a"), &[a(1.0, 1.0), a(-2.0, 2.0)]);
        assert_near(&values(&parameters, "b"), &[adamw_reference(&config, 0.5, 0.04, &[-0.3, -1.1])]);
    }

    fn sgd_follows_its_equation(device) {
        let mut optimizer = Sgd::new(SgdConfig { momentum: 0.9, weight_decay: 0.1, nesterov: false });
        optimizer.set_rate_multiplier("a", 0.5);
        let mut parameters = parameters(device, &[("a", vec![1.0]), ("idle", vec![2.0])]);
        let (mut p, mut momentum) = (1.0f64, 0.0f64);
        for g in [0.3f64, -0.2, 0.5] {
            optimizer.step(&mut parameters, &gradients(device, &[("a", vec![g as f32])]), 0.2).unwrap();
            momentum = 0.9 * momentum + g + 0.1 * p;
            p -= 0.1 * momentum;
        }
        assert_near(&values(&parameters, "a"), &[p]);
        assert_eq!(values(&parameters, "idle"), [2.0]);
    }

    fn a_restored_run_goes_on_bit_for_bit(device) {
        let mut random = TestRandom::new(1);
        let optimizers: [fn() -> Box<dyn Optimizer>; 2] = [
            || Box::new(AdamW::new(AdamWConfig::default())),
            || Box::new(Sgd::new(SgdConfig { momentum: 0.5, ..SgdConfig::default() })),
        ];
        for new in optimizers {
            let mut optimizer = new();
            let mut parameters = parameters(device, &[("x.weight", random.values(5, -1.0, 1.0))]);
            let list: Vec<Gradients> =
                (0..4).map(|_| gradients(device, &[("x.weight", random.values(5, -1.0, 1.0))])).collect();
            for gradients in &list[..2] {
                optimizer.step(&mut parameters, gradients, 0.1).unwrap();
            }
            let saved = optimizer.state().unwrap();
            // As if read from a file: on the CPU, in another order.
            let saved = saved.iter().rev().map(|(n, t)| (n.clone(), t.to_device(&Device::cpu()).unwrap())).collect();
            let mut restored = new();
            restored.load_state(saved).unwrap();
            let mut resumed = parameters.clone();
            for gradients in &list[2..] {
                optimizer.step(&mut parameters, gradients, 0.1).unwrap();
                restored.step(&mut resumed, gradients, 0.1).unwrap();
            }
            assert_eq!(values(&parameters, "x.weight"), values(&resumed, "x.weight"));
        }
    }

    fn holders_of_a_parameter_keep_its_old_value(device) {
        let mut parameters = parameters(device, &[("a", vec![1.0])]);
        let before = parameters.get("a").unwrap().clone();
        let mut optimizer = Sgd::new(SgdConfig::default());
        optimizer.step(&mut parameters, &gradients(device, &[("a", vec![2.0])]), 0.25).unwrap();
        assert_eq!(values(&parameters, "a"), [0.5]);
        assert_eq!(before.to_vec::<f32>().unwrap(), [1.0]);
    }
}

#[test]
fn foreign_and_incomplete_states_are_refused() {
    let device = Device::cpu();
    let one = Tensor::ones(&device, &[1], DType::F32).unwrap();
    let mut adamw = AdamW::new(AdamWConfig::default());
    let message = adamw.load_state(vec![("a.momentum".into(), one.clone())]).unwrap_err().to_string();
    assert_eq!(message, "adamw: `a.momentum` is not part of this optimizer's state");
    let message = adamw.load_state(vec![("a.first_moment".into(), one)]).unwrap_err().to_string();
    assert_eq!(message, "adamw: the saved state has no `a.second_moment`");
}

#[test]
fn a_reset_parameter_starts_again() {
    let device = Device::cpu();
    let mut optimizer = AdamW::new(AdamWConfig::default());
    let mut parameters = parameters(&device, &[("a", vec![1.0]), ("b", vec![1.0])]);
    let gradients = gradients(&device, &[("a", vec![1.0]), ("b", vec![1.0])]);
    optimizer.step(&mut parameters, &gradients, 0.1).unwrap();
    optimizer.reset("a");
    let names: Vec<String> = optimizer.state().unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["b.first_moment", "b.second_moment", "b.step"]);
}

#[test]
fn only_f32_is_trainable() {
    let half = Tensor::zeros(&Device::cpu(), &[1], DType::Bf16).unwrap();
    let message = Parameters::new().insert("a", half).unwrap_err().to_string();
    assert_eq!(message, "parameters: expected elements of type f32, found bf16");
}
