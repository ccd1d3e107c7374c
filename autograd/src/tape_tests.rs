//! What the tape promises: what is recorded, what is kept, what is refused; checkpoints.

use tensor::{Device, Tensor, TensorError};

use crate::check::TestRandom;
use crate::{Tape, Var, record, record_accumulating};

fn device() -> Device {
    Device::cpu()
}

fn tensor(seed: u64, shape: &[usize]) -> Tensor {
    TestRandom::new(seed).tensor(&device(), shape, -1.0, 1.0).unwrap()
}

fn message<T: std::fmt::Debug>(result: Result<T, TensorError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn constants_record_nothing() {
    let tape = Tape::new();
    let x = Var::constant(tensor(1, &[2]));
    let y = x.exp().unwrap().mul(&x).unwrap();
    assert!(!y.requires_gradient() && tape.is_empty());
    let leaf = tape.leaf("w", &tensor(2, &[2]));
    assert!(leaf.mul(&y).unwrap().requires_gradient());
    assert_eq!(tape.len(), 2);
}

#[test]
fn an_inference_tape_records_nothing() {
    let tape = Tape::inference();
    let y = tape.leaf("w", &tensor(1, &[1])).exp().unwrap();
    assert!(!y.requires_gradient() && tape.is_empty() && !tape.is_recording());
    assert_eq!(message(tape.backward(&y)), "backward: the loss depends on no trainable leaf of this tape");
}

#[test]
fn a_leaf_asked_for_twice_is_one_leaf() {
    let tape = Tape::new();
    let w = tensor(1, &[1]);
    let y = tape.leaf("w", &w).affine(2.0, 0.0).unwrap().add(&tape.leaf("w", &w).affine(5.0, 0.0).unwrap()).unwrap();
    let gradients = tape.backward(&y).unwrap();
    assert_eq!(gradients.len(), 1);
    assert_eq!(gradients.get("w").unwrap().item::<f32>().unwrap(), 7.0);
}

#[test]
fn only_leaves_that_the_loss_depends_on_get_gradients_and_they_come_by_name() {
    let tape = Tape::new();
    let [c, a, unused] = ["c", "a", "unused"].map(|name| tape.leaf(name, &tensor(1, &[1])));
    unused.exp().unwrap();
    let y = c.mul(&a).unwrap();
    unused.mul(&y).unwrap();
    let gradients = tape.backward(&y).unwrap();
    assert_eq!(gradients.names().collect::<Vec<_>>(), ["a", "c"]);
    assert!(tape.is_empty());
}

#[test]
fn gradients_are_contiguous() {
    let tape = Tape::new();
    let y = tape.leaf("w", &tensor(1, &[2, 3])).t().unwrap();
    let gradients = tape.backward_from(&y, tensor(2, &[3, 2])).unwrap();
    assert!(gradients.get("w").unwrap().is_contiguous());
    assert_eq!(
        gradients.get("w").unwrap().to_vec::<f32>().unwrap(),
        tensor(2, &[3, 2]).t().unwrap().to_vec::<f32>().unwrap()
    );
}

#[test]
fn misuse_is_an_error() {
    let tape = Tape::new();
    let w = tensor(1, &[2]);
    let leaf = tape.leaf("w", &w);
    assert_eq!(message(tape.backward(&leaf)), "backward: expected a scalar loss, found shape [2]");
    let leaf = tape.leaf("w", &w);
    let expected = "backward: expected a gradient of shape [2], found shape [3]";
    assert_eq!(message(tape.backward_from(&leaf, tensor(1, &[3]))), expected);
    let expected = "backward: a variable was recorded before the last backward pass, which emptied the tape";
    assert_eq!(message(tape.backward_from(&leaf, w.clone())), expected);
    let stale = leaf.mul(&tape.leaf("w", &w)).unwrap();
    let expected = "mul: a variable was recorded before the last backward pass, which emptied the tape";
    assert_eq!(message(tape.backward_from(&stale, w.clone())), expected);
    let mixed = tape.leaf("w", &w).mul(&Tape::new().leaf("w", &w)).unwrap();
    assert_eq!(message(tape.backward_from(&mixed, w.clone())), "mul: a variable was recorded on another tape");
}

#[test]
fn wrong_rules_are_errors() {
    let tape = Tape::new();
    let w = tensor(1, &[2]);
    let y = record("mine", &[&tape.leaf("w", &w)], w.clone(), |_| Ok(Vec::new()));
    assert_eq!(message(tape.backward_from(&y, w.clone())), "mine: the rule has 0 gradients for 1 inputs");
    let y = record("mine", &[&tape.leaf("w", &w)], w.clone(), |_| Ok(vec![Some(tensor(1, &[3]))]));
    let expected = "mine: expected a gradient of shape [2], found shape [3]";
    assert_eq!(message(tape.backward_from(&y, w.clone())), expected);
}

#[test]
fn an_accumulating_rule_gets_what_its_inputs_have_gathered() {
    let tape = Tape::new();
    let [x, w] = ["x", "w"].map(|name| tape.leaf(name, &tensor(1, &[2])));
    let h = x.affine(2.0, 0.0).unwrap();
    let ones = Tensor::ones(&device(), &[2], tensor::DType::F32).unwrap();
    let (seven, nothing) = (ones.affine(7.0, 0.0).unwrap(), Var::constant(ones.clone()));
    let y = record_accumulating("mine", &[&h, &w, &nothing, &h], ones.clone(), move |dy, totals| {
        totals.update(0, |total| total.expect("1 was gathered").add(&seven))?;
        let dy = dy.into_tensor()?;
        totals.update(1, |total| Ok(total.map_or(dy.clone(), |_| panic!("nothing was gathered"))))?;
        totals.update(3, |total| Ok(total.map_or(dy.clone(), |_| panic!("the first mention has the total"))))?;
        totals.add(3, dy)
    });
    // The sum runs first on the way back, so that h has gathered 1 before.
    let gradients = tape.backward_from(&y.add(&h).unwrap(), ones.clone()).unwrap();
    assert_eq!(gradients.get("x").unwrap().to_vec::<f32>().unwrap(), [20.0; 2]);
    assert_eq!(gradients.get("w").unwrap().to_vec::<f32>().unwrap(), [1.0; 2]);

    let w = tape.leaf("w", &ones);
    let y = record_accumulating("mine", &[&w], ones.clone(), |dy, totals| totals.add(1, dy.into_tensor()?));
    let expected = "mine: the rule has a gradient for input 1, which there is not";
    assert_eq!(message(tape.backward_from(&y, ones.clone())), expected);
    let constant = record_accumulating("mine", &[&nothing], ones, |dy, totals| totals.add(0, dy.into_tensor()?));
    assert!(!constant.requires_gradient() && tape.is_empty());
}

/// A block with a leaf used twice inside, a residual connection, dropout, and a leaf that other blocks share.
fn block(tape: &Tape, x: &Var, number: u64) -> tensor::Result<Var> {
    let weight = tape.leaf(&format!("weight.{number}"), &tensor(number, &[4]));
    let shared = tape.leaf("shared", &tensor(99, &[4]));
    let key = tensor::RandomKey { seed: 7, stream: number, step: 3 };
    let h = x.mul(&weight)?.add(&shared)?.silu()?.dropout(0.3, key)?.mul(&weight)?.mul(&shared)?;
    x.add(&h.tanh()?)
}

#[test]
fn a_checkpoint_changes_no_bit() {
    let run = |checkpoints: &[bool]| {
        let tape = Tape::new();
        // The leaf is also an input of the first block, and used after the last one.
        let first = tape.leaf("input", &tensor(50, &[3, 4]));
        let mut x = first.clone();
        for (number, &checkpoint) in checkpoints.iter().enumerate() {
            let number = number as u64;
            x = match checkpoint {
                true => tape.checkpoint(&[&x], move |tape, inputs| block(tape, &inputs[0], number)).unwrap(),
                false => block(&tape, &x, number).unwrap(),
            };
        }
        let output = x.mul(&first).unwrap();
        let gradients = tape.backward_from(&output, tensor(51, &[3, 4])).unwrap();
        gradients.into_iter().map(|(name, g)| (name, g.to_vec::<f32>().unwrap())).collect::<Vec<_>>()
    };
    let plain = run(&[false; 4]);
    assert_eq!(plain.len(), 6);
    assert_eq!(run(&[true; 4]), plain);
    assert_eq!(run(&[true, false, true, false]), plain);
}

#[test]
fn checkpoints_nest() {
    let run = |nested: bool| {
        let tape = Tape::new();
        let x = tape.leaf("input", &tensor(50, &[3, 4]));
        let output = tape
            .checkpoint(&[&x], move |tape, inputs| {
                let h = block(tape, &inputs[0], 1)?;
                match nested {
                    true => tape.checkpoint(&[&h], |tape, inputs| block(tape, &inputs[0], 2)),
                    false => block(tape, &h, 2),
                }
            })
            .unwrap();
        let gradients = tape.backward_from(&output, tensor(51, &[3, 4])).unwrap();
        gradients.into_iter().map(|(name, g)| (name, g.to_vec::<f32>().unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn a_checkpoint_keeps_one_node_and_serves_leaves_behind_constant_inputs() {
    let tape = Tape::new();
    let x = Var::constant(tensor(1, &[3, 4]));
    let y = tape.checkpoint(&[&x], |tape, inputs| block(tape, &inputs[0], 1)).unwrap();
    assert_eq!(tape.len(), 1);
    let gradients = tape.backward_from(&y, tensor(2, &[3, 4])).unwrap();
    assert_eq!(gradients.names().collect::<Vec<_>>(), ["shared", "weight.1"]);
    let constant = tape.checkpoint(&[&x], |_, inputs| inputs[0].exp()).unwrap();
    assert!(!constant.requires_gradient() && tape.is_empty());
}

#[test]
fn a_checkpoint_on_the_wrong_tape_is_an_error() {
    let tape = Tape::new();
    let outer = tape.clone();
    let result = tape.checkpoint(&[], move |_, _| outer.leaf("w", &tensor(1, &[2])).exp());
    assert_eq!(message(result), "checkpoint: the segment recorded on another tape than the one it was given");
}
