//! Activation functions whose derivative is an operation of its own, and LLaMA's gated unit.

use tensor::{Result, RoundedGate, RowScaled, Shape};

use super::{keep_if, record_unary};
use crate::accumulation::{Gradient, Totals, Value};
use crate::rounded::{Operand, RoundedVar};
use crate::tape::{TapeInput, record};
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

    /// As [`Var::gelu`], in mixed precision: the result exists in 16 bits only and is kept in them, beside x, and dx comes
    /// rounded, as linear layers in mixed precision want both.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn gelu_rounded(&self) -> Result<RoundedVar> {
        let (x, shape) = (self.tensor().as_rows()?, *self.shape());
        let output = (x.gelu_row_scaled()?, shape);
        let rule = move |dy: Gradient, totals: &mut Totals| {
            totals.add_rounded(0, x.gelu_backward_row_scaled(&dy.into_tensor()?.as_rows()?)?, &shape)
        };
        Ok(RoundedVar::record_kept("gelu_rounded", &[self], output, rule))
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

    /// As [`Var::silu_mul`] of two variables of one shape, in mixed precision: the result exists in 16 bits only, both inputs
    /// are kept in 16 bits, from which the result is computed again where it is wanted in the backward pass, and both
    /// gradients come rounded, as linear layers in mixed precision want them.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn silu_mul_rounded(&self, up: &Var) -> Result<RoundedVar> {
        let shape = *self.shape();
        if !self.requires_gradient() && !up.requires_gradient() {
            let product = self.tensor().as_rows()?.silu_mul_rounded(&up.tensor().as_rows()?)?;
            return Ok(RoundedVar::constant("silu_mul_rounded", product, shape));
        }
        let (product, kept) = self.tensor().as_rows()?.silu_mul_row_scaled(&up.tensor().as_rows()?)?;
        Ok(record_gated(&[self, up], (product, shape), kept))
    }
}

/// # The gated unit of variables in 16 bits
impl RoundedVar {
    /// As [`Var::silu_mul_rounded`], of a gate and an up of one shape that exist in 16 bits only: what is kept are they
    /// themselves.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn silu_mul_rounded(&self, up: &RoundedVar) -> Result<RoundedVar> {
        let (shape, kept) = (*self.shape(), RoundedGate::new(self.rows().clone(), up.rows().clone())?);
        Ok(record_gated(&[self, up], (kept.product()?, shape), kept).reading_rounded_gradient())
    }
}

/// # The gated unit of what layers yield
impl Operand {
    /// [`RoundedVar::silu_mul_rounded`] where both are in 16 bits, otherwise [`Var::silu_mul_rounded`].
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn silu_mul_rounded(&self, up: &Operand) -> Result<RoundedVar> {
        match (self, up) {
            (Operand::Rounded(gate), Operand::Rounded(up)) => gate.silu_mul_rounded(up),
            (gate, up) => gate.to_var()?.silu_mul_rounded(&up.to_var()?),
        }
    }
}

/// Records the gated unit, whose rule needs the inputs that are kept alone.
fn record_gated(inputs: &[impl TapeInput; 2], output: (RowScaled, Shape), kept: RoundedGate) -> RoundedVar {
    let (shape, again) = (output.1, kept.clone());
    let rule = move |dy: Gradient, totals: &mut Totals| {
        let (dgate, dup) = match dy.into_value() {
            Value::Exact(dy) => kept.backward(&dy.as_rows()?)?,
            Value::Rounded(dy) => kept.backward_rounded(&dy)?,
        };
        totals.add_rounded(0, dgate, &shape)?;
        totals.add_rounded(1, dup, &shape)
    };
    RoundedVar::record("silu_mul_rounded", inputs, output, move || again.product(), rule)
}

#[cfg(test)]
mod tests {
    use tensor::testing::on_each_backend;
    use tensor::{DType, Tensor};

    use super::*;
    use crate::check::{TestRandom, check_gradients, random_cases};
    use crate::tape::{Tape, record_accumulating, record_rounded_outputs};

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

        /// Rounded to 16 bits, the function goes in steps: compared are the gradients of the exact unit.
        fn rounded_gated_unit(device) {
            let mut random = TestRandom::new(6);
            let mut matrix = || random.tensor(device, &[2, 3, 40], -2.0, 2.0).unwrap();
            let (gate, up, dy) = (matrix(), matrix(), matrix());
            let run = |rounded: bool| {
                let tape = Tape::new();
                let (gate, up) = (tape.leaf("gate", &gate), tape.leaf("up", &up).affine(2.0, 0.0).unwrap());
                let y = match rounded {
                    true => gate.silu_mul_rounded(&up).unwrap().to_var().unwrap(),
                    false => gate.silu_mul(&up).unwrap(),
                };
                // Rounded gradients meet exact ones where the gate is used again.
                let y = y.add(&gate).unwrap();
                let mut values = y.tensor().to_vec::<f32>().unwrap();
                let gradients = tape.backward_from(&y, dy.clone()).unwrap();
                values.extend(gradients.into_iter().flat_map(|(_, gradient)| gradient.to_vec::<f32>().unwrap()));
                values
            };
            for (i, (rounded, exact)) in run(true).into_iter().zip(run(false)).enumerate() {
                assert!((rounded - exact).abs() <= 1e-3 * exact.abs() + 2e-3, "{i}: {rounded} instead of {exact}");
            }
        }

        /// Inputs and the upstream gradient in 16 bits are their values in f32: results and gradients are those of the same unit
        /// of exact inputs with these values.
        fn gated_unit_of_rounded_variables(device) {
            let mut random = TestRandom::new(9);
            let mut matrix = || random.tensor(device, &[2, 3, 40], -2.0, 2.0).unwrap();
            let [gate, up, dy] = [matrix(), matrix(), matrix()].map(|x| {
                let rows = x.as_rows().unwrap().row_scaled().unwrap();
                (rows.restored().unwrap().reshape(x.shape()).unwrap(), rows)
            });
            let run = |rounded: bool| {
                let tape = Tape::new();
                let [x, u] = [("gate", &gate.0), ("up", &up.0)].map(|(name, x)| tape.leaf(name, x));
                let shape = *x.shape();
                let y = match rounded {
                    true => {
                        let outputs = vec![(gate.1.clone(), shape), (up.1.clone(), shape)];
                        let read = record_rounded_outputs("rounded", &[&x, &u], outputs, move |upstream, totals| {
                            for (input, gradient) in upstream.into_iter().enumerate() {
                                let Value::Rounded(rows) = gradient.expect("both are read").into_value() else {
                                    panic!("a rounded gradient");
                                };
                                totals.add_rounded(input, rows, &shape)?;
                            }
                            Ok(())
                        });
                        let [gate, up] = [0, 1].map(|i| Operand::from(read[i].clone()));
                        gate.silu_mul_rounded(&up).unwrap()
                    }
                    false => x.silu_mul_rounded(&u).unwrap(),
                };
                assert_eq!([y.reads_rounded_gradient(), Operand::from(y.clone()).reads_rounded_gradient()], [rounded; 2]);
                let mut values = y.restored().unwrap().to_vec::<f32>().unwrap();
                let dy = dy.clone();
                let z = record_accumulating("reader", &[&y], gate.0.clone(), move |_, totals| {
                    assert!(totals.is_empty(0)?);
                    let (exact, rows) = dy;
                    if rounded { totals.add_rounded(0, rows, exact.shape())? } else { totals.add(0, exact)? }
                    assert!(!totals.is_empty(0)?);
                    Ok(())
                });
                let gradients = tape.backward_from(&z, gate.0.clone()).unwrap();
                assert_eq!(gradients.len(), 2);
                values.extend(gradients.into_iter().flat_map(|(_, gradient)| gradient.to_vec::<f32>().unwrap()));
                values
            };
            assert_eq!(run(true), run(false));
        }

        fn what_is_not_finite_in_16_bits_is_named(device) {
            let infinite = Tensor::full(device, &[2, 3], DType::F32, f32::INFINITY).unwrap();
            let (_, found) = crate::first_non_finite(|| {
                let tape = Tape::new();
                let x = tape.leaf("x", &Tensor::ones(device, &[2, 3], DType::F32).unwrap());
                let outputs = vec![(infinite.row_scaled().unwrap(), *x.shape())];
                record_rounded_outputs("mine", &[&x], outputs, |_, _| Ok(()))
            });
            assert_eq!(found.map(|found| (found.operation, found.backward)), Some(("mine", false)));
        }

        fn rounded_gelu(device) {
            let mut random = TestRandom::new(3);
            let mut matrix = || random.tensor(device, &[2, 3, 40], -3.0, 3.0).unwrap();
            let (x, dy) = (matrix(), matrix());
            let run = |rounded: bool| {
                let tape = Tape::new();
                let x = tape.leaf("x", &x);
                let y = if rounded { x.gelu_rounded().unwrap().to_var().unwrap() } else { x.gelu().unwrap() };
                let gradients = tape.backward_from(&y, dy.clone()).unwrap();
                [y.tensor(), gradients.get("x").unwrap()].map(|tensor| tensor.to_vec::<f32>().unwrap()).concat()
            };
            for (i, (rounded, exact)) in run(true).into_iter().zip(run(false)).enumerate() {
                assert!((rounded - exact).abs() <= 1e-3 * exact.abs() + 1e-5, "{i}: {rounded} instead of {exact}");
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
