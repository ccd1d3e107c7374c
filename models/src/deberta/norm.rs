//! The layer norm.

use autograd::{Operand, Var};
use lora::{AdapterSet, Forward, Linear};
use tensor::{Result, Tensor};

use super::config::DebertaConfig;
use super::layer::{drop_out, dropout_of};
use crate::weights::WeightSource;

/// A layer norm with its path in the model.
#[derive(Clone)]
pub(super) struct Norm {
    name: String,
    weight_name: String,
    bias_name: String,
    weight: Tensor,
    bias: Tensor,
    epsilon: f32,
}

impl Norm {
    /// Takes the weights of the norm `name` from `source`.
    pub fn new(config: &DebertaConfig, name: &str, source: &mut dyn WeightSource) -> crate::Result<Self> {
        let (weight_name, bias_name) = (format!("{name}.weight"), format!("{name}.bias"));
        Ok(Norm {
            name: name.into(),
            weight: source.norm(&weight_name, config.hidden_size)?,
            bias: source.bias(&bias_name, config.hidden_size)?,
            weight_name,
            bias_name,
            epsilon: config.layer_norm_eps,
        })
    }

    /// The path in the model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Names and values of the parameters, as [`lora::Model::saved_module`] tells them.
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        vec![("weight".into(), self.weight.clone()), ("bias".into(), self.bias.clone())]
    }

    /// The norm with its trained weight and bias, where there are such.
    pub fn merged(&self, adapters: &AdapterSet) -> crate::Result<Self> {
        Ok(Norm {
            weight: adapters.merge_parameter(&self.weight_name, &self.weight)?,
            bias: adapters.merge_parameter(&self.bias_name, &self.bias)?,
            ..self.clone()
        })
    }

    /// `x [.., hidden]` to the same shape.
    pub fn forward(&self, forward: &Forward, x: &Var) -> Result<Var> {
        let weight = forward.parameter(&self.weight_name, &self.weight);
        let bias = forward.parameter(&self.bias_name, &self.bias);
        x.layer_norm(&weight, &bias, self.epsilon)
    }

    /// The norm of `x + D(linear(y))` with the dropout D of what comes out of `linear`: the end of a sublayer.
    pub fn after_residual(&self, forward: &Forward, x: &Var, linear: &Linear, y: Operand, dropout: f32) -> Result<Var> {
        let branch = linear.forward(forward, y)?;
        if linear.is_mixed(forward) {
            let weight = forward.parameter(&self.weight_name, &self.weight);
            let bias = forward.parameter(&self.bias_name, &self.bias);
            let dropout = dropout_of(forward, dropout, linear.name());
            return x.residual_norm(&branch, dropout, [&weight, &bias], self.epsilon);
        }
        let branch = drop_out(forward, branch, dropout, linear.name())?;
        self.forward(forward, &x.add(&branch)?)
    }
}
