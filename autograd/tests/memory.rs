//! What is kept between forward and backward pass, by the CPU's byte counters. One test in a process of its own: the
//! counters are the process's.

use autograd::{Optimizer, Parameters, Sgd, SgdConfig, Tape, Var, record_accumulating, record_rounded_outputs};
use tensor::{DType, Device, Tensor};

const SIDE: usize = 64;
const BYTES: u64 = (SIDE * SIDE * 4) as u64;

fn matrix(value: f32) -> Tensor {
    Tensor::full(&Device::cpu(), &[SIDE, SIDE], DType::F32, value).unwrap()
}

/// Bytes that `work` leaves in use, beside what it returns.
fn growth<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = Device::cpu().counters().bytes_in_use;
    let result = work();
    (result, Device::cpu().counters().bytes_in_use - before)
}

fn frozen_weights_keep_no_activation() {
    let (weight, leaf) = (Var::constant(matrix(0.01)), matrix(0.5));
    let tape = Tape::new();
    let (y, bytes) = growth(|| {
        let x = tape.leaf("x", &leaf).affine(2.0, 0.0).unwrap();
        x.matmul(&weight).unwrap()
    });
    assert_eq!(bytes, BYTES, "only the product is alive, not its input");
    drop(y);
    let (y, bytes) = growth(|| {
        let x = Var::constant(matrix(0.5)).affine(2.0, 0.0).unwrap();
        x.matmul(&tape.leaf("w", &leaf)).unwrap()
    });
    assert_eq!(bytes, 2 * BYTES, "the trainable weight keeps the product's input");
    drop(y);
}

fn accumulating_products_take_the_place_of_their_input() {
    let (weight, a, b) = (Var::constant(matrix(0.01)), Var::constant(matrix(0.5)), matrix(0.25));
    let tape = Tape::new();
    let (y, bytes) = growth(|| {
        let base = tape.leaf("x", a.tensor()).matmul(&weight).unwrap();
        base.add_matmul(&a, &tape.leaf("b", &b), 2.0).unwrap()
    });
    assert_eq!(bytes, BYTES, "one matrix for the base product and the sum");
    assert_eq!(tape.backward_from(&y, matrix(1.0)).unwrap().len(), 2);
}

fn what_is_computed_again_is_not_kept() {
    // Smaller rows are kept.
    const SIDE: usize = 2048;
    const BYTES: u64 = (SIDE * SIDE * 4) as u64;
    let matrix = |value: f32| Tensor::full(&Device::cpu(), &[SIDE, SIDE], DType::F32, value).unwrap();
    let (x, ones) = (matrix(0.5), Tensor::ones(&Device::cpu(), &[SIDE], DType::F32).unwrap());
    let tape = Tape::new();
    let (y, bytes) = growth(|| {
        let normed = tape.leaf("x", &x).rms_norm_rounded(&Var::constant(ones), 1e-5).unwrap();
        let kept = normed.kept();
        record_accumulating("reader", &[&normed], x.clone(), move |_, totals| totals.add(0, kept.rows()?.restored()?))
    });
    assert_eq!(bytes, 0, "the norm's input was there before");
    assert_eq!(tape.backward_from(&y, matrix(1.0)).unwrap().len(), 1);

    let (y, bytes) = growth(|| {
        let [gate, up] = ["gate", "up"].map(|name| tape.leaf(name, &x).affine(2.0, 0.0).unwrap());
        let product = gate.silu_mul_rounded(&up).unwrap();
        let kept = product.kept();
        record_accumulating("reader", &[&product], x.clone(), move |_, totals| totals.add(0, kept.rows()?.restored()?))
    });
    // Each row has its power of two.
    let rounded = BYTES / 2 + SIDE as u64 * 4;
    assert_eq!(bytes, 2 * rounded, "gate and up in 16 bits");
    assert_eq!(tape.backward_from(&y, matrix(1.0)).unwrap().len(), 2);
}

fn a_gated_unit_of_rounded_inputs_keeps_nothing_besides_them() {
    // Smaller rows are kept.
    const SIDE: usize = 2048;
    let x = Tensor::full(&Device::cpu(), &[SIDE, SIDE], DType::F32, 0.5).unwrap();
    let (rows, tape) = (x.row_scaled().unwrap(), Tape::new());
    let leaf = tape.leaf("x", &x);
    let outputs = record_rounded_outputs(
        "both",
        &[&leaf],
        vec![(rows.clone(), *x.shape()), (rows.clone(), *x.shape())],
        |upstream, totals| upstream.into_iter().flatten().try_for_each(|dy| totals.add(0, dy.into_tensor()?)),
    );
    let (y, bytes) = growth(|| {
        let product = outputs[0].silu_mul_rounded(&outputs[1]).unwrap();
        let kept = product.kept();
        record_accumulating("reader", &[&product], x.clone(), move |_, totals| totals.add(0, kept.rows()?.restored()?))
    });
    assert_eq!(bytes, 0, "gate and up were there before");
    assert_eq!(tape.backward_from(&y, x).unwrap().len(), 1);
}

fn checkpoints_keep_their_inputs_only() {
    let (x, weight) = (Var::constant(matrix(0.5)), matrix(0.1));
    let layers = |tape: &Tape, x: &Var, weight: &Tensor| -> tensor::Result<Var> {
        let mut x = x.clone();
        for _ in 0..4 {
            x = x.mul(&tape.leaf("w", weight))?.silu()?.tanh()?;
        }
        Ok(x)
    };
    let tape = Tape::new();
    let (_plain, plain_bytes) = growth(|| layers(&tape, &x, &weight).unwrap());
    let tape = Tape::new();
    let captured = weight.clone();
    let (loss, bytes) =
        growth(|| tape.checkpoint(&[&x], move |tape, inputs| layers(tape, &inputs[0], &captured)).unwrap());
    assert!(plain_bytes >= 8 * BYTES, "{plain_bytes}");
    assert_eq!(bytes, BYTES, "the output");
    assert_eq!(tape.backward_from(&loss, matrix(1.0)).unwrap().len(), 1);
}

fn the_update_is_in_place() {
    let mut parameters = Parameters::new();
    parameters.insert("w", matrix(0.1)).unwrap();
    let tape = Tape::new();
    let gradients = {
        let w = tape.leaf("w", parameters.get("w").unwrap());
        let y = w.mul(&w).unwrap();
        tape.backward_from(&y, matrix(1.0)).unwrap()
    };
    Device::cpu().reset_peak();
    let before = Device::cpu().counters().bytes_in_use;
    Sgd::new(SgdConfig::default()).step(&mut parameters, &gradients, 0.1).unwrap();
    assert_eq!(Device::cpu().counters().peak_bytes, before, "the tape holds no parameter after the backward pass");
}

#[test]
fn memory() {
    frozen_weights_keep_no_activation();
    accumulating_products_take_the_place_of_their_input();
    what_is_computed_again_is_not_kept();
    a_gated_unit_of_rounded_inputs_keeps_nothing_besides_them();
    checkpoints_keep_their_inputs_only();
    the_update_is_in_place();
}
