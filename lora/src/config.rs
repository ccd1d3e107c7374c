//! What an adapter is before it has weights: rank, scaling, dropout and the modules it goes to.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::error::{LoraError, Result};
use crate::init::Initialisation;
use crate::layers::LayerFilter;
use crate::targets::{Targets, compile_override};

/// The hyper-parameters of a set of low-rank adapters, with the meaning they have in PEFT.
///
/// An adapted layer computes `x·Wᵀ + bias + s·(dropout(x)·Aᵀ)·Bᵀ` with A `[rank, inputs]`, B `[outputs, rank]` and
/// s = alpha/rank, or alpha/√rank with [`LoraConfig::use_rslora`].
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// Rank of the update B·A.
    pub rank: usize,
    /// Numerator of the scaling.
    pub alpha: f64,
    /// Probability with which an element of the adapter's input is dropped in training.
    pub dropout: f32,
    /// Which linear modules carry an adapter.
    pub targets: Targets,
    /// Other ranks for some modules.
    pub rank_pattern: Overrides<usize>,
    /// Other alphas for some modules.
    pub alpha_pattern: Overrides<f64>,
    /// Rank-stabilised scaling: alpha/√rank instead of alpha/rank.
    pub use_rslora: bool,
    /// Modules that are trained as a whole beside the adapters, such as the head of a classifier: by the end of their
    /// path, or by the path of something they lie under.
    pub modules_to_save: Vec<String>,
    /// Weight-decomposed adaptation (DoRA): the rows of `W + s·B·A` keep their direction, and their lengths are trained; of an
    /// embedding, the columns.
    pub use_dora: bool,
    /// Which biases are trained as well.
    pub bias: Bias,
    /// Numbers of the layers that carry adapters; all if empty. For targets by name.
    pub layers_to_transform: Vec<usize>,
    /// Names of the list of layers that the numbers count in, such as `layers`; any if empty.
    pub layers_pattern: Vec<String>,
    /// Modules that carry no adapter although they are targeted.
    pub exclude_modules: Option<Targets>,
    /// How fresh factors begin.
    pub init_lora_weights: Initialisation,
}

/// Which biases of the model are trained beside the adapters (`bias` of PEFT).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub enum Bias {
    /// None of them.
    #[default]
    None,
    /// Those of the linear modules that carry an adapter.
    LoraOnly,
    /// All that the model tells of, norms' included.
    All,
}

impl Bias {
    const NAMED: [(Bias, &str); 3] = [(Bias::None, "none"), (Bias::LoraOnly, "lora_only"), (Bias::All, "all")];
}

impl fmt::Display for Bias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Bias::NAMED.iter().find(|(bias, _)| bias == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

impl FromStr for Bias {
    type Err = LoraError;

    /// Reads PEFT's spelling.
    fn from_str(text: &str) -> Result<Self> {
        let known = Bias::NAMED.iter().find(|(_, name)| *name == text).map(|(bias, _)| *bias);
        known.ok_or_else(|| LoraError::Setting {
            setting: "bias",
            message: format!("is `{text}`; known are none, lora_only and all"),
        })
    }
}

impl Default for LoraConfig {
    /// Rank 8, alpha 16, no dropout, on every linear module but the output head.
    fn default() -> Self {
        LoraConfig {
            rank: 8,
            alpha: 16.0,
            dropout: 0.0,
            targets: Targets::AllLinear,
            rank_pattern: Overrides::default(),
            alpha_pattern: Overrides::default(),
            use_rslora: false,
            modules_to_save: Vec::new(),
            use_dora: false,
            bias: Bias::None,
            layers_to_transform: Vec::new(),
            layers_pattern: Vec::new(),
            exclude_modules: None,
            init_lora_weights: Initialisation::Kaiming,
        }
    }
}

impl LoraConfig {
    /// Checks every value's range and that every pattern compiles.
    ///
    /// # Errors
    /// [`LoraError::Setting`] with the first setting that is wrong.
    pub fn validate(&self) -> Result<()> {
        let setting = |setting, message: String| Err(LoraError::Setting { setting, message });
        if self.rank == 0 || self.rank_pattern.iter().any(|(_, rank)| *rank == 0) {
            return setting("rank", "must be at least 1".into());
        }
        let alphas = std::iter::once(self.alpha).chain(self.alpha_pattern.iter().map(|(_, alpha)| *alpha));
        if let Some(alpha) = alphas.into_iter().find(|alpha| !alpha.is_finite()) {
            return setting("alpha", format!("must be finite, found {alpha}"));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return setting("dropout", format!("must lie in 0..1, found {}", self.dropout));
        }
        for key in self.rank_pattern.keys().chain(self.alpha_pattern.keys()) {
            compile_override(key)?;
        }
        if self.modules_to_save.iter().any(String::is_empty) {
            return setting("modules_to_save", "a name is empty".into());
        }
        if self.use_dora && self.init_lora_weights.subtracts() {
            let message =
                format!("`{}` changes the weight whose lengths use_dora trains; choose one", self.init_lora_weights);
            return setting("init_lora_weights", message);
        }
        if !self.layers_to_transform.is_empty() && !matches!(self.targets, Targets::Names(_)) {
            // PEFT refuses to read such an adapter.
            let message = "goes with targets by name; give names, or a pattern of whole paths without it".into();
            return setting("layers_to_transform", message);
        }
        self.exclude_modules.as_ref().map(Targets::matcher).transpose()?;
        LayerFilter::of(self)?;
        self.targets.matcher().map(|_| ())
    }

    /// The rank of one module's adapter: the first override that matches, else [`LoraConfig::rank`].
    ///
    /// # Errors
    /// [`LoraError::Setting`] for an override that is no valid pattern.
    pub fn rank_of(&self, module: &str) -> Result<usize> {
        Ok(self.rank_pattern.get(module)?.copied().unwrap_or(self.rank))
    }

    /// The scaling s of one module's adapter.
    ///
    /// # Errors
    /// As [`LoraConfig::rank_of`].
    pub fn scaling_of(&self, module: &str) -> Result<f32> {
        let alpha = self.alpha_pattern.get(module)?.copied().unwrap_or(self.alpha);
        let rank = self.rank_of(module)? as f64;
        Ok(if self.use_rslora { alpha / rank.sqrt() } else { alpha / rank } as f32)
    }
}

/// Values for the modules whose path matches a key; the first key that matches wins, so the order is kept.
///
/// A key matches a module whose whole path it is, or whose path ends in it after a dot. Keys are regular expressions,
/// as in PEFT.
#[derive(Clone, Debug, PartialEq)]
pub struct Overrides<T>(Vec<(String, T)>);

impl<T> Default for Overrides<T> {
    fn default() -> Self {
        Overrides(Vec::new())
    }
}

impl<T> FromIterator<(String, T)> for Overrides<T> {
    fn from_iter<I: IntoIterator<Item = (String, T)>>(entries: I) -> Self {
        Overrides(entries.into_iter().collect())
    }
}

impl<T> Overrides<T> {
    /// The value of the first key that matches a module's path.
    ///
    /// # Errors
    /// [`LoraError::Setting`] for a key that is no valid pattern.
    pub fn get(&self, module: &str) -> Result<Option<&T>> {
        for (key, value) in &self.0 {
            if compile_override(key)?.is_match(module) {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// Keys and values in order.
    pub fn iter(&self) -> impl Iterator<Item = &(String, T)> {
        self.0.iter()
    }

    /// The keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(key, _)| key.as_str())
    }
}

impl<T: Serialize> Serialize for Overrides<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Overrides<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Overrides<T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object from module names to values")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Overrides(entries))
            }
        }
        deserializer.deserialize_map(Entries(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_matching_override_wins_and_matches_on_dots() {
        let overrides: Overrides<usize> =
            serde_json::from_str(r#"{"self_attn.q_proj": 1, "q_proj": 2, "model.head": 3, "[ab]_proj": 4}"#).unwrap();
        for (module, want) in [
            ("model.layers.0.self_attn.q_proj", Some(1)),
            ("model.layers.0.cross.q_proj", Some(2)),
            ("q_proj", Some(2)),
            ("model.freq_proj", None),
            ("model.head", Some(3)),
            ("model.head.inner", None),
            ("model.b_proj", Some(4)),
        ] {
            assert_eq!(overrides.get(module).unwrap().copied(), want, "{module}");
        }
        let text = serde_json::to_string(&overrides).unwrap();
        assert!(text.find("self_attn").unwrap() < text.find("model.head").unwrap(), "{text}");
    }

    #[test]
    fn scaling_follows_rank_alpha_and_rslora() {
        let mut config = LoraConfig {
            rank: 4,
            alpha: 8.0,
            rank_pattern: [("v_proj".to_string(), 2)].into_iter().collect(),
            alpha_pattern: [("v_proj".to_string(), 6.0)].into_iter().collect(),
            ..LoraConfig::default()
        };
        assert_eq!(config.scaling_of("a.q_proj").unwrap(), 2.0);
        assert_eq!(config.scaling_of("a.v_proj").unwrap(), 3.0);
        config.use_rslora = true;
        assert_eq!(config.scaling_of("a.q_proj").unwrap(), 4.0);
        assert_eq!(config.scaling_of("a.v_proj").unwrap(), (6.0 / 2f64.sqrt()) as f32);
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        let refused = |change: fn(&mut LoraConfig)| {
            let mut config = LoraConfig::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(refused(|c| c.rank = 0).starts_with("rank:"));
        assert!(refused(|c| c.alpha = f64::NAN).starts_with("alpha:"));
        assert!(refused(|c| c.dropout = 1.0).starts_with("dropout:"));
        assert!(refused(|c| c.rank_pattern = [("(".to_string(), 1)].into_iter().collect()).contains("("));
        assert!(refused(|c| c.targets = Targets::Names(Vec::new())).starts_with("target_modules:"));
        assert!(refused(|c| c.layers_to_transform = vec![1]).contains("targets by name"));
        assert!(
            refused(|c| {
                c.targets = Targets::names(["q"]);
                (c.layers_to_transform, c.layers_pattern) = (vec![1], vec!["(".into()]);
            })
            .contains("layers_pattern")
        );
        assert!(refused(|c| c.exclude_modules = Some(Targets::Pattern("(".into()))).contains("target_modules"));
        assert!(refused(|c| (c.use_dora, c.init_lora_weights) = (true, Initialisation::Olora)).contains("`olora`"));
        LoraConfig::default().validate().unwrap();
    }
}
