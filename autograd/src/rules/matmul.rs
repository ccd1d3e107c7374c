//! Matrix products. A frozen weight costs no gradient product, and its input is not kept.

use tensor::{Result, Shape, Tensor};

use super::{keep_if, unbroadcast};
use crate::tape::record;
use crate::var::Var;

/// # Matrix products
impl Var {
    /// y = a·b over the last two axes, `[.., m, k] × [.., k, n] → [.., m, n]`, batch axes broadcasting;
    /// da = dy·bᵀ, db = aᵀ·dy, summed over broadcast batch axes. Keeps a only for b's sake and b only for a's.
    /// A constant operand may be f16 or bf16.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn matmul(&self, other: &Var) -> Result<Var> {
        let output = self.tensor().matmul(other.tensor())?;
        let product = Product::of(self, other, 1.0);
        Ok(record("matmul", &[self, other], output, move |dy| {
            let (da, db) = product.backward(dy)?;
            Ok(vec![da, db])
        }))
    }

    /// y = c + alpha·(a·b), where c is `self`; dc = dy, da = alpha·dy·bᵀ, db = alpha·aᵀ·dy. Keeps what
    /// [`Var::matmul`] keeps. Works in place when nothing else holds c's elements, hence takes `self` by value.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn add_matmul(self, a: &Var, b: &Var, alpha: f32) -> Result<Var> {
        // Of c only the place on the tape is needed further on, so that its elements have no second holder.
        let (c, place) = self.into_parts();
        let output = c.matmul_accumulate(a.tensor(), b.tensor(), alpha)?;
        let product = Product::of(a, b, alpha);
        let c = Var::from_parts(output.clone(), place);
        Ok(record("add_matmul", &[&c, a, b], output, move |dy| {
            let (da, db) = product.backward(dy)?;
            Ok(vec![Some(dy.clone()), da, db])
        }))
    }
}

/// What the gradients of alpha·(a·b) need.
struct Product {
    /// a, if b requires a gradient.
    left: Option<Tensor>,
    /// b, if a requires a gradient.
    right: Option<Tensor>,
    left_shape: Shape,
    right_shape: Shape,
    /// b is the transposed view of a row-major matrix, as in x·Wᵀ: its gradient is then made in W's layout.
    right_is_transposed: bool,
    alpha: f32,
}

impl Product {
    fn of(a: &Var, b: &Var, alpha: f32) -> Self {
        let right_is_transposed = !b.tensor().is_contiguous() && b.tensor().t().is_ok_and(|t| t.is_contiguous());
        Product {
            left: keep_if(b.requires_gradient(), a),
            right: keep_if(a.requires_gradient(), b),
            left_shape: *a.shape(),
            right_shape: *b.shape(),
            right_is_transposed,
            alpha,
        }
    }

    fn backward(self, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (left_shape, right_shape) = (self.left_shape, self.right_shape);
        let scaled = |x: Tensor| if self.alpha == 1.0 { Ok(x) } else { x.affine(self.alpha, 0.0) };
        let da = self.right.map(|b| scaled(unbroadcast(&dy.matmul(&b.t()?)?, &left_shape)?)).transpose()?;
        let db = self
            .left
            .map(|a| {
                // One matrix for all batches: the sum over them becomes part of the product.
                let (a, dy) = match right_shape.rank() {
                    2 => (a.as_rows()?, dy.as_rows()?),
                    _ => (a, dy.clone()),
                };
                let product = if self.right_is_transposed { dy.t()?.matmul(&a)?.t()? } else { a.t()?.matmul(&dy)? };
                scaled_view(&unbroadcast(&product, &right_shape)?, self.alpha)
            })
            .transpose()?;
        Ok((da, db))
    }
}

/// alpha·x in x's own storage order: elementwise operations would make a transposed view row-major.
fn scaled_view(x: &Tensor, alpha: f32) -> Result<Tensor> {
    match alpha {
        1.0 => Ok(x.clone()),
        _ if x.is_contiguous() => x.affine(alpha, 0.0),
        _ => x.t()?.affine(alpha, 0.0)?.t(),
    }
}

#[cfg(test)]
mod tests {
    use tensor::testing::on_each_backend;

    use super::*;
    use crate::check::{TestRandom, check_gradients, random_cases};
    use crate::tape::Tape;

    on_each_backend! {
        fn matrices(device) {
            random_cases(3, |random| {
                let [m, k, n] = [random.extent(), random.extent(), random.extent()];
                check_gradients("matmul", device, random, &[&[m, k], &[k, n]], |v| v[0].matmul(&v[1]))?;
                check_gradients("matmul, a view", device, random, &[&[k, m], &[n, k]], |v| v[0].t()?.matmul(&v[1].t()?))
            });
        }

        fn batches(device) {
            let cases: [[&[usize]; 2]; 4] = [
                [&[2, 3, 4], &[4, 5]],
                [&[2, 3, 4], &[2, 4, 5]],
                [&[3, 4], &[2, 4, 2]],
                [&[2, 1, 3, 4], &[3, 4, 2]],
            ];
            for shapes in cases {
                check_gradients("matmul", device, &mut TestRandom::new(1), &shapes, |v| v[0].matmul(&v[1])).unwrap();
            }
            check_gradients("x Wt", device, &mut TestRandom::new(2), &[&[2, 3, 4], &[5, 4]], |v| {
                v[0].matmul(&v[1].t()?)
            })
            .unwrap();
        }

        fn accumulated(device) {
            random_cases(2, |random| {
                let [m, k, n] = [random.extent(), random.extent(), random.extent()];
                check_gradients("add_matmul", device, random, &[&[m, n], &[m, k], &[n, k]], |v| {
                    v[0].clone().add_matmul(&v[1], &v[2].t()?, -1.5)
                })
            });
            check_gradients("add_matmul", device, &mut TestRandom::new(4), &[&[2, 3, 5], &[2, 3, 4], &[4, 5]], |v| {
                v[0].clone().add_matmul(&v[1], &v[2], 0.5)
            })
            .unwrap();
        }

        fn the_gradient_of_a_transposed_weight_needs_no_copy(device) {
            let mut random = TestRandom::new(6);
            let x = Var::constant(random.tensor(device, &[3, 4], -1.0, 1.0).unwrap());
            let weight = random.tensor(device, &[5, 4], -1.0, 1.0).unwrap().t().unwrap();
            let weight = Tape::new().leaf("w", &weight);
            for alpha in [1.0, 2.0] {
                let dy = random.tensor(device, &[3, 5], -1.0, 1.0).unwrap();
                let (da, db) = Product::of(&x, &weight, alpha).backward(&dy).unwrap();
                assert!(da.is_none());
                assert!(db.unwrap().t().unwrap().is_contiguous());
            }
        }
    }
}
