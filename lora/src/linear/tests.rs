use autograd::Tape;
use autograd::check::{TestRandom, check_gradients, random_cases};
use tensor::testing::on_each_backend;
use tensor::{DType, Device, RandomKey};

use super::*;
use crate::config::LoraConfig;
use crate::forward::DropoutSource;
use crate::targets::Targets;

const KEY: RandomKey = RandomKey { seed: 1, stream: 2, step: 3 };

struct Case {
    layer: Linear,
    rows: Vec<usize>,
    inputs: usize,
    outputs: usize,
    rank: usize,
}

fn case(device: &Device, random: &mut TestRandom, dtype: DType) -> Result<Case> {
    let (inputs, outputs, rank) = (random.integer(1, 7), random.integer(1, 7), random.integer(1, 3));
    let weight = random.tensor(device, &[outputs, inputs], -1.0, 1.0)?.cast(dtype)?;
    let bias = if random.integer(0, 1) == 0 { None } else { Some(random.tensor(device, &[outputs], -1.0, 1.0)?) };
    let leading = random.integer(1, 2);
    Ok(Case { layer: Linear::new("layer", weight, bias)?, rows: random.shape(leading), inputs, outputs, rank })
}

fn with_factors(layer: &Linear, x: &Var, a: &Var, b: &Var, scaling: f32, dropout: Option<Dropout>) -> Result<Var> {
    let bias = layer.bias.clone().map(Var::constant);
    layer.with_factors(&Operand::from(x), a, b, bias.as_ref(), Update { scaling, dropout, subtracted: None })
}

/// The same function from operations that have rules of their own.
fn composed(layer: &Linear, x: &Var, a: &Var, b: &Var, scaling: f32, dropout: Option<Dropout>) -> Result<Var> {
    let weight = Var::constant(layer.weight.cast(DType::F32)?);
    let x = x.reshape(&[x.elements() / x.shape()[x.rank() - 1], x.shape()[x.rank() - 1]])?;
    let mut y = x.matmul(&weight.t()?)?;
    if let Some(bias) = &layer.bias {
        y = y.add(&Var::constant(bias.clone()))?;
    }
    let dropped = match dropout {
        Some(Dropout { probability, key }) => x.dropout(probability, key)?,
        None => x,
    };
    y.add(&dropped.matmul(&a.t()?)?.matmul(&b.t()?)?.affine(scaling, 0.0)?)
}

/// DoRA from operations that have rules of their own, each in PEFT's order.
fn decomposed(layer: &Linear, x: &Var, [a, b, m]: [&Var; 3], scaling: f32, dropout: Option<Dropout>) -> Result<Var> {
    let weight = Var::constant(layer.weight.cast(DType::F32)?);
    let x = x.reshape(&[x.elements() / x.shape()[x.rank() - 1], x.shape()[x.rank() - 1]])?;
    let mut y = x.matmul(&weight.t()?)?;
    if let Some(bias) = &layer.bias {
        y = y.add(&Var::constant(bias.clone()))?;
    }
    let dropped = match dropout {
        Some(Dropout { probability, key }) => x.dropout(probability, key)?,
        None => x,
    };
    let norm = weight.add(&b.matmul(a)?.affine(scaling, 0.0)?)?.square()?.sum(&[1], false)?.sqrt()?.detach();
    let ratio = m.div(&norm)?;
    let update = dropped.matmul(&a.t()?)?.matmul(&b.t()?)?.affine(scaling, 0.0)?.mul(&ratio)?;
    y.add(&dropped.matmul(&weight.t()?)?.mul(&ratio.affine(1.0, -1.0)?)?)?.add(&update)
}

fn adapters(device: &Device, dropout: f32) -> AdapterSet {
    let config = LoraConfig { rank: 2, alpha: 6.0, dropout, targets: Targets::AllLinear, ..LoraConfig::default() };
    let mut random = TestRandom::new(5);
    AdapterSet::from_factors(config, &[ModuleShape::new("layer", 4, 3)], device, |adapter| {
        let a = random.tensor(device, &[adapter.rank, adapter.inputs], -1.0, 1.0)?;
        Ok((a, random.tensor(device, &[adapter.outputs, adapter.rank], -1.0, 1.0)?))
    })
    .unwrap()
}

fn layer(device: &Device, dtype: DType) -> Linear {
    let weight = TestRandom::new(6).tensor(device, &[3, 4], -1.0, 1.0).unwrap().cast(dtype).unwrap();
    Linear::new("layer", weight, Some(Tensor::from_slice(device, &[3], &[0.5f32, -1.0, 2.0]).unwrap())).unwrap()
}

fn input(device: &Device) -> Tensor {
    TestRandom::new(7).tensor(device, &[2, 5, 4], -1.0, 1.0).unwrap()
}

on_each_backend! {
    fn the_rule_agrees_with_finite_differences(device) {
        random_cases(6, |random| {
            let dtype = [DType::F32, DType::Bf16][random.integer(0, 1)];
            let Case { layer, mut rows, inputs, outputs, rank } = case(device, random, dtype)?;
            rows.push(inputs);
            for dropout in [None, Some(Dropout { probability: 0.3, key: KEY })] {
                check_gradients("adapted linear", device, random, &[&rows, &[rank, inputs], &[outputs, rank]], |v| {
                    with_factors(&layer, &v[0], &v[1], &v[2], 1.7, dropout)
                })?;
                let shapes: [&[usize]; 4] = [&rows, &[rank, inputs], &[outputs, rank], &[outputs]];
                check_gradients("adapted linear with bias", device, random, &shapes, |v| {
                    let update = Update { scaling: 1.7, dropout, subtracted: None };
                    layer.with_factors(&Operand::from(&v[0]), &v[1], &v[2], Some(&v[3]), update)
                })?;
            }
            let (frozen, bias) = (Var::constant(layer.weight.clone()), layer.bias.clone().map(Var::constant));
            check_gradients("linear", device, random, &[&rows], |v| layer.plain(&Operand::from(&v[0]), &frozen, bias.as_ref()))?;
            check_gradients("trained linear", device, random, &[&rows, &[outputs, inputs], &[outputs]], |v| {
                layer.plain(&Operand::from(&v[0]), &v[1], Some(&v[2]))
            })
        });
    }

    fn the_fused_rule_equals_composed_operations(device) {
        random_cases(8, |random| {
            let Case { layer, mut rows, inputs, outputs, rank } = case(device, random, DType::Bf16)?;
            rows.push(inputs);
            let x = random.tensor(device, &rows, -2.0, 2.0)?;
            let a = random.tensor(device, &[rank, inputs], -2.0, 2.0)?;
            let b = random.tensor(device, &[outputs, rank], -2.0, 2.0)?;
            for dropout in [None, Some(Dropout { probability: 0.4, key: KEY })] {
                let run = |fused: bool| {
                    let tape = Tape::new();
                    let [x, a, b] = [("x", &x), ("a", &a), ("b", &b)].map(|(name, tensor)| tape.leaf(name, tensor));
                    let y = if fused {
                        with_factors(&layer, &x, &a, &b, 0.8, dropout)?
                    } else {
                        composed(&layer, &x, &a, &b, 0.8, dropout)?
                    };
                    let y = y.reshape(&[y.elements()])?;
                    let mut values = y.tensor().to_vec::<f32>()?;
                    for (_, gradient) in tape.backward(&y.sin()?.sum(&[0], false)?)? {
                        values.extend(gradient.to_vec::<f32>()?);
                    }
                    Ok(values)
                };
                let (fused, composed) = (run(true)?, run(false)?);
                assert_eq!(fused.len(), composed.len());
                for (fused, composed) in fused.into_iter().zip(composed) {
                    assert!((fused - composed).abs() <= 1e-4 * (1.0 + composed.abs()), "{fused} {composed}");
                }
            }
            Ok(())
        });
    }

    fn decomposed_layers_follow_their_equation(device) {
        random_cases(6, |random| {
            let Case { layer, mut rows, inputs, outputs, rank } = case(device, random, DType::Bf16)?;
            rows.push(inputs);
            let x = random.tensor(device, &rows, -2.0, 2.0)?;
            let [a, b] = [random.tensor(device, &[rank, inputs], -2.0, 2.0)?, random.tensor(device, &[outputs, rank], -2.0, 2.0)?];
            let m = random.tensor(device, &[outputs], 0.5, 2.0)?;
            for dropout in [None, Some(Dropout { probability: 0.4, key: KEY })] {
                let run = |fused: bool| {
                    let tape = Tape::new();
                    let [x, a, b, m] =
                        [("x", &x), ("a", &a), ("b", &b), ("m", &m)].map(|(name, tensor)| tape.leaf(name, tensor));
                    let bias = layer.bias.clone().map(Var::constant);
                    let y = if fused {
                        let update = Update { scaling: 0.8, dropout, subtracted: None };
                        layer.decomposed(&Operand::from(&x), [&a, &b, &m], bias.as_ref(), update)?
                    } else {
                        decomposed(&layer, &x, [&a, &b, &m], 0.8, dropout)?
                    };
                    let y = y.reshape(&[y.elements()])?;
                    let mut values = y.tensor().to_vec::<f32>()?;
                    for (_, gradient) in tape.backward(&y.sin()?.sum(&[0], false)?)? {
                        values.extend(gradient.to_vec::<f32>()?);
                    }
                    Ok(values)
                };
                let (fused, composed) = (run(true)?, run(false)?);
                assert_eq!(fused.len(), composed.len());
                for (fused, composed) in fused.into_iter().zip(composed) {
                    assert!((fused - composed).abs() <= 2e-4 * (1.0 + composed.abs()), "{fused} {composed}");
                }
            }
            Ok(())
        });
    }

    fn mixed_precision_stays_near_f32_and_needs_no_loss_scale(device) {
        random_cases(6, |random| {
            let Case { layer, mut rows, inputs, outputs, rank } = case(device, random, DType::F16)?;
            rows.push(inputs);
            let x = random.tensor(device, &rows, -2.0, 2.0)?;
            let a = random.tensor(device, &[rank, inputs], -2.0, 2.0)?;
            let b = random.tensor(device, &[outputs, rank], -2.0, 2.0)?;
            let dropped = Some(Dropout { probability: 0.4, key: KEY });
            for (dropout, rounded) in [(None, true), (None, false), (dropped, false)] {
                let run = |fused: bool, loss_scale: f32| {
                    let tape = Tape::new();
                    let [x, a, b] = [("x", &x), ("a", &a), ("b", &b)].map(|(name, tensor)| tape.leaf(name, tensor));
                    let y = match (fused, rounded) {
                        (true, true) => {
                            let bias = layer.bias.clone().map(Var::constant);
                            let rounded = [a.tensor().rounded_factor(0)?, b.tensor().rounded_factor(1)?];
                            let adapter = mixed::PlainAdapter { a, b, rounded, scaling: 0.8 };
                            let branch = mixed::Branch { layer: &layer, bias, adapter: Some(adapter) };
                            mixed::together(&[branch], &Operand::from(&x), None)?.remove(0)
                        }
                        (true, false) => with_factors(&layer, &x, &a, &b, 0.8, dropout)?,
                        (false, _) => composed(&layer, &x, &a, &b, 0.8, dropout)?,
                    };
                    let loss = y.square()?.affine(loss_scale, 0.0)?.reshape(&[y.elements()])?.sum(&[0], false)?;
                    let mut values = vec![y.tensor().to_vec::<f32>()?];
                    for (_, gradient) in tape.backward(&loss)? {
                        values.push(gradient.to_vec::<f32>()?);
                    }
                    Ok(values)
                };
                let (mixed, exact) = (run(true, 1.0)?, run(false, 1.0)?);
                assert_eq!(mixed.len(), exact.len());
                // Factors that are rounded, and their products, add errors of their own.
                let tolerance = if rounded { 8e-3 } else { 2e-3 };
                for (mixed, exact) in mixed.iter().zip(&exact) {
                    let largest = exact.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
                    for (mixed, exact) in mixed.iter().zip(exact) {
                        assert!((mixed - exact).abs() <= tolerance * largest, "{mixed} {exact} of {largest}");
                    }
                }
                for loss_scale in [2f32.powi(-40), 2f32.powi(16), 2f32.powi(40)] {
                    let scaled = run(true, loss_scale)?;
                    for (scaled, plain) in scaled[1..].iter().flatten().zip(mixed[1..].iter().flatten()) {
                        assert_eq!(*scaled, plain * loss_scale, "a loss scale of {loss_scale}");
                    }
                }
            }
            Ok(())
        });
    }

    fn biases_of_adapted_layers_train_on_request(device) {
        let layer = layer(device, DType::F16);
        struct One(Linear);
        impl crate::Model for One {
            fn modules(&self) -> Vec<ModuleShape> {
                vec![self.0.shape()]
            }
            fn loss(&self, _: &Forward, _: &crate::Batch) -> crate::Result<Var> {
                Err(crate::LoraError::other("a model without a loss"))
            }
            fn device(&self) -> &Device {
                self.0.weight().device()
            }
            fn saved_module(&self, _: &str) -> Vec<(String, Tensor)> {
                self.0.parameters()
            }
        }
        let (model, x) = (One(layer.clone()), Var::constant(input(device)));
        for use_dora in [false, true] {
            let config = LoraConfig { rank: 2, bias: crate::Bias::LoraOnly, use_dora, ..LoraConfig::default() };
            let mut set = AdapterSet::new(config, crate::Base::of(&model), device, 3).unwrap();
            let values = |y: &Var| y.tensor().to_vec::<f32>().unwrap();
            let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
            let run = |set: Option<&AdapterSet>| values(&layer.forward(&Forward::evaluation(set), &x).unwrap());
            assert!(close(&run(Some(&set)), &run(None)), "fresh adapters change nothing, magnitudes included");
            let tape = Tape::new();
            let forward = Forward::training(&tape, &set, DropoutSource { seed: 0, step: 0 });
            let loss = layer.forward(&forward, &x).unwrap().sum(&[0, 1, 2], false).unwrap();
            let gradient = tape.backward(&loss).unwrap().get("layer.bias").unwrap().to_vec::<f32>().unwrap();
            assert_eq!(gradient, [10.0; 3], "one for each of 2·5 rows");
            let bias = set.parameters_mut().get_mut("layer.bias").unwrap();
            *bias = bias.affine(1.0, 1.0).unwrap();
            let moved: Vec<f32> = run(None).iter().map(|y| y + 1.0).collect();
            assert!(close(&run(Some(&set)), &moved));
            let merged = layer.merged(&set).unwrap();
            assert_eq!(merged.bias().unwrap().to_vec::<f32>().unwrap(), [1.5, 0.0, 3.0]);
            let directory = tempfile::tempdir().unwrap();
            set.save(directory.path(), &crate::AdapterOrigin::default()).unwrap();
            let (again, _) = AdapterSet::load(directory.path(), crate::Base::of(&model), device).unwrap();
            assert_eq!(again.config(), set.config());
            assert_eq!(run(Some(&again)), run(Some(&set)));
        }
    }

    fn fresh_adapters_change_nothing_and_only_factors_get_gradients(device) {
        let layer = layer(device, DType::F32);
        let config = LoraConfig { rank: 2, ..LoraConfig::default() };
        let set = AdapterSet::new(config, &[layer.shape()], device, 3).unwrap();
        let tape = Tape::new();
        let forward = Forward::training(&tape, &set, DropoutSource { seed: 0, step: 0 });
        let x = Var::constant(input(device));
        let y = layer.forward(&forward, &x).unwrap();
        assert_eq!(y.shape()[..], [2, 5, 3]);
        let base = layer.forward(&Forward::evaluation(None), &x).unwrap();
        assert!(!base.requires_gradient());
        assert_eq!(y.tensor().to_vec::<f32>().unwrap(), base.tensor().to_vec::<f32>().unwrap());
        let gradients = tape.backward(&y.square().unwrap().sum(&[0, 1, 2], false).unwrap()).unwrap();
        assert_eq!(gradients.names().collect::<Vec<_>>(), ["layer.lora_A.weight", "layer.lora_B.weight"]);
        let of = |name: &str| gradients.get(name).unwrap().to_vec::<f32>().unwrap();
        assert!(of("layer.lora_A.weight").iter().all(|&x| x == 0.0), "B is zero");
        assert!(of("layer.lora_B.weight").iter().all(|&x| x != 0.0));
    }

    fn a_merged_layer_computes_what_the_adapted_one_does(device) {
        for (dtype, tolerance) in [(DType::F32, 2e-6), (DType::F16, 5e-3), (DType::Bf16, 4e-2)] {
            let (layer, set, x) = (layer(device, dtype), adapters(device, 0.0), Var::constant(input(device)));
            let adapted = layer.forward(&Forward::evaluation(Some(&set)), &x).unwrap();
            let merged = layer.merged(&set).unwrap();
            assert_eq!(merged.weight().dtype(), dtype);
            let merged = merged.forward(&Forward::evaluation(None), &x).unwrap();
            let base = layer.forward(&Forward::evaluation(None), &x).unwrap();
            let values = |y: &Var| y.tensor().to_vec::<f32>().unwrap();
            let distance = |a: &Var, b: &Var| {
                values(a).iter().zip(values(b)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
            };
            assert!(distance(&adapted, &merged) < tolerance * 10.0, "{dtype}: {}", distance(&adapted, &merged));
            assert!(distance(&adapted, &base) > 1.0);
        }
    }

    fn dropout_repeats_by_key_and_is_absent_in_evaluation(device) {
        let (layer, set, x) = (layer(device, DType::F32), adapters(device, 0.5), Var::constant(input(device)));
        let run = |forward: &Forward| layer.forward(forward, &x).unwrap().tensor().to_vec::<f32>().unwrap();
        let training = |seed, step| run(&Forward::training(&Tape::new(), &set, DropoutSource { seed, step }));
        assert_eq!(training(1, 4), training(1, 4));
        assert_ne!(training(1, 4), training(1, 5));
        assert_ne!(training(1, 4), training(2, 4));
        let evaluation = run(&Forward::evaluation(Some(&set)));
        assert_ne!(training(1, 4), evaluation);
        assert_eq!(evaluation, run(&Forward::evaluation(Some(&adapters(device, 0.0)))));
    }

    fn recomputed_segments_give_the_same_gradients(device) {
        let (layer, set) = (layer(device, DType::F32), adapters(device, 0.3));
        let gradients = |recompute: bool| {
            let tape = Tape::new();
            let forward = Forward::training(&tape, &set, DropoutSource { seed: 1, step: 2 });
            let x = tape.leaf("x", &input(device));
            let y = if recompute {
                let layer = layer.clone();
                forward.checkpoint(&[&x], move |forward, x| layer.forward(forward, &x[0])?.tanh()).unwrap()
            } else {
                layer.forward(&forward, &x).unwrap().tanh().unwrap()
            };
            let gradients = tape.backward(&y.sum(&[0, 1, 2], false).unwrap()).unwrap();
            gradients.into_iter().map(|(name, g)| (name, g.to_vec::<f32>().unwrap())).collect::<Vec<_>>()
        };
        assert_eq!(gradients(true), gradients(false));
    }

    fn no_rows_are_no_error(device) {
        let (layer, set) = (layer(device, DType::F32), adapters(device, 0.0));
        let x = Var::constant(Tensor::zeros(device, &[0, 4], DType::F32).unwrap());
        let y = layer.forward(&Forward::evaluation(Some(&set)), &x).unwrap();
        assert_eq!(y.shape()[..], [0, 3]);
    }
}

#[test]
fn wrong_shapes_name_the_layer() {
    let device = Device::cpu();
    let layer = layer(&device, DType::F32);
    let x = Var::constant(Tensor::zeros(&device, &[2, 5], DType::F32).unwrap());
    let error = layer.forward(&Forward::evaluation(None), &x).unwrap_err().to_string();
    assert_eq!(error, "linear: expected [.., 4] as input of `layer`, found shape [2, 5]");
    let weight = Tensor::zeros(&device, &[3, 4], DType::F32).unwrap();
    assert!(Linear::new("l", weight.clone(), Some(Tensor::zeros(&device, &[4], DType::F32).unwrap())).is_err());
    assert!(Linear::new("l", weight.cast(DType::U32).unwrap(), None).is_err());
}
