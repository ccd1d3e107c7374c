//! Which architecture a checkpoint directory holds, according to its config.json.

use std::path::Path;

use crate::error::Result;
use crate::json::Object;
use crate::llama::LlamaConfig;

/// The configuration of any architecture that the engine knows.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ModelConfig {
    /// LLaMA 1, 2, 3 and their relatives of the same structure, with a language-modelling head.
    Llama(LlamaConfig),
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
                check_architecture(object, "LlamaForCausalLM")?;
                Ok(ModelConfig::Llama(LlamaConfig::from_object(object)?))
            }
            other => Err(object.unsupported("model_type", other, "the supported architecture is `llama`")),
        }
    }
}

/// `architectures`, where given, must be the one whose weights the loader expects.
fn check_architecture(object: &Object, expected: &str) -> Result<()> {
    let Some(value) = object.get("architectures") else { return Ok(()) };
    let names = value.as_array().ok_or_else(|| object.error("architectures", "must be a list of names"))?;
    if names.is_empty() || names.iter().any(|name| name.as_str() == Some(expected)) {
        return Ok(());
    }
    Err(object.unsupported("architectures", value, format!("for this model_type `{expected}` is")))
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
            "config.json: `model_type` is mamba, which is not supported; the supported architecture is `llama`"
        );
        assert!(read(r#"{"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}"#).contains(
            "`architectures` is [\"LlamaForSequenceClassification\"], which is not supported; for this model_type"
        ));
        assert!(read("{}").contains("`model_type` is missing"));
    }
}
