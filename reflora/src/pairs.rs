//! The adapters' pairs of factors as the methods see them.

use autograd::Gradients;
use lora::{Adapter, AdapterSet};
use tensor::{PairShape, Tensor};

/// The adapters of linear modules, in the set's order. Whatever else a set trains (adapters of embeddings, magnitudes of
/// DoRA, whole modules) is not among them and passes through every method.
pub fn linear(adapters: &AdapterSet) -> impl Iterator<Item = &Adapter> {
    adapters.adapters().filter(|adapter| !adapter.embedding)
}

/// As [`linear`], on their own.
pub fn pairs(adapters: &AdapterSet) -> Vec<Adapter> {
    linear(adapters).cloned().collect()
}

pub fn shape(adapter: &Adapter) -> PairShape {
    PairShape { rank: adapter.rank, inputs: adapter.inputs, outputs: adapter.outputs }
}

/// The gradients of both factors of each pair, by the pair's index; a pair that lacks one of them is left out.
pub fn gradients<'a>(pairs: &[Adapter], gradients: &'a Gradients) -> Vec<(usize, &'a Tensor, &'a Tensor)> {
    let both = |(index, pair): (usize, &Adapter)| Some((index, gradients.get(&pair.a)?, gradients.get(&pair.b)?));
    pairs.iter().enumerate().filter_map(both).collect()
}

/// Puts new gradients in the place of those they were made from.
pub fn replace(pairs: &[Adapter], gradients: &mut Gradients, new: impl IntoIterator<Item = (usize, (Tensor, Tensor))>) {
    for (index, (a, b)) in new {
        gradients.insert(pairs[index].a.clone(), a);
        gradients.insert(pairs[index].b.clone(), b);
    }
}
