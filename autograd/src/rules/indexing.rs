//! Selection of elements by number.

use tensor::{Result, Tensor};

use super::record_unary;
use crate::var::Var;

/// # Indexing
impl Var {
    /// y[.., i, ..] = x[.., indices[.., i, ..], ..] along `axis`; dx = the sum of dy over the places that read x.
    /// Keeps the indices.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn gather(&self, axis: usize, indices: &Tensor) -> Result<Var> {
        let output = self.tensor().gather(axis, indices)?;
        let (indices, extent) = (indices.clone(), self.shape()[axis]);
        Ok(record_unary("gather", self, output, move |dy| tensor::scatter_add(dy, &indices, axis, extent)))
    }

    /// The slices of `axis` that `ids` (one axis) names; dx = the sum of dy over the slices that were read.
    /// Keeps the ids.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn index_select(&self, axis: usize, ids: &Tensor) -> Result<Var> {
        let output = self.tensor().index_select(axis, ids)?;
        let (ids, extent) = (ids.clone(), self.shape()[axis]);
        Ok(record_unary("index_select", self, output, move |dy| {
            let mut along = vec![1; dy.rank()];
            along[axis] = ids.elements();
            tensor::scatter_add(dy, &ids.reshape(&along)?.broadcast_to(dy.shape())?, axis, extent)
        }))
    }
}

#[cfg(test)]
mod tests {
    use tensor::testing::on_each_backend;

    use super::*;
    use crate::check::{check_gradients, random_cases};

    on_each_backend! {
        fn gathers(device) {
            random_cases(2, |random| {
                let shape = random.shape(3);
                for axis in 0..3 {
                    let mut index_shape = shape.clone();
                    index_shape[axis] = 4;
                    let indices = random.indices(index_shape.iter().product(), shape[axis]);
                    let indices = Tensor::from_vec(device, &index_shape, indices)?;
                    check_gradients("gather", device, random, &[&shape], |v| v[0].gather(axis, &indices))?;
                    let ids = Tensor::from_vec(device, &[4], random.indices(4, shape[axis]))?;
                    check_gradients("index_select", device, random, &[&shape], |v| v[0].index_select(axis, &ids))?;
                }
                Ok(())
            });
        }
    }
}
