use autograd::check::TestRandom;
use autograd::{Tape, Var};
use tensor::testing::on_each_backend;
use tensor::{DType, Device};

use super::*;
use crate::{AdapterOrigin, DropoutSource, Forward, Linear, ModuleShape, Targets};

fn config(use_rslora: bool) -> LoraConfig {
    LoraConfig {
        rank: 3,
        alpha: 5.0,
        use_rslora,
        targets: Targets::names(["x", "y"]),
        rank_pattern: [("y".to_string(), 2)].into_iter().collect(),
        alpha_pattern: [("y".to_string(), 1.5)].into_iter().collect(),
        init_lora_weights: Initialisation::Random,
        ..LoraConfig::default()
    }
}

fn layer(device: &Device, name: &str) -> Linear {
    let weight = TestRandom::new(2).tensor(device, &[5, 4], -1.0, 1.0).unwrap();
    Linear::new(name, weight.cast(DType::Bf16).unwrap(), None).unwrap()
}

fn input(device: &Device) -> Var {
    Var::constant(TestRandom::new(4).tensor(device, &[3, 4], -1.0, 1.0).unwrap())
}

fn outputs(layer: &Linear, set: Option<&AdapterSet>) -> Vec<f32> {
    let x = input(layer.weight().device());
    layer.forward(&Forward::evaluation(set), &x).unwrap().tensor().to_vec().unwrap()
}

fn close(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 5e-6)
}

/// A set with a subtracted product whose factors have moved since.
fn moved(device: &Device, use_rslora: bool) -> AdapterSet {
    let modules = [layer(device, "x").shape(), layer(device, "y").shape()];
    let mut set = AdapterSet::new(config(use_rslora), &modules, device, 3).unwrap();
    set.subtract_initial_product().unwrap();
    for (_, tensor) in set.parameters_mut().iter_mut() {
        *tensor = tensor.affine(1.5, 0.25).unwrap();
    }
    set
}

on_each_backend! {
    fn the_model_begins_as_it_was_and_dropout_takes_part_in_training_only(device) {
        let layer = layer(device, "x");
        let modules = [layer.shape(), ModuleShape::new("y", 4, 5)];
        let mut set = AdapterSet::new(config(false), &modules, device, 3).unwrap();
        let base = outputs(&layer, None);
        assert!(!close(&outputs(&layer, Some(&set)), &base), "both factors are random");
        set.subtract_initial_product().unwrap();
        assert!(close(&outputs(&layer, Some(&set)), &base));
        assert!(set.clone().subtract_initial_product().is_err());
        // Where everything is dropped but the weight, W − s·B₀·A₀ remains.
        set.set_dropout(0.999_999).unwrap();
        let tape = Tape::new();
        let training = Forward::training(&tape, &set, DropoutSource { seed: 1, step: 1 });
        let y = layer.forward(&training, input(device)).unwrap().tensor().to_vec::<f32>().unwrap();
        let initial = set.subtracted_product("x").unwrap();
        let shifted = layer.weight().cast(DType::F32).unwrap();
        let shifted = shifted.matmul_accumulate(initial.b, initial.a, -initial.scaling).unwrap();
        let shifted = input(device).tensor().matmul(&shifted.t().unwrap()).unwrap();
        assert!(close(&y, &shifted.to_vec::<f32>().unwrap()));
    }

    fn gradients_are_those_of_a_layer_on_the_shifted_weight(device) {
        let (set, layer) = (moved(device, false), layer(device, "x"));
        let factors = set.factors("x").unwrap();
        let initial = set.subtracted_product("x").unwrap();
        let shifted = layer.weight().cast(DType::F32).unwrap();
        let shifted = shifted.matmul_accumulate(initial.b, initial.a, -initial.scaling).unwrap();
        let shifted = Linear::new("x", shifted, None).unwrap();
        let plain_factors = (factors.a.clone(), factors.b.clone());
        let plain = |_: &crate::Adapter| Ok(plain_factors.clone());
        let plain = AdapterSet::from_factors(config(false), &[shifted.shape()], device, plain).unwrap();
        let gradients = |layer: &Linear, set: &AdapterSet| {
            let tape = Tape::new();
            let forward = Forward { tape: tape.clone(), ..Forward::evaluation(Some(set)) };
            let x = tape.leaf("input", input(device).tensor());
            let loss = layer.forward(&forward, &x).unwrap().sin().unwrap().sum(&[0, 1], false).unwrap();
            tape.backward(&loss).unwrap().into_iter().map(|(_, g)| g.to_vec::<f32>().unwrap()).collect::<Vec<_>>()
        };
        let (ours, reference) = (gradients(&layer, &set), gradients(&shifted, &plain));
        assert_eq!(ours.len(), 3);
        assert!(ours.iter().zip(&reference).all(|(a, b)| close(a, b)), "{ours:?} {reference:?}");
    }

    fn saved_factors_do_the_same_on_the_untouched_base(device) {
        for use_rslora in [false, true] {
            let set = moved(device, use_rslora);
            let directory = tempfile::tempdir().unwrap();
            set.save(directory.path(), &AdapterOrigin::default()).unwrap();
            let modules = [layer(device, "x").shape(), layer(device, "y").shape()];
            // As another reader has it: the factors in the file and the configuration beside it.
            let path = directory.path().join(crate::CONFIG_FILE);
            let (config, _) = crate::read_adapter_config(&path).unwrap();
            let plain = |adapter: &crate::Adapter| set.plain_factors(&adapter.module).unwrap();
            let plain = AdapterSet::from_factors(config, &modules, device, plain).unwrap();
            let (again, _) = AdapterSet::load(directory.path(), &modules, device).unwrap();
            assert_eq!(again.config(), set.config());
            for name in ["x", "y"] {
                let (layer, adapter) = (layer(device, name), plain.adapter(name).unwrap());
                assert_eq!(adapter.rank, 2 * set.adapter(name).unwrap().rank);
                assert!((adapter.scaling - set.adapter(name).unwrap().scaling).abs() < 1e-6);
                let want = outputs(&layer, Some(&set));
                assert!(!close(&want, &outputs(&layer, None)));
                assert!(close(&want, &outputs(&layer, Some(&plain))), "{name}");
                let exact = Linear::new(name, layer.weight().cast(DType::F32).unwrap(), None).unwrap();
                assert!(close(&want, &outputs(&exact.merged(&set).unwrap(), None)), "{name}: merged");
                assert_eq!(want, outputs(&layer, Some(&again)), "{name}: read back, it is the same set");
                let initial = |set: &AdapterSet| set.subtracted_product(name).unwrap().b.to_vec::<f32>().unwrap();
                assert_eq!(initial(&set), initial(&again));
            }
        }
    }
}

#[test]
fn doubling_keeps_the_scaling_and_dora_is_refused() {
    let device = Device::cpu();
    for use_rslora in [false, true] {
        let (config, doubled) = (config(use_rslora), doubled(&config(use_rslora)));
        for module in ["x", "y"] {
            assert_eq!(doubled.rank_of(module).unwrap(), 2 * config.rank_of(module).unwrap());
            let (one, two) = (config.scaling_of(module).unwrap(), doubled.scaling_of(module).unwrap());
            assert!((one - two).abs() <= 2.0 * f32::EPSILON * one, "{one} {two}");
        }
    }
    let dora = LoraConfig { use_dora: true, ..config(false) };
    let factors = |adapter: &crate::Adapter| {
        let zeros = |shape: &[usize]| Tensor::zeros(&device, shape, DType::F32);
        Ok((zeros(&[adapter.rank, 4])?, zeros(&[5, adapter.rank])?))
    };
    let modules = [ModuleShape::new("x", 4, 5)];
    let error = AdapterSet::from_factors(dora, &modules, &device, factors).unwrap_err().to_string();
    assert!(error.contains("use_dora") && error.contains("Base::of"), "{error}");
}
