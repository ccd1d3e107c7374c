//! What a set of adapters needs to know of the model it is made for.

use std::collections::BTreeMap;

use tensor::Tensor;

use crate::config::LoraConfig;
use crate::error::{LoraError, Result};
use crate::forward::Model;
use crate::layers::LayerFilter;
use crate::targets::{ModuleShape, Targets};

/// A frozen model as adapters see it when they are made: its linear modules, and the values of parameters that could be
/// trained as a whole or that an initialiser starts from. Holds handles, no copies.
///
/// A list of [`ModuleShape`] is a base without values: enough for adapters that need none.
#[derive(Clone, Debug, Default)]
pub struct Base {
    modules: Vec<ModuleShape>,
    /// Parameters by module path, each with its own name (`weight`, `bias`).
    parameters: BTreeMap<String, Vec<(String, Tensor)>>,
    /// What the model offers to train as a whole.
    savable: Vec<String>,
    /// Second names of parameters, and their first.
    tied: BTreeMap<String, String>,
}

impl Base {
    /// All that a model says of itself.
    pub fn of(model: &dyn Model) -> Self {
        let (modules, savable) = (model.modules(), model.savable_modules());
        let paths = modules.iter().map(|module| &module.name).chain(&savable);
        let parameters = paths.map(|path| (path.clone(), model.saved_module(path)));
        let parameters = parameters.filter(|(_, parameters)| !parameters.is_empty()).collect();
        Base { parameters, modules, savable, tied: model.tied_parameters().into_iter().collect() }
    }

    /// A base told part by part, for tools that never load the model: its linear modules, and names (`weight`, `bias`)
    /// and values of the parameters of those that adapters train as a whole.
    pub fn from_parts(modules: Vec<ModuleShape>, parameters: BTreeMap<String, Vec<(String, Tensor)>>) -> Self {
        Base { modules, savable: parameters.keys().cloned().collect(), parameters, tied: BTreeMap::new() }
    }

    /// The linear modules.
    pub fn modules(&self) -> &[ModuleShape] {
        &self.modules
    }

    /// The frozen weight of a module, where the model gives it.
    pub fn weight(&self, module: &str) -> Option<&Tensor> {
        self.parameters(module).iter().find(|(name, _)| name == "weight").map(|(_, tensor)| tensor)
    }

    /// Whether the base says which parameters a module has.
    pub(crate) fn tells_of(&self, module: &str) -> bool {
        self.parameters.contains_key(module)
    }

    /// Names (`weight`, `bias`) and values of a module's parameters.
    pub(crate) fn parameters(&self, module: &str) -> &[(String, Tensor)] {
        self.parameters.get(module).map_or(&[], Vec::as_slice)
    }

    /// Full name (`<module>.weight`) and value of every parameter; of tied ones the first name only.
    pub(crate) fn every_parameter(&self) -> impl Iterator<Item = (String, &Tensor)> {
        let named = self.parameters.iter().flat_map(|(module, parameters)| {
            parameters.iter().map(move |(name, value)| (format!("{module}.{name}"), value))
        });
        named.filter(|(name, _)| !self.tied.contains_key(name))
    }

    /// Module and parameter of every bias.
    ///
    /// # Errors
    /// [`LoraError::Setting`] for a base without values.
    pub(crate) fn biases(&self) -> Result<impl Iterator<Item = (&str, &(String, Tensor))>> {
        if self.parameters.is_empty() {
            let message = "needs the parameters of the model: make the set with `Base::of` the model".into();
            return Err(LoraError::Setting { setting: "bias", message });
        }
        let all = self.parameters.iter();
        let all = all.flat_map(|(module, parameters)| parameters.iter().map(move |entry| (module.as_str(), entry)));
        Ok(all.filter(|(_, (name, _))| name == "bias"))
    }

    /// Second names of parameters, and their first.
    pub(crate) fn tied(&self) -> &BTreeMap<String, String> {
        &self.tied
    }

    /// The modules that entries of `modules_to_save` name: those whose path ends in one, or lies under one.
    ///
    /// # Errors
    /// With `strict`, [`LoraError::Setting`] for an entry that names nothing. Adapters of sequence classifiers list every
    /// name that a classifier's head may have, so files are not read strictly.
    pub(crate) fn saved_modules(&self, entries: &[String], strict: bool) -> Result<Vec<&str>> {
        let named = |entry: &str, path: &str| format!(".{path}.").contains(&format!(".{entry}."));
        let unknown = entries.iter().find(|entry| !self.parameters.keys().any(|path| named(entry, path)));
        if let Some(entry) = unknown.filter(|_| strict) {
            let offered = if self.savable.is_empty() { "none".into() } else { in_short(&self.savable) };
            return Err(LoraError::Setting {
                setting: "modules_to_save",
                message: format!(
                    "`{entry}` names no module that can be trained as a whole; the model offers: {offered}"
                ),
            });
        }
        let chosen = self.parameters.keys().filter(|path| entries.iter().any(|entry| named(entry, path)));
        Ok(chosen.map(String::as_str).collect())
    }

    /// The modules that carry an adapter: those targeted, in the chosen layers, and not excluded. One that is trained as a whole cannot carry one too; a choice
    /// of all linear modules leaves it out, as PEFT does with the heads of classifiers.
    ///
    /// # Errors
    /// [`LoraError::Target`] when there is none, [`LoraError::Setting`] for a module that is named as both.
    pub(crate) fn targeted(&self, config: &LoraConfig, saved: &[&str]) -> Result<Vec<&ModuleShape>> {
        let mut chosen = config.targets.select(&self.modules)?;
        let excluded = config.exclude_modules.as_ref().map(Targets::matcher).transpose()?;
        let layers = LayerFilter::of(config)?;
        chosen.retain(|module| !excluded.as_ref().is_some_and(|excluded| excluded.matches(module)));
        chosen.retain(|module| layers.as_ref().is_none_or(|layers| layers.keeps(module)));
        if chosen.is_empty() {
            return Err(LoraError::Setting {
                setting: "target_modules",
                message: "exclude_modules and layers_to_transform leave none of the targeted modules".into(),
            });
        }
        if config.targets == Targets::AllLinear {
            chosen.retain(|module| !saved.contains(&module.name.as_str()));
        }
        match chosen.iter().find(|module| saved.contains(&module.name.as_str())) {
            Some(module) => Err(LoraError::Setting {
                setting: "modules_to_save",
                message: format!(
                    "`{}` is to be trained as a whole and is a target of adapters; choose one",
                    module.name
                ),
            }),
            None => Ok(chosen),
        }
    }
}

/// The paths with `*` for the numbers of layers, each once.
fn in_short(paths: &[String]) -> String {
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let general = |path: &String| {
        let parts: Vec<&str> = path.split('.').map(|part| if is_number(part) { "*" } else { part }).collect();
        parts.join(".")
    };
    let mut kinds: Vec<String> = Vec::new();
    for kind in paths.iter().map(general) {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds.join(", ")
}

impl From<&[ModuleShape]> for Base {
    fn from(modules: &[ModuleShape]) -> Self {
        Base { modules: modules.to_vec(), ..Base::default() }
    }
}

impl<const N: usize> From<&[ModuleShape; N]> for Base {
    fn from(modules: &[ModuleShape; N]) -> Self {
        Base::from(modules.as_slice())
    }
}

impl From<&Vec<ModuleShape>> for Base {
    fn from(modules: &Vec<ModuleShape>) -> Self {
        Base::from(modules.as_slice())
    }
}

impl From<&Base> for Base {
    fn from(base: &Base) -> Self {
        base.clone()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use tensor::{DType, Device};

    use super::*;

    /// A base with values: a classifier's head beside linear modules.
    pub(crate) fn with_head(device: &Device) -> Base {
        let tensor = |shape: &[usize]| Tensor::ones(device, shape, DType::F16).unwrap();
        let head =
            |path: &str| (path.to_string(), vec![("weight".into(), tensor(&[3, 4])), ("bias".into(), tensor(&[3]))]);
        let parameters = [head("pooler.dense"), head("classifier"), ("layers.0.query".into(), vec![])];
        Base {
            modules: vec![ModuleShape::new("layers.0.query", 4, 4), ModuleShape::new("classifier", 4, 3)],
            parameters: parameters.into_iter().collect(),
            savable: vec!["pooler.dense".into(), "classifier".into()],
            tied: BTreeMap::new(),
        }
    }

    #[test]
    fn entries_name_modules_by_their_end_or_by_what_they_lie_under() {
        let base = with_head(&Device::cpu());
        let chosen = |entries: &[&str], strict| {
            let entries: Vec<String> = entries.iter().map(|entry| entry.to_string()).collect();
            base.saved_modules(&entries, strict).map(|paths| paths.into_iter().map(String::from).collect::<Vec<_>>())
        };
        assert_eq!(chosen(&["pooler"], true).unwrap(), ["pooler.dense"]);
        assert_eq!(chosen(&["dense", "classifier"], true).unwrap(), ["classifier", "pooler.dense"]);
        assert_eq!(chosen(&["classifier", "score"], false).unwrap(), ["classifier"]);
        let error = chosen(&["classifier", "ool"], true).unwrap_err().to_string();
        assert!(error.contains("`ool`") && error.ends_with("offers: pooler.dense, classifier"), "{error}");
    }

    #[test]
    fn layers_are_offered_once() {
        let paths = ["layers.0.norm", "layers.1.norm", "layers.10.norm", "norm2"].map(String::from);
        assert_eq!(in_short(&paths), "layers.*.norm, norm2");
    }

    #[test]
    fn a_module_is_adapted_or_trained_as_a_whole() {
        let base = with_head(&Device::cpu());
        let all = base.targeted(&LoraConfig::default(), &["classifier"]).unwrap();
        assert_eq!(all.iter().map(|module| module.name.as_str()).collect::<Vec<_>>(), ["layers.0.query"]);
        let named = LoraConfig { targets: Targets::names(["query", "classifier"]), ..LoraConfig::default() };
        let error = base.targeted(&named, &["classifier"]).unwrap_err().to_string();
        assert!(error.contains("`classifier` is to be trained as a whole"), "{error}");
        let excluding = |name: &str| LoraConfig { exclude_modules: Some(Targets::names([name])), ..named.clone() };
        assert_eq!(base.targeted(&excluding("query"), &[]).unwrap().len(), 1);
        let nothing = LoraConfig { layers_to_transform: vec![3], ..excluding("classifier") };
        assert!(base.targeted(&nothing, &[]).unwrap_err().to_string().contains("leave none of the targeted"));
    }
}
