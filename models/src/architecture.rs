//! Which architecture a checkpoint directory holds, according to its config.json.

use std::path::Path;

use crate::deberta::DebertaConfig;
use crate::error::{ModelError, Result};
use crate::json::Object;
use crate::llama::LlamaConfig;

/// The configuration of any architecture that the engine knows.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ModelConfig {
    /// LLaMA 1, 2, 3 and their relatives of the same structure, language models and classifiers of sequences.
    Llama(LlamaConfig),
    /// DeBERTa-v2 without convolution and DeBERTaV3, with any head.
    Deberta(DebertaConfig),
}

impl ModelConfig {
    /// Reads `config.json` in a checkpoint directory.
    ///
    /// # Errors
    /// [`crate::ModelError::Unsupported`] for an architecture the engine does not know; otherwise as the
    /// architecture's own parser.
    pub fn read(directory: &Path) -> Result<Self> {
        Self::from_object(&Object::read(&directory.join("config.json"))?)
    }

    fn from_object(object: &Object) -> Result<Self> {
        let Some(model_type) = object.text("model_type")? else {
            return Err(object.error("model_type", "is missing; it names the architecture, for instance \"llama\""));
        };
        match model_type {
            "llama" => {
                check_architecture(object, &["LlamaForCausalLM", "LlamaForSequenceClassification"])?;
                Ok(ModelConfig::Llama(LlamaConfig::from_object(object)?))
            }
            "deberta-v2" => {
                check_architecture(object, &DEBERTA_ARCHITECTURES)?;
                Ok(ModelConfig::Deberta(DebertaConfig::from_object(object)?))
            }
            other => {
                Err(object.unsupported("model_type", other, "the supported architectures are `llama` and `deberta-v2`"))
            }
        }
    }

    /// LLaMA's configuration, where it is one.
    pub(crate) fn into_llama(self, directory: &Path) -> Result<LlamaConfig> {
        match self {
            ModelConfig::Llama(config) => Ok(config),
            ModelConfig::Deberta(_) => Err(other_architecture(directory, "deberta-v2", "a LLaMA model")),
        }
    }

    /// DeBERTa's configuration, where it is one.
    pub(crate) fn into_deberta(self, directory: &Path) -> Result<DebertaConfig> {
        match self {
            ModelConfig::Deberta(config) => Ok(config),
            ModelConfig::Llama(_) => Err(other_architecture(directory, "llama", "a DeBERTa model")),
        }
    }
}

/// The classes whose weights have the encoder's names under `deberta.`; heads are looked for by name.
const DEBERTA_ARCHITECTURES: [&str; 3] =
    ["DebertaV2ForSequenceClassification", "DebertaV2ForMaskedLM", "DebertaV2Model"];

fn other_architecture(directory: &Path, found: &str, needed: &str) -> ModelError {
    ModelError::Unsupported {
        path: directory.join("config.json"),
        field: "model_type".into(),
        value: found.into(),
        way_out: format!("{needed} is needed here"),
    }
}

/// `architectures`, where given, must name one whose weights the loader expects.
fn check_architecture(object: &Object, expected: &[&str]) -> Result<()> {
    let Some(value) = object.get("architectures") else { return Ok(()) };
    let names = value.as_array().ok_or_else(|| object.error("architectures", "must be a list of names"))?;
    let known = |name: &serde_json::Value| name.as_str().is_some_and(|name| expected.contains(&name));
    if names.is_empty() || names.iter().any(known) {
        return Ok(());
    }
    Err(object.unsupported("architectures", value, format!("for this model_type `{}` is", expected.join("` or `"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        let object = Object::parse(Path::new("config.json"), text).expect("test JSON");
        ModelConfig::from_object(&object).expect_err("must be refused").to_string()
    }

    #[test]
    fn unknown_architectures_are_named() {
        assert_eq!(
            read(r#"{"model_type": "mamba"}"#),
            "config.json: `model_type` is mamba, which is not supported; the supported architectures are `llama` and \
             `deberta-v2`"
        );
        assert!(read(r#"{"model_type": "llama", "architectures": ["LlamaForTokenClassification"]}"#).contains(
            "`architectures` is [\"LlamaForTokenClassification\"], which is not supported; for this model_type"
        ));
        assert!(
            read(r#"{"model_type": "deberta-v2", "architectures": ["DebertaV2ForTokenClassification"]}"#)
                .contains("`DebertaV2ForSequenceClassification` or `DebertaV2ForMaskedLM`")
        );
        assert!(read("{}").contains("`model_type` is missing"));
    }
}
