//! Linear layers in training with mixed precision: all operands of their products have 16 bits. Layers that read one input
//! are one recorded operation, so that what their adapters do alike shares launches.

use autograd::{Gradient, KeptRows, Operand, RoundedVar, Totals, Var, record_outputs, record_rounded_outputs};
use tensor::{
    Addends, FactorGradient, LeftOperand, LowRankTerm, Projection, Result, RoundedFactor, RowScaled, Shape, Tensor,
    factor_gradients, projections,
};

use super::rows::bias_gradient;
use super::{Linear, product_onto};
use crate::adapter::Adapter;
use crate::adapter_set::AdapterSet;
use crate::forward::Forward;

/// What the operation is called.
const NAME: &str = "linear layers";

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
    /// a plain adapter or none. Whether a gradient is wanted makes no difference, so that a segment which is computed again
    /// ([`Forward::checkpoint`]) computes the same.
    pub(super) fn branch(&self, forward: &Forward) -> Result<Option<Branch<'_>>> {
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
            Some(_) => return Ok(None),
            None => None,
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
    let mut onto = residual.map(|(residual, reading)| Ok((residual.tensor().as_rows()?, reading))).transpose()?;
    let Recording { inputs, outputs, rule } =
        computed(branches, x, residual.map(|(residual, _)| residual), |operand, branch, low_rank| {
            let onto = match onto.take() {
                Some((residual, Reading::GradientOnly)) => return Ok(residual),
                onto => onto.map(|(residual, _)| residual),
            };
            let addends = Addends { low_rank, bias: branch.bias.as_ref().map(Var::tensor), onto };
            operand.matmul_plus(&branch.layer.weight.t()?, addends)
        })?;
    let shaped = outputs.into_iter().map(|(output, shape)| output.reshape(&shape)).collect::<Result<_>>()?;
    Ok(record_outputs(NAME, &inputs, shaped, move |dy, totals| rule.backward(dy, totals)))
}

/// As [`together`] of layers without biases, with outputs in 16 bits ([`LeftOperand::matmul_rounded`]).
pub(super) fn together_rounded(branches: &[Branch<'_>], x: &Operand) -> Result<Vec<RoundedVar>> {
    if branches.is_empty() {
        return Ok(Vec::new());
    }
    let Recording { inputs, outputs, rule } = computed(branches, x, None, |operand, branch, low_rank| {
        operand.matmul_rounded(&branch.layer.weight.t()?, low_rank)
    })?;
    Ok(record_rounded_outputs(NAME, &inputs, outputs, move |dy, totals| rule.backward(dy, totals)))
}

/// Several layers as one operation to be recorded: inputs, outputs with their shapes, and the rule.
struct Recording<T> {
    inputs: Vec<Operand>,
    outputs: Vec<(T, Shape)>,
    rule: JointRule,
}

/// Computes layers, one at least, by `product` of the input with a layer's weight and the adapter's term.
fn computed<T>(
    branches: &[Branch<'_>],
    x: &Operand,
    residual: Option<&Var>,
    mut product: impl FnMut(&LeftOperand<'_>, &Branch<'_>, Option<LowRankTerm<'_>>) -> Result<T>,
) -> Result<Recording<T>> {
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
    let residual = residual.map(&mut input);
    for branch in branches {
        let Branch { layer, bias, adapter } = branch;
        // One projection for each adapter.
        let adapter = adapter.as_ref().and_then(|adapter| Some((adapter, projections.next()?)));
        let low_rank = adapter.as_ref().map(|(PlainAdapter { rounded: [_, b], scaling, .. }, h)| LowRankTerm {
            projection: h,
            factor: b,
            alpha: *scaling,
        });
        outputs.push((product(&operand, branch, low_rank)?, Shape::new(&layer.output_shape(x))?));
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
        residual,
        input_shape: *x.shape(),
        input_gradient: match (x.requires_gradient(), x.reads_rounded_gradient()) {
            (false, _) => InputGradient::Unwanted,
            (true, false) => InputGradient::Exact,
            (true, true) => InputGradient::Rounded,
        },
    };
    Ok(Recording { inputs, outputs, rule })
}

/// The derivative with `hᵢ = x·Aᵢᵀ` and `gᵢ = dyᵢ·Bᵢ`, of layers whose output somebody read:
///
/// - `dBᵢ = sᵢ·dyᵢᵀ·hᵢ`
/// - `dAᵢ = sᵢ·gᵢᵀ·x`
/// - `dx = Σᵢ dyᵢ·Wᵢ + sᵢ·gᵢ·Aᵢ`, the last layer first, as if they had been recorded one after another; in 16 bits where it is
///   that of one layer alone and [read as such](RoundedVar::reads_rounded_gradient)
/// - the gradient of a bias is the sum of the rows of its dy, that of a residual is dy itself
struct JointRule {
    x: KeptRows,
    branches: Vec<Saved>,
    /// Number of what the first layer's output was added to.
    residual: Option<usize>,
    input_shape: Shape,
    input_gradient: InputGradient,
}

/// As what the gradient of an operation's input is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InputGradient {
    Unwanted,
    Exact,
    /// In 16 bits, where it is no sum.
    Rounded,
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
        let rounds = match self.input_gradient {
            InputGradient::Unwanted => return Ok(()),
            InputGradient::Exact => false,
            InputGradient::Rounded => branches.len() == 1 && totals.is_empty(0)?,
        };
        // Each goes as soon as it has been read.
        for (branch, dy) in branches.into_iter().zip(dy).rev() {
            let g = branch.adapter.as_ref().and_then(|_| g.pop());
            let low_rank = branch
                .adapter
                .as_ref()
                .zip(g.as_ref())
                .map(|(SavedAdapter { a, scaling, .. }, g)| LowRankTerm { projection: g, factor: a, alpha: *scaling });
            if rounds {
                let gradient = dy.as_left_operand().matmul_rounded(&branch.weight, low_rank)?;
                totals.add_rounded(0, gradient, &self.input_shape)?;
                continue;
            }
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
