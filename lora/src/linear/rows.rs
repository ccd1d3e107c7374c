//! The left operand of a layer's products: its input, or the gradient of its output.

use autograd::{Gradient, KeptRows, Operand};
use tensor::{Addends, DType, Result, RowScaled, Tensor};

/// A matrix whose products with a weight, and with an adapter's factors, are wanted. In mixed precision, which a layer is
/// computed in where its frozen weight is f16, it is rounded to 16 bits once, for all of them.
#[derive(Clone)]
pub(super) enum Rows {
    Exact(Tensor),
    Rounded(RowScaled),
}

impl Rows {
    /// A layer's input, whose rounding the layers that share it share, too.
    pub fn of_input(x: &Operand, weight: &Tensor) -> Result<Self> {
        Ok(if is_mixed(weight) { Rows::Rounded(x.row_scaled()?) } else { Rows::Exact(x.to_tensor()?.as_rows()?) })
    }

    /// The gradient of a layer's output.
    pub fn of_gradient(dy: Gradient, weight: &Tensor) -> Result<Self> {
        Ok(if is_mixed(weight) { Rows::Rounded(dy.row_scaled()?) } else { Rows::Exact(Self::exact(dy)?) })
    }

    /// A gradient as an f32 matrix.
    pub fn exact(dy: Gradient) -> Result<Tensor> {
        dy.into_tensor()?.as_rows()
    }

    /// The product with `other` on the right, f32.
    pub fn matmul(&self, other: &Tensor) -> Result<Tensor> {
        self.matmul_onto(other, None)
    }

    /// The product with `other` on the right, added to what there is.
    pub fn matmul_onto(&self, other: &Tensor, onto: Option<Tensor>) -> Result<Tensor> {
        match (self, onto) {
            (Rows::Rounded(matrix), onto) => matrix.matmul_plus(other, Addends { onto, ..Addends::default() }),
            (Rows::Exact(matrix), Some(onto)) => onto.matmul_accumulate(matrix, other, 1.0),
            (Rows::Exact(matrix), None) => matrix.matmul(other),
        }
    }

    /// The product with a layer's weight `[outputs, inputs]`, transposed, plus its bias.
    pub fn product(&self, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let weight = weight.t()?;
        match (self, bias) {
            (Rows::Rounded(matrix), bias) => matrix.matmul_plus(&weight, Addends { bias, ..Addends::default() }),
            (Rows::Exact(matrix), Some(bias)) => matrix.matmul(&weight)?.add(bias),
            (Rows::Exact(matrix), None) => matrix.matmul(&weight),
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

/// A layer's input as its rule keeps it.
pub(super) enum KeptInput {
    Exact(Tensor),
    Rounded(KeptRows),
}

impl KeptInput {
    /// Keeps what the layer computed with.
    pub fn new(x: &Operand, rows: &Rows) -> Result<Self> {
        Ok(match rows {
            Rows::Exact(matrix) => KeptInput::Exact(matrix.clone()),
            Rows::Rounded(_) => KeptInput::Rounded(x.kept()?),
        })
    }

    pub fn into_rows(self) -> Result<Rows> {
        Ok(match self {
            KeptInput::Exact(matrix) => Rows::Exact(matrix),
            KeptInput::Rounded(kept) => Rows::Rounded(kept.rows()?),
        })
    }
}

/// The gradient of a layer's bias: the sum of dy's rows.
pub(super) fn bias_gradient(dy: &Gradient) -> Result<Tensor> {
    Rows::exact(dy.clone())?.sum(&[0], false)
}

/// Whether a layer with this frozen weight is computed in mixed precision.
pub(super) fn is_mixed(weight: &Tensor) -> bool {
    weight.dtype() == DType::F16
}
