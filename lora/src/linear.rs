//! The linear layer that may carry an adapter: one differentiation rule for both.

use autograd::{Operand, Var, record_accumulating};
use tensor::{Result, Shape, Tensor, TensorError};

use self::adapted::{Dropout, Update};
use self::mixed::Reading;
use self::rows::{Rows, bias_gradient, is_mixed};
use crate::adapter::Adapter;
use crate::adapter_set::AdapterSet;
use crate::forward::Forward;
use crate::stack::StackedFactors;
use crate::targets::ModuleShape;

mod adapted;
mod decomposed;
mod mixed;
mod rounded_factors;
#[cfg(test)]
mod rounded_tests;
mod rows;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod together_tests;

pub(crate) use decomposed::row_norms;
pub use rounded_factors::RoundedFactors;

/// A frozen linear layer, `y = x·Wᵀ + bias`, plus `s·(dropout(x)·Aᵀ)·Bᵀ` where the pass has an adapter for its name. Where
/// the pass has trained copies of its weight and bias, these take their place.
///
/// With an f16 weight the layer is computed in mixed precision: its input and the gradient of its output are rounded to 16
/// bits row by row ([`Tensor::row_scaled`]) for all its products, and the rounded input is what is kept. Sums, results and
/// factors are f32.
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

    /// Whether the layer is computed in mixed precision under these circumstances: from a rounded input, with a rounded
    /// gradient of its output. It is not where a trained copy takes the place of its weight.
    pub fn is_mixed(&self, forward: &Forward) -> bool {
        let trained = |set: &AdapterSet| set.whole_entry(&self.weight_name).is_some();
        is_mixed(&self.weight) && !forward.adapters.as_ref().is_some_and(trained)
    }

    /// `x [.., inputs] -> [.., outputs]`.
    ///
    /// # Errors
    /// [`TensorError::Shape`] when the last axis is not the layer's, or the device's own errors.
    pub fn forward(&self, forward: &Forward, x: impl Into<Operand>) -> Result<Var> {
        let x = &x.into();
        self.check_input(x)?;
        self.forward_as(self.branch(forward)?, forward, x)
    }

    /// `residual` plus what [`Linear::forward`] gives, at the cost of one pass less where the layer trains in mixed precision.
    ///
    /// # Errors
    /// As [`Linear::forward`]; [`TensorError::Shape`] where the residual is not of the output's shape.
    pub fn forward_onto(&self, forward: &Forward, x: impl Into<Operand>, residual: &Var) -> Result<Var> {
        self.added_to(forward, &x.into(), residual, Reading::Value)
    }

    /// [`Linear::forward_onto`] as the last operation of all that is computed on the pass's tape. Where nobody reads what that
    /// yields ([`autograd::Tape::output_is_read`]), the value is the residual's: the product with the frozen weight, which the
    /// gradients do not need, is left out.
    ///
    /// # Errors
    /// As [`Linear::forward_onto`].
    pub fn forward_onto_last(&self, forward: &Forward, x: impl Into<Operand>, residual: &Var) -> Result<Var> {
        let reading = if forward.tape.output_is_read() { Reading::Value } else { Reading::GradientOnly };
        self.added_to(forward, &x.into(), residual, reading)
    }

    fn added_to(&self, forward: &Forward, x: &Operand, residual: &Var, reading: Reading) -> Result<Var> {
        self.check_input(x)?;
        let output = self.output_shape(x);
        if residual.shape()[..] != output[..] {
            let expected = format!("a residual {output:?} of `{}`", self.name);
            return Err(TensorError::Shape { operation: "linear", expected, found: *residual.shape() });
        }
        match self.branch(forward)? {
            Some(branch) => Ok(mixed::together(&[branch], x, Some((residual, reading)))?.remove(0)),
            None => residual.add(&self.forward_alone(forward, x)?),
        }
    }

    /// [`Linear::forward`] of layers that read one input, at the cost of fewer launches where all of them train in mixed
    /// precision. The values and gradients are the same, gradients added up in the same order, except that on tensor cores an
    /// adapter's products are sums of other parts ([`tensor::projections`]).
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub fn forward_together<const N: usize>(
        forward: &Forward,
        layers: [&Self; N],
        x: impl Into<Operand>,
    ) -> Result<[Var; N]> {
        let x = &x.into();
        layers.iter().try_for_each(|layer| layer.check_input(x))?;
        let branches = layers.iter().map(|layer| layer.branch(forward)).collect::<Result<Vec<_>>>()?;
        let outputs = if branches.iter().all(Option::is_some) {
            mixed::together(&branches.into_iter().flatten().collect::<Vec<_>>(), x, None)?
        } else {
            let each = layers.iter().zip(branches);
            each.map(|(layer, branch)| layer.forward_as(branch, forward, x)).collect::<Result<_>>()?
        };
        // Proof: one output for each layer.
        Ok(outputs.try_into().expect("N outputs"))
    }

    /// [`Linear::forward_together`] for a reader that rounds what it reads: where all layers train in mixed precision and none has
    /// a bias, the outputs are variables in 16 bits, whose gradients had better be, too; otherwise they are in f32. An output's
    /// rows have the input's powers of two, see [`tensor::LeftOperand::matmul_rounded`] for its precision and range.
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub fn forward_together_rounded<const N: usize>(
        forward: &Forward,
        layers: [&Self; N],
        x: impl Into<Operand>,
    ) -> Result<[Operand; N]> {
        let x = &x.into();
        layers.iter().try_for_each(|layer| layer.check_input(x))?;
        let branches = layers.iter().map(|layer| layer.branch(forward)).collect::<Result<Option<Vec<_>>>>()?;
        match branches.filter(|branches| branches.iter().all(|branch| branch.bias.is_none())) {
            Some(branches) => {
                let outputs: Vec<_> = mixed::together_rounded(&branches, x)?.into_iter().map(Operand::from).collect();
                // Proof: one output for each layer.
                Ok(outputs.try_into().expect("N outputs"))
            }
            None => Ok(Self::forward_together(forward, layers, x)?.map(Operand::from)),
        }
    }

    /// The layer by itself, as its [`Linear::branch`], where it has one.
    fn forward_as(&self, branch: Option<mixed::Branch<'_>>, forward: &Forward, x: &Operand) -> Result<Var> {
        match branch {
            // One output for one layer.
            Some(branch) => Ok(mixed::together(&[branch], x, None)?.remove(0)),
            None => self.forward_alone(forward, x),
        }
    }

    /// A layer that has no [`Linear::branch`].
    fn forward_alone(&self, forward: &Forward, x: &Operand) -> Result<Var> {
        if let Some((stack, factors)) =
            forward.stack.as_ref().and_then(|stack| Some((stack, stack.factors(&self.name)?)))
        {
            return self.stacked(forward, x, stack.sets(), factors);
        }
        match forward.adapters.as_ref().and_then(|set| Some((set, set.adapter(&self.name)?))) {
            Some((set, adapter)) => self.adapted(forward, x, set, adapter),
            None => {
                let weight = forward.parameter(&self.weight_name, &self.weight);
                let bias = self.bias.as_ref().map(|bias| forward.parameter(&self.bias_name, bias));
                self.plain(x, &weight, bias.as_ref())
            }
        }
    }

    fn check_input(&self, x: &Operand) -> Result<()> {
        let inputs = self.weight.shape()[1];
        match x.shape().last() {
            Some(&last) if last == inputs => Ok(()),
            _ => {
                let expected = format!("[.., {inputs}] as input of `{}`", self.name);
                Err(TensorError::Shape { operation: "linear", expected, found: *x.shape() })
            }
        }
    }

    /// The shape of the result.
    fn output_shape(&self, x: &Operand) -> Vec<usize> {
        let mut shape = x.shape().to_vec();
        shape.pop();
        shape.push(self.weight.shape()[0]);
        shape
    }

    /// The layer without an adapter, with a weight and bias of the shapes of its own: dx = dy·W, dW = dyᵀ·x, and the bias's
    /// gradient is the sum of dy's rows. Keeps x only for the weight's sake.
    fn plain(&self, x: &Operand, weight: &Var, bias: Option<&Var>) -> Result<Var> {
        let input_shape = *x.shape();
        let input = Rows::of_input(x, weight.tensor())?;
        let output = input.product(weight.tensor(), bias.map(Var::tensor))?.reshape(&self.output_shape(x))?;
        let for_input = x.requires_gradient().then(|| weight.tensor().clone());
        let for_weight = weight.requires_gradient().then(|| input.restored()).transpose()?;
        let for_bias = bias.is_some_and(Var::requires_gradient);
        let inputs: Vec<Operand> = [x.clone(), weight.into()].into_iter().chain(bias.map(Operand::from)).collect();
        Ok(record_accumulating("linear", &inputs, output, move |dy, totals| {
            if for_bias {
                totals.add(2, bias_gradient(&dy)?)?;
            }
            if let Some(x) = for_weight {
                totals.add(1, Rows::exact(dy.clone())?.t()?.matmul(&x)?)?;
            }
            if let Some(weight) = for_input {
                let dy = Rows::of_gradient(dy, &weight)?;
                totals.update(0, |total| product_onto(total, &input_shape, |onto| dy.matmul_onto(&weight, onto)))?;
            }
            Ok(())
        }))
    }

    /// The layer with a different adapter for each part of the batch, without gradients: one product with the frozen weight
    /// for all parts.
    fn stacked(&self, forward: &Forward, x: &Operand, sets: usize, factors: &StackedFactors) -> Result<Var> {
        let shape = x.shape();
        // With fewer axes the first is not the batch's.
        if shape.len() < 3 || !shape[0].is_multiple_of(sets) {
            let expected = format!("[{sets} · batch, sequence, inputs] for {sets} adapters of `{}` at once", self.name);
            return Err(TensorError::Shape { operation: "linear", expected, found: *shape });
        }
        let [outputs, inputs] = [self.weight.shape()[0], self.weight.shape()[1]];
        let rows = shape[..shape.len() - 1].iter().product::<usize>() / sets;
        let h = x.to_tensor()?.reshape(&[sets, rows, inputs])?.matmul(&factors.a)?;
        let bias = self.bias.as_ref().map(|bias| forward.parameter(&self.bias_name, bias));
        let input = Rows::of_input(x, &self.weight)?;
        let output = input.product(&self.weight, bias.as_ref().map(Var::tensor))?.reshape(&[sets, rows, outputs])?;
        let output = output.matmul_accumulate(&h, &factors.b, factors.scaling)?;
        Ok(Var::constant(output.reshape(&self.output_shape(x))?))
    }

    fn adapted(&self, forward: &Forward, x: &Operand, set: &AdapterSet, adapter: &Adapter) -> Result<Var> {
        let (a, b) = (forward.leaf(set, &adapter.a)?, forward.leaf(set, &adapter.b)?);
        let bias = self.bias.as_ref().map(|bias| forward.parameter(&self.bias_name, bias));
        let probability = set.config().dropout;
        let dropout = forward.dropout.filter(|_| probability > 0.0);
        let subtracted = set.subtracted_product(&self.name).map(|initial| (initial.a.clone(), initial.b.clone()));
        let update = Update {
            scaling: adapter.scaling,
            dropout: dropout.map(|source| Dropout { probability, key: source.key(&self.name) }),
            subtracted,
        };
        match &adapter.magnitude {
            Some(name) => self.decomposed(x, [&a, &b, &forward.leaf(set, name)?], bias.as_ref(), update),
            None => self.with_factors(x, &a, &b, bias.as_ref(), update),
        }
    }
}

/// A gradient of a layer's input: what it has gathered so far, of the input's shape, goes to `product` as a matrix, to be
/// added to.
fn product_onto(
    total: Option<Tensor>,
    input_shape: &Shape,
    product: impl FnOnce(Option<Tensor>) -> Result<Tensor>,
) -> Result<Tensor> {
    // The total is given up here, so that the matrix is its elements' only holder.
    let onto = total.map(|total| total.as_rows()).transpose()?;
    product(onto)?.reshape(input_shape)
}
