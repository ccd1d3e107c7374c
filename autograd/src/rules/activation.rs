//! Activation functions whose derivative is an operation of its own, and LLaMA's gated unit.

use tensor::{Result, Shape};

use super::{keep_if, record_unary};
use crate::tape::record;
use crate::var::Var;

/// # Activation functions
impl Var {
    /// y = tanh x; dx = (1 − y²)·dy.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn tanh(&self) -> Result<Var> {
        let y = self.tensor().tanh()?;
        Ok(record_unary("tanh", self, y.clone(), move |dy| y.tanh_backward(dy)))
    }

    /// y = 1/(1 + e⁻ˣ); dx = y·(1 − y)·dy.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn sigmoid(&self) -> Result<Var> {
        let y = self.tensor().sigmoid()?;
        Ok(record_unary("sigmoid", self, y.clone(), move |dy| y.sigmoid_backward(dy)))
    }

    /// y = x·σ(x); dx = σ(x)·(1 + x·(1 − σ(x)))·dy.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn silu(&self) -> Result<Var> {
        let x = self.tensor().clone();
        Ok(record_unary("silu", self, x.silu()?, move |dy| x.silu_backward(dy)))
    }

    /// y = x·Φ(x); dx = (Φ(x) + x·φ(x))·dy, with the normal distribution Φ and its density φ.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn gelu(&self) -> Result<Var> {
        let x = self.tensor().clone();
        Ok(record_unary("gelu", self, x.gelu()?, move |dy| x.gelu_backward(dy)))
    }

    /// y = silu(gate)·up with `self` as the gate; dgate = silu′(gate)·up·dy, dup = silu(gate)·dy. Keeps both inputs,
    /// neither silu(gate) nor the product.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn silu_mul(&self, up: &Var) -> Result<Var> {
        if self.shape() != up.shape() {
            let shape = Shape::broadcast("silu_mul", self.shape(), up.shape())?;
            return self.broadcast_to(&shape)?.silu_mul(&up.broadcast_to(&shape)?);
        }
        let output = self.tensor().silu_mul(up.tensor())?;
        let gate = self.tensor().clone();
        let for_gate = keep_if(self.requires_gradient(), up);
        let for_up = up.requires_gradient();
        Ok(record("silu_mul", &[self, up], output, move |dy| match (for_gate, for_up) {
            (Some(up), true) => {
                let (dgate, dup) = tensor::silu_mul_backward(&gate, &up, dy)?;
                Ok(vec![Some(dgate), Some(dup)])
            }
            (Some(up), false) => Ok(vec![Some(gate.silu_backward(&up.mul(dy)?)?), None]),
            (None, _) => Ok(vec![None, Some(gate.silu_mul(dy)?)]),
        }))
    }
}

#[cfg(test)]
mod tests {
    use tensor::testing::on_each_backend;

    use super::*;
    use crate::check::{check_gradients, random_cases};

    type Function = fn(&Var) -> Result<Var>;

    on_each_backend! {
        fn derivatives(device) {
            let functions: [(&str, Function); 4] =
                [("tanh", Var::tanh), ("sigmoid", Var::sigmoid), ("silu", Var::silu), ("gelu", Var::gelu)];
            for (name, function) in functions {
                random_cases(2, |random| {
                    let shape = random.shape(2);
                    check_gradients(name, device, random, &[&shape], |v| function(&v[0].affine(3.0, 0.0)?))
                });
            }
        }

        fn gated_unit(device) {
            random_cases(3, |random| {
                let shape = random.shape(3);
                check_gradients("silu_mul", device, random, &[&shape, &shape], |v| {
                    v[0].affine(3.0, 0.0)?.silu_mul(&v[1])
                })
            });
            random_cases(1, |random| {
                check_gradients("silu_mul, broadcast", device, random, &[&[3, 1], &[2, 1, 4]], |v| v[0].silu_mul(&v[1]))
            });
        }
    }
}
