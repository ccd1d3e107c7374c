//! One module's adapter: names, shapes and scaling of its factors.

use tensor::{DType, Tensor, TensorError};

use crate::config::LoraConfig;
use crate::error::Result;
use crate::targets::ModuleShape;

/// One module's adapter: where its factors are and how they are scaled.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// The module's path.
    pub module: String,
    /// Name of the factor A `[rank, inputs]` among the parameters: `<module>.lora_A.weight`, or
    /// `<module>.lora_embedding_A` for an embedding.
    pub a: String,
    /// Name of the factor B `[outputs, rank]` among the parameters: `<module>.lora_B.weight`, or
    /// `<module>.lora_embedding_B` for an embedding.
    pub b: String,
    /// Name of DoRA's magnitudes `[outputs]` among the parameters, `<module>.lora_magnitude_vector`, where there are.
    pub magnitude: Option<String>,
    /// Columns of a linear module's weight; the vocabulary of an embedding.
    pub inputs: usize,
    /// Rows of a linear module's weight; the width of an embedding.
    pub outputs: usize,
    /// Whether the module is an embedding, whose weight `[inputs, outputs]` the update `s·(B·A)ᵀ` is added to.
    pub embedding: bool,
    /// Rank of the update.
    pub rank: usize,
    /// The factor s of `s·B·A`.
    pub scaling: f32,
}

/// The two factors of one adapter.
#[derive(Clone, Copy, Debug)]
pub struct Factors<'a> {
    /// A, f32 `[rank, inputs]`.
    pub a: &'a Tensor,
    /// B, f32 `[outputs, rank]`.
    pub b: &'a Tensor,
    /// The factor s of `s·B·A`.
    pub scaling: f32,
}

impl Adapter {
    /// The adapter that a configuration gives a module.
    pub(crate) fn describe(config: &LoraConfig, module: &ModuleShape) -> Result<Self> {
        let name = &module.name;
        let factor = |letter: char| {
            if module.embedding {
                format!("{name}.lora_embedding_{letter}")
            } else {
                format!("{name}.lora_{letter}.weight")
            }
        };
        Ok(Adapter {
            module: name.clone(),
            a: factor('A'),
            b: factor('B'),
            magnitude: config.use_dora.then(|| format!("{name}.lora_magnitude_vector")),
            inputs: module.inputs,
            outputs: module.outputs,
            embedding: module.embedding,
            rank: config.rank_of(name)?,
            scaling: config.scaling_of(name)?,
        })
    }

    /// Shape of the module's frozen weight.
    pub(crate) fn weight_shape(&self) -> [usize; 2] {
        if self.embedding { [self.inputs, self.outputs] } else { [self.outputs, self.inputs] }
    }

    pub(crate) fn check_factors(&self, a: &Tensor, b: &Tensor) -> Result<()> {
        self.check(a, &[self.rank, self.inputs])?;
        self.check(b, &[self.outputs, self.rank])
    }

    pub(crate) fn check(&self, tensor: &Tensor, shape: &[usize]) -> Result<()> {
        if tensor.shape()[..] != *shape {
            let expected = format!("{shape:?} for the adapter of `{}`", self.module);
            return Err(TensorError::Shape { operation: "adapter", expected, found: *tensor.shape() }.into());
        }
        if tensor.dtype() != DType::F32 {
            let expected = "f32".into();
            return Err(TensorError::DType { operation: "adapter", expected, found: tensor.dtype() }.into());
        }
        Ok(())
    }
}
