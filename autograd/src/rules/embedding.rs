//! Look-up of rows by number.

use tensor::{Result, Tensor};

use super::record_unary;
use crate::var::Var;

/// # Embedding
impl Var {
    /// The rows of the table `self`, `[vocab, hidden]`, that `ids` (u32, any shape) names: `ids.shape + [hidden]`;
    /// dtable\[i\] = Σ dy over the places where `ids` is i. Keeps the ids. A constant table may be f16 or bf16.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn embedding(&self, ids: &Tensor) -> Result<Var> {
        let output = self.tensor().embedding(ids)?;
        let (ids, vocab) = (ids.clone(), self.shape()[0]);
        Ok(record_unary("embedding", self, output, move |dy| tensor::embedding_gradient(&ids, dy, vocab)))
    }
}

#[cfg(test)]
mod tests {
    use tensor::testing::on_each_backend;

    use super::*;
    use crate::check::{check_gradients, random_cases};

    on_each_backend! {
        fn derivatives(device) {
            random_cases(3, |random| {
                let table = random.shape(2);
                // More ids than rows, so that some repeat.
                let ids = random.indices(2 * 4, table[0]);
                let ids = Tensor::from_vec(device, &[2, 4], ids)?;
                check_gradients("embedding", device, random, &[&table], |v| v[0].embedding(&ids))
            });
        }
    }
}
