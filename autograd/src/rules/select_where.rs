//! Choice between two tensors by a condition.

use tensor::{DType, Result, Tensor};

use super::{unbroadcast, wanted};
use crate::tape::record;
use crate::var::Var;

/// y = a where `condition` (u32) is not 0, else b, broadcasting; each gets dy where it was chosen, summed to its
/// shape. Keeps the condition.
///
/// # Errors
/// Those of the tensor operation.
pub fn select_where(condition: &Tensor, a: &Var, b: &Var) -> Result<Var> {
    let output = condition.select_where(a.tensor(), b.tensor())?;
    let (a_shape, b_shape) = (wanted(a), wanted(b));
    let condition = condition.clone();
    Ok(record("select_where", &[a, b], output, move |dy| {
        let zero = Tensor::zeros(dy.device(), &[], DType::F32)?;
        let da = a_shape.map(|shape| unbroadcast(&condition.select_where(dy, &zero)?, &shape)).transpose()?;
        let db = b_shape.map(|shape| unbroadcast(&condition.select_where(&zero, dy)?, &shape)).transpose()?;
        Ok(vec![da, db])
    }))
}

#[cfg(test)]
mod tests {
    use tensor::testing::on_each_backend;

    use super::*;
    use crate::check::{check_gradients, random_cases};

    on_each_backend! {
        fn derivatives(device) {
            random_cases(2, |random| {
                let condition = Tensor::from_vec(device, &[3, 4], random.indices(12, 2))?;
                for shapes in [[&[3, 4][..], &[3, 4]], [&[4], &[3, 1]], [&[2, 1, 4], &[]]] {
                    check_gradients("select_where", device, random, &shapes, |v| {
                        select_where(&condition, &v[0], &v[1])
                    })?;
                }
                Ok(())
            });
        }
    }
}
