//! Linear layers in training with mixed precision: all operands of their products have 16 bits. Layers that read one input
//! are one recorded operation, so that what their adapters do alike shares launches.

use autograd::{Gradient, KeptRows, Operand, Totals, Var, record_outputs};
use tensor::{
    Addends, FactorGradient, LowRankTerm, Projection, Result, RoundedFactor, RowScaled, Shape, Tensor,
    factor_gradients, projections,
};

use super::rows::bias_gradient;
use super::{Linear, product_onto};
use crate::adapter::Adapter;
use crate::adapter_set::AdapterSet;
use crate::forward::Forward;

/// A layer of those that [`together`] computes.
pub(super) struct Branch<'a> {
    pub layer: &'a Linear,
    pub bias: Option<Var>,
    pub adapter: Option<PlainAdapter>,
}

/// What becomes of an operation's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    Value,
    /// Only its gradient is wanted.
    GradientOnly,
}

/// An adapter without peculiarities: `s·(x·Aᵀ)·Bᵀ`.
pub(super) struct PlainAdapter {
    pub a: Var,
    pub b: Var,
    /// The values of `a` and `b`.
    pub rounded: [RoundedFactor; 2],
    pub scaling: f32,
}

impl Linear {
    /// The layer as [`together`] takes it, where it can: in a training step, with an f16 weight that nobody trains, and with
    /// a plain adapter, or with none where a gradient is wanted of it all the same.
    pub(super) fn branch(&self, forward: &Forward, x: &Operand) -> Result<Option<Branch<'_>>> {
        // What only computes takes the factors as they are.
        let trains = forward.dropout.is_some() && forward.stack.is_none();
        if !trains || !self.is_mixed(forward) {
            return Ok(None);
        }
        let adapter = forward.adapters.as_ref().and_then(|set| Some((set, set.adapter(&self.name)?)));
        let adapter = match adapter {
            Some((set, adapter)) if self.is_plain(set, adapter) => Some(PlainAdapter {
                a: forward.leaf(set, &adapter.a)?,
                b: forward.leaf(set, &adapter.b)?,
                rounded: forward.rounded.of(set, adapter)?,
                scaling: adapter.scaling,
            }),
            None if x.requires_gradient() => None,
            _ => return Ok(None),
        };
        let bias = self.bias.as_ref().map(|bias| forward.parameter(&self.bias_name, bias));
        Ok(Some(Branch { layer: self, bias, adapter }))
    }

    fn is_plain(&self, set: &AdapterSet, adapter: &Adapter) -> bool {
        let dropout = set.config().dropout;
        dropout <= 0.0 && set.subtracted_product(&self.name).is_none() && adapter.magnitude.is_none()
    }
}

/// `yᵢ = x·Wᵢᵀ + biasᵢ + sᵢ·(x·Aᵢᵀ)·Bᵢᵀ` for each of the layers as one recorded operation. Besides x and dy, as in every layer
/// in mixed precision, the factors are rounded to 16 bits, and so are their products with x and dy; sums and all results are
/// f32. See [`JointRule`].
///
/// The first layer's output has the residual added to it, if there is one, or is the residual where nobody reads it.
pub(super) fn together(branches: &[Branch<'_>], x: &Operand, residual: Option<(&Var, Reading)>) -> Result<Vec<Var>> {
    if branches.is_empty() {
        return Ok(Vec::new());
    }
    let rows = x.row_scaled()?;
    let operand = rows.as_left_operand();
    let adapters = branches.iter().filter_map(|branch| branch.adapter.as_ref());
    let products: Vec<_> = adapters.map(|adapter| (&rows, &adapter.rounded[0])).collect();
    let mut projections = projections(&products)?.into_iter();
    let (mut inputs, mut outputs, mut saved) = (vec![x.clone()], Vec::new(), Vec::new());
    let mut input = |var: &Var| {
        inputs.push(var.into());
        inputs.len() - 1
    };
    let residual_input = residual.map(|(residual, _)| input(residual));
    let mut onto = residual.map(|(residual, reading)| Ok((residual.tensor().as_rows()?, reading))).transpose()?;
    for Branch { layer, bias, adapter } in branches {
        // One projection for each adapter.
        let adapter = adapter.as_ref().and_then(|adapter| Some((adapter, projections.next()?)));
        let low_rank = adapter.as_ref().map(|(PlainAdapter { rounded: [_, b], scaling, .. }, h)| LowRankTerm {
            projection: h,
            factor: b,
            alpha: *scaling,
        });
        let output = match onto.take() {
            Some((residual, Reading::GradientOnly)) => residual,
            onto => {
                let onto = onto.map(|(residual, _)| residual);
                let addends = Addends { low_rank, bias: bias.as_ref().map(Var::tensor), onto };
                operand.matmul_plus(&layer.weight.t()?, addends)?
            }
        };
        outputs.push(output.reshape(&layer.output_shape(x))?);
        saved.push(Saved {
            weight: layer.weight.clone(),
            bias: bias.as_ref().filter(|bias| bias.requires_gradient()).map(&mut input),
            adapter: adapter.map(|(PlainAdapter { a, b, rounded: [rounded_a, rounded_b], scaling }, h)| SavedAdapter {
                h,
                a: rounded_a.clone(),
                b: rounded_b.clone(),
                scaling: *scaling,
                inputs: [a, b].map(&mut input),
            }),
        });
    }
    let rule = JointRule {
        x: x.kept()?,
        branches: saved,
        residual: residual_input,
        input_shape: *x.shape(),
        input_needs_gradient: x.requires_gradient(),
    };
    Ok(record_outputs("linear layers", &inputs, outputs, move |dy, totals| rule.backward(dy, totals)))
}

/// The derivative with `hᵢ = x·Aᵢᵀ` and `gᵢ = dyᵢ·Bᵢ`, of layers whose output somebody read:
///
/// - `dBᵢ = sᵢ·dyᵢᵀ·hᵢ`
/// - `dAᵢ = sᵢ·gᵢᵀ·x`
/// - `dx = Σᵢ dyᵢ·Wᵢ + sᵢ·gᵢ·Aᵢ`, the last layer first, as if they had been recorded one after another
/// - the gradient of a bias is the sum of the rows of its dy, that of a residual is dy itself
struct JointRule {
    x: KeptRows,
    branches: Vec<Saved>,
    /// Number of what the first layer's output was added to.
    residual: Option<usize>,
    input_shape: Shape,
    input_needs_gradient: bool,
}

/// What the rule needs of a layer.
struct Saved {
    weight: Tensor,
    /// Number of the bias among the operation's inputs, where it is trained.
    bias: Option<usize>,
    adapter: Option<SavedAdapter>,
}

struct SavedAdapter {
    h: Projection,
    a: RoundedFactor,
    b: RoundedFactor,
    scaling: f32,
    /// Numbers of A and B among the operation's inputs.
    inputs: [usize; 2],
}

impl JointRule {
    /// Input 0 is x.
    fn backward(self, dy: Vec<Option<Gradient>>, totals: &mut Totals) -> Result<()> {
        if let (Some(residual), Some(Some(dy))) = (self.residual, dy.first()) {
            totals.add(residual, dy.clone().into_tensor()?)?;
        }
        let read = self.branches.into_iter().zip(dy).filter_map(|(branch, dy)| Some((branch, dy?)));
        let (branches, dy): (Vec<Saved>, Vec<Gradient>) = read.unzip();
        for (branch, dy) in branches.iter().zip(&dy) {
            if let Some(bias) = branch.bias {
                totals.add(bias, bias_gradient(dy)?)?;
            }
        }
        let dy = Gradient::row_scaled_together(dy)?;
        let mut g = of_factors(self.x, &branches, &dy, totals)?;
        if !self.input_needs_gradient {
            return Ok(());
        }
        // Each goes as soon as it has been read.
        for (branch, dy) in branches.into_iter().zip(dy).rev() {
            let g = branch.adapter.as_ref().and_then(|_| g.pop());
            let low_rank = branch
                .adapter
                .as_ref()
                .zip(g.as_ref())
                .map(|(SavedAdapter { a, scaling, .. }, g)| LowRankTerm { projection: g, factor: a, alpha: *scaling });
            totals.update(0, |total| {
                product_onto(total, &self.input_shape, |onto| {
                    dy.matmul_plus(&branch.weight, Addends { low_rank, bias: None, onto })
                })
            })?;
        }
        Ok(())
    }
}

/// Adds up the gradients of all factors, and returns g of each layer that has an adapter.
fn of_factors(x: KeptRows, branches: &[Saved], dy: &[RowScaled], totals: &mut Totals) -> Result<Vec<Projection>> {
    let adapted = branches.iter().zip(dy).filter_map(|(branch, dy)| Some((branch.adapter.as_ref()?, dy)));
    let adapted: Vec<(&SavedAdapter, &RowScaled)> = adapted.collect();
    if adapted.is_empty() {
        return Ok(Vec::new());
    }
    let products: Vec<_> = adapted.iter().map(|&(adapter, dy)| (dy, &adapter.b)).collect();
    let (g, x) = (projections(&products)?, x.rows()?);
    let mut gradients = Vec::with_capacity(2 * adapted.len());
    for (&(SavedAdapter { h, a, b, scaling, inputs }, dy), g) in adapted.iter().zip(&g) {
        let of_a = FactorGradient { matrix: &x, projection: g, like: a, alpha: *scaling };
        let of_b = FactorGradient { matrix: dy, projection: h, like: b, alpha: *scaling };
        gradients.push((of_a, totals.take(inputs[0])?));
        gradients.push((of_b, totals.take(inputs[1])?));
    }
    let gradients = factor_gradients(gradients)?;
    let inputs = adapted.iter().flat_map(|(adapter, _)| adapter.inputs);
    inputs.zip(gradients).try_for_each(|(input, gradient)| totals.add(input, gradient))?;
    Ok(g)
}
