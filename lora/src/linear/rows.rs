//! The left operand of a layer's products: its input, or the gradient of its output.

use autograd::Var;
use tensor::{DType, Result, RowScaled, Tensor};

/// A matrix whose products with a weight, and with an adapter's factors, are wanted. In mixed precision, which a layer is
/// computed in where its frozen weight is f16, it is rounded to 16 bits once, for all of them.
#[derive(Clone)]
pub(super) enum Rows {
    Exact(Tensor),
    Rounded(RowScaled),
}

impl Rows {
    /// A matrix that `weight` is multiplied by.
    pub fn new(matrix: Tensor, weight: &Tensor) -> Result<Self> {
        Ok(if is_mixed(weight) { Rows::Rounded(matrix.row_scaled()?) } else { Rows::Exact(matrix) })
    }

    /// As [`Rows::new`], of a layer's input, whose rounding the layers that share it share, too. `flat` is its tensor as
    /// `[rows, inputs]`.
    pub fn of_input(x: &Var, flat: Tensor, weight: &Tensor) -> Result<Self> {
        Ok(if is_mixed(weight) { Rows::Rounded(x.row_scaled()?) } else { Rows::Exact(flat) })
    }

    /// Number of rows.
    pub fn count(&self) -> usize {
        match self {
            Rows::Exact(matrix) => matrix.shape()[0],
            Rows::Rounded(matrix) => matrix.values().shape()[0],
        }
    }

    /// The product with `other` on the right, f32.
    pub fn matmul(&self, other: &Tensor) -> Result<Tensor> {
        match self {
            Rows::Exact(matrix) => matrix.matmul(other),
            Rows::Rounded(matrix) => matrix.matmul(other),
        }
    }

    /// Two matrices U and V with Uᵀ·V = Mᵀ·`other` for this matrix M and an f32 matrix of as many rows: the rows' powers of
    /// two move to the other side.
    pub fn beside(&self, other: &Tensor) -> Result<(Tensor, Tensor)> {
        match self {
            Rows::Exact(matrix) => Ok((matrix.clone(), other.clone())),
            Rows::Rounded(matrix) => Ok((matrix.values().clone(), other.mul(&matrix.scales().unsqueeze(1)?)?)),
        }
    }

    /// The matrix in f32.
    pub fn restored(&self) -> Result<Tensor> {
        match self {
            Rows::Exact(matrix) => Ok(matrix.clone()),
            Rows::Rounded(matrix) => matrix.restored(),
        }
    }
}

fn is_mixed(weight: &Tensor) -> bool {
    weight.dtype() == DType::F16
}
