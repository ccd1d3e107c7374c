//! What the tests of models share: fixtures, golden tensors, comparisons.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use autograd::Tape;
use lora::{AdapterSet, Batch, Forward, HostBatch, IGNORED, Model};
use models::{Llama, WeightType};
use safetensors::{Dtype, SafeTensors};
use tensor::{Device, Tensor};

/// What PEFT puts before the names of a model's parameters.
pub const PEFT_PREFIX: &str = "base_model.model.";

/// A path among the committed fixtures.
pub fn fixture(path: &str) -> PathBuf {
    // From this crate, and from others whose tests include this file.
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures").join(path)
}

/// The model of a fixture, in f32.
pub fn load(name: &str, device: &Device) -> Llama {
    Llama::from_directory(&fixture(name).join("model"), device, WeightType::F32).expect("the fixture's model")
}

/// Golden tensors by name, as f32 or i64 values with their shapes.
pub struct Golden {
    floats: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    integers: BTreeMap<String, (Vec<usize>, Vec<i64>)>,
}

impl Golden {
    pub fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        let mut golden = Golden { floats: BTreeMap::new(), integers: BTreeMap::new() };
        for (name, view) in file.tensors() {
            let shape = view.shape().to_vec();
            match view.dtype() {
                Dtype::F32 => golden.floats.insert(name, (shape, bytemuck::pod_collect_to_vec(view.data()))).is_some(),
                Dtype::I64 => {
                    golden.integers.insert(name, (shape, bytemuck::pod_collect_to_vec(view.data()))).is_some()
                }
                other => panic!("{name}: unexpected type {other:?}"),
            };
        }
        golden
    }

    pub fn floats(&self, name: &str) -> &[f32] {
        &self.floats.get(name).unwrap_or_else(|| panic!("golden `{name}`")).1
    }

    pub fn integers(&self, name: &str) -> (&[usize], &[i64]) {
        let (shape, values) = self.integers.get(name).unwrap_or_else(|| panic!("golden `{name}`"));
        (shape, values)
    }

    /// Names and values that begin with `prefix`, which is taken off.
    pub fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a [f32])> {
        self.floats.iter().filter_map(move |(name, (_, values))| Some((name.strip_prefix(prefix)?, values.as_slice())))
    }

    /// The batch whose tensors' names begin with `prefix`, labels shifted as the engine wants them.
    pub fn batch(&self, prefix: &str) -> HostBatch {
        let (shape, ids) = self.integers(&format!("{prefix}input_ids"));
        let labels = shifted(self.integers(&format!("{prefix}labels")).1, shape[1]);
        let mask = self.integers(&format!("{prefix}attention_mask")).1.iter().map(|&bit| bit as u32).collect();
        let ids = ids.iter().map(|&id| id as u32).collect();
        HostBatch::new(shape[0], shape[1], ids, labels, Some(mask)).expect("a batch")
    }
}

/// Labels as the reference takes them (that of token i at i) to labels as the engine takes them (that of i + 1 at i).
pub fn shifted(labels: &[i64], sequence: usize) -> Vec<i32> {
    labels.chunks(sequence).flat_map(|row| row[1..].iter().map(|&label| label as i32).chain([IGNORED])).collect()
}

/// A pass that records and drops nothing.
pub fn recorded(tape: &Tape, adapters: &AdapterSet) -> Forward {
    Forward { tape: tape.clone(), ..Forward::evaluation(Some(adapters)) }
}

/// Loss of a batch without recording.
pub fn loss(model: &Llama, adapters: Option<&AdapterSet>, batch: &Batch) -> f32 {
    let loss = model.loss(&Forward::evaluation(adapters), batch).expect("a loss");
    loss.tensor().item().expect("a scalar")
}

/// Logits of a batch without recording, row-major `[batch, sequence, vocabulary]`.
pub fn logits(model: &Llama, adapters: Option<&AdapterSet>, batch: &Batch) -> Vec<f32> {
    let forward = Forward::evaluation(adapters);
    let logits = model.logits(&forward, &batch.ids, batch.key_mask.as_ref()).expect("logits");
    values(logits.tensor())
}

pub fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_vec().expect("values")
}

/// The largest difference, over the rows of `width` values whose `keep` is not zero.
pub fn largest_difference(got: &[f32], want: &[f32], width: usize, keep: &[u32]) -> f32 {
    assert_eq!((got.len(), got.len()), (want.len(), width * keep.len()));
    let rows = got.chunks(width).zip(want.chunks(width)).zip(keep).filter(|&(_, &keep)| keep != 0);
    rows.flat_map(|((got, want), _)| got.iter().zip(want))
        .map(|(got, want)| (got - want).abs())
        .fold(0.0, |largest, difference| if difference > largest || difference.is_nan() { difference } else { largest })
}

/// Checks that every value is within `tolerance`; NaN never is.
pub fn assert_close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}: number of values");
    let difference = largest_difference(got, want, 1, &vec![1; got.len()]);
    assert!(difference <= tolerance, "{what}: differs by {difference:e}, allowed {tolerance:e}");
}
