//! The tape: what was computed from trainable leaves, in order.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tensor::{DType, Result, RowScaled, Shape, Tensor, TensorError};

use crate::accumulation::{Gradient, Totals};
use crate::finite;
use crate::gradients::Gradients;
use crate::rounded::RoundedVar;
use crate::var::{Place, Var};
use crate::walk::{Backward, Edge, Node, Walk};

/// Records operations on [`Var`]s, then turns the record into gradients. Cloning gives another handle to the same
/// tape; a tape belongs to one thread.
///
/// One forward pass, one [`Tape::backward`]: the walk back takes every recorded node off the tape, so that saved
/// activations are freed as soon as they have been used. Afterwards the tape is empty and can be used again.
///
/// # Copy on write
/// Tensors have value semantics: an optimizer's update in place copies a parameter that anyone else still holds. After
/// `backward` the tape itself holds no tensor, but the caller's [`Var`]s of leaves do. Let them go out of scope before
/// the optimizer's step; otherwise the step is correct but needs a copy of those parameters.
#[derive(Clone)]
pub struct Tape {
    state: Rc<RefCell<State>>,
}

struct State {
    identity: u64,
    recording: bool,
    /// Results that rules would compute again are kept.
    keeps: bool,
    /// Index of `nodes[0]`: indices go on counting when the nodes of a finished pass are removed, so that a variable
    /// of an earlier pass is recognised.
    first: u64,
    nodes: Vec<Node>,
    leaves: HashMap<String, u64>,
    leaf_requested: bool,
    output_unread: bool,
}

/// What an operation can be recorded of.
pub trait TapeInput {
    /// Where it stands on a tape.
    fn place(&self) -> Option<&Place>;

    /// Its shape, which is its gradient's.
    fn input_shape(&self) -> &Shape;
}

impl<T: TapeInput> TapeInput for &T {
    fn place(&self) -> Option<&Place> {
        (*self).place()
    }

    fn input_shape(&self) -> &Shape {
        (*self).input_shape()
    }
}

impl Tape {
    /// An empty tape that records.
    pub fn new() -> Self {
        Self::with_recording(true)
    }

    /// A tape that records nothing: its leaves are constants. For evaluation and generation.
    pub fn inference() -> Self {
        Self::with_recording(false)
    }

    /// This tape, with rules that keep what they would otherwise compute again in the backward pass, such as large normalised
    /// rows in 16 bits: more memory, less time, the same bits.
    #[must_use]
    pub fn keeping_activations(self, on: bool) -> Self {
        self.state.borrow_mut().keeps = on;
        self
    }

    /// Whether rules keep what they would otherwise compute again.
    pub(crate) fn keeps_activations(&self) -> bool {
        self.state.borrow().keeps
    }

    fn with_recording(recording: bool) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let state = State {
            identity: NEXT.fetch_add(1, Relaxed),
            recording,
            keeps: false,
            first: 0,
            nodes: Vec::new(),
            leaves: HashMap::new(),
            leaf_requested: false,
            output_unread: false,
        };
        Tape { state: Rc::new(RefCell::new(state)) }
    }

    /// True unless this is an inference tape. Says nothing about training: inside [`Tape::checkpoint`] the first
    /// pass runs on an inference tape, so dropout and its like must depend on a setting of the model.
    pub fn is_recording(&self) -> bool {
        self.state.borrow().recording
    }

    /// Whether somebody reads the value of what is computed on this tape in the end. Nobody does where a segment of
    /// [`Tape::checkpoint`] is computed again: of its output only the gradient is wanted, so its last operation may leave out
    /// whatever that does not need.
    pub fn output_is_read(&self) -> bool {
        !self.state.borrow().output_unread
    }

    /// A tape that records, for what [nobody reads](Tape::output_is_read).
    pub(crate) fn for_gradients() -> Self {
        let tape = Self::new();
        tape.state.borrow_mut().output_unread = true;
        tape
    }

    /// Number of recorded nodes, leaves included.
    pub fn len(&self) -> usize {
        self.state.borrow().nodes.len()
    }

    /// True when nothing is recorded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A trainable value, f32. Asking again for the same name gives the same leaf, whose contributions add up; the tensor
    /// must then be the same one. The tape keeps the name only, not the tensor.
    pub fn leaf(&self, name: &str, tensor: &Tensor) -> Var {
        finite::note_leaf(name);
        let mut state = self.state.borrow_mut();
        state.leaf_requested = true;
        if !state.recording {
            return Var::constant(tensor.clone());
        }
        let index = match state.leaves.get(name) {
            Some(&index) => index,
            None => {
                let index = state.push("leaf", Vec::new(), Backward::Leaf(name.to_string()));
                state.leaves.insert(name.to_string(), index);
                index
            }
        };
        drop(state);
        Var::from_parts(tensor.clone(), Some(Place { tape: self.clone(), index }))
    }

    /// Records one operation: `backward` maps the gradient of the output to one gradient for each input, `None` where
    /// there is none, each of its input's shape. It is stored only if the tape records and some input requires a
    /// gradient; otherwise it is dropped with all that it captured, and the output is a constant.
    ///
    /// A rule captures the tensors that its equation needs and nothing else: ask `requires_gradient` of the inputs
    /// first, and capture tensors, never variables. Errors in the use of the tape (an input of another tape or of an
    /// earlier pass, gradients of a wrong number or shape) are reported by [`Tape::backward`].
    pub fn record<F>(&self, operation: &'static str, inputs: &[&Var], output: Tensor, backward: F) -> Var
    where
        F: FnOnce(&Tensor) -> Result<Vec<Option<Tensor>>> + 'static,
    {
        finite::look(operation, false, &output);
        if !self.records(inputs) {
            return Var::constant(output);
        }
        Var::from_parts(output, Some(self.push(operation, inputs, Backward::Rule(Box::new(backward)))))
    }

    /// As [`Tape::record`], for a rule that adds to what its inputs have gathered so far, as kernels can at no cost:
    /// `backward` gets the gradient of the output and the [`Totals`] of the inputs. Nobody but the rule holds these, unless
    /// an operation that passes its gradient on, as a sum does, left another handle.
    ///
    /// An input's gradient is the sum of the contributions in the order in which rules run, and within a rule in the order
    /// in which it adds them.
    pub fn record_accumulating<I, F>(&self, operation: &'static str, inputs: &[I], output: Tensor, backward: F) -> Var
    where
        I: TapeInput,
        F: FnOnce(Gradient, &mut Totals) -> Result<()> + 'static,
    {
        finite::look(operation, false, &output);
        Var::from_parts(output, self.place_of(operation, inputs, backward))
    }

    /// The place of an operation's output, if a gradient is wanted for it.
    fn place_of<I, F>(&self, operation: &'static str, inputs: &[I], backward: F) -> Option<Place>
    where
        I: TapeInput,
        F: FnOnce(Gradient, &mut Totals) -> Result<()> + 'static,
    {
        if !self.records(inputs) {
            return None;
        }
        let rule = move |dy, totals, _: &mut Gradients| Totals::after(operation, totals, |totals| backward(dy, totals));
        Some(self.push(operation, inputs, Backward::Accumulating(Box::new(rule))))
    }

    /// The places of an operation's outputs, one at least, if gradients are wanted for them.
    fn places_of<I, F>(&self, operation: &'static str, inputs: &[I], outputs: usize, backward: F) -> Option<Vec<Place>>
    where
        I: TapeInput,
        F: FnOnce(Vec<Option<Gradient>>, &mut Totals) -> Result<()> + 'static,
    {
        if outputs == 0 || !self.records(inputs) {
            return None;
        }
        let rule = move |dy, totals| Totals::after(operation, totals, |totals| backward(dy, totals));
        let first = self.push(operation, inputs, Backward::Joint(outputs, Box::new(rule)));
        let further = || self.push::<&Var>(operation, &[], Backward::FurtherOutput);
        Some(std::iter::once(first).chain(std::iter::repeat_with(further).take(outputs - 1)).collect())
    }

    fn records(&self, inputs: &[impl TapeInput]) -> bool {
        self.is_recording() && inputs.iter().any(|input| input.place().is_some())
    }

    /// Records a segment that is computed again in the backward pass.
    pub(crate) fn record_segment<F>(&self, inputs: &[&Var], output: Tensor, backward: F) -> Var
    where
        F: FnOnce(Tensor, Vec<Option<Tensor>>, &mut Gradients) -> Result<Vec<Option<Tensor>>> + 'static,
    {
        let backward = move |dy: Gradient, totals: Vec<Option<Gradient>>, leaves: &mut _| {
            let exact = |total: Option<Gradient>| total.map(Gradient::into_tensor).transpose();
            let totals = backward(dy.into_tensor()?, totals.into_iter().map(exact).collect::<Result<_>>()?, leaves)?;
            Ok(totals.into_iter().map(|total| total.map(Gradient::from)).collect())
        };
        Var::from_parts(output, Some(self.push("checkpoint", inputs, Backward::Accumulating(Box::new(backward)))))
    }

    /// A variable that stands for input `position` of a segment.
    pub(crate) fn segment_input(&self, position: usize, tensor: &Tensor) -> Var {
        let place = self.push::<&Var>("input", &[], Backward::Input(position));
        Var::from_parts(tensor.clone(), Some(place))
    }

    /// True when a leaf was asked for since the tape was made.
    pub(crate) fn leaf_requested(&self) -> bool {
        self.state.borrow().leaf_requested
    }

    fn push<I: TapeInput>(&self, operation: &'static str, inputs: &[I], backward: Backward) -> Place {
        let edge = |input: &I| {
            let place = input.place()?;
            Some(Edge { tape: place.tape.identity(), index: place.index, shape: *input.input_shape() })
        };
        let inputs = inputs.iter().map(edge).collect();
        let index = self.state.borrow_mut().push(operation, inputs, backward);
        Place { tape: self.clone(), index }
    }

    fn identity(&self) -> u64 {
        self.state.borrow().identity
    }

    /// Gradients of a scalar with respect to the leaves it depends on. Empties the tape, whatever the outcome.
    ///
    /// The gradients are contiguous, and ordered by name.
    ///
    /// # Errors
    /// [`TensorError::Shape`] when `loss` has more than one element; [`TensorError::InvalidArgument`] when it depends
    /// on no leaf, or was recorded on another tape or before the last backward pass; errors of the rules.
    pub fn backward(&self, loss: &Var) -> Result<Gradients> {
        if loss.elements() != 1 {
            return Err(TensorError::Shape {
                operation: "backward",
                expected: "a scalar loss".into(),
                found: *loss.shape(),
            });
        }
        self.backward_from(loss, Tensor::ones(loss.device(), loss.shape(), DType::F32)?)
    }

    /// As [`Tape::backward`], for an output of any shape whose gradient is `upstream`.
    ///
    /// # Errors
    /// As [`Tape::backward`]; [`TensorError::Shape`] when `upstream` does not have the output's shape.
    pub fn backward_from(&self, output: &Var, upstream: Tensor) -> Result<Gradients> {
        let mut gradients = Gradients::new();
        self.propagate(output, upstream, Vec::new(), &mut gradients)?;
        for (_, gradient) in gradients.iter_mut() {
            *gradient = gradient.contiguous()?;
        }
        Ok(gradients)
    }

    /// Walks back from `output`. `totals` holds what each segment input has gathered already, and comes back with the
    /// contributions of this walk added; gradients of leaves are added to `leaves` in the order in which they arise,
    /// so that sums do not depend on where segments begin and end.
    pub(crate) fn propagate(
        &self,
        output: &Var,
        upstream: Tensor,
        totals: Vec<Option<Tensor>>,
        leaves: &mut Gradients,
    ) -> Result<Vec<Option<Tensor>>> {
        let (first, nodes) = self.state.borrow_mut().take();
        let Some(place) = &output.place else {
            return Err(misuse("backward", "the loss depends on no trainable leaf of this tape"));
        };
        let edge = Edge { tape: place.tape.identity(), index: place.index, shape: *output.shape() };
        Walk::new(self.identity(), first, nodes, totals, leaves).run(edge, upstream)
    }
}

impl State {
    fn push(&mut self, operation: &'static str, inputs: Vec<Option<Edge>>, backward: Backward) -> u64 {
        self.nodes.push(Node { operation, inputs, backward });
        self.first + self.nodes.len() as u64 - 1
    }

    fn take(&mut self) -> (u64, Vec<Node>) {
        let first = self.first;
        let nodes = std::mem::take(&mut self.nodes);
        self.first += nodes.len() as u64;
        self.leaves.clear();
        (first, nodes)
    }
}

/// Records one operation on the tape of its inputs; see [`Tape::record`]. A constant comes out when no input requires
/// a gradient.
pub fn record<F>(operation: &'static str, inputs: &[&Var], output: Tensor, backward: F) -> Var
where
    F: FnOnce(&Tensor) -> Result<Vec<Option<Tensor>>> + 'static,
{
    match inputs.iter().find_map(|input| input.place.as_ref()) {
        Some(place) => place.tape.record(operation, inputs, output, backward),
        None => {
            finite::look(operation, false, &output);
            Var::constant(output)
        }
    }
}

/// As [`record()`], for a rule that adds to what its inputs have gathered; see [`Tape::record_accumulating`].
pub fn record_accumulating<I, F>(operation: &'static str, inputs: &[I], output: Tensor, backward: F) -> Var
where
    I: TapeInput,
    F: FnOnce(Gradient, &mut Totals) -> Result<()> + 'static,
{
    finite::look(operation, false, &output);
    Var::from_parts(output, record_place(operation, inputs, backward))
}

/// As [`record_accumulating`], for an operation with several outputs: `backward` gets the gradient of each, `None` where
/// nothing led back to an output. It runs after the rules of all that read any of them, and not at all where none of them has
/// a gradient.
pub fn record_outputs<I, F>(operation: &'static str, inputs: &[I], outputs: Vec<Tensor>, backward: F) -> Vec<Var>
where
    I: TapeInput,
    F: FnOnce(Vec<Option<Gradient>>, &mut Totals) -> Result<()> + 'static,
{
    outputs.iter().for_each(|output| finite::look(operation, false, output));
    let places = record_places(operation, inputs, outputs.len(), backward);
    outputs.into_iter().zip(places).map(|(output, place)| Var::from_parts(output, place)).collect()
}

/// As [`record_outputs`], for outputs that are rounded rows, each of a variable of the shape beside it. Rules keep the rows
/// themselves.
pub fn record_rounded_outputs<I, F>(
    operation: &'static str,
    inputs: &[I],
    outputs: Vec<(RowScaled, Shape)>,
    backward: F,
) -> Vec<RoundedVar>
where
    I: TapeInput,
    F: FnOnce(Vec<Option<Gradient>>, &mut Totals) -> Result<()> + 'static,
{
    outputs.iter().for_each(|(rows, _)| finite::look(operation, false, rows.values()));
    let places = record_places(operation, inputs, outputs.len(), backward);
    outputs.into_iter().zip(places).map(|(output, place)| RoundedVar::kept_at(output, place)).collect()
}

/// The places of an operation's outputs on the tape of its inputs, `None` each if no gradients are wanted for them.
fn record_places<I, F>(operation: &'static str, inputs: &[I], outputs: usize, backward: F) -> Vec<Option<Place>>
where
    I: TapeInput,
    F: FnOnce(Vec<Option<Gradient>>, &mut Totals) -> Result<()> + 'static,
{
    let tape = inputs.iter().find_map(TapeInput::place).map(|place| &place.tape);
    let places = tape.and_then(|tape| tape.places_of(operation, inputs, outputs, backward));
    places.map_or_else(|| vec![None; outputs], |places| places.into_iter().map(Some).collect())
}

/// The place of an operation's output on the tape of its inputs, if a gradient is wanted for it.
pub(crate) fn record_place<I, F>(operation: &'static str, inputs: &[I], backward: F) -> Option<Place>
where
    I: TapeInput,
    F: FnOnce(Gradient, &mut Totals) -> Result<()> + 'static,
{
    inputs.iter().find_map(TapeInput::place)?.tape.place_of(operation, inputs, backward)
}

pub(crate) fn misuse(operation: &'static str, message: impl Into<String>) -> TensorError {
    TensorError::InvalidArgument { operation, message: message.into() }
}

impl Default for Tape {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Tape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.borrow();
        write!(f, "Tape({} nodes, recording: {})", state.nodes.len(), state.recording)
    }
}
