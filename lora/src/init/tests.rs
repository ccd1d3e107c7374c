use autograd::Var;
use autograd::check::TestRandom;
use tensor::testing::on_each_backend;

use super::*;
use crate::{AdapterSet, Base, Batch, Forward, Linear, LoraConfig, Model, ModuleShape, Targets};

/// A model of two linear layers, one wide and one tall.
struct Layers([Linear; 2]);

impl Layers {
    fn new(device: &Device) -> Self {
        let mut random = TestRandom::new(8);
        let mut layer = |name: &str, outputs: usize, inputs: usize| {
            // Singular values that fall quickly, so that a randomised decomposition finds the same.
            let spread = random.tensor(device, &[outputs, 12], -1.0, 1.0).unwrap();
            let scales = (0..12).map(|i| 0.4f32.powi(i)).collect::<Vec<_>>();
            let spread = spread.mul(&Tensor::from_slice(device, &[12], &scales).unwrap()).unwrap();
            let weight = spread.matmul(&random.tensor(device, &[12, inputs], -1.0, 1.0).unwrap()).unwrap();
            Linear::new(name, weight, None).unwrap()
        };
        Layers([layer("wide", 20, 30), layer("tall", 40, 16)])
    }

    fn set(&self, initialisation: Initialisation, seed: u64) -> AdapterSet {
        let config = LoraConfig {
            rank: 4,
            alpha: 6.0,
            targets: Targets::AllLinear,
            init_lora_weights: initialisation,
            ..LoraConfig::default()
        };
        AdapterSet::new(config, Base::of(self), self.device(), seed).unwrap()
    }
}

impl Model for Layers {
    fn modules(&self) -> Vec<ModuleShape> {
        self.0.iter().map(Linear::shape).collect()
    }

    fn loss(&self, _: &Forward, _: &Batch) -> Result<Var> {
        Err(setting("a model without a loss".into()))
    }

    fn device(&self) -> &Device {
        self.0[0].weight().device()
    }

    fn saved_module(&self, module: &str) -> Vec<(String, Tensor)> {
        self.0.iter().find(|layer| layer.name() == module).map(Linear::parameters).unwrap_or_default()
    }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.contiguous().unwrap().to_vec().unwrap()
}

fn distance(a: &Tensor, b: &Tensor) -> f32 {
    values(a).iter().zip(values(b)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn norm(tensor: &Tensor) -> f32 {
    values(tensor).iter().map(|x| x * x).sum::<f32>().sqrt()
}

/// s·B·A.
fn update(set: &AdapterSet, module: &str) -> Tensor {
    let factors = set.factors(module).unwrap();
    factors.b.matmul(factors.a).unwrap().affine(factors.scaling, 0.0).unwrap()
}

on_each_backend! {
    fn every_initialiser_leaves_the_model_as_it_was_but_the_random_one(device) {
        let model = Layers::new(device);
        let all = ["true", "gaussian", "pissa", "pissa_niter_3", "olora", "orthogonal", "false"];
        for initialisation in all.map(|text| text.parse::<Initialisation>().unwrap()) {
            let set = model.set(initialisation, 1);
            for layer in &model.0 {
                let input = TestRandom::new(1).tensor(device, &[3, layer.shape().inputs], -1.0, 1.0).unwrap();
                let run = |adapters: Option<&AdapterSet>| {
                    layer.forward(&Forward::evaluation(adapters), Var::constant(input.clone())).unwrap().into_tensor()
                };
                let change = distance(&run(Some(&set)), &run(None));
                let random = initialisation == Initialisation::Random;
                assert_eq!(change > 1e-4, random, "{initialisation}: {change:e}");
            }
            assert_eq!(set.subtracted_product("wide").is_some(), initialisation.subtracts(), "{initialisation}");
            let again = model.set(initialisation, 1);
            for ((name, one), (_, two)) in set.parameters().iter().zip(again.parameters().iter()) {
                assert_eq!(values(one), values(two), "{initialisation}: {name}");
            }
        }
    }

    fn principal_factors_are_the_best_approximation(device) {
        let model = Layers::new(device);
        for layer in &model.0 {
            let (u, sigma, vt) = tensor::linalg::svd(&layer.weight().to_device(&Device::cpu()).unwrap()).unwrap();
            let best = u.slice(1, 0, 4).unwrap().mul(&sigma.slice(0, 0, 4).unwrap()).unwrap();
            let best = best.matmul(&vt.slice(0, 0, 4).unwrap()).unwrap();
            for (iterations, tolerance) in [(None, 1e-5), (Some(4), 1e-4)] {
                let set = model.set(Initialisation::Pissa { iterations }, 2);
                let found = update(&set, layer.name()).to_device(&Device::cpu()).unwrap();
                assert!(distance(&found, &best) < tolerance, "{iterations:?}: {:e}", distance(&found, &best));
                let factors = set.factors(layer.name()).unwrap();
                assert!((norm(factors.a) - norm(factors.b)).abs() < 1e-3 * norm(factors.a), "the factors share Σ");
            }
        }
    }

    fn orthonormal_factors_are_those_of_the_decomposition(device) {
        let model = Layers::new(device);
        let set = model.set(Initialisation::Olora, 2);
        for layer in &model.0 {
            let factors = set.factors(layer.name()).unwrap();
            let gram = factors.b.t().unwrap().matmul(factors.b).unwrap();
            let identity: Vec<f32> = (0..16).map(|i| if i % 5 == 0 { 1.0 } else { 0.0 }).collect();
            assert!(distance(&gram, &Tensor::from_slice(device, &[4, 4], &identity).unwrap()) < 1e-5);
            let (_, r) = tensor::linalg::qr(&layer.weight().to_device(&Device::cpu()).unwrap()).unwrap();
            let a = factors.a.to_device(&Device::cpu()).unwrap();
            assert!(distance(&a, &r.slice(0, 0, 4).unwrap()) < 1e-4);
        }
    }

    fn orthogonal_factors_have_no_product_and_neither_is_zero(device) {
        let set = Layers::new(device).set(Initialisation::Orthogonal, 2);
        let factors = set.factors("tall").unwrap();
        assert!(norm(factors.a) > 0.3 && norm(factors.b) > 0.3);
        assert!(norm(&update(&set, "tall")) < 1e-5);
    }

    fn gaussian_factors_spread_as_they_should(device) {
        let config = LoraConfig { rank: 8, init_lora_weights: Initialisation::Gaussian, ..LoraConfig::default() };
        let set = AdapterSet::new(config, &[ModuleShape::new("m", 4096, 2)], device, 1).unwrap();
        let deviation = norm(set.factors("m").unwrap().a) / (8.0f32 * 4096.0).sqrt();
        assert!((deviation - 0.125).abs() < 0.002, "{deviation}");
    }
}

#[test]
fn what_cannot_be_is_refused() {
    assert!("pissa_niter_x".parse::<Initialisation>().unwrap_err().to_string().contains("`pissa_niter_x`"));
    assert!("loftq".parse::<Initialisation>().is_err());
    let device = Device::cpu();
    let refused = |rank, initialisation, shapes: &[ModuleShape]| {
        let config = LoraConfig { rank, init_lora_weights: initialisation, ..LoraConfig::default() };
        AdapterSet::new(config, shapes, &device, 1).unwrap_err().to_string()
    };
    let shapes = [ModuleShape::new("m", 4, 4)];
    assert!(refused(2, Initialisation::Olora, &shapes).contains("the weight of `m`, which is not given"));
    assert!(refused(3, Initialisation::Orthogonal, &shapes).contains("even rank"));
    let model = Layers::new(&device);
    let config = LoraConfig { rank: 17, init_lora_weights: Initialisation::Olora, ..LoraConfig::default() };
    let error = AdapterSet::new(config, Base::of(&model), &device, 1).unwrap_err().to_string();
    assert!(error.contains("`tall` has rank 16 at most"), "{error}");
}
