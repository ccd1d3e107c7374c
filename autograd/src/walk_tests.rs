//! Operations with several outputs: what their rule gets, and when it runs.

use std::cell::Cell;
use std::rc::Rc;

use tensor::testing::on_each_backend;
use tensor::{DType, Device, Result, Tensor};

use crate::check::{check_gradients, random_cases};
use crate::{Tape, Var, record_outputs};

fn full(value: f32) -> Tensor {
    Tensor::full(&Device::cpu(), &[2], DType::F32, value).unwrap()
}

fn values(tape: &Tape, output: &Var) -> Vec<(String, Vec<f32>)> {
    let gradients = tape.backward_from(output, full(1.0)).unwrap();
    gradients.into_iter().map(|(name, gradient)| (name, gradient.to_vec().unwrap())).collect()
}

/// x + w, x·w and 2·w, and how often the rule ran.
fn three(x: &Var, w: &Var) -> Result<([Var; 3], Rc<Cell<usize>>)> {
    let (u, v) = (x.tensor().clone(), w.tensor().clone());
    let outputs = vec![u.add(&v)?, u.mul(&v)?, v.affine(2.0, 0.0)?];
    let runs = Rc::new(Cell::new(0));
    let counter = runs.clone();
    let outputs = record_outputs("three", &[x, w], outputs, move |dy, totals| {
        counter.set(counter.get() + 1);
        let [sum, product, twice] = <[_; 3]>::try_from(dy).expect("three outputs");
        if let Some(dy) = sum {
            let dy = dy.into_tensor()?;
            totals.add(0, dy.clone())?;
            totals.add(1, dy)?;
        }
        if let Some(dy) = product {
            let dy = dy.into_tensor()?;
            totals.add(0, dy.mul(&v)?)?;
            totals.add(1, dy.mul(&u)?)?;
        }
        match twice {
            Some(dy) => totals.add(1, dy.into_tensor()?.affine(2.0, 0.0)?),
            None => Ok(()),
        }
    });
    Ok((outputs.try_into().expect("three outputs"), runs))
}

on_each_backend! {
    fn derivatives(device) {
        random_cases(2, |random| {
            let shape = random.shape(2);
            check_gradients("all outputs", device, random, &[&shape, &shape], |v| {
                let ([sum, product, twice], _) = three(&v[0].sin()?, &v[1])?;
                // One output is read twice, and the inputs are read by others.
                product.mul(&sum)?.add(&twice.cos()?)?.mul(&product)?.mul(&v[0])
            })?;
            check_gradients("one output", device, random, &[&shape, &shape], |v| {
                three(&v[0], &v[1].sin()?)?.0[1].mul(&v[1])
            })
        });
    }
}

#[test]
fn outputs_that_nothing_reads_have_no_gradient() {
    let tape = Tape::new();
    for (output, want) in [(0, [1.0, 1.0]), (1, [5.0, 3.0]), (2, [0.0, 2.0])] {
        let (x, w) = (tape.leaf("x", &full(3.0)), tape.leaf("w", &full(5.0)));
        let (outputs, runs) = three(&x, &w).unwrap();
        // What is recorded later leads to no leaf on this way.
        outputs[0].mul(&outputs[2]).unwrap();
        let y = outputs[output].affine(1.0, 2.0).unwrap();
        let want: Vec<_> = ["x", "w"].into_iter().zip(want).filter(|(_, want)| *want != 0.0).collect();
        let mut got = values(&tape, &y);
        got.reverse();
        let got: Vec<_> = got.iter().map(|(name, gradient)| (name.as_str(), gradient[0])).collect();
        assert_eq!((got, runs.get()), (want, 1), "output {output}");
    }
}

#[test]
fn a_walk_may_begin_at_any_output() {
    let tape = Tape::new();
    for (output, want) in [(0, 1.0), (1, 3.0), (2, 2.0)] {
        let (outputs, _) = three(&Var::constant(full(3.0)), &tape.leaf("w", &full(5.0))).unwrap();
        assert_eq!(values(&tape, &outputs[output]), [("w".to_string(), vec![want; 2])]);
    }
}

#[test]
fn rules_without_a_gradient_do_not_run() {
    let tape = Tape::new();
    let (x, w) = (tape.leaf("x", &full(3.0)), tape.leaf("w", &full(5.0)));
    let (outputs, runs) = three(&x, &w).unwrap();
    outputs[0].add(&outputs[1]).unwrap();
    let (again, runs_again) = three(&x, &w).unwrap();
    assert_eq!(values(&tape, &w.add(&again[2]).unwrap()), [("w".to_string(), vec![3.0; 2])]);
    assert_eq!((runs.get(), runs_again.get()), (0, 1));
}

#[test]
fn constants_and_inference_tapes_record_no_outputs() {
    let (tape, constant) = (Tape::new(), Var::constant(full(1.0)));
    let outputs = record_outputs("mine", &[&constant], vec![full(1.0); 2], |_, _| Ok(()));
    assert!(outputs.len() == 2 && !outputs.iter().any(Var::requires_gradient));
    let leaf = Tape::inference().leaf("w", &full(1.0));
    assert!(!record_outputs("mine", &[&leaf], vec![full(1.0)], |_, _| Ok(()))[0].requires_gradient());
    assert!(record_outputs("mine", &[&tape.leaf("w", &full(1.0))], Vec::new(), |_, _| Ok(())).is_empty());
    assert_eq!(tape.len(), 1);
}

#[test]
fn wrong_gradients_of_several_outputs_are_errors() {
    let tape = Tape::new();
    let run = |gradient: Tensor, input: usize| {
        let leaf = tape.leaf("w", &full(1.0));
        let outputs =
            record_outputs("mine", &[&leaf], vec![full(1.0); 2], move |_, totals| totals.add(input, gradient));
        tape.backward_from(&outputs[1], full(1.0)).unwrap_err().to_string()
    };
    let three = Tensor::zeros(&Device::cpu(), &[3], DType::F32).unwrap();
    assert_eq!(run(three, 0), "mine: expected a gradient of shape [2], found shape [3]");
    assert_eq!(run(full(1.0), 2), "mine: the rule has a gradient for input 2, which there is not");
}

#[test]
fn checkpoints_of_several_outputs_change_no_bit() {
    let run = |recompute: bool| {
        let tape = Tape::new();
        let x = tape.leaf("x", &full(0.3));
        let segment = |tape: &Tape, inputs: &[Var]| {
            let ([sum, product, _unused], _) = three(&inputs[0], &tape.leaf("w", &full(0.7)))?;
            // Ends in an output that others read, before the last one.
            Ok(three(&product.mul(&sum)?, &sum)?.0[1].clone())
        };
        let first = match recompute {
            true => tape.checkpoint(&[&x], segment).unwrap(),
            false => segment(&tape, std::slice::from_ref(&x)).unwrap(),
        };
        let ([sum, product, _], _) = three(&first, &x).unwrap();
        let y = match recompute {
            true => tape.checkpoint(&[&sum, &product], |_, inputs| inputs[0].mul(&inputs[1])).unwrap(),
            false => sum.mul(&product).unwrap(),
        };
        values(&tape, &y)
    };
    let plain = run(false);
    assert_eq!(plain.len(), 2);
    assert_eq!(run(true), plain);
}
