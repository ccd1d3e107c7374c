//! Which modules share their coefficients.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use lora::{AdapterSet, LoraError};

use crate::fusion::Coefficients;

/// How modules are put together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grouping {
    /// One α and one β for all.
    #[default]
    Global,
    /// One pair for each kind of module: those whose paths end in the same name.
    ModuleType,
    /// One pair for each layer: modules whose paths have the same first number; those without a number are one group.
    /// With some hundred examples this fits their noise; it takes a thousand or more.
    Layer,
}

impl Grouping {
    /// All of them.
    pub const ALL: [Grouping; 3] = [Grouping::Global, Grouping::ModuleType, Grouping::Layer];

    /// The name that [`Grouping::from_str`] reads.
    pub fn name(self) -> &'static str {
        match self {
            Grouping::Global => "global",
            Grouping::ModuleType => "module-type",
            Grouping::Layer => "layer",
        }
    }

    fn group_of(self, module: &str) -> &str {
        match self {
            Grouping::Global => "all",
            Grouping::ModuleType => module.rsplit('.').next().unwrap_or(module),
            Grouping::Layer => module.split('.').find(|part| part.parse::<u32>().is_ok()).unwrap_or("other"),
        }
    }
}

impl fmt::Display for Grouping {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Grouping {
    type Err = LoraError;

    fn from_str(text: &str) -> Result<Self, LoraError> {
        Grouping::ALL.into_iter().find(|grouping| grouping.name() == text).ok_or_else(|| {
            let names = Grouping::ALL.map(Grouping::name).join(", ");
            LoraError::Setting { setting: "groups", message: format!("`{text}` is not one of: {names}") }
        })
    }
}

/// The groups of one adapter's modules.
#[derive(Clone, Debug, PartialEq)]
pub struct Groups {
    /// In order of their first module's path; numbers in order of their size.
    names: Vec<String>,
    by_module: BTreeMap<String, usize>,
}

impl Groups {
    /// The groups of an adapter's modules.
    pub fn of(adapters: &AdapterSet, grouping: Grouping) -> Arc<Self> {
        let modules: Vec<&str> = adapters.adapters().map(|adapter| adapter.module.as_str()).collect();
        Self::of_modules(&modules, grouping)
    }

    fn of_modules(modules: &[&str], grouping: Grouping) -> Arc<Self> {
        let mut names: Vec<String> = modules.iter().map(|module| grouping.group_of(module).to_string()).collect();
        names.sort_by_key(|name| (name.parse::<u32>().unwrap_or(u32::MAX), name.clone()));
        names.dedup();
        let place = |module: &str| names.iter().position(|name| name == grouping.group_of(module));
        // Every module's group is among the names, which were made from the same modules.
        let by_module = modules.iter().filter_map(|module| Some((module.to_string(), place(module)?))).collect();
        Arc::new(Groups { names, by_module })
    }

    /// The groups' names.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The same pair for every group.
    pub fn uniform(self: &Arc<Self>, alpha: f64, beta: f64) -> GroupCoefficients {
        GroupCoefficients { groups: Arc::clone(self), values: vec![Coefficients { alpha, beta }; self.names.len()] }
    }

    /// Coefficients from a point α₁, β₁, α₂, β₂ ….
    pub(crate) fn at(self: &Arc<Self>, point: &[f64]) -> GroupCoefficients {
        let values = point.chunks_exact(2).map(|pair| Coefficients { alpha: pair[0], beta: pair[1] }).collect();
        GroupCoefficients { groups: Arc::clone(self), values }
    }
}

/// α and β of every group.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupCoefficients {
    groups: Arc<Groups>,
    values: Vec<Coefficients>,
}

impl GroupCoefficients {
    /// The coefficients of a module; (0, 0), no adapter, for one that is in no group.
    pub fn of(&self, module: &str) -> Coefficients {
        let nothing = Coefficients { alpha: 0.0, beta: 0.0 };
        self.groups.by_module.get(module).map_or(nothing, |&group| self.values[group])
    }

    /// The groups by name with their coefficients.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, Coefficients)> {
        self.groups.names.iter().map(String::as_str).zip(self.values.iter().copied())
    }

    /// The same for other groups, where every group has the same coefficients; `None` where they differ.
    pub fn regrouped(&self, groups: &Arc<Groups>) -> Option<GroupCoefficients> {
        let first = self.values.first()?;
        self.values.iter().all(|value| value == first).then(|| groups.uniform(first.alpha, first.beta))
    }

    /// As a point α₁, β₁, α₂, β₂ ….
    pub(crate) fn point(&self) -> Vec<f64> {
        self.values.iter().flat_map(|value| [value.alpha, value.beta]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_find_their_group() {
        let modules = ["model.layers.10.attn.q", "model.layers.2.attn.q", "model.layers.2.mlp.up", "head.q"];
        let groups = |grouping| Groups::of_modules(&modules, grouping);
        assert_eq!(groups(Grouping::Global).names(), ["all"]);
        assert_eq!(groups(Grouping::ModuleType).names(), ["q", "up"]);
        let layers = groups(Grouping::Layer);
        assert_eq!(layers.names(), ["2", "10", "other"]);
        let coefficients = layers.at(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(coefficients.of(modules[0]), Coefficients { alpha: 3.0, beta: 4.0 });
        assert_eq!(coefficients.of(modules[2]), coefficients.of(modules[1]));
        assert_eq!(coefficients.of("head.q").beta, 6.0);
        assert_eq!(coefficients.of("unknown"), Coefficients { alpha: 0.0, beta: 0.0 });
        assert_eq!(coefficients.point(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert!(coefficients.regrouped(&groups(Grouping::Global)).is_none());
        let global = groups(Grouping::Global).uniform(0.5, -0.5);
        assert_eq!(global.regrouped(&layers).unwrap(), layers.uniform(0.5, -0.5));
        for grouping in Grouping::ALL {
            assert_eq!(grouping.to_string().parse::<Grouping>().unwrap(), grouping);
        }
        assert!("layers".parse::<Grouping>().unwrap_err().to_string().contains("global, module-type, layer"));
    }
}
