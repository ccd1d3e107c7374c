//! The methods as the training loop meets them, on adapters without a model.

use autograd::{AdamW, AdamWConfig, Gradients, Optimizer, Sgd, SgdConfig};
use lora::{AdapterSet, GradientTransform, LoraConfig, ModuleShape, Targets};
use reflora::{
    LogBalance, LoraPlus, Method, MethodOptions, RefLora, RefLoraConfig, RefLoraScalar, ScaledGradients, balance,
};
use tensor::testing::{assert_close, on_each_backend};
use tensor::{DType, Device, RandomKey, Tensor};

/// Adapters of two shapes and ranks with random factors.
fn adapters(device: &Device) -> AdapterSet {
    let modules = [ModuleShape::new("x.query", 9, 7), ModuleShape::new("y.value", 5, 11)];
    let mut config = LoraConfig { rank: 3, targets: Targets::names(["query", "value"]), ..LoraConfig::default() };
    config.rank_pattern = [("value".to_string(), 4)].into_iter().collect();
    AdapterSet::from_factors(config, &modules[..], device, |adapter| {
        let normal = |name: &str, shape: &[usize]| {
            Tensor::random_normal(&Device::cpu(), shape, 0.0, 1.0, RandomKey::named(3, name, 0))
        };
        Ok((
            normal(&adapter.a, &[adapter.rank, adapter.inputs])?,
            normal(&adapter.b, &[adapter.outputs, adapter.rank])?.affine(0.1, 0.0)?,
        ))
    })
    .unwrap()
}

fn gradients(adapters: &AdapterSet, step: u64) -> Gradients {
    let mut gradients = Gradients::new();
    for (name, parameter) in adapters.parameters().iter() {
        let key = RandomKey::named(5, name, step);
        gradients.insert(name, Tensor::random_normal(parameter.device(), parameter.shape(), 0.0, 1.0, key).unwrap());
    }
    gradients
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_vec::<f32>().unwrap().into_iter().map(f64::from).collect()
}

fn same(one: &Gradients, two: &Gradients) -> bool {
    one.iter().zip(two.iter()).all(|((_, one), (_, two))| values(one) == values(two))
}

on_each_backend! {
    fn warm_up_and_interval_are_kept(device) {
        let mut adapters = adapters(device);
        let mut method = RefLora::new(RefLoraConfig { warmup_steps: 2, interval: 2 }).unwrap();
        let raw = gradients(&adapters, 0);
        let apply = |method: &mut RefLora, adapters: &mut AdapterSet, step: u64| {
            let mut changed = raw.clone();
            method.apply(adapters, &mut changed, step).unwrap();
            changed
        };
        for step in 0..2 {
            assert!(same(&apply(&mut method, &mut adapters, step), &raw), "warm-up");
        }
        let first = apply(&mut method, &mut adapters, 2);
        assert!(!same(&first, &raw));
        // Other factors, but the S̃ of step 2 until step 4.
        let module = "x.query";
        let (a, b) = (adapters.factors(module).unwrap().a.clone(), adapters.factors(module).unwrap().b.clone());
        adapters.set_factors(module, a.affine(2.0, 0.0).unwrap(), b).unwrap();
        assert!(same(&apply(&mut method, &mut adapters, 3), &first));
        let later = apply(&mut method, &mut adapters, 4);
        // S̃ is half of what it was: ∇A doubles.
        let doubled: Vec<f64> = values(first.get("x.query.lora_A.weight").unwrap()).iter().map(|x| 2.0 * x).collect();
        assert_close("∇A", later.get("x.query.lora_A.weight").unwrap(), &[3, 9], &doubled, 1e-4, 1e-5).unwrap();

        // A resumed run uses the same S̃ between two computations, to the bit.
        let mut resumed = RefLora::new(RefLoraConfig { warmup_steps: 2, interval: 2 }).unwrap();
        resumed.prepare(&adapters, &mut Sgd::new(SgdConfig::default())).unwrap();
        resumed.load_state(method.state().unwrap()).unwrap();
        assert!(same(&apply(&mut resumed, &mut adapters, 5), &apply(&mut method, &mut adapters, 5)));
        assert!(RefLora::new(RefLoraConfig { warmup_steps: 0, interval: 0 }).is_err());
    }

    fn missing_gradients_and_other_parameters_pass(device) {
        let mut adapters = adapters(device);
        let mut method = RefLora::new(RefLoraConfig { warmup_steps: 0, interval: 1 }).unwrap();
        let raw = gradients(&adapters, 0);
        let mut changed = raw.clone();
        changed.remove("x.query.lora_B.weight");
        changed.insert("classifier.weight", Tensor::ones(device, &[2], DType::F32).unwrap());
        method.apply(&mut adapters, &mut changed, 0).unwrap();
        let kept = "x.query.lora_A.weight";
        assert_eq!(values(changed.get(kept).unwrap()), values(raw.get(kept).unwrap()));
        assert_eq!(values(changed.get("classifier.weight").unwrap()), [1.0, 1.0]);
        let taken = "y.value.lora_A.weight";
        assert_ne!(values(changed.get(taken).unwrap()), values(raw.get(taken).unwrap()));
        assert_eq!(method.report().unwrap(), [("undefined_refactorings".to_string(), 0.0)]);
        let zero = Tensor::zeros(device, &[7, 3], DType::F32).unwrap();
        let a = adapters.factors("x.query").unwrap().a.clone();
        adapters.set_factors("x.query", a, zero).unwrap();
        let mut changed = raw.clone();
        method.apply(&mut adapters, &mut changed, 1).unwrap();
        assert_eq!(values(changed.get(kept).unwrap()), values(raw.get(kept).unwrap()));
        assert_eq!(method.undefined().unwrap(), [("x.query".to_string(), 1), ("y.value".to_string(), 0)]);
    }

    fn the_scalar_form_keeps_the_weight_and_the_direction_of_adam(device) {
        let mut adapters = adapters(device);
        let mut optimizer = AdamW::new(AdamWConfig { weight_decay: 0.0, epsilon: 0.0, ..AdamWConfig::default() });
        let first = gradients(&adapters, 0);
        optimizer.step(adapters.parameters_mut(), &first, 1e-2).unwrap();
        let product = |adapters: &AdapterSet| {
            let factors = adapters.factors("x.query").unwrap();
            values(&factors.b.matmul(factors.a).unwrap())
        };
        let before = product(&adapters);
        let mut method = RefLoraScalar { warmup_steps: 2 };
        let (a, b) = (adapters.factors("x.query").unwrap().a.clone(), adapters.factors("x.query").unwrap().b.clone());
        method.after_update(&mut adapters, &mut optimizer, 0).unwrap();
        assert_eq!(values(&a), values(adapters.factors("x.query").unwrap().a), "warm-up");
        let moment = |optimizer: &mut AdamW, name: &str| {
            let mut moments = optimizer.moments_mut();
            let both = moments.remove(name).unwrap();
            (values(both.first.unwrap()), values(both.second.unwrap()))
        };
        let (m, v) = moment(&mut optimizer, "x.query.lora_A.weight");
        method.after_update(&mut adapters, &mut optimizer, 1).unwrap();
        let after = adapters.factors("x.query").unwrap();
        assert_close("B·A", &after.b.matmul(after.a).unwrap(), &[7, 9], &before, 1e-5, 1e-6).unwrap();
        let norm = |x: &Tensor| values(x).iter().map(|x| x * x).sum::<f64>().sqrt();
        assert!((norm(after.a) / norm(after.b) - 1.0).abs() < 1e-5);
        let root = (norm(&b) / norm(&a)).sqrt();
        let (new_m, new_v) = moment(&mut optimizer, "x.query.lora_A.weight");
        for (index, (m, v)) in m.iter().zip(&v).enumerate() {
            // m/√v is what it was.
            assert!((new_m[index] * root - m).abs() <= 1e-5 * m.abs() && (new_v[index] * root * root - v).abs() <= 1e-5 * v);
        }
        // Any optimizer will do.
        method.after_update(&mut adapters, &mut Sgd::new(SgdConfig::default()), 2).unwrap();
        let mut momentum = Sgd::new(SgdConfig { momentum: 0.9, ..SgdConfig::default() });
        momentum.step(adapters.parameters_mut(), &first, 1e-2).unwrap();
        method.after_update(&mut adapters, &mut momentum, 3).unwrap();
        let balanced = balance(&adapters).unwrap();
        assert!(balanced.iter().all(|balance| (balance.norm_a / balance.norm_b - 1.0).abs() < 1e-5));
    }

    fn scaled_gradients_are_divided_by_the_other_gram_matrix(device) {
        let mut adapters = adapters(device);
        let raw = gradients(&adapters, 0);
        let mut changed = raw.clone();
        let epsilon = 1e-3;
        ScaledGradients::new(epsilon).unwrap().apply(&mut adapters, &mut changed, 0).unwrap();
        for module in ["x.query", "y.value"] {
            let factors = adapters.factors(module).unwrap();
            let name = format!("{module}.lora_A.weight");
            // Multiplied back by Bᵀ·B + ε·I it is the raw gradient.
            let changed_a = changed.get(&name).unwrap();
            let gram = factors.b.t().unwrap().matmul(factors.b).unwrap();
            let back = gram.matmul(changed_a).unwrap().add(&changed_a.affine(epsilon, 0.0).unwrap()).unwrap();
            let want = values(raw.get(&name).unwrap());
            assert_close("∇A", &back, changed_a.shape(), &want, 1e-3, 1e-3).unwrap();
            let name = format!("{module}.lora_B.weight");
            let changed_b = changed.get(&name).unwrap();
            let gram = factors.a.matmul(&factors.a.t().unwrap()).unwrap();
            let back = changed_b.matmul(&gram).unwrap().add(&changed_b.affine(epsilon, 0.0).unwrap()).unwrap();
            assert_close("∇B", &back, changed_b.shape(), &values(raw.get(&name).unwrap()), 1e-3, 1e-3).unwrap();
        }
        assert!(ScaledGradients::new(0.0).is_err() && ScaledGradients::new(f32::NAN).is_err());
    }

    fn lora_plus_moves_b_further(device) {
        let mut adapters = adapters(device);
        let before = adapters.clone();
        let mut optimizer = Sgd::new(SgdConfig::default());
        LoraPlus::new(16.0).unwrap().prepare(&adapters, &mut optimizer).unwrap();
        let gradients = gradients(&adapters, 0);
        optimizer.step(adapters.parameters_mut(), &gradients, 1e-2).unwrap();
        for (name, rate) in [("x.query.lora_A.weight", 1e-2), ("x.query.lora_B.weight", 16e-2)] {
            let wanted: Vec<f64> = values(before.parameters().get(name).unwrap())
                .iter()
                .zip(values(gradients.get(name).unwrap()))
                .map(|(x, g)| x - rate * g)
                .collect();
            let got = adapters.parameters().get(name).unwrap();
            assert_close(name, got, got.shape(), &wanted, 1e-5, 1e-6).unwrap();
        }
    }
}

#[test]
fn adapters_of_embeddings_pass_through_every_method() {
    let device = Device::cpu();
    let modules = [ModuleShape::new("tokens", 12, 6).embedding(), ModuleShape::new("x.query", 6, 6)];
    let config = LoraConfig { rank: 2, targets: Targets::names(["tokens", "query"]), ..LoraConfig::default() };
    let ones = |shape: &[usize]| Tensor::ones(&device, shape, DType::F32).unwrap();
    for method in Method::ALL {
        let mut adapters = AdapterSet::from_factors(config.clone(), &modules, &device, |adapter| {
            let (a, b) = ([adapter.rank, adapter.inputs], [adapter.outputs, adapter.rank]);
            let normal = |name: &str, shape: &[usize]| {
                Tensor::random_normal(&device, shape, 0.0, 1.0, RandomKey::named(1, name, 0))
            };
            Ok((normal(&adapter.a, &a)?, normal(&adapter.b, &b)?.affine(0.1, 0.0)?))
        })
        .unwrap();
        let before = adapters.clone();
        let mut transform = method.transform(&MethodOptions { warmup_steps: 0, ..MethodOptions::default() }).unwrap();
        let mut gradients = Gradients::new();
        for (name, parameter) in adapters.parameters().iter() {
            gradients.insert(name, ones(parameter.shape()));
        }
        let mut optimizer = Sgd::new(SgdConfig::default());
        transform.prepare(&adapters, &mut optimizer).unwrap();
        transform.apply(&mut adapters, &mut gradients, 0).unwrap();
        optimizer.step(adapters.parameters_mut(), &gradients, 1e-2).unwrap();
        transform.after_update(&mut adapters, &mut optimizer, 0).unwrap();
        for name in ["tokens.lora_embedding_A", "tokens.lora_embedding_B"] {
            let moved = values(adapters.parameters().get(name).unwrap());
            let wanted = values(before.parameters().get(name).unwrap());
            assert!(moved.iter().zip(&wanted).all(|(x, y)| (x - (y - 1e-2)).abs() < 1e-6), "{method}: {name}");
        }
    }
}

#[test]
fn balance_is_told_as_often_as_asked() {
    let device = Device::cpu();
    let mut adapters = adapters(&device);
    let mut told = Vec::new();
    let mut method = LogBalance::new(lora::Unchanged, 2, |step, balances: &[reflora::Balance]| {
        told.push((step, balances.to_vec()));
        Ok(())
    });
    let mut optimizer = Sgd::new(SgdConfig::default());
    for step in 0..5 {
        method.after_update(&mut adapters, &mut optimizer, step).unwrap();
    }
    assert_eq!(told.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [2, 4]);
    let x = &told[0].1[0];
    let factors = adapters.factors("x.query").unwrap();
    let largest = tensor::linalg::svd(&factors.b.matmul(factors.a).unwrap()).unwrap().1.to_vec::<f32>().unwrap()[0];
    assert!((x.sharpness_bound - 2.0 * f64::from(largest)).abs() < 1e-4);
    assert!(x.condition_a > 1.0 && x.condition_b > 1.0 && x.distance > 0.5 && x.distance < 1.0);
}

#[test]
fn methods_have_names() {
    for method in Method::ALL {
        assert_eq!(method.name().parse::<Method>().unwrap(), method);
        assert!(method.transform(&MethodOptions::default()).is_ok());
    }
    assert!("adalora".parse::<Method>().unwrap_err().to_string().contains("lora-plus, scaled, reflora, reflora-s"));
    assert!(Method::RefLora.transform(&MethodOptions { interval: 0, ..MethodOptions::default() }).is_err());
    assert!(LoraPlus::new(-1.0).is_err());
}
