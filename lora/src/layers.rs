//! The choice of layers, as `layers_to_transform` and `layers_pattern` of PEFT state it.

use regex::Regex;

use crate::config::LoraConfig;
use crate::error::Result;
use crate::targets::{ModuleShape, Targets, compile};

/// Keeps the modules whose path holds the number of a chosen layer.
pub(crate) struct LayerFilter<'a> {
    config: &'a LoraConfig,
    patterns: Vec<Regex>,
}

impl<'a> LayerFilter<'a> {
    /// The filter of a configuration; `None` when it keeps every layer.
    ///
    /// # Errors
    /// [`crate::LoraError::Setting`] for a pattern that does not compile.
    pub fn of(config: &'a LoraConfig) -> Result<Option<Self>> {
        if config.layers_to_transform.is_empty() {
            return Ok(None);
        }
        let any = ["[^.]*".to_string()];
        let names = if config.layers_pattern.is_empty() { &any[..] } else { &config.layers_pattern };
        // The number follows the name of the list of layers; something must stand before that, as in PEFT.
        let patterns = names.iter().map(|name| compile("layers_pattern", &format!(r"^.*\.{name}\.(\d+)\.")));
        Ok(Some(LayerFilter { config, patterns: patterns.collect::<Result<_>>()? }))
    }

    /// Whether a targeted module is kept. A target that is a whole path says itself which layer it means.
    pub fn keeps(&self, module: &ModuleShape) -> bool {
        if matches!(&self.config.targets, Targets::Names(names) if names.contains(&module.name)) {
            return true;
        }
        let number = self.patterns.iter().find_map(|pattern| pattern.captures(&module.name)).and_then(|found| {
            let digits = found.get(1)?;
            digits.as_str().parse().ok()
        });
        number.is_some_and(|number: usize| self.config.layers_to_transform.contains(&number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(layers: &[usize], patterns: &[&str], targets: Targets) -> Vec<&'static str> {
        let config = LoraConfig {
            layers_to_transform: layers.to_vec(),
            layers_pattern: patterns.iter().map(|pattern| pattern.to_string()).collect(),
            targets,
            ..LoraConfig::default()
        };
        let filter = LayerFilter::of(&config).unwrap();
        let all = ["model.layers.0.q_proj", "model.layers.12.q_proj", "model.blocks.0.q_proj", "model.head"];
        all.into_iter().filter(|name| filter.as_ref().is_none_or(|f| f.keeps(&ModuleShape::new(*name, 2, 2)))).collect()
    }

    #[test]
    fn layers_are_chosen_by_number_and_by_the_name_of_their_list() {
        let names = || Targets::names(["q_proj"]);
        assert_eq!(kept(&[], &[], names()).len(), 4, "no choice is every layer");
        assert_eq!(kept(&[0], &[], names()), ["model.layers.0.q_proj", "model.blocks.0.q_proj"]);
        assert_eq!(kept(&[0, 12], &["layers"], names()), ["model.layers.0.q_proj", "model.layers.12.q_proj"]);
        assert_eq!(kept(&[1], &[], names()), Vec::<&str>::new());
        let whole = Targets::names(["model.head", "model.layers.12.q_proj"]);
        assert_eq!(kept(&[0], &["layers"], whole), ["model.layers.0.q_proj", "model.layers.12.q_proj", "model.head"]);
    }
}
