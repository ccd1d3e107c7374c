//! The trainable tensors by name: what leaves are made from and what optimizers update.

use std::collections::BTreeMap;

use tensor::{DType, Result, Tensor, TensorError};

/// Trainable tensors, f32, ordered by name.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    by_name: BTreeMap<String, Tensor>,
}

impl Parameters {
    /// No parameters.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a parameter, and returns the one it replaces.
    ///
    /// # Errors
    /// [`TensorError::DType`] unless the tensor is f32: what is trained is kept in full precision.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) -> Result<Option<Tensor>> {
        if tensor.dtype() != DType::F32 {
            return Err(TensorError::DType {
                operation: "parameters",
                expected: DType::F32.to_string(),
                found: tensor.dtype(),
            });
        }
        Ok(self.by_name.insert(name.into(), tensor))
    }

    /// The parameter `name`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.by_name.get(name)
    }

    /// The parameter `name`, to be updated. Whoever replaces it keeps it f32.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Tensor> {
        self.by_name.get_mut(name)
    }

    /// Takes a parameter out.
    pub fn remove(&mut self, name: &str) -> Option<Tensor> {
        self.by_name.remove(name)
    }

    /// Name and tensor of each parameter, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Tensor)> {
        self.by_name.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Name and tensor of each parameter, by name, to be updated.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = (&str, &mut Tensor)> {
        self.by_name.iter_mut().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The names, in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Number of trainable numbers in all tensors.
    pub fn elements(&self) -> usize {
        self.by_name.values().map(Tensor::elements).sum()
    }
}
