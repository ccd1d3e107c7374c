//! The walk back through what a tape recorded: nodes, what goes to their inputs, in which order.

use tensor::{Result, Shape, Tensor, TensorError};

use crate::accumulation::Gradient;
use crate::finite;
use crate::gradients::Gradients;
use crate::tape::misuse;

/// A recorded operation, or a further output of the one before it.
pub(crate) struct Node {
    pub operation: &'static str,
    pub inputs: Vec<Option<Edge>>,
    pub backward: Backward,
}

/// An input of a node. Refers to the tape by number, since a handle would keep the tape alive for ever.
#[derive(Clone, Copy)]
pub(crate) struct Edge {
    pub tape: u64,
    pub index: u64,
    pub shape: Shape,
}

type Rule = Box<dyn FnOnce(&Tensor) -> Result<Vec<Option<Tensor>>>>;
/// From the upstream gradient and what each input has gathered so far to the new totals of the inputs. Gradients of
/// leaves inside a segment are added to those gathered so far.
type Accumulation = Box<dyn FnOnce(Gradient, Vec<Option<Gradient>>, &mut Gradients) -> Result<Vec<Option<Gradient>>>>;
/// The same from the upstream gradients of several outputs, at least one of which is there.
type JointRule = Box<dyn FnOnce(Vec<Option<Gradient>>, Vec<Option<Gradient>>) -> Result<Vec<Option<Gradient>>>>;

pub(crate) enum Backward {
    Leaf(String),
    /// An input of a segment that is computed again; the number is its position.
    Input(usize),
    Rule(Rule),
    Accumulating(Accumulation),
    /// With so many outputs, the first of which is this node's; nodes of the others follow.
    Joint(usize, JointRule),
    FurtherOutput,
}

/// One walk back over the nodes of a tape.
pub(crate) struct Walk<'a> {
    tape: u64,
    first: u64,
    nodes: Vec<Node>,
    /// What has been gathered so far for each node that is still there, except leaves.
    pending: Vec<Option<Gradient>>,
    /// What was gathered for the further outputs, last one first, of the node that comes next.
    further: Vec<Option<Gradient>>,
    totals: Vec<Option<Tensor>>,
    leaves: &'a mut Gradients,
}

impl<'a> Walk<'a> {
    /// Of tape number `tape`, whose nodes count from `first`; see [`crate::Tape::propagate`].
    pub fn new(
        tape: u64,
        first: u64,
        nodes: Vec<Node>,
        totals: Vec<Option<Tensor>>,
        leaves: &'a mut Gradients,
    ) -> Self {
        let pending = nodes.iter().map(|_| None).collect();
        Walk { tape, first, nodes, pending, further: Vec::new(), totals, leaves }
    }

    /// From `output` to the leaves and to the segment's inputs, whose totals it returns.
    pub fn run(mut self, output: Edge, upstream: Tensor) -> Result<Vec<Option<Tensor>>> {
        // Frees what was recorded after the output: nothing of it leads to the leaves.
        let last = self.position("backward", &output)?;
        self.nodes.truncate(last + 1);
        self.pending.truncate(last + 1);
        self.deposit("backward", &output, upstream.into())?;
        while let (Some(node), Some(upstream)) = (self.nodes.pop(), self.pending.pop()) {
            let gradients = match (node.backward, upstream) {
                (Backward::FurtherOutput, upstream) => {
                    self.further.push(upstream);
                    continue;
                }
                (Backward::Joint(outputs, rule), upstream) => {
                    let upstream = self.upstream_of_all(outputs, upstream);
                    if upstream.iter().all(Option::is_none) {
                        continue;
                    }
                    rule(upstream, self.totals_of(&node.inputs))?
                }
                // Leaves and inputs receive their contributions in `deposit` already.
                (_, None) | (Backward::Leaf(_) | Backward::Input(_), _) => continue,
                (Backward::Rule(rule), Some(upstream)) => {
                    let gradients = rule(&upstream.into_tensor()?)?;
                    gradients.iter().flatten().for_each(|gradient| finite::look(node.operation, true, gradient));
                    gradients.into_iter().map(|gradient| gradient.map(Gradient::from)).collect()
                }
                (Backward::Accumulating(rule), Some(upstream)) => {
                    let totals = self.totals_of(&node.inputs);
                    rule(upstream, totals, self.leaves)?
                }
            };
            if gradients.len() != node.inputs.len() {
                let message = format!("the rule has {} gradients for {} inputs", gradients.len(), node.inputs.len());
                return Err(misuse(node.operation, message));
            }
            for (edge, gradient) in node.inputs.iter().zip(gradients) {
                if let (Some(edge), Some(gradient)) = (edge, gradient) {
                    self.deposit(node.operation, edge, gradient)?;
                }
            }
        }
        Ok(self.totals)
    }

    /// What was gathered for each output of a node, `first` for the first of them. Outputs beyond the one that the walk began
    /// at have nothing.
    fn upstream_of_all(&mut self, outputs: usize, first: Option<Gradient>) -> Vec<Option<Gradient>> {
        let mut upstream = std::mem::take(&mut self.further);
        upstream.push(first);
        upstream.reverse();
        upstream.resize_with(outputs, || None);
        upstream
    }

    fn totals_of(&mut self, inputs: &[Option<Edge>]) -> Vec<Option<Gradient>> {
        inputs.iter().map(|edge| self.withdraw(edge.as_ref())).collect()
    }

    /// Where the node of an edge lies, if it is still there.
    fn position(&self, operation: &'static str, edge: &Edge) -> Result<usize> {
        if edge.tape != self.tape {
            return Err(misuse(operation, "a variable was recorded on another tape"));
        }
        let position = edge.index.checked_sub(self.first).map(|position| position as usize);
        position.filter(|&position| position < self.nodes.len()).ok_or_else(|| {
            misuse(operation, "a variable was recorded before the last backward pass, which emptied the tape")
        })
    }

    fn deposit(&mut self, operation: &'static str, edge: &Edge, gradient: Gradient) -> Result<()> {
        let position = self.position(operation, edge)?;
        if gradient.shape() != &edge.shape {
            let expected = format!("a gradient of shape {}", edge.shape);
            return Err(TensorError::Shape { operation, expected, found: *gradient.shape() });
        }
        let total = match &self.nodes[position].backward {
            Backward::Leaf(name) => return self.leaves.add(name, gradient.into_tensor()?),
            Backward::Input(input) => {
                let total = self.totals[*input].take().map(Gradient::from);
                self.totals[*input] = Some(gradient.added_to(total)?.into_tensor()?);
                return Ok(());
            }
            _ => &mut self.pending[position],
        };
        *total = Some(gradient.added_to(total.take())?);
        Ok(())
    }

    /// Takes out what an input has gathered so far, for a rule that adds to it and returns the total.
    fn withdraw(&mut self, edge: Option<&Edge>) -> Option<Gradient> {
        // An edge that leads nowhere is reported when the total is deposited.
        let position = self.position("checkpoint", edge?).ok()?;
        match &self.nodes[position].backward {
            Backward::Leaf(name) => self.leaves.remove(name).map(Gradient::from),
            Backward::Input(input) => self.totals[*input].take().map(Gradient::from),
            _ => self.pending[position].take(),
        }
    }
}
