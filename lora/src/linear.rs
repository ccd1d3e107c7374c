//! The linear layer that may carry an adapter: one differentiation rule for both.

use autograd::{Var, record};
use tensor::{RandomKey, Result, Tensor, TensorError};

use crate::adapter_set::{Adapter, AdapterSet};
use crate::forward::Forward;
use crate::targets::ModuleShape;

#[cfg(test)]
mod tests;

/// A frozen linear layer, `y = x·Wᵀ + bias`, plus `s·(dropout(x)·Aᵀ)·Bᵀ` where the pass has an adapter for its name. Where
/// the pass has trained copies of its weight and bias, these take their place.
#[derive(Clone, Debug)]
pub struct Linear {
    name: String,
    weight_name: String,
    bias_name: String,
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// A layer from its path in the model, weight `[outputs, inputs]` (f32, f16 or bf16) and bias f32 `[outputs]`.
    ///
    /// # Errors
    /// [`TensorError::Shape`] or [`TensorError::DType`] for other tensors.
    pub fn new(name: impl Into<String>, weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        if weight.rank() != 2 {
            let expected = "a weight [outputs, inputs]".into();
            return Err(TensorError::Shape { operation: "linear", expected, found: *weight.shape() });
        }
        if !weight.dtype().is_float() {
            let expected = "f32, f16 or bf16".into();
            return Err(TensorError::DType { operation: "linear", expected, found: weight.dtype() });
        }
        if let Some(bias) = &bias
            && bias.shape()[..] != weight.shape()[..1]
        {
            let expected = format!("a bias [{}]", weight.shape()[0]);
            return Err(TensorError::Shape { operation: "linear", expected, found: *bias.shape() });
        }
        let name = name.into();
        Ok(Linear { weight_name: format!("{name}.weight"), bias_name: format!("{name}.bias"), name, weight, bias })
    }

    /// The layer's path in the model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The frozen weight, `[outputs, inputs]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The frozen bias, `[outputs]`.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// Name and extents, as injection needs them.
    pub fn shape(&self) -> ModuleShape {
        ModuleShape::new(&self.name, self.weight.shape()[1], self.weight.shape()[0])
    }

    /// Names and values of the parameters, as [`crate::Model::saved_module`] tells them.
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        let bias = self.bias.iter().map(|bias| ("bias".to_string(), bias.clone()));
        [("weight".to_string(), self.weight.clone())].into_iter().chain(bias).collect()
    }

    /// The layer with an adapter folded into its weight, or with its trained weight and bias; the layer itself where there
    /// is neither for its name.
    ///
    /// # Errors
    /// As [`AdapterSet::merge`].
    pub fn merged(&self, adapters: &AdapterSet) -> crate::Result<Self> {
        let bias = self.bias.as_ref().map(|bias| adapters.merge_parameter(&self.bias_name, bias)).transpose()?;
        Ok(Linear { weight: adapters.merge(&self.name, &self.weight)?, bias, ..self.clone() })
    }

    /// `x [.., inputs] -> [.., outputs]`.
    ///
    /// # Errors
    /// [`TensorError::Shape`] when the last axis is not the layer's, or the device's own errors.
    pub fn forward(&self, forward: &Forward, x: &Var) -> Result<Var> {
        match forward.adapters.as_ref().and_then(|set| Some((set, set.adapter(&self.name)?))) {
            Some((set, adapter)) => self.adapted(forward, x, set, adapter),
            None => {
                let weight = forward.parameter(&self.weight_name, &self.weight);
                let bias = self.bias.as_ref().map(|bias| forward.parameter(&self.bias_name, bias));
                self.plain(x, &weight, bias.as_ref())
            }
        }
    }

    /// `[.., inputs]` as `[rows, inputs]`.
    fn flatten(&self, x: &Var) -> Result<Tensor> {
        let inputs = self.weight.shape()[1];
        match x.shape().split_last() {
            Some((&last, leading)) if last == inputs => x.tensor().reshape(&[leading.iter().product(), inputs]),
            _ => {
                let expected = format!("[.., {inputs}] as input of `{}`", self.name);
                Err(TensorError::Shape { operation: "linear", expected, found: *x.shape() })
            }
        }
    }

    /// The shape of the result for an input that [`Linear::flatten`] accepted.
    fn output_shape(&self, x: &Var) -> Vec<usize> {
        let mut shape = x.shape().to_vec();
        shape.pop();
        shape.push(self.weight.shape()[0]);
        shape
    }

    /// x·Wᵀ + bias for x `[rows, inputs]`.
    fn base(&self, x: &Tensor) -> Result<Tensor> {
        product(x, &self.weight, self.bias.as_ref())
    }

    /// The layer without an adapter, with a weight and bias of the shapes of its own: dx = dy·W, dW = dyᵀ·x, and the bias's
    /// gradient is the sum of dy's rows. Keeps x only for the weight's sake.
    fn plain(&self, x: &Var, weight: &Var, bias: Option<&Var>) -> Result<Var> {
        let flat = self.flatten(x)?;
        let output = product(&flat, weight.tensor(), bias.map(Var::tensor))?.reshape(&self.output_shape(x))?;
        let (input_shape, rows) = (*x.shape(), flat.shape()[0]);
        let for_input = x.requires_gradient().then(|| weight.tensor().clone());
        let for_weight = weight.requires_gradient().then_some(flat);
        let for_bias = bias.map(Var::requires_gradient);
        let outputs = self.weight.shape()[0];
        let inputs: Vec<&Var> = [x, weight].into_iter().chain(bias).collect();
        Ok(record("linear", &inputs, output, move |dy| {
            let dy = dy.reshape(&[rows, outputs])?;
            let dx = for_input.map(|weight| dy.matmul(&weight)?.reshape(&input_shape)).transpose()?;
            let dw = for_weight.map(|x| dy.t()?.matmul(&x)).transpose()?;
            let db = for_bias.map(|wanted| wanted.then(|| dy.sum(&[0], false)).transpose());
            [dx, dw].into_iter().map(Ok).chain(db).collect()
        }))
    }

    fn adapted(&self, forward: &Forward, x: &Var, set: &AdapterSet, adapter: &Adapter) -> Result<Var> {
        // A set holds both factors of each of its adapters; one could only be missing because it was removed by hand.
        let factor = |name: &str| {
            set.parameters().get(name).ok_or_else(|| TensorError::InvalidArgument {
                operation: "linear",
                message: format!("the parameter `{name}` is gone from the adapter set"),
            })
        };
        let a = forward.tape.leaf(&adapter.a, factor(&adapter.a)?);
        let b = forward.tape.leaf(&adapter.b, factor(&adapter.b)?);
        let probability = set.config().dropout;
        let dropout = forward.dropout.filter(|_| probability > 0.0);
        let dropout = dropout.map(|source| Dropout { probability, key: source.key(&self.name) });
        self.with_factors(x, &a, &b, adapter.scaling, dropout)
    }

    /// The layer with its adapter as one recorded operation; see [`AdaptedRule`].
    fn with_factors(&self, x: &Var, a: &Var, b: &Var, scaling: f32, dropout: Option<Dropout>) -> Result<Var> {
        let flat = self.flatten(x)?;
        let h = Dropout::apply(dropout, &flat)?.matmul(&a.tensor().t()?)?;
        let output = self.base(&flat)?.matmul_accumulate(&h, &b.tensor().t()?, scaling)?;
        let output = output.reshape(&self.output_shape(x))?;
        let rule = AdaptedRule {
            x: flat,
            h,
            a: a.tensor().clone(),
            b: b.tensor().clone(),
            weight: self.weight.clone(),
            scaling,
            dropout,
            input_shape: x.shape().to_vec(),
            input_needs_gradient: x.requires_gradient(),
        };
        Ok(record("linear with adapter", &[x, a, b], output, move |dy| rule.backward(dy)))
    }
}

/// x·Wᵀ + bias.
fn product(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let y = x.matmul(&weight.t()?)?;
    match bias {
        Some(bias) => y.add(bias),
        None => Ok(y),
    }
}

/// One place's dropout in one pass.
#[derive(Clone, Copy)]
struct Dropout {
    probability: f32,
    key: RandomKey,
}

impl Dropout {
    fn apply(dropout: Option<Self>, x: &Tensor) -> Result<Tensor> {
        match dropout {
            Some(Dropout { probability, key }) => x.dropout(probability, key),
            None => Ok(x.clone()),
        }
    }
}

/// The derivative of `y = x·Wᵀ + bias + s·h·Bᵀ` with `h = D(x)·Aᵀ`, D being dropout (which is its own adjoint).
///
/// - `g = s·dy·B`, of shape `[rows, rank]`
/// - `dB = s·dyᵀ·h`
/// - `dA = gᵀ·D(x)`
/// - `dx = dy·W + D(g·A)`
///
/// x is shared with the layer's siblings and D(x) is computed again, so that dropout costs no memory. W + s·B·A is never
/// formed.
struct AdaptedRule {
    x: Tensor,
    h: Tensor,
    a: Tensor,
    b: Tensor,
    weight: Tensor,
    scaling: f32,
    dropout: Option<Dropout>,
    input_shape: Vec<usize>,
    input_needs_gradient: bool,
}

impl AdaptedRule {
    fn backward(self, dy: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let dy = dy.reshape(&[self.x.shape()[0], self.weight.shape()[0]])?;
        let db = dy.t()?.matmul(&self.h)?.affine(self.scaling, 0.0)?;
        drop(self.h);
        let g = dy.matmul(&self.b)?.affine(self.scaling, 0.0)?;
        let da = g.t()?.matmul(&Dropout::apply(self.dropout, &self.x)?)?;
        drop(self.x);
        if !self.input_needs_gradient {
            return Ok(vec![None, Some(da), Some(db)]);
        }
        let dx = dy.matmul(&self.weight)?;
        let dx = match self.dropout {
            None => dx.matmul_accumulate(&g, &self.a, 1.0)?,
            Some(_) => dx.add(&Dropout::apply(self.dropout, &g.matmul(&self.a)?)?)?,
        };
        Ok(vec![Some(dx.reshape(&self.input_shape)?), Some(da), Some(db)])
    }
}
