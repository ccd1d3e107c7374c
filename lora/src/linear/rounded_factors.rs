//! Factors in 16 bits, which the layers of a pass round for each other: a launch takes several.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use tensor::{Result, RoundedFactor, Tensor, TensorError, round_factors};

use crate::adapter::Adapter;
use crate::adapter_set::AdapterSet;

/// Adapters that are rounded together, in the order of their modules' paths: few enough that a block of a large model that
/// is computed again rounds little that it does not need.
const TOGETHER: usize = 6;

/// The factors that one pass has rounded so far, A and B by the module's path. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct RoundedFactors(Rc<RefCell<HashMap<String, [RoundedFactor; 2]>>>);

impl RoundedFactors {
    /// A and B of one adapter of the pass's set. The first request rounds those of its neighbours, too.
    pub(super) fn of(&self, set: &AdapterSet, adapter: &Adapter) -> Result<[RoundedFactor; 2]> {
        if let Some(rounded) = self.0.borrow().get(&adapter.module) {
            return Ok(rounded.clone());
        }
        let linear = || set.adapters().filter(|adapter| !adapter.embedding);
        let place = linear().position(|other| other.module == adapter.module).unwrap_or(0);
        let together: Vec<&Adapter> = linear().skip(place / TOGETHER * TOGETHER).take(TOGETHER).collect();
        let factors = together.iter().filter_map(|adapter| set.factors(&adapter.module));
        let factors: Vec<(&Tensor, usize)> = factors.flat_map(|factors| [(factors.a, 0), (factors.b, 1)]).collect();
        let mut rounded = round_factors(&factors)?.into_iter();
        let mut all = self.0.borrow_mut();
        for adapter in together {
            if let (Some(a), Some(b)) = (rounded.next(), rounded.next()) {
                all.insert(adapter.module.clone(), [a, b]);
            }
        }
        // The set has this adapter, as the layer found it there.
        all.get(&adapter.module).cloned().ok_or_else(|| TensorError::InvalidArgument {
            operation: "adapter",
            message: format!("the factors of `{}` are gone from the adapter set", adapter.module),
        })
    }
}
