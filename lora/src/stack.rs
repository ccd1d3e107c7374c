//! Several adapters of one kind in one pass over the frozen base, each with its own part of the batch: how candidates are
//! compared where a pass for one alone would leave the device idle.

use std::collections::BTreeMap;
use std::sync::Arc;

use tensor::Tensor;

use crate::adapter::Adapter;
use crate::adapter_set::AdapterSet;
use crate::error::Result;

/// Adapters of the same modules with the same ranks and scalings. Layers compute their product with the frozen weight once
/// for all of them, see [`crate::Forward::stacked`]. For evaluation: nothing is recorded.
#[derive(Clone, Debug)]
pub struct AdapterStack {
    first: AdapterSet,
    sets: usize,
    factors: Arc<BTreeMap<String, StackedFactors>>,
}

/// The factors of one module.
#[derive(Debug)]
pub(crate) struct StackedFactors {
    /// Aᵀ of each, `[sets, inputs, rank]`.
    pub a: Tensor,
    /// Bᵀ of each, `[sets, rank, outputs]`.
    pub b: Tensor,
    /// The factor s of s·B·A.
    pub scaling: f32,
}

impl AdapterStack {
    /// The adapters as one stack; `None` for those that cannot share a pass: no adapter at all, other modules, ranks or
    /// scalings than the first, DoRA, adapters of embeddings, subtracted products, or different modules trained as a whole.
    ///
    /// # Errors
    /// The device's own errors.
    pub fn of(sets: &[AdapterSet]) -> Result<Option<Self>> {
        let Some(first) = sets.first() else { return Ok(None) };
        if !sets.iter().all(|set| fits(set, first)) {
            return Ok(None);
        }
        let mut factors = BTreeMap::new();
        for adapter in first.adapters() {
            let Adapter { inputs, outputs, rank, scaling, .. } = *adapter;
            let of_each: Vec<_> = sets.iter().filter_map(|set| set.factors(&adapter.module)).collect();
            let a = Tensor::concat(&of_each.iter().map(|factors| factors.a).collect::<Vec<_>>(), 0)?;
            let b = Tensor::concat(&of_each.iter().map(|factors| factors.b).collect::<Vec<_>>(), 0)?;
            let a = a.reshape(&[sets.len(), rank, inputs])?.transpose(1, 2)?;
            let b = b.reshape(&[sets.len(), outputs, rank])?.transpose(1, 2)?;
            factors.insert(adapter.module.clone(), StackedFactors { a, b, scaling });
        }
        Ok(Some(AdapterStack { first: first.clone(), sets: sets.len(), factors: Arc::new(factors) }))
    }

    /// The number of adapters.
    pub fn sets(&self) -> usize {
        self.sets
    }

    /// The first adapter, whose modules trained as a whole are those of all.
    pub fn first(&self) -> &AdapterSet {
        &self.first
    }

    pub(crate) fn factors(&self, module: &str) -> Option<&StackedFactors> {
        self.factors.get(module)
    }
}

fn fits(set: &AdapterSet, first: &AdapterSet) -> bool {
    let plain = |adapter: &Adapter| {
        adapter.magnitude.is_none() && !adapter.embedding && set.subtracted_product(&adapter.module).is_none()
    };
    let same_value = |name: &str| match (set.whole_parameter(name), first.whole_parameter(name)) {
        (Some(own), Some(other)) => own.is_same_view(other),
        _ => false,
    };
    set.adapters().eq(first.adapters())
        && set.adapters().all(plain)
        && set.whole_parameters().eq(first.whole_parameters())
        && set.whole_parameters().all(same_value)
}

#[cfg(test)]
mod tests {
    use autograd::Var;
    use autograd::check::TestRandom;
    use tensor::testing::{assert_close, on_each_backend};
    use tensor::{DType, Device, TensorError};

    use super::*;
    use crate::config::LoraConfig;
    use crate::forward::Forward;
    use crate::linear::Linear;
    use crate::targets::{ModuleShape, Targets};

    fn set(device: &Device, seed: u64, rank: usize) -> AdapterSet {
        let config = LoraConfig { rank, targets: Targets::AllLinear, ..LoraConfig::default() };
        let mut random = TestRandom::new(seed);
        AdapterSet::from_factors(config, &[ModuleShape::new("layer", 5, 3)], device, |adapter| {
            let a = random.tensor(device, &[adapter.rank, adapter.inputs], -1.0, 1.0)?;
            Ok((a, random.tensor(device, &[adapter.outputs, adapter.rank], -1.0, 1.0)?))
        })
        .unwrap()
    }

    on_each_backend! {
        fn each_part_of_the_batch_meets_its_own_adapter(device) {
            let mut random = TestRandom::new(3);
            let weight = random.tensor(device, &[3, 5], -1.0, 1.0).unwrap().cast(DType::Bf16).unwrap();
            let layer = Linear::new("layer", weight, Some(random.tensor(device, &[3], -1.0, 1.0).unwrap())).unwrap();
            for (sets, batch, tokens) in [(1, 2, 3), (3, 1, 1), (4, 2, 37)] {
                let sets: Vec<_> = (0..sets).map(|seed| set(device, seed, 2)).collect();
                let x = random.tensor(device, &[sets.len() * batch, tokens, 5], -2.0, 2.0).unwrap();
                let stack = AdapterStack::of(&sets).unwrap().unwrap();
                let y = layer.forward(&Forward::stacked(&stack), Var::constant(x.clone())).unwrap().into_tensor();
                for (index, set) in sets.iter().enumerate() {
                    let part = |tensor: &Tensor| tensor.slice(0, index * batch, (index + 1) * batch).unwrap();
                    let alone = layer.forward(&Forward::evaluation(Some(set)), Var::constant(part(&x))).unwrap();
                    let expected: Vec<f64> =
                        alone.tensor().to_vec::<f32>().unwrap().into_iter().map(f64::from).collect();
                    let found = part(&y);
                    assert_close("stacked", &found, found.shape(), &expected, 1e-6, 1e-6).unwrap();
                }
            }
        }
    }

    #[test]
    fn what_cannot_share_a_pass_is_told() {
        let device = Device::cpu();
        assert!(AdapterStack::of(&[]).unwrap().is_none());
        assert!(AdapterStack::of(&[set(&device, 1, 2), set(&device, 1, 3)]).unwrap().is_none());
        let stack = AdapterStack::of(&[set(&device, 1, 2), set(&device, 2, 2)]).unwrap().unwrap();
        let weight = Tensor::zeros(&device, &[3, 5], DType::F32).unwrap();
        let layer = Linear::new("layer", weight, None).unwrap();
        for shape in [&[4, 5][..], &[3, 2, 5]] {
            let x = Var::constant(Tensor::zeros(&device, shape, DType::F32).unwrap());
            let error = layer.forward(&Forward::stacked(&stack), &x).unwrap_err();
            assert!(matches!(error, TensorError::Shape { .. }), "{error}");
        }
    }
}
