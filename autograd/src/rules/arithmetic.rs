//! Functions of two elements. Inputs broadcast; a broadcast input's gradient is summed back to its shape.

use tensor::{Result, Tensor};

use super::{keep_if, unbroadcast, wanted};
use crate::tape::record;
use crate::var::Var;

/// # Arithmetic with broadcasting
impl Var {
    /// y = a + b; da = dy, db = dy. Keeps nothing.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn add(&self, other: &Var) -> Result<Var> {
        let output = self.tensor().add(other.tensor())?;
        let (a, b) = (wanted(self), wanted(other));
        Ok(record("add", &[self, other], output, move |dy| {
            Ok(vec![a.map(|a| unbroadcast(dy, &a)).transpose()?, b.map(|b| unbroadcast(dy, &b)).transpose()?])
        }))
    }

    /// y = a − b; da = dy, db = −dy. Keeps nothing.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn sub(&self, other: &Var) -> Result<Var> {
        let output = self.tensor().sub(other.tensor())?;
        let (a, b) = (wanted(self), wanted(other));
        Ok(record("sub", &[self, other], output, move |dy| {
            Ok(vec![a.map(|a| unbroadcast(dy, &a)).transpose()?, b.map(|b| unbroadcast(dy, &b)?.neg()).transpose()?])
        }))
    }

    /// y = a·b; da = dy·b, db = dy·a. Keeps each input only for the other's sake.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn mul(&self, other: &Var) -> Result<Var> {
        let output = self.tensor().mul(other.tensor())?;
        let (a_shape, b_shape) = (*self.shape(), *other.shape());
        let (for_a, for_b) = (keep_if(self.requires_gradient(), other), keep_if(other.requires_gradient(), self));
        Ok(record("mul", &[self, other], output, move |dy| {
            let da = for_a.map(|b| unbroadcast(&dy.mul(&b)?, &a_shape)).transpose()?;
            let db = for_b.map(|a| unbroadcast(&dy.mul(&a)?, &b_shape)).transpose()?;
            Ok(vec![da, db])
        }))
    }

    /// y = a/b; da = dy/b, db = −dy·y/b. Keeps b, and y if b requires a gradient.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn div(&self, other: &Var) -> Result<Var> {
        let output = self.tensor().div(other.tensor())?;
        let (a_shape, b_shape) = (wanted(self), *other.shape());
        let b = other.tensor().clone();
        let y = other.requires_gradient().then(|| output.clone());
        Ok(record("div", &[self, other], output, move |dy| {
            let quotient = dy.div(&b)?;
            let da = a_shape.map(|shape| unbroadcast(&quotient, &shape)).transpose()?;
            let db = y.map(|y| unbroadcast(&quotient.mul(&y)?, &b_shape)?.neg()).transpose()?;
            Ok(vec![da, db])
        }))
    }

    /// y = max(a, b); the larger input gets dy, equal ones half of it each.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn maximum(&self, other: &Var) -> Result<Var> {
        let output = self.tensor().maximum(other.tensor())?;
        Ok(record_choice("maximum", self, other, output, |a, b| b.less(a)))
    }

    /// y = min(a, b); the smaller input gets dy, equal ones half of it each.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn minimum(&self, other: &Var) -> Result<Var> {
        let output = self.tensor().minimum(other.tensor())?;
        Ok(record_choice("minimum", self, other, output, |a, b| a.less(b)))
    }
}

/// The rule of an operation whose output is `a` where `chosen(a, b)` is 1 and `b` where `chosen(b, a)` is.
fn record_choice(
    operation: &'static str,
    a: &Var,
    b: &Var,
    output: Tensor,
    chosen: fn(&Tensor, &Tensor) -> Result<Tensor>,
) -> Var {
    let wanted = (wanted(a), wanted(b));
    let (a_value, b_value) = (a.tensor().clone(), b.tensor().clone());
    record(operation, &[a, b], output, move |dy| {
        let tie = a_value.equal(&b_value)?.affine(0.5, 0.0)?;
        let share = |x: &Tensor, other: &Tensor| chosen(x, other)?.add(&tie)?.mul(dy);
        let da = wanted.0.map(|shape| unbroadcast(&share(&a_value, &b_value)?, &shape)).transpose()?;
        let db = wanted.1.map(|shape| unbroadcast(&share(&b_value, &a_value)?, &shape)).transpose()?;
        Ok(vec![da, db])
    })
}

#[cfg(test)]
mod tests {
    use tensor::testing::on_each_backend;
    use tensor::{DType, Device};

    use super::*;
    use crate::check::{TestRandom, check_gradients, random_cases};
    use crate::tape::Tape;

    type Function = fn(&Var, &Var) -> Result<Var>;

    const FUNCTIONS: [(&str, Function); 4] =
        [("add", Var::add), ("sub", Var::sub), ("mul", Var::mul), ("div", |a, b| a.div(&b.affine(1.0, 2.0)?))];

    on_each_backend! {
        fn equal_shapes(device) {
            for (name, function) in FUNCTIONS {
                random_cases(2, |random| {
                    let shape = random.shape(2);
                    check_gradients(name, device, random, &[&shape, &shape], |v| function(&v[0], &v[1]))
                });
            }
        }

        fn broadcast_shapes(device) {
            for (name, function) in FUNCTIONS {
                for shapes in [[&[3, 4][..], &[4]], [&[2, 1, 3], &[4, 1]], [&[], &[2, 3]]] {
                    check_gradients(name, device, &mut TestRandom::new(5), &shapes, |v| function(&v[0], &v[1])).unwrap();
                }
            }
        }

        fn choices(device) {
            let offsets = TestRandom::new(1).tensor(device, &[3, 4], -1.0, 1.0).unwrap();
            let offsets = Var::constant(Tensor::zeros_like(&offsets).unwrap().less(&offsets).unwrap());
            for (name, function) in [("maximum", Var::maximum as Function), ("minimum", Var::minimum)] {
                check_gradients(name, device, &mut TestRandom::new(2), &[&[3, 4], &[4]], |v| {
                    // a − b is near 0.5 or −0.5, never near 0.
                    let a = v[0].affine(0.1, -0.5)?.add(&offsets)?;
                    function(&a, &v[1].affine(0.1, 0.0)?)
                })
                .unwrap();
            }
        }
    }

    #[test]
    fn a_tie_is_split() {
        let device = Device::cpu();
        let tape = Tape::new();
        let one = Tensor::ones(&device, &[1], DType::F32).unwrap();
        let y = tape.leaf("a", &one).maximum(&tape.leaf("b", &one)).unwrap();
        let gradients = tape.backward(&y).unwrap();
        assert_eq!(gradients.get("a").unwrap().item::<f32>().unwrap(), 0.5);
        assert_eq!(gradients.get("b").unwrap().item::<f32>().unwrap(), 0.5);
    }

    #[test]
    fn the_same_leaf_twice_gets_both_contributions() {
        let device = Device::cpu();
        let tape = Tape::new();
        let x = tape.leaf("x", &Tensor::full(&device, &[1], DType::F32, 3.0).unwrap());
        let gradients = tape.backward(&x.mul(&x).unwrap()).unwrap();
        assert_eq!(gradients.get("x").unwrap().item::<f32>().unwrap(), 6.0);
    }
}
