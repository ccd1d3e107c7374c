//! Conversion of element types. Gradients are f32, so only f32 is differentiable.

use tensor::{DType, Result, TensorError};

use crate::var::Var;

/// # Conversion
impl Var {
    /// A constant of another element type; a differentiable value only as f32, which it is.
    ///
    /// # Errors
    /// [`TensorError::DType`] when a value that requires a gradient is to become something else than f32 (use
    /// [`Var::detach`] where no gradient is meant); otherwise those of the tensor operation.
    pub fn cast(&self, dtype: DType) -> Result<Var> {
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        if self.requires_gradient() {
            let expected = "f32 for a value that requires a gradient".into();
            return Err(TensorError::DType { operation: "cast", expected, found: dtype });
        }
        Ok(Var::constant(self.tensor().cast(dtype)?))
    }
}

#[cfg(test)]
mod tests {
    use tensor::{Device, Tensor};

    use super::*;
    use crate::tape::Tape;

    #[test]
    fn constants_are_converted_and_differentiable_values_stay() {
        let x = Tensor::ones(&Device::cpu(), &[2], DType::F32).unwrap();
        assert_eq!(Var::constant(x.clone()).cast(DType::Bf16).unwrap().dtype(), DType::Bf16);
        let tape = Tape::new();
        let leaf = tape.leaf("x", &x);
        assert!(leaf.cast(DType::F32).unwrap().requires_gradient());
        let message = leaf.cast(DType::F16).unwrap_err().to_string();
        assert_eq!(message, "cast: expected elements of type f32 for a value that requires a gradient, found f16");
    }
}
