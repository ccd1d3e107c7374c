//! Checkpoints that tests change and write.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;

use models::{Llama, Result, WeightType};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use tempfile::TempDir;
use tensor::{Device, bf16, f16};

use crate::common::fixture;

/// A tensor to be written: type, shape, bytes.
pub type Entry = (Dtype, Vec<usize>, Vec<u8>);

/// A checkpoint in memory, to be changed and written.
pub struct Draft {
    pub config: serde_json::Value,
    pub tensors: BTreeMap<String, Entry>,
    pub metadata: BTreeMap<String, String>,
}

impl Draft {
    /// The model of a fixture.
    pub fn of(name: &str) -> Self {
        let directory = fixture(name).join("model");
        let config = std::fs::read_to_string(directory.join("config.json")).expect("the configuration");
        let bytes = std::fs::read(directory.join("model.safetensors")).expect("the weights");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
        let entry = |view: TensorView| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        Draft {
            config: serde_json::from_str(&config).expect("JSON"),
            tensors: file.tensors().into_iter().map(|(name, view)| (name, entry(view))).collect(),
            metadata: BTreeMap::new(),
        }
    }

    pub fn f32(&mut self, name: &str, shape: &[usize], value: f32) {
        let bytes = value.to_le_bytes().repeat(shape.iter().product());
        self.tensors.insert(name.into(), (Dtype::F32, shape.to_vec(), bytes));
    }

    pub fn rename(&mut self, from: &str, to: &str) {
        let entry = self.tensors.remove(from).expect("a tensor");
        self.tensors.insert(to.into(), entry);
    }

    /// Stores every tensor in another type of 16 bits.
    fn into_halves(mut self, dtype: Dtype, bits: fn(f32) -> u16) -> Self {
        for (stored, _, bytes) in self.tensors.values_mut() {
            let values: Vec<f32> = bytemuck::pod_collect_to_vec(bytes);
            *bytes = values.iter().flat_map(|&value| bits(value).to_le_bytes()).collect();
            *stored = dtype;
        }
        self
    }

    pub fn into_bf16(self) -> Self {
        self.into_halves(Dtype::BF16, |value| bf16::from_f32(value).to_bits())
    }

    pub fn into_f16(self) -> Self {
        self.into_halves(Dtype::F16, |value| f16::from_f32(value).to_bits())
    }

    pub fn write(&self) -> TempDir {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join("config.json"), self.config.to_string()).expect("written");
        let views = self.tensors.iter().map(|(name, (dtype, shape, bytes))| {
            (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).expect("a view"))
        });
        let metadata = (!self.metadata.is_empty()).then(|| self.metadata.clone().into_iter().collect());
        serialize_to_file(views, metadata, &directory.path().join("model.safetensors")).expect("written");
        directory
    }

    pub fn load(&self) -> Result<Llama> {
        Llama::from_directory(self.write().path(), &Device::cpu(), WeightType::F32)
    }

    pub fn refusal(&self) -> String {
        self.load().err().expect("must be refused").to_string()
    }
}
