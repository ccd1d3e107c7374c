//! What goes back along the tape: the gradient of an output as its rule gets it, and what the inputs have gathered so far.

use tensor::{Result, RowScaled, Shape, Tensor, row_scaled_together};

use crate::finite;
use crate::tape::misuse;

/// A gradient on its way back: in f32, or as rows along its last axis in 16 bits ([`Tensor::row_scaled`]), where the rule that
/// made it knows that the next one would round it anyway. Sums of gradients are f32.
#[derive(Clone, Debug)]
pub struct Gradient {
    shape: Shape,
    value: Value,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Exact(Tensor),
    Rounded(RowScaled),
}

impl Gradient {
    /// A gradient of `shape` as rounded rows.
    pub(crate) fn rounded(rows: RowScaled, shape: Shape) -> Self {
        Gradient { shape, value: Value::Rounded(rows) }
    }

    /// The shape of what it is the gradient of.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The gradient as it came.
    pub(crate) fn into_value(self) -> Value {
        self.value
    }

    /// The gradient in f32.
    ///
    /// # Errors
    /// The device's own errors.
    pub fn into_tensor(self) -> Result<Tensor> {
        match self.value {
            Value::Exact(tensor) => Ok(tensor),
            Value::Rounded(rows) => rows.restored()?.reshape(&self.shape),
        }
    }

    /// The gradient as rows along its last axis (a scalar is one row), in 16 bits.
    ///
    /// # Errors
    /// As [`Tensor::row_scaled`].
    pub fn row_scaled(self) -> Result<RowScaled> {
        match self.value {
            Value::Exact(tensor) => tensor.as_rows()?.row_scaled(),
            Value::Rounded(rows) => Ok(rows),
        }
    }

    /// [`Gradient::row_scaled`] of several, which share launches.
    ///
    /// # Errors
    /// As [`Gradient::row_scaled`].
    pub fn row_scaled_together(gradients: Vec<Self>) -> Result<Vec<RowScaled>> {
        let exact = gradients.iter().filter_map(|gradient| match &gradient.value {
            Value::Exact(tensor) => Some(tensor.as_rows()),
            Value::Rounded(_) => None,
        });
        let exact: Vec<Tensor> = exact.collect::<Result<_>>()?;
        let mut rounded = row_scaled_together(&exact.iter().collect::<Vec<_>>())?.into_iter();
        drop(exact);
        let all = gradients.into_iter().map(|gradient| match gradient.value {
            Value::Exact(_) => rounded.next(),
            Value::Rounded(rows) => Some(rows),
        });
        // One for each exact gradient: none is missing.
        Ok(all.flatten().collect())
    }

    /// This gradient, in f32, after `total`.
    pub(crate) fn added_to(self, total: Option<Self>) -> Result<Self> {
        match total {
            Some(total) => Ok(total.into_tensor()?.add(&self.into_tensor()?)?.into()),
            None => Ok(self),
        }
    }

    /// Looks at the numbers, if somebody watches.
    pub(crate) fn look(&self, operation: &'static str) {
        match &self.value {
            Value::Exact(tensor) => finite::look(operation, true, tensor),
            Value::Rounded(rows) => finite::look(operation, true, rows.values()),
        }
    }
}

impl From<Tensor> for Gradient {
    fn from(tensor: Tensor) -> Self {
        Gradient { shape: *tensor.shape(), value: Value::Exact(tensor) }
    }
}

/// What the inputs of an operation have gathered so far in a backward pass, for a rule that adds to it; inputs are counted
/// in the order of [`crate::Tape::record_accumulating`]. What a rule adds for an input that requires no gradient goes nowhere.
pub struct Totals {
    operation: &'static str,
    by_input: Vec<Option<Gradient>>,
}

impl Totals {
    /// What `rule` makes of what the inputs have gathered.
    pub(crate) fn after(
        operation: &'static str,
        by_input: Vec<Option<Gradient>>,
        rule: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<Vec<Option<Gradient>>> {
        let mut totals = Totals { operation, by_input };
        rule(&mut totals)?;
        totals.by_input.iter().flatten().for_each(|total| total.look(operation));
        Ok(totals.by_input)
    }

    /// Adds a gradient of the input's shape.
    ///
    /// # Errors
    /// As [`Totals::update`]; otherwise those of the sum.
    pub fn add(&mut self, input: usize, gradient: Tensor) -> Result<()> {
        self.put(input, |total| Gradient::from(gradient).added_to(total))
    }

    /// Adds a gradient of the input's shape `shape`, rounded to 16 bits; it stays so where it is the only contribution.
    ///
    /// # Errors
    /// As [`Totals::add`].
    pub fn add_rounded(&mut self, input: usize, rows: RowScaled, shape: &Shape) -> Result<()> {
        self.put(input, |total| Gradient::rounded(rows, *shape).added_to(total))
    }

    /// Whether an input has gathered nothing so far.
    ///
    /// # Errors
    /// As [`Totals::update`].
    pub fn is_empty(&mut self, input: usize) -> Result<bool> {
        Ok(self.total(input)?.is_none())
    }

    /// Replaces the total (`None` where nothing was gathered) by what `sum` makes of it: the total and a contribution.
    ///
    /// # Errors
    /// [`tensor::TensorError::InvalidArgument`] where the operation has no such input; what `sum` returns.
    pub fn update(&mut self, input: usize, sum: impl FnOnce(Option<Tensor>) -> Result<Tensor>) -> Result<()> {
        self.put(input, |total| Ok(sum(total.map(Gradient::into_tensor).transpose()?)?.into()))
    }

    /// Takes out what an input has gathered, for an operation that adds to it; the sum is then what is to be
    /// [added](Totals::add).
    ///
    /// # Errors
    /// As [`Totals::update`]; the device's own errors.
    pub fn take(&mut self, input: usize) -> Result<Option<Tensor>> {
        self.total(input)?.take().map(Gradient::into_tensor).transpose()
    }

    fn put(&mut self, input: usize, sum: impl FnOnce(Option<Gradient>) -> Result<Gradient>) -> Result<()> {
        let total = self.total(input)?;
        *total = Some(sum(total.take())?);
        Ok(())
    }

    fn total(&mut self, input: usize) -> Result<&mut Option<Gradient>> {
        let message = || format!("the rule has a gradient for input {input}, which there is not");
        self.by_input.get_mut(input).ok_or_else(|| misuse(self.operation, message()))
    }
}
