//! Which modules carry an adapter: names, patterns, or all linear modules.

use std::collections::BTreeSet;
use std::str::FromStr;

use regex::Regex;

use crate::error::{LoraError, Result};

/// One linear module or embedding of a model: what injection needs to know about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleShape {
    /// The module's path, such as `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// Columns of a linear module's weight; the vocabulary of an embedding.
    pub inputs: usize,
    /// Rows of a linear module's weight; the width of an embedding.
    pub outputs: usize,
    /// The output head, which `all-linear` leaves alone, as in PEFT. It can still be targeted by name.
    pub head: bool,
    /// An embedding, with a weight of shape `[inputs, outputs]`. It is adapted only if targeted by name.
    pub embedding: bool,
}

impl ModuleShape {
    /// An ordinary linear module with a weight of shape `[outputs, inputs]`.
    pub fn new(name: impl Into<String>, inputs: usize, outputs: usize) -> Self {
        ModuleShape { name: name.into(), inputs, outputs, head: false, embedding: false }
    }

    /// Marks the module as the model's output head.
    pub fn head(self) -> Self {
        ModuleShape { head: true, ..self }
    }

    /// Marks the module as an embedding of `inputs` rows.
    pub fn embedding(self) -> Self {
        ModuleShape { embedding: true, ..self }
    }
}

/// The choice of modules, as `target_modules` of PEFT states it.
#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    /// Modules whose path is one of these names, or ends in one after a dot.
    Names(Vec<String>),
    /// Modules whose whole path matches this regular expression.
    Pattern(String),
    /// Every linear module except the output head.
    AllLinear,
}

impl Targets {
    /// Modules by name.
    pub fn names<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Targets::Names(names.into_iter().map(Into::into).collect())
    }

    /// Compiles the choice, to be asked about many modules.
    ///
    /// # Errors
    /// [`LoraError::Setting`] for an empty list or a pattern that does not compile.
    pub fn matcher(&self) -> Result<Matcher<'_>> {
        Ok(match self {
            Targets::Names(names) if names.is_empty() || names.iter().any(String::is_empty) => {
                return Err(LoraError::Setting {
                    setting: "target_modules",
                    message: "needs at least one name, and no empty ones".into(),
                });
            }
            Targets::Names(names) => Matcher::Names(names),
            Targets::Pattern(pattern) => Matcher::Pattern(compile("target_modules", &format!("^(?:{pattern})$"))?),
            Targets::AllLinear => Matcher::AllLinear,
        })
    }

    /// The modules chosen from `modules`, in their order.
    ///
    /// # Errors
    /// [`LoraError::Target`] when nothing is chosen, listing what there is, or [`LoraError::Setting`].
    pub fn select<'m>(&self, modules: &'m [ModuleShape]) -> Result<Vec<&'m ModuleShape>> {
        let matcher = self.matcher()?;
        let chosen: Vec<_> = modules.iter().filter(|module| matcher.matches(module)).collect();
        if chosen.is_empty() {
            return Err(self.unmatched(&self.to_string(), modules));
        }
        Ok(chosen)
    }

    /// As [`Targets::select`], and every single name must match something: a misspelt name would silently train less
    /// than was asked for.
    ///
    /// # Errors
    /// As [`Targets::select`].
    pub fn select_all<'m>(&self, modules: &'m [ModuleShape]) -> Result<Vec<&'m ModuleShape>> {
        if let Targets::Names(names) = self
            && let Some(name) = names.iter().find(|name| !modules.iter().any(|module| names_module(name, &module.name)))
        {
            return Err(self.unmatched(&format!("`{name}`"), modules));
        }
        self.select(modules)
    }

    fn unmatched(&self, target: &str, modules: &[ModuleShape]) -> LoraError {
        let segments: BTreeSet<&str> =
            modules.iter().map(|module| module.name.rsplit('.').next().unwrap_or(&module.name)).collect();
        let available = segments.into_iter().collect::<Vec<_>>().join(", ");
        let available = if available.is_empty() { "(the model has none)".into() } else { available };
        LoraError::Target { target: target.into(), available }
    }
}

impl std::fmt::Display for Targets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Targets::Names(names) => f.write_str(&names.join(",")),
            Targets::Pattern(pattern) => write!(f, "regex:{pattern}"),
            Targets::AllLinear => f.write_str("all-linear"),
        }
    }
}

/// Reads the form [`Targets`] is displayed in: `all-linear`, `regex:PATTERN`, or names separated by commas.
impl FromStr for Targets {
    type Err = LoraError;

    fn from_str(text: &str) -> Result<Self> {
        let targets = match text.strip_prefix("regex:") {
            Some(pattern) => Targets::Pattern(pattern.into()),
            None if text == "all-linear" => Targets::AllLinear,
            None => Targets::names(text.split(',').map(str::trim)),
        };
        targets.matcher()?;
        Ok(targets)
    }
}

/// A compiled [`Targets`].
#[derive(Debug)]
pub enum Matcher<'a> {
    /// By exact name or suffix.
    Names(&'a [String]),
    /// By a regular expression anchored at both ends.
    Pattern(Regex),
    /// Every linear module except the output head.
    AllLinear,
}

impl Matcher<'_> {
    /// Whether a module is chosen.
    pub fn matches(&self, module: &ModuleShape) -> bool {
        match self {
            Matcher::Names(names) => names.iter().any(|name| names_module(name, &module.name)),
            Matcher::Pattern(pattern) => pattern.is_match(&module.name),
            Matcher::AllLinear => !module.head && !module.embedding,
        }
    }
}

/// Whether `name` is the module's path or a suffix of it that begins after a dot.
fn names_module(name: &str, module: &str) -> bool {
    module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The pattern of one key of `rank_pattern` or `alpha_pattern`.
pub(crate) fn compile_override(key: &str) -> Result<Regex> {
    compile("rank_pattern/alpha_pattern", &format!(r"^(?:.*\.)?(?:{key})$"))
}

pub(crate) fn compile(setting: &'static str, pattern: &str) -> Result<Regex> {
    Regex::new(pattern).map_err(|error| LoraError::Setting { setting, message: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules() -> Vec<ModuleShape> {
        let mut modules: Vec<_> = ["model.layers.0.attention.output.dense", "model.layers.0.output.dense", "q_proj"]
            .into_iter()
            .map(|name| ModuleShape::new(name, 4, 4))
            .collect();
        modules.push(ModuleShape::new("lm_head", 4, 9).head());
        modules
    }

    fn chosen(targets: &str) -> Vec<String> {
        let modules = modules();
        targets.parse::<Targets>().unwrap().select(&modules).unwrap().into_iter().map(|m| m.name.clone()).collect()
    }

    #[test]
    fn names_match_whole_paths_and_suffixes_on_a_dot() {
        assert_eq!(chosen("output.dense").len(), 2);
        assert_eq!(chosen("attention.output.dense"), ["model.layers.0.attention.output.dense"]);
        assert_eq!(chosen("model.layers.0.output.dense, q_proj"), ["model.layers.0.output.dense", "q_proj"]);
        let modules = modules();
        assert!(Targets::names(["proj"]).select(&modules).is_err(), "`proj` is no suffix on a dot boundary");
    }

    #[test]
    fn patterns_match_whole_paths_only() {
        assert_eq!(chosen(r"regex:model\..*\.attention\..*dense"), ["model.layers.0.attention.output.dense"]);
        assert_eq!(chosen("regex:q_proj|lm_head"), ["q_proj", "lm_head"]);
        assert!(Targets::Pattern("proj".into()).select(&modules()).is_err());
        assert!("regex:(".parse::<Targets>().unwrap_err().to_string().starts_with("target_modules:"));
    }

    #[test]
    fn all_linear_leaves_the_head_alone() {
        assert_eq!(chosen("all-linear").len(), 3);
        assert_eq!(chosen("lm_head"), ["lm_head"]);
    }

    #[test]
    fn what_matches_nothing_lists_what_there_is() {
        let error = Targets::names(["q_proj", "c_attn"]).select_all(&modules()).unwrap_err().to_string();
        assert_eq!(
            error,
            "target_modules: `c_attn` matches no linear module of the model; the modules end in: dense, lm_head, q_proj"
        );
        assert_eq!(Targets::names(["q_proj", "c_attn"]).select(&modules()).unwrap().len(), 1);
    }
}
