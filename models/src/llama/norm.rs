//! The root-mean-square norm.

use autograd::{Operand, Var};
use lora::{AdapterSet, Forward, Linear};
use tensor::{Result, Tensor};

use crate::weights::WeightSource;

/// A root-mean-square norm with its path in the model.
#[derive(Clone)]
pub(super) struct Norm {
    name: String,
    weight_name: String,
    weight: Tensor,
    epsilon: f32,
}

impl Norm {
    /// Takes the weight of the norm `name`, as wide as the residual stream, from `source`.
    pub fn new(
        name: impl Into<String>,
        width: usize,
        epsilon: f32,
        source: &mut dyn WeightSource,
    ) -> crate::Result<Self> {
        let name = name.into();
        let weight_name = format!("{name}.weight");
        Ok(Norm { weight: source.norm(&weight_name, width)?, name, weight_name, epsilon })
    }

    /// The path in the model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Names and values of the parameters, as [`lora::Model::saved_module`] tells them.
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        vec![("weight".into(), self.weight.clone())]
    }

    /// The norm with its trained weight, where there is one.
    pub fn merged(&self, adapters: &AdapterSet) -> crate::Result<Self> {
        Ok(Norm { weight: adapters.merge_parameter(&self.weight_name, &self.weight)?, ..self.clone() })
    }

    /// `x [.., width]` to the same shape.
    pub fn forward(&self, forward: &Forward, x: &Var) -> Result<Var> {
        x.rms_norm(&forward.parameter(&self.weight_name, &self.weight), self.epsilon)
    }

    /// As [`Norm::forward`], where only `readers` read the result: in 16 bits if all of them round it anyway.
    pub fn forward_to(&self, forward: &Forward, x: &Var, readers: &[&Linear]) -> Result<Operand> {
        if !readers.iter().all(|linear| linear.is_mixed(forward)) {
            return Ok(self.forward(forward, x)?.into());
        }
        let weight = forward.parameter(&self.weight_name, &self.weight);
        Ok(x.rms_norm_rounded(&weight, self.epsilon)?.into())
    }
}
