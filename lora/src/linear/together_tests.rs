//! Layers computed together against the same one after another.

use autograd::Tape;
use autograd::check::{TestRandom, random_cases};
use tensor::testing::on_each_backend;
use tensor::{DType, Device};

use super::*;
use crate::config::LoraConfig;
use crate::forward::DropoutSource;
use crate::targets::Targets;

const DROPOUT: DropoutSource = DropoutSource { seed: 1, step: 2 };

/// How the input comes to the layers.
#[derive(Clone, Copy, Debug)]
enum Input {
    Constant,
    Exact,
    Rounded,
}

/// Three layers, some of which take adapters.
struct Layers {
    all: [Linear; 3],
    adapted: Vec<usize>,
}

impl crate::Model for Layers {
    fn modules(&self) -> Vec<ModuleShape> {
        self.adapted.iter().map(|&index| self.all[index].shape()).collect()
    }

    fn loss(&self, _: &Forward, _: &crate::Batch) -> crate::Result<Var> {
        Err(crate::LoraError::other("layers without a loss"))
    }

    fn device(&self) -> &Device {
        self.all[0].weight().device()
    }

    fn saved_module(&self, module: &str) -> Vec<(String, Tensor)> {
        self.all.iter().filter(|layer| layer.name() == module).flat_map(Linear::parameters).collect()
    }
}

/// The layers with their adapters, and the input that they read.
struct Siblings {
    layers: [Linear; 3],
    set: AdapterSet,
    x: Tensor,
}

impl Siblings {
    fn random(device: &Device, random: &mut TestRandom, dtypes: [DType; 3], config: LoraConfig) -> Result<Self> {
        let (inputs, widths) = (random.integer(1, 9), [random.integer(1, 9), random.integer(1, 9)]);
        let mut layer = |index: usize| {
            let outputs = widths[index / 2];
            let weight = random.tensor(device, &[outputs, inputs], -1.0, 1.0)?.cast(dtypes[index])?;
            let bias = if index == 1 { None } else { Some(random.tensor(device, &[outputs], -1.0, 1.0)?) };
            Linear::new(format!("layers.{index}"), weight, bias)
        };
        let all = [layer(0)?, layer(1)?, layer(2)?];
        let frozen = random.integer(0, 6);
        let layers = Layers { all, adapted: (0..3).filter(|index| frozen >> index & 1 == 0).collect() };
        let set = AdapterSet::from_factors(config, crate::Base::of(&layers), device, |adapter| {
            let a = random.tensor(device, &[adapter.rank, adapter.inputs], -1.0, 1.0)?;
            Ok((a, random.tensor(device, &[adapter.outputs, adapter.rank], -1.0, 1.0)?))
        });
        let rows = random.shape(2);
        let x = random.tensor(device, &[rows[0], rows[1], inputs], -2.0, 2.0)?;
        Ok(Siblings { layers: layers.all, set: set.expect("a set"), x })
    }

    fn outputs(&self, forward: &Forward, x: impl Into<Operand>, together: bool) -> Result<[Var; 3]> {
        let [first, second, third] = &self.layers;
        if together {
            return Linear::forward_together(forward, [first, second, third], x);
        }
        let x = x.into();
        Ok([first.forward(forward, &x)?, second.forward(forward, &x)?, third.forward(forward, &x)?])
    }

    /// The outputs that `read` names, each read twice, and all gradients. Others read the input before and after.
    fn values(&self, input: Input, read: &[usize], together: bool) -> Result<Vec<(String, Vec<f32>)>> {
        let tape = Tape::new();
        let forward = Forward::training(&tape, &self.set, DROPOUT);
        let x = match input {
            Input::Constant => Var::constant(self.x.clone()),
            Input::Exact | Input::Rounded => tape.leaf("x", &self.x).sin()?,
        };
        let early = x.square()?;
        let outputs = match input {
            Input::Rounded => self.outputs(&forward, x.gelu_rounded()?, together)?,
            _ => self.outputs(&forward, &x, together)?,
        };
        let flat = |x: &Var| x.reshape(&[x.elements()])?.sum(&[0], false);
        let mut loss = flat(&early.mul(&x)?)?.add(&flat(&tape.leaf("other", &self.x))?)?;
        let mut values = Vec::new();
        for &index in read {
            let y = &outputs[index];
            loss = loss.add(&flat(&y.sin()?.mul(y)?)?)?;
            values.push((format!("y{index}"), y.tensor().to_vec()?));
        }
        for (name, gradient) in tape.backward(&loss)? {
            values.push((name, gradient.to_vec()?));
        }
        Ok(values)
    }
}

impl Siblings {
    /// Together as one after another, in training as in evaluation.
    fn check_circumstances(&self) {
        let config = self.set.config();
        let read = [0, 1, 2];
        let [trained, apart] = [true, false].map(|together| self.values(Input::Exact, &read, together).unwrap());
        assert_eq!(trained, apart);
        let magnitudes = trained.iter().filter(|(name, _)| name.contains("magnitude")).count();
        assert_eq!(magnitudes, if config.use_dora { self.set.adapters().count() } else { 0 });
        // As the training pass computes its input.
        let x = Var::constant(self.x.sin().unwrap());
        let [evaluated, apart] = [true, false].map(|together| {
            let outputs = self.outputs(&Forward::evaluation(Some(&self.set)), &x, together).unwrap();
            outputs.map(|y| y.tensor().to_vec::<f32>().unwrap())
        });
        assert_eq!(evaluated, apart);
        if config.dropout == 0.0 {
            for ((_, trained), evaluated) in trained.iter().zip(&evaluated) {
                let largest = evaluated.iter().fold(0.0f32, |largest, y| largest.max(y.abs()));
                let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-2 * largest;
                assert!(trained.iter().zip(evaluated).all(near), "{trained:?} {evaluated:?}");
            }
        }
    }
}

fn config(rank: usize) -> LoraConfig {
    LoraConfig { rank, alpha: 3.0, targets: Targets::AllLinear, ..LoraConfig::default() }
}

on_each_backend! {
    fn no_bit_differs_from_one_after_another(device) {
        random_cases(6, |random| {
            let config = config(random.integer(1, 3));
            let siblings = Siblings::random(device, random, [DType::F16; 3], config)?;
            for input in [Input::Constant, Input::Exact, Input::Rounded] {
                for read in [&[0, 1, 2][..], &[2, 0], &[1], &[]] {
                    let together = siblings.values(input, read, true)?;
                    assert_eq!(together, siblings.values(input, read, false)?, "{input:?}, {read:?}");
                }
            }
            Ok(())
        });
    }

    fn other_circumstances_change_nothing(device) {
        random_cases(2, |random| {
            let dropout = LoraConfig { dropout: 0.4, ..config(2) };
            let decomposed = LoraConfig { use_dora: true, ..config(2) };
            let (f32, f16, some) = ([DType::F32; 3], [DType::F16; 3], [DType::F16, DType::F32, DType::F16]);
            let plain = [f32, f16, some].map(|dtypes| (dtypes, config(2)));
            for (dtypes, config) in plain.into_iter().chain([(f16, dropout), (f16, decomposed)]) {
                let mut siblings = Siblings::random(device, random, dtypes, config)?;
                siblings.check_circumstances();
                if !siblings.set.config().use_dora {
                    siblings.set.subtract_initial_product().unwrap();
                    siblings.check_circumstances();
                }
            }
            Ok(())
        });
    }

    fn a_residual_is_added_like_anything_else(device) {
        random_cases(4, |random| {
            let dtypes = if random.integer(0, 3) == 0 { [DType::F32; 3] } else { [DType::F16; 3] };
            let siblings = Siblings::random(device, random, dtypes, config(2))?;
            let layer = &siblings.layers[random.integer(0, 2)];
            let shape = [&siblings.x.shape()[..2], &layer.weight.shape()[..1]].concat();
            let residual = random.tensor(device, &shape, -1.0, 1.0)?;
            let run = |onto: bool| {
                let tape = Tape::new();
                let forward = Forward::training(&tape, &siblings.set, DROPOUT);
                let (x, residual) = (tape.leaf("x", &siblings.x).sin()?, tape.leaf("residual", &residual).sin()?);
                let y = match onto {
                    true => layer.forward_onto(&forward, &x, &residual)?,
                    false => residual.add(&layer.forward(&forward, &x)?)?,
                };
                // The residual is read again, so that its gradient is a sum.
                let loss = y.mul(&y.sin()?)?.add(&residual)?;
                let mut values = vec![("y".to_string(), y.tensor().to_vec::<f32>()?)];
                for (name, gradient) in tape.backward(&loss.reshape(&[loss.elements()])?.sum(&[0], false)?)? {
                    values.push((name, gradient.to_vec()?));
                }
                Ok(values)
            };
            assert_eq!(run(true)?, run(false)?);
            let other = Var::constant(siblings.x.reshape(&[siblings.x.elements()])?);
            let error = layer.forward_onto(&Forward::evaluation(None), Var::constant(siblings.x.clone()), &other);
            assert!(error.unwrap_err().to_string().contains("a residual"));
            Ok(())
        });
    }

    /// The value of a segment that is computed again is left out, but no gradient with it.
    fn a_last_layer_is_computed_again_for_its_gradients_alone(device) {
        random_cases(4, |random| {
            let dtypes = if random.integer(0, 3) == 0 { [DType::F32; 3] } else { [DType::F16; 3] };
            let siblings = std::rc::Rc::new(Siblings::random(device, random, dtypes, config(2))?);
            let index = random.integer(0, 2);
            let shape = [&siblings.x.shape()[..2], &siblings.layers[index].weight.shape()[..1]].concat();
            let residual = random.tensor(device, &shape, -1.0, 1.0)?;
            let run = |recompute: bool| {
                let tape = Tape::new();
                let forward = Forward::training(&tape, &siblings.set, DROPOUT);
                let (x, residual) = (tape.leaf("x", &siblings.x).sin()?, tape.leaf("residual", &residual).sin()?);
                let segment = {
                    let siblings = siblings.clone();
                    move |forward: &Forward, x: &[Var]| {
                        siblings.layers[index].forward_onto_last(forward, x[0].tanh()?, &x[1])
                    }
                };
                let y = match recompute {
                    true => forward.checkpoint(&[&x, &residual], segment)?,
                    false => segment(&forward, &[x, residual])?,
                };
                let mut values = vec![("y".to_string(), y.tensor().to_vec::<f32>()?)];
                for (name, gradient) in tape.backward(&y.sin()?.reshape(&[y.elements()])?.sum(&[0], false)?)? {
                    values.push((name, gradient.to_vec()?));
                }
                Ok(values)
            };
            assert_eq!(run(true)?, run(false)?);
            Ok(())
        });
    }

    fn segments_that_are_computed_again_change_nothing(device) {
        random_cases(3, |random| {
            let siblings = std::rc::Rc::new(Siblings::random(device, random, [DType::F16; 3], config(2))?);
            let run = |recompute: bool| {
                let tape = Tape::new();
                let forward = Forward::training(&tape, &siblings.set, DROPOUT);
                let x = tape.leaf("x", &siblings.x);
                let segment = {
                    let siblings = siblings.clone();
                    move |forward: &Forward, x: &[Var]| {
                        let [first, second, third] = siblings.outputs(forward, &x[0], true)?;
                        let flat = |x: Var| x.reshape(&[x.elements()])?.sum(&[0], false);
                        flat(first.mul(&first)?)?.mul(&flat(second)?)?.add(&flat(third.tanh()?)?)
                    }
                };
                let y = match recompute {
                    true => forward.checkpoint(&[&x], segment)?,
                    false => segment(&forward, std::slice::from_ref(&x))?,
                };
                let gradients = tape.backward(&y)?;
                gradients.into_iter().map(|(name, gradient)| Ok((name, gradient.to_vec::<f32>()?))).collect::<Result<Vec<_>>>()
            };
            assert_eq!(run(true)?, run(false)?);
            Ok(())
        });
    }

    fn the_layers_are_one_operation(device) {
        let mut random = TestRandom::new(4);
        let siblings = Siblings::random(device, &mut random, [DType::F16; 3], config(2)).unwrap();
        let tape = Tape::new();
        let forward = Forward::training(&tape, &siblings.set, DROPOUT);
        let x = tape.leaf("x", &siblings.x);
        let outputs = siblings.outputs(&forward, &x, true).unwrap();
        let (_, found) = autograd::first_non_finite(|| {
            let infinite = tensor::Tensor::full(device, outputs[1].shape(), DType::F32, f32::INFINITY).unwrap();
            tape.backward_from(&outputs[1], infinite).unwrap()
        });
        assert_eq!(found.map(|found| (found.operation, found.backward)), Some(("linear layers", true)));
    }
}

#[test]
fn wrong_inputs_name_their_layer() {
    let device = Device::cpu();
    let siblings = Siblings::random(&device, &mut TestRandom::new(4), [DType::F16; 3], config(2)).unwrap();
    let wide = Linear::new("wide", Tensor::zeros(&device, &[3, 20], DType::F16).unwrap(), None).unwrap();
    let tape = Tape::new();
    let forward = Forward::training(&tape, &siblings.set, DROPOUT);
    let x = Var::constant(siblings.x.clone());
    let error = Linear::forward_together(&forward, [&siblings.layers[0], &wide], &x).unwrap_err().to_string();
    assert!(error.starts_with("linear: expected [.., 20] as input of `wide`"), "{error}");
    assert!(Linear::forward_together(&forward, [], &x).unwrap().is_empty() && tape.is_empty());
}
