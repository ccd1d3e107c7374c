//! What layers that are computed together keep and take, by the CPU's byte counters. One test in a process of its own: the
//! counters are the process's.

use autograd::{Tape, Var};
use lora::{AdapterSet, DropoutSource, Forward, Linear, LoraConfig, ModuleShape, Targets};
use tensor::{DType, Device, RandomKey, Tensor};

const ROWS: usize = 256;
const WIDTH: usize = 128;
/// An f32 matrix `[ROWS, WIDTH]`.
const MATRIX: u64 = (ROWS * WIDTH * 4) as u64;

fn random(name: &str, shape: &[usize]) -> Tensor {
    Tensor::random_uniform(&Device::cpu(), shape, -0.1, 0.1, RandomKey::named(1, name, 0)).unwrap()
}

/// What three layers keep for the backward pass, and the most that this takes beyond what was there before it.
fn bytes(layers: &[Linear; 3], set: &AdapterSet, together: bool) -> [u64; 2] {
    let device = Device::cpu();
    let (tape, value) = (Tape::new(), random("x", &[ROWS, WIDTH]));
    let forward = Forward::training(&tape, set, DropoutSource { seed: 0, step: 0 });
    let start = device.counters().bytes_in_use;
    // All three gradients come back at once, as attention's do.
    let y = {
        let x = tape.leaf("x", &value);
        let [q, k, v] = match together {
            true => Linear::forward_together(&forward, layers.each_ref(), &x).unwrap(),
            false => layers.each_ref().map(|layer| layer.forward(&forward, &x).unwrap()),
        };
        Var::concat(&[&q, &k, &v], 0).unwrap()
    };
    let kept = device.counters().bytes_in_use - start;
    let upstream = Tensor::ones(&device, y.shape(), DType::F32).unwrap();
    drop(forward);
    let before = device.counters().bytes_in_use;
    device.reset_peak();
    let gradients = tape.backward_from(&y, upstream).unwrap();
    assert_eq!(gradients.len(), 7);
    [kept, device.counters().peak_bytes - before]
}

#[test]
fn together_they_keep_no_more() {
    let device = Device::cpu();
    let layer = |name: &str| Linear::new(name, random(name, &[WIDTH, WIDTH]).cast(DType::F16).unwrap(), None).unwrap();
    let layers = ["q", "k", "v"].map(layer);
    let modules: Vec<ModuleShape> = layers.iter().map(Linear::shape).collect();
    let config = LoraConfig { rank: 4, targets: Targets::AllLinear, ..LoraConfig::default() };
    let set = AdapterSet::new(config, &modules[..], &device, 3).unwrap();
    let ([kept, took], [kept_apart, took_apart]) = (bytes(&layers, &set, true), bytes(&layers, &set, false));
    assert_eq!(kept, kept_apart);
    // The gradients in f32 beside the same in 16 bits, all of them in place of one.
    assert!(took <= took_apart + MATRIX, "{took} in place of {took_apart}");
}
