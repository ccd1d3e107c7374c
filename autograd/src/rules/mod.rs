//! The operations on [`Var`]s, one file for each kind: the forward pass is the tensor operation of the same name, the
//! rule states the derivative it implements, and a finite-difference test places it mid-graph.
//!
//! Which inputs are differentiable: those that are [`Var`]s. Indices, masks, labels and tables of angles are plain
//! tensors. In the equations `dy` is the gradient of the output and `dx` that of an input `x`.
//!
//! A rule captures a tensor only if an input that requires a gradient needs it; tensors captured for one input are
//! therefore `Option`s that double as "this input requires a gradient".

mod activation;
mod arithmetic;
mod attention;
mod cast;
mod concat;
mod disentangled_attention;
mod dropout;
mod embedding;
mod indexing;
mod linear_cross_entropy;
mod loss;
mod matmul;
mod mixed_attention;
mod normalization;
mod reduce;
mod rotary;
mod select_where;
mod softmax;
mod unary;
mod view;

pub use disentangled_attention::DisentangledConfig;
pub use linear_cross_entropy::{biased_linear_cross_entropy, linear_cross_entropy};
pub use loss::{cross_entropy, mse_loss};
pub use select_where::select_where;

use tensor::{Result, Shape, Tensor};

use crate::tape::record;
use crate::var::Var;

/// Records a rule of one input.
fn record_unary(
    operation: &'static str,
    x: &Var,
    output: Tensor,
    backward: impl FnOnce(&Tensor) -> Result<Tensor> + 'static,
) -> Var {
    record(operation, &[x], output, move |dy| Ok(vec![Some(backward(dy)?)]))
}

/// `tensor`'s handle where `needed`: what a rule keeps for the backward pass.
fn keep_if(needed: bool, var: &Var) -> Option<Tensor> {
    needed.then(|| var.tensor().clone())
}

/// The shape of `var` where it requires a gradient.
fn wanted(var: &Var) -> Option<Shape> {
    var.requires_gradient().then(|| *var.shape())
}

/// Sums a gradient over the axes along which its input was broadcast.
fn unbroadcast(gradient: &Tensor, shape: &Shape) -> Result<Tensor> {
    if gradient.shape() == shape { Ok(gradient.clone()) } else { gradient.sum_to(shape) }
}
