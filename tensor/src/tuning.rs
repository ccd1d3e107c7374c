//! Which kernels were found to be the fastest for which products on one device, as text that can be kept.
//! The measuring is in `gpu/tuner.rs`.

use std::collections::BTreeMap;
use std::fmt;

use crate::device::AdapterSummary;
use crate::error::{Result, TensorError};

const TITLE: &str = "kernels by product, measured; version 1";

/// The choices for one device: of the kernels that compute a product, the fastest, by the product's shape and layout.
///
/// Its text ([`fmt::Display`], [`Tuning::parse`]) has a title, the device's name and driver, and a line for each product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    device: String,
    choices: BTreeMap<String, String>,
}

impl Tuning {
    /// No choices yet.
    pub fn new(adapter: &AdapterSummary) -> Self {
        Tuning { device: format!("{}, {}", adapter.name, adapter.driver), choices: BTreeMap::new() }
    }

    /// What an earlier run kept.
    ///
    /// # Errors
    /// [`TensorError::InvalidArgument`] where the text is not of this kind, or of another device or driver: what is fast there
    /// says nothing here.
    pub fn parse(text: &str, adapter: &AdapterSummary) -> Result<Self> {
        let invalid = |message: String| TensorError::InvalidArgument { operation: "tuning", message };
        let mut tuning = Self::new(adapter);
        let mut lines = text.lines();
        if lines.next() != Some(TITLE) {
            return Err(invalid(format!("the first line is not `{TITLE}`")));
        }
        let device = lines.next().unwrap_or_default();
        if device != tuning.device {
            return Err(invalid(format!("measured on `{device}`, while this device is `{}`", tuning.device)));
        }
        for (index, line) in lines.enumerate() {
            let Some((product, choice)) = line.split_once('\t') else {
                return Err(invalid(format!("line {} has no tab between product and kernel: `{line}`", index + 3)));
            };
            if tuning.choices.insert(product.to_string(), choice.to_string()).is_some() {
                return Err(invalid(format!("line {} repeats the product `{product}`", index + 3)));
            }
        }
        Ok(tuning)
    }

    /// Number of products.
    pub fn len(&self) -> usize {
        self.choices.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.choices.is_empty()
    }

    pub(crate) fn choice(&self, product: &str) -> Option<&str> {
        self.choices.get(product).map(String::as_str)
    }

    pub(crate) fn choose(&mut self, product: String, choice: String) {
        self.choices.insert(product, choice);
    }
}

impl fmt::Display for Tuning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{TITLE}\n{}", self.device)?;
        self.choices.iter().try_for_each(|(product, choice)| writeln!(f, "{product}\t{choice}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    fn adapter(driver: &str) -> AdapterSummary {
        AdapterSummary {
            name: "Card".into(),
            kind: "discrete",
            backend: "vulkan".into(),
            driver: driver.into(),
            features: Vec::new(),
            max_buffer_bytes: 0,
            max_binding_bytes: 0,
            workgroup_bytes: 0,
            workgroup_invocations: 0,
            memory_bytes: None,
        }
    }

    #[test]
    fn its_text_gives_it_back() {
        let here = adapter("driver 1");
        let mut tuning = Tuning::new(&here);
        assert!(tuning.is_empty() && Tuning::parse(&tuning.to_string(), &here).unwrap() == tuning);
        tuning.choose("4 x 4".into(), "small, in 2 parts".into());
        tuning.choose("1 x 1".into(), "large".into());
        let text = tuning.to_string();
        assert_eq!(text, format!("{TITLE}\nCard, driver 1\n1 x 1\tlarge\n4 x 4\tsmall, in 2 parts\n"));
        let read = Tuning::parse(&text, &here).unwrap();
        assert_eq!((read.len(), read.choice("4 x 4")), (2, Some("small, in 2 parts")));
        assert_eq!(read, tuning);
    }

    #[test]
    fn the_cpu_has_nothing_to_measure() {
        let error = Device::cpu().tune(Tuning::new(&adapter("driver 1"))).unwrap_err();
        assert!(error.to_string().contains("this device is the CPU"), "{error}");
        assert_eq!(Device::cpu().tuning(), None);
    }

    #[test]
    fn other_texts_are_refused_by_what_is_wrong() {
        let text = format!("{TITLE}\nCard, driver 1\n1 x 1\tlarge\n");
        for (text, reason) in [
            (String::new(), "first line"),
            (text.replace("version 1", "version 2"), "first line"),
            (text.replace("driver 1", "driver 2"), "measured on `Card, driver 2`"),
            (text.replace('\t', " "), "line 3 has no tab"),
            (text.clone() + "1 x 1\tsmall\n", "line 4 repeats the product `1 x 1`"),
        ] {
            let message = Tuning::parse(&text, &adapter("driver 1")).unwrap_err().to_string();
            assert!(message.contains(reason), "{message}");
        }
    }
}
