//! Layers whose outputs, and the gradients between them, have 16 bits.

use autograd::check::{TestRandom, random_cases};
use autograd::{RoundedVar, Tape};
use tensor::testing::on_each_backend;
use tensor::{DType, Device};

use super::*;
use crate::config::LoraConfig;
use crate::forward::DropoutSource;
use crate::targets::Targets;

const DROPOUT: DropoutSource = DropoutSource { seed: 1, step: 2 };

/// Gate, up and down of a gated feed-forward, some with adapters.
struct FeedForward {
    layers: [Linear; 3],
    adapted: Vec<usize>,
}

impl crate::Model for FeedForward {
    fn modules(&self) -> Vec<ModuleShape> {
        self.adapted.iter().map(|&index| self.layers[index].shape()).collect()
    }

    fn loss(&self, _: &Forward, _: &crate::Batch) -> crate::Result<Var> {
        Err(crate::LoraError::other("layers without a loss"))
    }

    fn device(&self) -> &Device {
        self.layers[0].weight().device()
    }

    fn saved_module(&self, module: &str) -> Vec<(String, Tensor)> {
        self.layers.iter().filter(|layer| layer.name() == module).flat_map(Linear::parameters).collect()
    }
}

struct Case {
    model: FeedForward,
    set: AdapterSet,
    x: Tensor,
}

impl Case {
    /// With adapters where `frozen` has no bit, one at least.
    fn random(device: &Device, random: &mut TestRandom, config: &LoraConfig, frozen: usize) -> Result<Self> {
        let (inputs, width) = (random.integer(1, 40), random.integer(1, 40));
        let mut layer = |name: &str, [outputs, inputs]: [usize; 2]| {
            Linear::new(name, random.tensor(device, &[outputs, inputs], -1.0, 1.0)?.cast(DType::F16)?, None)
        };
        let layers = [layer("gate", [width, inputs])?, layer("up", [width, inputs])?, layer("down", [inputs, width])?];
        let model = FeedForward { layers, adapted: (0..3).filter(|index| frozen >> index & 1 == 0).collect() };
        let set = AdapterSet::from_factors(config.clone(), crate::Base::of(&model), device, |adapter| {
            let a = random.tensor(device, &[adapter.rank, adapter.inputs], -1.0, 1.0)?;
            Ok((a, random.tensor(device, &[adapter.outputs, adapter.rank], -1.0, 1.0)?))
        });
        let rows = random.shape(2);
        let x = random.tensor(device, &[rows[0], rows[1], inputs], -2.0, 2.0)?;
        Ok(Case { model, set: set.expect("a set"), x })
    }

    /// The same with weights in f32.
    fn exact(&self) -> Result<FeedForward> {
        let exact = |layer: &Linear| Linear::new(layer.name(), layer.weight().cast(DType::F32)?, None);
        let [gate, up, down] = &self.model.layers;
        Ok(FeedForward { layers: [exact(gate)?, exact(up)?, exact(down)?], adapted: self.model.adapted.clone() })
    }

    /// The result and all gradients; the last layer is applied `times` times.
    fn values(&self, model: &FeedForward, times: usize) -> Result<Vec<(String, Vec<f32>)>> {
        let tape = Tape::new();
        let forward = Forward::training(&tape, &self.set, DROPOUT);
        let x = tape.leaf("x", &self.x).sin()?;
        let [gate, up, down] = &model.layers;
        let [gate, up] = Linear::forward_together_rounded(&forward, [gate, up], &x)?;
        let is_mixed = down.is_mixed(&forward);
        assert!([&gate, &up].iter().all(|y| matches!(y, Operand::Rounded(_)) == is_mixed));
        let gated: Operand = match is_mixed {
            true => gate.silu_mul_rounded(&up)?.into(),
            false => gate.to_var()?.silu_mul(&up.to_var()?)?.into(),
        };
        let mut y = x;
        for _ in 0..times {
            y = down.forward_onto(&forward, &gated, &y)?;
        }
        let mut values = vec![("y".to_string(), y.tensor().to_vec::<f32>()?)];
        let upstream = self.x.affine(-0.5, 0.25)?;
        for (name, gradient) in tape.backward_from(&y, upstream)? {
            values.push((name, gradient.to_vec()?));
        }
        Ok(values)
    }
}

fn config(rank: usize) -> LoraConfig {
    LoraConfig { rank, alpha: 3.0, targets: Targets::AllLinear, ..LoraConfig::default() }
}

fn rounded(outputs: [Operand; 2]) -> Option<Vec<RoundedVar>> {
    let rounded = |output| match output {
        Operand::Rounded(output) => Some(*output),
        Operand::Exact(_) => None,
    };
    outputs.into_iter().map(rounded).collect()
}

on_each_backend! {
    /// Applied once, the last layer passes a gradient in 16 bits on; twice, a sum in f32.
    fn a_feed_forward_stays_near_f32(device) {
        random_cases(6, |random| {
            let (rank, frozen) = (random.integer(1, 3), random.integer(0, 6));
            let case = Case::random(device, random, &config(rank), frozen)?;
            for times in [1, 2] {
                let (mixed, exact) = (case.values(&case.model, times)?, case.values(&case.exact()?, times)?);
                assert_eq!(mixed.len(), 2 + 2 * case.model.adapted.len());
                for ((name, mixed), (other, exact)) in mixed.iter().zip(&exact) {
                    assert_eq!(name, other);
                    let largest = exact.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
                    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 4e-3 * largest;
                    assert!(mixed.iter().zip(exact).all(near), "{name}, {times}: {mixed:?} {exact:?}");
                }
            }
            Ok(())
        });
    }

    /// Rounded outputs are the others rounded, and of the same gradients of the outputs all gradients are the same.
    fn only_the_outputs_differ_from_layers_in_f32(device) {
        random_cases(4, |random| {
            let case = Case::random(device, random, &config(2), 0)?;
            let [gate, up, _] = &case.model.layers;
            let dy = [gate, up].map(|layer| {
                let shape = [&case.x.shape()[..2], &layer.weight.shape()[..1]].concat();
                random.tensor(device, &shape, -1.0, 1.0).map(Var::constant)
            });
            let dy = dy.into_iter().collect::<Result<Vec<_>>>()?;
            let run = |in_halves: bool| {
                let tape = Tape::new();
                let forward = Forward::training(&tape, &case.set, DROPOUT);
                let x = tape.leaf("x", &case.x);
                let (outputs, powers) = match in_halves {
                    true => {
                        let outputs = rounded(Linear::forward_together_rounded(&forward, [gate, up], &x)?).expect("halves");
                        let powers = outputs[0].rows().scales().to_vec::<f32>()?;
                        (outputs.iter().map(RoundedVar::to_var).collect::<Result<Vec<_>>>()?, powers)
                    }
                    false => (Linear::forward_together(&forward, [gate, up], &x)?.into(), Vec::new()),
                };
                let loss = outputs[0].mul(&dy[0])?.add(&outputs[1].mul(&dy[1])?)?;
                let gradients = tape.backward(&loss.reshape(&[loss.elements()])?.sum(&[0], false)?)?;
                let gradients: Vec<_> = gradients
                    .into_iter()
                    .map(|(name, gradient)| Ok((name, gradient.to_vec::<f32>()?)))
                    .collect::<Result<_>>()?;
                let values = outputs.iter().map(|y| y.tensor().to_vec::<f32>()).collect::<Result<Vec<_>>>()?;
                Ok((values, powers, gradients))
            };
            let ((halves, powers, found), (exact, _, wanted)) = (run(true)?, run(false)?);
            assert_eq!(found, wanted);
            for (halves, exact) in halves.iter().zip(&exact) {
                let width = exact.len() / powers.len();
                for (i, (half, exact)) in halves.iter().zip(exact).enumerate() {
                    let bound = (exact.abs() * 2f32.powi(-11)).max(powers[i / width] * 2f32.powi(-25));
                    assert!((half - exact).abs() <= 1.01 * bound, "{half} for {exact}");
                }
            }
            Ok(())
        });
    }

    /// Also where nothing asks for a gradient in the first pass.
    fn segments_that_are_computed_again_change_nothing(device) {
        for frozen in 0..7 {
            random_cases(1, |random| {
                let case = std::rc::Rc::new(Case::random(device, random, &config(2), frozen)?);
                let run = |recompute: bool| {
                    let tape = Tape::new();
                    let forward = Forward::training(&tape, &case.set, DROPOUT);
                    let x = tape.leaf("x", &case.x);
                    let segment = {
                        let case = case.clone();
                        move |forward: &Forward, x: &[Var]| {
                            let [gate, up, down] = &case.model.layers;
                            let [gate, up] = Linear::forward_together_rounded(forward, [gate, up], &x[0])?;
                            assert!(matches!((&gate, &up), (Operand::Rounded(_), Operand::Rounded(_))));
                            down.forward_onto_last(forward, gate.silu_mul_rounded(&up)?, &x[0])
                        }
                    };
                    let y = match recompute {
                        true => forward.checkpoint(&[&x], segment)?,
                        false => segment(&forward, &[x])?,
                    };
                    let mut values = vec![("y".to_string(), y.tensor().to_vec::<f32>()?)];
                    for (name, gradient) in tape.backward_from(&y, case.x.clone())? {
                        values.push((name, gradient.to_vec()?));
                    }
                    Ok(values)
                };
                assert_eq!(run(true)?, run(false)?);
                Ok(())
            });
        }
    }

    fn other_circumstances_leave_outputs_in_f32(device) {
        let mut random = TestRandom::new(4);
        let dropout = LoraConfig { dropout: 0.4, ..config(2) };
        let decomposed = LoraConfig { use_dora: true, ..config(2) };
        for config in [config(2), dropout, decomposed] {
            let case = Case::random(device, &mut random, &config, 0).unwrap();
            let [gate, up, _] = &case.model.layers;
            let x = Var::constant(case.x.clone());
            let tape = Tape::new();
            let training = Forward::training(&tape, &case.set, DROPOUT);
            let plain = config.dropout == 0.0 && !config.use_dora;
            let outputs = |forward: &Forward, up: &Linear| {
                rounded(Linear::forward_together_rounded(forward, [gate, up], &x).unwrap()).is_some()
            };
            assert_eq!(outputs(&training, up), plain);
            assert!(!outputs(&Forward::evaluation(Some(&case.set)), up));
            let bias = Tensor::ones(device, &up.weight.shape()[..1], DType::F32).unwrap();
            assert!(!outputs(&training, &Linear::new("up", up.weight.clone(), Some(bias)).unwrap()));
            let exact = Linear::new("up", up.weight.cast(DType::F32).unwrap(), None).unwrap();
            assert!(!outputs(&training, &exact));
        }
    }

    fn sums_beyond_sixteen_bits_are_named(device) {
        let mut random = TestRandom::new(4);
        let case = Case::random(device, &mut random, &config(2), 0).unwrap();
        let [gate, up, _] = &case.model.layers;
        let large = Tensor::full(device, gate.weight.shape(), DType::F32, 65_504.0).unwrap().cast(DType::F16).unwrap();
        let gate = Linear::new("gate", large, None).unwrap();
        let tape = Tape::new();
        let forward = Forward::training(&tape, &case.set, DROPOUT);
        let x = Var::constant(Tensor::full(device, case.x.shape(), DType::F32, 1.5).unwrap());
        let (outputs, found) =
            autograd::first_non_finite(|| Linear::forward_together_rounded(&forward, [&gate, up], &x).unwrap());
        assert!(rounded(outputs).is_some());
        assert_eq!(found.map(|found| (found.operation, found.backward)), Some(("linear layers", false)));
    }
}
