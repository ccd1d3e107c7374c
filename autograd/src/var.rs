//! A value in a computation: a tensor, and where it stands on a tape if a gradient is wanted for it.

use std::cell::OnceCell;
use std::fmt;
use std::rc::Rc;

use tensor::{DType, Device, Result, RowScaled, Shape, Tensor};

use crate::tape::{Tape, TapeInput};

/// A tensor that may be part of a recorded computation. Cloning is cheap.
///
/// A constant (a frozen weight, an input, a mask) has no place on a tape: nothing is recorded for it, nothing is kept
/// for it, and it gets no gradient.
#[derive(Clone)]
pub struct Var {
    tensor: Tensor,
    pub(crate) place: Option<Place>,
    rounded: Rc<OnceCell<RowScaled>>,
}

/// A node of a tape, seen from a variable.
#[derive(Clone, Debug)]
pub struct Place {
    pub tape: Tape,
    pub index: u64,
}

impl Var {
    /// A value that no gradient is wanted for.
    pub fn constant(tensor: Tensor) -> Self {
        Self::from_parts(tensor, None)
    }

    /// The value.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// The value, giving up the place on the tape. What is recorded already stays recorded.
    pub fn into_tensor(self) -> Tensor {
        self.tensor
    }

    pub(crate) fn into_parts(self) -> (Tensor, Option<Place>) {
        (self.tensor, self.place)
    }

    pub(crate) fn from_parts(tensor: Tensor, place: Option<Place>) -> Self {
        Var { tensor, place, rounded: Rc::default() }
    }

    /// The same variable whose rounded rows, see [`Var::row_scaled`], are known.
    pub(crate) fn with_rounded(self, rounded: RowScaled) -> Self {
        Var { rounded: Rc::new(rounded.into()), ..self }
    }

    /// The value as rows along its last axis (a scalar is one row), rounded to 16 bits ([`Tensor::row_scaled`]): once for all who ask the same
    /// variable, as the projections of one input do.
    ///
    /// # Errors
    /// As [`Tensor::row_scaled`].
    pub fn row_scaled(&self) -> Result<RowScaled> {
        if let Some(rounded) = self.rounded.get() {
            return Ok(rounded.clone());
        }
        let rounded = self.tensor.as_rows()?.row_scaled()?;
        Ok(self.rounded.get_or_init(|| rounded).clone())
    }

    /// The same value as a constant: gradients stop here.
    pub fn detach(&self) -> Self {
        Self::constant(self.tensor.clone())
    }

    /// True when a gradient will flow to this value: it is a trainable leaf or depends on one.
    pub fn requires_gradient(&self) -> bool {
        self.place.is_some()
    }

    /// The shape of the value.
    pub fn shape(&self) -> &Shape {
        self.tensor.shape()
    }

    /// Number of axes of the value.
    pub fn rank(&self) -> usize {
        self.tensor.rank()
    }

    /// Number of elements of the value.
    pub fn elements(&self) -> usize {
        self.tensor.elements()
    }

    /// The element type of the value.
    pub fn dtype(&self) -> DType {
        self.tensor.dtype()
    }

    /// The device the value is on.
    pub fn device(&self) -> &Device {
        self.tensor.device()
    }
}

impl TapeInput for Var {
    fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    fn input_shape(&self) -> &Shape {
        self.shape()
    }
}

impl From<Tensor> for Var {
    fn from(tensor: Tensor) -> Self {
        Var::constant(tensor)
    }
}

impl fmt::Debug for Var {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.requires_gradient() { "differentiable" } else { "constant" };
        write!(f, "Var({:?}, {kind})", self.tensor)
    }
}

#[cfg(test)]
mod tests {
    use tensor::testing::on_each_backend;

    use super::*;

    on_each_backend! {
        fn all_who_ask_share_one_rounding(device) {
            let x = Var::constant(Tensor::ones(device, &[2, 3, 5], DType::F32).unwrap());
            let first = x.row_scaled().unwrap();
            assert_eq!(first.values().shape()[..], [6, 5]);
            assert!(first.values().is_same_view(x.clone().row_scaled().unwrap().values()));
            let none = Var::constant(Tensor::zeros(device, &[0, 4], DType::F32).unwrap());
            assert_eq!(none.row_scaled().unwrap().values().shape()[..], [0, 4]);
        }
    }
}
