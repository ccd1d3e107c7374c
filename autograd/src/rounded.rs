//! Variables that exist in 16 bits only, for products in mixed precision.

use std::cell::OnceCell;
use std::fmt;
use std::rc::Rc;

use tensor::{DType, Device, Result, RowScaled, Shape, Tensor};

use crate::accumulation::{Gradient, Totals};
use crate::finite;
use crate::tape::{TapeInput, record_accumulating, record_place};
use crate::var::{Place, Var};

/// Rows of fewer bytes are kept: computing them again would cost a launch for little memory.
const SMALL_BYTES: usize = 8 << 20;

/// A variable whose value is held as rows along its last axis in 16 bits ([`Tensor::row_scaled`]): what only products in
/// mixed precision use need not exist in f32. Its gradient is f32, unless [it is read](RoundedVar::reads_rounded_gradient) in 16
/// bits, too. Cloning is cheap.
///
/// Rules keep its value by [`RoundedVar::kept`], which computes it again where that costs less than keeping it.
#[derive(Clone, Debug)]
pub struct RoundedVar {
    rows: RowScaled,
    shape: Shape,
    place: Option<Place>,
    kept: KeptRows,
    gradient: Reads,
}

/// As what the rule of an operation reads the gradient of its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    Exact,
    Rounded,
}

/// Rounded rows as a rule keeps them for the backward pass: the rows themselves, or how to compute them again, which the
/// first rule that asks does for all that share them.
#[derive(Clone)]
pub struct KeptRows(Kept);

#[derive(Clone)]
enum Kept {
    Rows(Box<RowScaled>),
    Again(Rc<Again>),
}

struct Again {
    rows: OnceCell<RowScaled>,
    compute: Box<dyn Fn() -> Result<RowScaled>>,
}

impl KeptRows {
    /// The rows. Those that were computed again are freed with the last handle.
    ///
    /// # Errors
    /// Those of computing them again.
    pub fn rows(self) -> Result<RowScaled> {
        match self.0 {
            Kept::Rows(rows) => Ok(*rows),
            Kept::Again(again) => match again.rows.get() {
                Some(rows) => Ok(rows.clone()),
                None => {
                    let rows = (again.compute)()?;
                    Ok(again.rows.get_or_init(|| rows).clone())
                }
            },
        }
    }
}

impl From<RowScaled> for KeptRows {
    fn from(rows: RowScaled) -> Self {
        KeptRows(Kept::Rows(Box::new(rows)))
    }
}

impl fmt::Debug for KeptRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kept::Rows(_) => "KeptRows(as they are)",
            Kept::Again(_) => "KeptRows(computed again)",
        })
    }
}

impl RoundedVar {
    /// Records an operation whose result `rows` is a variable of `shape`; see [`crate::Tape::record_accumulating`]. Unless they
    /// are small, or the tape [keeps all](crate::Tape::keeping_activations), rules let `again` compute the rows once more, which
    /// must be the same.
    pub(crate) fn record(
        operation: &'static str,
        inputs: &[impl TapeInput],
        (rows, shape): (RowScaled, Shape),
        again: impl Fn() -> Result<RowScaled> + 'static,
        backward: impl FnOnce(Gradient, &mut Totals) -> Result<()> + 'static,
    ) -> Self {
        let keeps = inputs.iter().find_map(TapeInput::place).is_some_and(|place| place.tape.keeps_activations());
        if keeps || rows.values().elements() * DType::F16.bytes() < SMALL_BYTES {
            return Self::record_kept(operation, inputs, (rows, shape), backward);
        }
        let again = Again { rows: OnceCell::new(), compute: Box::new(again) };
        let kept = KeptRows(Kept::Again(Rc::new(again)));
        finite::look(operation, false, rows.values());
        Self::from_parts((rows, shape), record_place(operation, inputs, backward), kept)
    }

    /// As [`RoundedVar::record`], for rows that are kept.
    pub(crate) fn record_kept(
        operation: &'static str,
        inputs: &[impl TapeInput],
        (rows, shape): (RowScaled, Shape),
        backward: impl FnOnce(Gradient, &mut Totals) -> Result<()> + 'static,
    ) -> Self {
        finite::look(operation, false, rows.values());
        Self::kept_at((rows, shape), record_place(operation, inputs, backward))
    }

    /// An operation's result that nobody wants a gradient of.
    pub(crate) fn constant(operation: &'static str, rows: RowScaled, shape: Shape) -> Self {
        finite::look(operation, false, rows.values());
        Self::kept_at((rows, shape), None)
    }

    /// Rows that are kept, of an operation that is recorded.
    pub(crate) fn kept_at((rows, shape): (RowScaled, Shape), place: Option<Place>) -> Self {
        let kept = rows.clone().into();
        Self::from_parts((rows, shape), place, kept)
    }

    fn from_parts((rows, shape): (RowScaled, Shape), place: Option<Place>, kept: KeptRows) -> Self {
        RoundedVar { rows, shape, place, kept, gradient: Reads::Exact }
    }

    /// The same variable, of an operation whose rule takes a gradient in 16 bits as it is.
    pub(crate) fn reading_rounded_gradient(self) -> Self {
        RoundedVar { gradient: Reads::Rounded, ..self }
    }

    /// Whether a gradient of this variable may as well come in 16 bits ([`Totals::add_rounded`]): the rule that reads it takes it
    /// as it is. Sums are f32 all the same, so several contributions had better not be rounded each.
    pub fn reads_rounded_gradient(&self) -> bool {
        self.gradient == Reads::Rounded
    }

    /// The value.
    pub fn rows(&self) -> &RowScaled {
        &self.rows
    }

    /// What a rule keeps of the value.
    pub fn kept(&self) -> KeptRows {
        self.kept.clone()
    }

    /// The shape of the variable.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The value in f32, of the variable's shape.
    ///
    /// # Errors
    /// The device's own errors.
    pub fn restored(&self) -> Result<Tensor> {
        self.rows.restored()?.reshape(&self.shape)
    }

    /// The same variable in f32; dx = dy.
    ///
    /// # Errors
    /// As [`RoundedVar::restored`].
    pub fn to_var(&self) -> Result<Var> {
        Ok(record_accumulating("restore", &[self], self.restored()?, |dy, totals| totals.add(0, dy.into_tensor()?)))
    }
}

impl TapeInput for RoundedVar {
    fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    fn input_shape(&self) -> &Shape {
        &self.shape
    }
}

/// What a layer multiplies: a variable, or one that is rounded already. Cloning is cheap.
#[derive(Clone, Debug)]
pub enum Operand {
    /// In f32; rounded where a product in mixed precision wants it.
    Exact(Var),
    /// In 16 bits.
    Rounded(Box<RoundedVar>),
}

impl Operand {
    /// The shape of the variable.
    pub fn shape(&self) -> &Shape {
        self.input_shape()
    }

    /// True when a gradient will flow to it.
    pub fn requires_gradient(&self) -> bool {
        self.place().is_some()
    }

    /// The device it is on.
    pub fn device(&self) -> &Device {
        match self {
            Operand::Exact(x) => x.device(),
            Operand::Rounded(x) => x.rows.device(),
        }
    }

    /// See [`RoundedVar::reads_rounded_gradient`].
    pub fn reads_rounded_gradient(&self) -> bool {
        matches!(self, Operand::Rounded(x) if x.reads_rounded_gradient())
    }

    /// The value in 16 bits, see [`Var::row_scaled`].
    ///
    /// # Errors
    /// As [`Tensor::row_scaled`].
    pub fn row_scaled(&self) -> Result<RowScaled> {
        match self {
            Operand::Exact(x) => x.row_scaled(),
            Operand::Rounded(x) => Ok(x.rows.clone()),
        }
    }

    /// What a rule keeps of the value in 16 bits.
    ///
    /// # Errors
    /// As [`Operand::row_scaled`].
    pub fn kept(&self) -> Result<KeptRows> {
        match self {
            Operand::Exact(x) => Ok(x.row_scaled()?.into()),
            Operand::Rounded(x) => Ok(x.kept()),
        }
    }

    /// The value in f32.
    ///
    /// # Errors
    /// The device's own errors.
    pub fn to_tensor(&self) -> Result<Tensor> {
        match self {
            Operand::Exact(x) => Ok(x.tensor().clone()),
            Operand::Rounded(x) => x.restored(),
        }
    }

    /// The variable in f32.
    ///
    /// # Errors
    /// The device's own errors.
    pub fn to_var(&self) -> Result<Var> {
        match self {
            Operand::Exact(x) => Ok(x.clone()),
            Operand::Rounded(x) => x.to_var(),
        }
    }
}

impl TapeInput for Operand {
    fn place(&self) -> Option<&Place> {
        match self {
            Operand::Exact(x) => x.place(),
            Operand::Rounded(x) => x.place(),
        }
    }

    fn input_shape(&self) -> &Shape {
        match self {
            Operand::Exact(x) => x.input_shape(),
            Operand::Rounded(x) => x.input_shape(),
        }
    }
}

impl From<Var> for Operand {
    fn from(x: Var) -> Self {
        Operand::Exact(x)
    }
}

impl From<&Var> for Operand {
    fn from(x: &Var) -> Self {
        Operand::Exact(x.clone())
    }
}

impl From<&Operand> for Operand {
    fn from(x: &Operand) -> Self {
        x.clone()
    }
}

impl From<RoundedVar> for Operand {
    fn from(x: RoundedVar) -> Self {
        Operand::Rounded(Box::new(x))
    }
}

#[cfg(test)]
mod tests {
    use tensor::TensorError;
    use tensor::testing::on_each_backend;

    use super::*;
    use crate::tape::Tape;

    on_each_backend! {
        fn readers_share_what_is_computed_again(device) {
            const ROWS: usize = SMALL_BYTES / 2 / 4096;
            let tape = Tape::new();
            let x = tape.leaf("x", &Tensor::ones(device, &[2, ROWS / 2, 4096], DType::F32).unwrap());
            let weight = Var::constant(Tensor::ones(device, &[4096], DType::F32).unwrap());
            for y in [x.rms_norm_rounded(&weight, 1e-5).unwrap(), x.silu_mul_rounded(&x).unwrap()] {
                let y = Operand::from(y);
                assert!(y.requires_gradient() && y.shape()[..] == [2, ROWS / 2, 4096]);
                let [first, second, third] = [(); 3].map(|()| y.kept().unwrap());
                let [first, second] = [first, second].map(|kept| kept.rows().unwrap());
                assert!(first.values().is_same_view(second.values()));
                assert!(!first.values().is_same_view(y.row_scaled().unwrap().values()), "the value is not kept");
                let values = |rows: &RowScaled| rows.values().to_vec::<tensor::f16>().unwrap();
                assert_eq!(values(&first), values(&y.row_scaled().unwrap()));
                drop((first, second));
                assert_eq!(third.rows().unwrap().shape()[..], [ROWS, 4096]);
            }
        }

        fn small_rows_are_kept(device) {
            let tape = Tape::new();
            let x = tape.leaf("x", &Tensor::ones(device, &[2, 3, 5], DType::F32).unwrap());
            let y = x.silu_mul_rounded(&x).unwrap();
            assert!(y.kept().rows().unwrap().values().is_same_view(y.rows().values()));
        }

        fn a_tape_may_keep_all_rows(device) {
            const ROWS: usize = SMALL_BYTES / 2 / 4096;
            for keeps in [false, true] {
                let tape = Tape::new().keeping_activations(keeps);
                let x = tape.leaf("x", &Tensor::ones(device, &[ROWS, 4096], DType::F32).unwrap());
                let y = x.silu_mul_rounded(&x).unwrap();
                assert_eq!(y.kept().rows().unwrap().values().is_same_view(y.rows().values()), keeps);
            }
        }

        fn an_exact_operand_keeps_its_rounded_value(device) {
            let x = Operand::from(&Var::constant(Tensor::ones(device, &[4, 3], DType::F32).unwrap()));
            assert!(!x.requires_gradient() && x.device() == device);
            let rows = x.kept().unwrap().rows().unwrap();
            assert!(rows.values().is_same_view(x.row_scaled().unwrap().values()));
            assert_eq!(x.to_tensor().unwrap().to_vec::<f32>().unwrap(), rows.restored().unwrap().to_vec::<f32>().unwrap());
        }
    }

    #[test]
    fn errors_of_computing_again_are_told() {
        let kept = KeptRows(Kept::Again(Rc::new(Again {
            rows: OnceCell::new(),
            compute: Box::new(|| Err(TensorError::DeviceLost { reason: "unplugged".into() })),
        })));
        assert!(kept.rows().unwrap_err().to_string().contains("unplugged"));
    }
}
