//! The result of a backward pass: gradients by the names of the leaves.

use std::collections::BTreeMap;

use tensor::{Result, Tensor};

/// Gradients of trainable leaves, ordered by name. A leaf that the loss does not depend on is absent.
#[derive(Clone, Debug, Default)]
pub struct Gradients {
    by_name: BTreeMap<String, Tensor>,
}

impl Gradients {
    /// No gradients.
    pub fn new() -> Self {
        Self::default()
    }

    /// The gradient of the leaf `name`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.by_name.get(name)
    }

    /// The gradient of the leaf `name`, to be replaced.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Tensor> {
        self.by_name.get_mut(name)
    }

    /// Sets a gradient, and returns the one it replaces.
    pub fn insert(&mut self, name: impl Into<String>, gradient: Tensor) -> Option<Tensor> {
        self.by_name.insert(name.into(), gradient)
    }

    /// Takes a gradient out.
    pub fn remove(&mut self, name: &str) -> Option<Tensor> {
        self.by_name.remove(name)
    }

    /// Adds to the gradient of one leaf; the first contribution is stored as it is.
    ///
    /// # Errors
    /// When the shapes, types or devices of the two contributions differ, or the device's own errors.
    pub fn add(&mut self, name: &str, gradient: Tensor) -> Result<()> {
        match self.by_name.get_mut(name) {
            Some(total) => *total = total.add(&gradient)?,
            None => {
                self.by_name.insert(name.to_string(), gradient);
            }
        }
        Ok(())
    }

    /// Adds every gradient of `other`: accumulation over the micro-batches of a step.
    ///
    /// # Errors
    /// As [`Gradients::add`].
    pub fn accumulate(&mut self, other: Gradients) -> Result<()> {
        other.by_name.into_iter().try_for_each(|(name, gradient)| self.add(&name, gradient))
    }

    /// Name and gradient of each leaf, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Tensor)> {
        self.by_name.iter().map(|(name, gradient)| (name.as_str(), gradient))
    }

    /// Name and gradient of each leaf, by name, to be replaced.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = (&str, &mut Tensor)> {
        self.by_name.iter_mut().map(|(name, gradient)| (name.as_str(), gradient))
    }

    /// The names of the leaves that have a gradient, in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// Number of gradients.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

impl IntoIterator for Gradients {
    type Item = (String, Tensor);
    type IntoIter = std::collections::btree_map::IntoIter<String, Tensor>;

    fn into_iter(self) -> Self::IntoIter {
        self.by_name.into_iter()
    }
}
