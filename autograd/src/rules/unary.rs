//! Functions of one element.

use tensor::{DType, Result, Tensor};

use super::record_unary;
use crate::var::Var;

/// 1 where x > 0, else 0.
fn positive(x: &Tensor) -> Result<Tensor> {
    Tensor::zeros(x.device(), &[], DType::F32)?.less(x)
}

/// # Functions of one element
impl Var {
    /// y = −x; dx = −dy.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn neg(&self) -> Result<Var> {
        Ok(record_unary("neg", self, self.tensor().neg()?, |dy| dy.neg()))
    }

    /// y = |x|; dx = sign(x)·dy, with sign(0) = 0.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn abs(&self) -> Result<Var> {
        let x = self.tensor().clone();
        Ok(record_unary("abs", self, x.abs()?, move |dy| positive(&x)?.sub(&positive(&x.neg()?)?)?.mul(dy)))
    }

    /// y = x²; dx = 2x·dy.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn square(&self) -> Result<Var> {
        let x = self.tensor().clone();
        Ok(record_unary("square", self, x.square()?, move |dy| x.mul(dy)?.affine(2.0, 0.0)))
    }

    /// y = √x; dx = dy / (2y).
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn sqrt(&self) -> Result<Var> {
        let y = self.tensor().sqrt()?;
        Ok(record_unary("sqrt", self, y.clone(), move |dy| dy.div(&y)?.affine(0.5, 0.0)))
    }

    /// y = 1/√x; dx = −y³/2 · dy.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn rsqrt(&self) -> Result<Var> {
        let y = self.tensor().rsqrt()?;
        Ok(record_unary("rsqrt", self, y.clone(), move |dy| y.square()?.mul(&y)?.mul(dy)?.affine(-0.5, 0.0)))
    }

    /// y = 1/x; dx = −y²·dy.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn reciprocal(&self) -> Result<Var> {
        let y = self.tensor().reciprocal()?;
        Ok(record_unary("reciprocal", self, y.clone(), move |dy| y.square()?.mul(dy)?.neg()))
    }

    /// y = eˣ; dx = y·dy.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn exp(&self) -> Result<Var> {
        let y = self.tensor().exp()?;
        Ok(record_unary("exp", self, y.clone(), move |dy| y.mul(dy)))
    }

    /// y = ln x; dx = dy/x.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn ln(&self) -> Result<Var> {
        let x = self.tensor().clone();
        Ok(record_unary("ln", self, x.ln()?, move |dy| dy.div(&x)))
    }

    /// y = sin x; dx = cos x · dy.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn sin(&self) -> Result<Var> {
        let x = self.tensor().clone();
        Ok(record_unary("sin", self, x.sin()?, move |dy| x.cos()?.mul(dy)))
    }

    /// y = cos x; dx = −sin x · dy.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn cos(&self) -> Result<Var> {
        let x = self.tensor().clone();
        Ok(record_unary("cos", self, x.cos()?, move |dy| x.sin()?.mul(dy)?.neg()))
    }

    /// y = max(x, 0); dx = dy where x > 0, else 0.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn relu(&self) -> Result<Var> {
        let y = self.tensor().relu()?;
        // y > 0 exactly where x > 0, and y is likely to be kept by what comes next anyway.
        Ok(record_unary("relu", self, y.clone(), move |dy| positive(&y)?.mul(dy)))
    }

    /// y = scale·x + shift; dx = scale·dy.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn affine(&self, scale: f32, shift: f32) -> Result<Var> {
        let y = self.tensor().affine(scale, shift)?;
        Ok(record_unary("affine", self, y, move |dy| dy.affine(scale, 0.0)))
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
            let functions: [(&str, Function); 12] = [
                ("neg", Var::neg),
                ("abs", Var::abs),
                ("square", Var::square),
                // Operations on positive numbers see 0.5 .. 2.5.
                ("sqrt", |x| x.affine(1.0, 1.5)?.sqrt()),
                ("rsqrt", |x| x.affine(1.0, 1.5)?.rsqrt()),
                ("reciprocal", |x| x.affine(1.0, 1.5)?.reciprocal()),
                ("exp", Var::exp),
                ("ln", |x| x.affine(1.0, 1.5)?.ln()),
                ("sin", |x| x.affine(3.0, 0.0)?.sin()),
                ("cos", |x| x.affine(3.0, 0.0)?.cos()),
                ("relu", Var::relu),
                ("affine", |x| x.affine(-3.0, 0.5)),
            ];
            for (name, function) in functions {
                random_cases(2, |random| {
                    let shape = random.shape(2);
                    check_gradients(name, device, random, &[&shape], |v| function(&v[0]))
                });
            }
        }
    }
}
