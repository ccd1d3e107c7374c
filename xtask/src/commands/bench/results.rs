//! What a suite has measured so far. It is kept as it comes, so that an interrupted suite leaves what it has finished.

use serde_json::{Map, Value};

/// A suite's raw results by name.
#[derive(Default)]
pub struct Results(Map<String, Value>);

impl Results {
    /// The whole of a part; replaces what was there.
    pub fn set(&mut self, part: &str, value: Value) {
        self.0.insert(part.into(), value);
    }

    /// One more element of a part that is a list.
    pub fn push(&mut self, part: &str, value: Value) {
        match self.0.get_mut(part) {
            Some(Value::Array(list)) => list.push(value),
            _ => drop(self.0.insert(part.into(), Value::Array(vec![value]))),
        }
    }

    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }
}
