//! Inverted dropout from a counter-based key: the same key gives the same mask, so none is kept.

use tensor::{RandomKey, Result};

use super::record_unary;
use crate::var::Var;

/// # Dropout
impl Var {
    /// y = m·x/(1 − probability) with a random m of 0 and 1 that depends on `key` and the element's index only;
    /// dx = m·dy/(1 − probability). Keeps nothing. With probability 0 this is x itself.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn dropout(&self, probability: f32, key: RandomKey) -> Result<Var> {
        if probability == 0.0 {
            return Ok(self.clone());
        }
        let output = self.tensor().dropout(probability, key)?;
        Ok(record_unary("dropout", self, output, move |dy| dy.dropout(probability, key)))
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
                let shape = random.shape(3);
                let key = RandomKey { seed: 1, stream: 2, step: random.integer(0, 9) as u64 };
                check_gradients("dropout", device, random, &[&shape], |v| v[0].dropout(0.4, key))?;
                check_gradients("no dropout", device, random, &[&shape], |v| v[0].dropout(0.0, key))
            });
        }
    }
}
