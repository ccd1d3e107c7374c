//! JSON files read field by field, so that a wrong value is reported with the file's and the field's name.

use std::path::{Path, PathBuf};

use lora::read_small;
use serde_json::{Map, Value};

use crate::error::{ModelError, Result};

/// The index of a model in many shards is the largest of these files; more than this is damage or malice.
const MAX_BYTES: u64 = 1 << 27;

/// A JSON object and where it came from.
#[derive(Debug)]
pub(crate) struct Object {
    path: PathBuf,
    /// Dotted path of this object inside the file, with a trailing dot; empty at the top.
    prefix: String,
    fields: Map<String, Value>,
}

impl Object {
    /// Reads a file whose top level is an object.
    pub fn read(path: &Path) -> Result<Self> {
        let text = String::from_utf8(read_small(path, MAX_BYTES).map_err(ModelError::unread)?);
        let invalid = |error| ModelError::Json { path: path.to_path_buf(), message: format!("not UTF-8: {error}") };
        Self::parse(path, &text.map_err(invalid)?)
    }

    /// Parses the text of a file.
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let failed = |message: String| ModelError::Json { path: path.to_path_buf(), message };
        // Byte-order marks are not JSON, but editors leave them behind.
        match serde_json::from_str(text.trim_start_matches('\u{feff}')) {
            Ok(Value::Object(fields)) => Ok(Object { path: path.to_path_buf(), prefix: String::new(), fields }),
            Ok(_) => Err(failed("expected a JSON object at the top level".into())),
            Err(error) => Err(failed(format!("not valid JSON: {error}"))),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The value of a field; `None` when it is absent or null.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    /// All fields, in the order of the file or of their names.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// True when the field is there, if only as null.
    pub fn contains(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    /// An error about one of this object's fields.
    pub fn error(&self, field: &str, message: impl Into<String>) -> ModelError {
        ModelError::Field { path: self.path.clone(), field: format!("{}{field}", self.prefix), message: message.into() }
    }

    /// The refusal of one of this object's fields.
    pub fn unsupported(&self, field: &str, value: impl ToString, way_out: impl Into<String>) -> ModelError {
        ModelError::Unsupported {
            path: self.path.clone(),
            field: format!("{}{field}", self.prefix),
            value: value.to_string(),
            way_out: way_out.into(),
        }
    }

    /// A nested object; `None` when absent or null.
    pub fn object(&self, field: &str) -> Result<Option<Object>> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Object {
                path: self.path.clone(),
                prefix: format!("{}{field}.", self.prefix),
                fields: fields.clone(),
            })),
            Some(value) => Err(self.error(field, format!("must be an object, found {value}"))),
        }
    }

    /// A positive whole number; `None` when absent or null.
    pub fn count(&self, field: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_u64().and_then(|count| usize::try_from(count).ok()) {
            Some(count) if count > 0 && count <= u32::MAX as usize => Ok(Some(count)),
            _ => Err(self.error(field, format!("must be a positive whole number below 2^32, found {value}"))),
        }
    }

    /// A positive whole number that must be there.
    pub fn required_count(&self, field: &str) -> Result<usize> {
        self.count(field)?.ok_or_else(|| self.error(field, "is missing"))
    }

    /// A finite positive number; `None` when absent or null.
    pub fn positive(&self, field: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if number.is_finite() && number > 0.0 => Ok(Some(number)),
            _ => Err(self.error(field, format!("must be a positive number, found {value}"))),
        }
    }

    /// A finite positive number that must be there.
    pub fn required_positive(&self, field: &str) -> Result<f64> {
        self.positive(field)?.ok_or_else(|| self.error(field, "is missing"))
    }

    /// A number of at least 0 and below 1; `None` when absent or null.
    pub fn probability(&self, field: &str) -> Result<Option<f32>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_f64().map(|number| number as f32) {
            Some(number) if (0.0..1.0).contains(&number) => Ok(Some(number)),
            _ => Err(self.error(field, format!("must be a probability of at least 0 and below 1, found {value}"))),
        }
    }

    /// True or false; `default` when absent or null.
    pub fn flag(&self, field: &str, default: bool) -> Result<bool> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => {
                value.as_bool().ok_or_else(|| self.error(field, format!("must be true or false, found {value}")))
            }
        }
    }

    /// A text; `None` when absent or null.
    pub fn text(&self, field: &str) -> Result<Option<&str>> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => {
                value.as_str().map(Some).ok_or_else(|| self.error(field, format!("must be a text, found {value}")))
            }
        }
    }

    /// One token id, or a list of them; empty when absent or null.
    pub fn token_ids(&self, field: &str) -> Result<Vec<u32>> {
        let one = |value: &Value| {
            value
                .as_u64()
                .and_then(|id| u32::try_from(id).ok())
                .ok_or_else(|| self.error(field, format!("must be a token id or a list of token ids, found {value}")))
        };
        match self.get(field) {
            None => Ok(Vec::new()),
            Some(Value::Array(ids)) => ids.iter().map(one).collect(),
            Some(value) => Ok(vec![one(value)?]),
        }
    }
}
