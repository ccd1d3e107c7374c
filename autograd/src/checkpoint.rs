//! Activation checkpointing: a segment of the forward pass keeps only its inputs and is computed again, recorded this
//! time, when the backward pass reaches it. Memory for time.

use tensor::Result;

use crate::tape::{Tape, misuse};
use crate::var::Var;

impl Tape {
    /// Computes `segment` of `inputs` without keeping what happens inside. The backward pass calls `segment` again,
    /// on a tape that records, and goes on through that. Gradients are the same bit for bit as without a checkpoint,
    /// provided the segment computes the same thing twice: random numbers must come from keys (as in
    /// [`Var::dropout`]), not from a state that advances.
    ///
    /// The second time nobody reads the value of the segment's output, see [`Tape::output_is_read`].
    ///
    /// `segment` takes its trainable leaves from the tape it is given, never from the outer one. On an inference tape
    /// it simply runs.
    ///
    /// # Errors
    /// What `segment` returns; [`tensor::TensorError::InvalidArgument`] when it recorded on another tape.
    pub fn checkpoint<F>(&self, inputs: &[&Var], segment: F) -> Result<Var>
    where
        F: Fn(&Tape, &[Var]) -> Result<Var> + 'static,
    {
        if !self.is_recording() {
            let inputs: Vec<Var> = inputs.iter().map(|&input| input.clone()).collect();
            return segment(self, &inputs);
        }
        let first_pass = Tape::inference();
        let constants: Vec<Var> = inputs.iter().map(|input| input.detach()).collect();
        let output = segment(&first_pass, &constants)?;
        if output.requires_gradient() {
            return Err(misuse("checkpoint", "the segment recorded on another tape than the one it was given"));
        }
        let differentiable: Vec<bool> = inputs.iter().map(|input| input.requires_gradient()).collect();
        if !first_pass.leaf_requested() && !differentiable.contains(&true) {
            return Ok(output);
        }
        let backward = move |upstream, totals: Vec<_>, leaves: &mut _| {
            let tape = Tape::for_gradients();
            let again: Vec<Var> = constants
                .iter()
                .zip(&differentiable)
                .enumerate()
                .map(
                    |(position, (input, &differentiable))| {
                        if differentiable { tape.segment_input(position, input.tensor()) } else { input.clone() }
                    },
                )
                .collect();
            drop(constants);
            let output = segment(&tape, &again)?;
            drop(again);
            if !output.requires_gradient() {
                return Ok(totals);
            }
            tape.propagate(&output, upstream, totals, leaves)
        };
        Ok(self.record_segment(inputs, output.into_tensor(), backward))
    }
}
