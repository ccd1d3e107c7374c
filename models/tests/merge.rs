//! The files that merging writes.

mod common;

use std::path::Path;

use common::fixture;
use lora::{AdapterSet, Base};
use models::{Checkpoint, Llama, WeightType, load_adapter, merge_checkpoint};
use tensor::Device;

#[test]
fn shards_keep_their_names_tensors_and_types() {
    let directory = fixture("llama1_tiny/model");
    let checkpoint = Checkpoint::open(&directory).expect("shards");
    let (device, adapter, out) = (Device::cpu(), tempfile::tempdir().expect("one"), tempfile::tempdir().expect("two"));
    let base = Llama::from_directory(&directory, &device, WeightType::F32).expect("the base");
    let config = lora::LoraConfig { rank: 2, ..lora::LoraConfig::default() };
    let fresh = AdapterSet::new(config, Base::of(&base), &device, 0).expect("an adapter");
    fresh.save(adapter.path(), &lora::AdapterOrigin::default()).expect("saved");
    let adapters = load_adapter(&checkpoint, adapter.path(), &device).expect("the adapter");
    let report = merge_checkpoint(&checkpoint, &adapters, out.path()).expect("merged");
    assert_eq!(report.files.len(), 4);
    // A fresh adapter changes nothing, so every tensor is as it was.
    let written = Checkpoint::open(out.path()).expect("shards and their index");
    assert_eq!(written.tensors().count(), checkpoint.tensors().count());
    for (name, stored) in checkpoint.tensors() {
        let found = written.get(name).expect(name);
        assert_eq!((&found.shape, found.dtype), (&stored.shape, stored.dtype), "{name}");
        assert_eq!(written.bytes(name), checkpoint.bytes(name), "{name}");
        let file = |checkpoint: &Checkpoint| checkpoint.file_of(name).and_then(Path::file_name).map(ToOwned::to_owned);
        assert_eq!(file(&written), file(&checkpoint), "{name}");
    }
}
