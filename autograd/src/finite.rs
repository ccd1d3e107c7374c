//! Where numbers stop being numbers: a debugging run of a forward and backward pass that looks at every result.

use std::cell::RefCell;
use std::fmt;

use tensor::{DType, Shape, Tensor};

/// The first result of a pass that held NaN or infinity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NonFinite {
    /// The operation, as its rule is called.
    pub operation: &'static str,
    /// Whether it was the derivative, in the backward pass.
    pub backward: bool,
    /// The trainable leaf that was asked for last before the operation: where in the model it was.
    pub after: Option<String>,
    /// Shape of the result.
    pub shape: Shape,
}

impl fmt::Display for NonFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pass = if self.backward { "the backward pass of " } else { "" };
        write!(f, "{pass}`{}`, whose result has the shape {}", self.operation, self.shape)?;
        match &self.after {
            Some(leaf) if !self.backward => write!(f, ", after `{leaf}` was used"),
            _ => Ok(()),
        }
    }
}

#[derive(Default)]
struct Watch {
    after: Option<String>,
    found: Option<NonFinite>,
}

thread_local! {
    static WATCH: RefCell<Option<Watch>> = const { RefCell::new(None) };
}

/// Runs `work` and looks at the result of every operation in it, on this thread: slow, since each is read back. Gives what
/// `work` gives, and the first result that was not finite.
pub fn first_non_finite<T>(work: impl FnOnce() -> T) -> (T, Option<NonFinite>) {
    WATCH.with_borrow_mut(|watch| *watch = Some(Watch::default()));
    let result = work();
    (result, WATCH.take().and_then(|watch| watch.found))
}

/// Remembers the leaf that was asked for.
pub(crate) fn note_leaf(name: &str) {
    WATCH.with_borrow_mut(|watch| {
        if let Some(watch) = watch {
            watch.after = Some(name.to_string());
        }
    });
}

/// Looks at a result, if somebody watches.
pub(crate) fn look(operation: &'static str, backward: bool, result: &Tensor) {
    WATCH.with_borrow_mut(|watch| {
        let Some(watch) = watch.as_mut().filter(|watch| watch.found.is_none()) else { return };
        if !is_finite(result) {
            let after = watch.after.clone();
            watch.found = Some(NonFinite { operation, backward, after, shape: *result.shape() });
        }
    });
}

/// A result that cannot be read is its own operation's error, which comes anyway.
fn is_finite(tensor: &Tensor) -> bool {
    let values = || tensor.cast(DType::F32)?.to_vec::<f32>();
    !tensor.dtype().is_float() || values().map_or(true, |values| values.iter().all(|value| value.is_finite()))
}

#[cfg(test)]
mod tests {
    use tensor::Device;
    use tensor::testing::on_each_backend;

    use super::*;
    use crate::{Tape, Var};

    fn leaf(device: &Device, tape: &Tape, value: f32) -> Var {
        tape.leaf("x", &Tensor::full(device, &[2], DType::F32, value).unwrap())
    }

    on_each_backend! {
        fn the_operation_that_left_the_numbers_is_named(device) {
            let pass = |value: f32| first_non_finite(|| {
                let tape = Tape::new();
                let x = leaf(device, &tape, value);
                let y = x.square().unwrap().square().unwrap().add(&x).unwrap();
                tape.backward(&y.mean(&[0], false).unwrap()).unwrap()
            }).1;
            assert_eq!(pass(1.0), None);
            let found = pass(1e20).unwrap();
            assert_eq!((found.operation, found.backward, found.after.as_deref()), ("square", false, Some("x")));
            assert_eq!(found.to_string(), "`square`, whose result has the shape [2], after `x` was used");
        }

        fn backward_passes_and_checkpoints_are_looked_at(device) {
            let found = first_non_finite(|| {
                let tape = Tape::new();
                let x = leaf(device, &tape, 0.0);
                // The square root has no slope at zero.
                let y = tape.checkpoint(&[&x], |_, x| x[0].sqrt()).unwrap();
                tape.backward(&y.mean(&[0], false).unwrap()).unwrap();
            }).1.unwrap();
            assert_eq!((found.operation, found.backward), ("sqrt", true));
            assert!(found.to_string().starts_with("the backward pass of `sqrt`"), "{found}");
        }

        fn frozen_parts_are_looked_at(device) {
            let x = Var::constant(Tensor::full(device, &[2], DType::F32, 1e30).unwrap());
            let (_, found) = first_non_finite(|| x.square().unwrap());
            assert_eq!(found.map(|found| (found.operation, found.after)), Some(("square", None)));
            assert!(!x.square().unwrap().requires_gradient(), "nobody watches any more");
        }

        fn rounded_results_without_gradients_have_their_names(device) {
            let x = Var::constant(Tensor::full(device, &[2, 8], DType::F32, 1e30).unwrap());
            let (_, found) = first_non_finite(|| x.silu_mul_rounded(&x).unwrap());
            assert_eq!(found.map(|found| found.operation), Some("silu_mul_rounded"));
        }
    }
}
