//! The embedding that may carry an adapter.

use autograd::Var;
use tensor::{Result, Tensor, TensorError};

use crate::adapter_set::AdapterSet;
use crate::forward::Forward;
use crate::linear::row_norms;
use crate::targets::ModuleShape;

#[cfg(test)]
mod tests;

/// A frozen table of rows, `y = W[ids]`, plus `s·Aᵀ[ids]·Bᵀ` where the pass has an adapter for its name, with A
/// `[rank, vocabulary]` and B `[width, rank]`; there is no dropout here, as in PEFT. With DoRA the columns of the adapted
/// table keep their direction and have trained lengths m `[width]`: that sum times `m / ‖W + s·(B·A)ᵀ‖`, the norm taken of
/// each column and constant for the gradient. Where the pass has a trained copy of the table, it takes the table's place.
///
/// Only the look-up is adapted: an output head that shares the table keeps it as it is.
#[derive(Clone, Debug)]
pub struct Embedding {
    name: String,
    weight_name: String,
    weight: Tensor,
}

impl Embedding {
    /// An embedding from its path in the model and its table `[vocabulary, width]` (f32, f16 or bf16).
    ///
    /// # Errors
    /// [`TensorError::Shape`] or [`TensorError::DType`] for another tensor.
    pub fn new(name: impl Into<String>, weight: Tensor) -> Result<Self> {
        if weight.rank() != 2 {
            let expected = "a table [vocabulary, width]".into();
            return Err(TensorError::Shape { operation: "embedding", expected, found: *weight.shape() });
        }
        if !weight.dtype().is_float() {
            let expected = "f32, f16 or bf16".into();
            return Err(TensorError::DType { operation: "embedding", expected, found: weight.dtype() });
        }
        let name = name.into();
        Ok(Embedding { weight_name: format!("{name}.weight"), name, weight })
    }

    /// The path in the model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The frozen table, `[vocabulary, width]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Name and extents, as injection needs them.
    pub fn shape(&self) -> ModuleShape {
        ModuleShape::new(&self.name, self.weight.shape()[0], self.weight.shape()[1]).embedding()
    }

    /// Names and values of the parameters, as [`crate::Model::saved_module`] tells them.
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        vec![("weight".into(), self.weight.clone())]
    }

    /// The embedding with an adapter folded into its table, or with its trained table; itself where there is neither.
    ///
    /// # Errors
    /// As [`AdapterSet::merge`].
    pub fn merged(&self, adapters: &AdapterSet) -> crate::Result<Self> {
        Ok(Embedding { weight: adapters.merge(&self.name, &self.weight)?, ..self.clone() })
    }

    /// The rows of `ids` (u32, any shape): `ids.shape + [width]`.
    ///
    /// # Errors
    /// Those of [`Tensor::embedding`].
    pub fn forward(&self, forward: &Forward, ids: &Tensor) -> Result<Var> {
        let rows = forward.parameter(&self.weight_name, &self.weight).embedding(ids)?;
        let Some((set, adapter)) = forward.adapters.as_ref().and_then(|set| Some((set, set.adapter(&self.name)?)))
        else {
            return Ok(rows);
        };
        let shape = *rows.shape();
        let a = forward.leaf(set, &adapter.a)?;
        let b = forward.leaf(set, &adapter.b)?;
        let mut y = rows.reshape(&[ids.elements(), adapter.outputs])?;
        y = y.add_matmul(&self.reduced(&a, ids, adapter.rank)?, &b.t()?, adapter.scaling)?;
        if let Some(initial) = set.subtracted_product(&self.name) {
            let reduced = self.reduced(&Var::constant(initial.a.clone()), ids, adapter.rank)?;
            y = y.add_matmul(&reduced, &Var::constant(initial.b.t()?), -adapter.scaling)?;
        }
        if let Some(magnitude) = &adapter.magnitude {
            let norms = row_norms(&self.weight.t()?, a.tensor(), b.tensor(), adapter.scaling)?;
            y = y.mul(&forward.leaf(set, magnitude)?.div(&Var::constant(norms))?)?;
        }
        y.reshape(&shape)
    }

    /// Aᵀ's rows of the ids, `[ids, rank]`.
    fn reduced(&self, a: &Var, ids: &Tensor, rank: usize) -> Result<Var> {
        a.t()?.contiguous()?.embedding(ids)?.reshape(&[ids.elements(), rank])
    }
}
