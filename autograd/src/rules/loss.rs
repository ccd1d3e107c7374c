//! Losses of whole tensors.

use tensor::Result;

use crate::var::Var;

/// The mean of (a − b)² over all elements; da = 2·(a − b)/n · dy, db = −da. Made of `sub`, `square` and `mean`.
///
/// # Errors
/// Those of the tensor operations.
pub fn mse_loss(a: &Var, b: &Var) -> Result<Var> {
    let squares = a.sub(b)?.square()?;
    let axes: Vec<usize> = (0..squares.rank()).collect();
    squares.mean(&axes, false)
}

#[cfg(test)]
mod tests {
    use tensor::testing::on_each_backend;

    use super::*;
    use crate::check::{check_gradients, random_cases};

    on_each_backend! {
        fn mse_derivative(device) {
            random_cases(2, |random| {
                let shape = random.shape(2);
                check_gradients("mse_loss", device, random, &[&shape, &shape], |v| mse_loss(&v[0], &v[1]))
            });
        }
    }
}
