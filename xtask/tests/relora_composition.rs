//! RefLoRA's transform and ReLoRA's pull towards the start in the same steps, on adapters without a model. The two crates
//! do not know each other; this one knows both.

use autograd::{AdamW, AdamWConfig, Gradients, Optimizer};
use lora::{AdapterSet, GradientTransform, LoraConfig, ModuleShape, Regulariser, Targets};
use reflora::{RefLora, RefLoraConfig};
use relora::{AnchoredRegulariser, RegularisationSchedule, Relaxation};
use tensor::testing::on_each_backend;
use tensor::{Device, RandomKey, Tensor};

const RATE: f32 = 0.01;
const STEPS: u64 = 12;

fn normal(device: &Device, name: &str, step: u64, shape: &[usize]) -> Tensor {
    Tensor::random_normal(device, shape, 0.0, 1.0, RandomKey::named(3, name, step)).unwrap()
}

fn start(device: &Device) -> AdapterSet {
    let modules = [ModuleShape::new("x.query", 9, 7), ModuleShape::new("y.query", 5, 11)];
    let config = LoraConfig { rank: 3, targets: Targets::names(["query"]), ..LoraConfig::default() };
    AdapterSet::from_factors(config, &modules[..], device, |adapter| {
        let host = Device::cpu();
        let a = normal(&host, &adapter.a, 0, &[adapter.rank, adapter.inputs]);
        Ok((a, normal(&host, &adapter.b, 0, &[adapter.outputs, adapter.rank])))
    })
    .unwrap()
}

fn values(adapters: &AdapterSet) -> Vec<f32> {
    adapters.parameters().iter().flat_map(|(_, tensor)| tensor.to_vec::<f32>().unwrap()).collect()
}

/// The factors after some steps on made-up gradients that agree on a direction.
fn train(device: &Device, transform: bool, strength: Option<f64>) -> Vec<f32> {
    let mut adapters = start(device);
    let mut optimizer = AdamW::new(AdamWConfig { weight_decay: 0.0, ..AdamWConfig::default() });
    let mut method = RefLora::new(RefLoraConfig { warmup_steps: 2, interval: 3 }).unwrap();
    let mut regulariser = strength.map(|strength| {
        let schedule = RegularisationSchedule::new(strength, strength, 0, STEPS, Relaxation::Step).unwrap();
        AnchoredRegulariser::new(schedule, &adapters).unwrap()
    });
    method.prepare(&adapters, &mut optimizer).unwrap();
    for step in 0..STEPS {
        let mut gradients = Gradients::new();
        for (name, parameter) in adapters.parameters().iter() {
            let common = normal(device, name, 1000, parameter.shape());
            gradients.insert(name, common.add(&normal(device, name, step, parameter.shape())).unwrap());
        }
        if transform {
            method.apply(&mut adapters, &mut gradients, step).unwrap();
        }
        optimizer.step(adapters.parameters_mut(), &gradients, RATE).unwrap();
        method.after_update(&mut adapters, &mut optimizer, step).unwrap();
        if let Some(regulariser) = &mut regulariser {
            regulariser.after_step(&mut adapters, step, RATE).unwrap();
        }
    }
    values(&adapters)
}

on_each_backend! {
    fn the_transform_acts_on_the_task_and_the_pull_on_what_it_left(device) {
        let free = train(device, true, None);
        assert_eq!(train(device, true, Some(0.0)), free, "no strength, no difference");
        assert_ne!(train(device, false, None), free, "the transform does something");
        let origin = values(&start(device));
        assert_eq!(train(device, true, Some(1e9)), origin);
        let farthest = |values: &[f32]| values.iter().zip(&origin).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
        let held = train(device, true, Some(40.0));
        assert_ne!(held, train(device, false, Some(40.0)), "the transform still matters");
        // Adam's steps are at most 3.17 learning rates, whatever the transform made of the gradients.
        assert!(farthest(&held) <= 3.17 / 40.0 && farthest(&held) < 0.7 * farthest(&free), "{}", farthest(&held));
    }
}
