//! Well-formed HTML: every element is closed, every text escaped.

use std::fmt::Write;

/// A text in which nothing is markup.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// An element with attributes around markup.
pub fn element(name: &str, attributes: &[(&str, &str)], content: &str) -> String {
    let mut text = format!("<{name}");
    for (attribute, value) in attributes {
        // Writing to a string cannot fail.
        let _ = write!(text, " {attribute}=\"{}\"", escape(value));
    }
    let _ = write!(text, ">{content}</{name}>");
    text
}

/// An element around a text.
pub fn text(name: &str, attributes: &[(&str, &str)], content: &str) -> String {
    element(name, attributes, &escape(content))
}

/// A coordinate with a tenth of a unit.
pub fn coordinate(value: f64) -> String {
    format!("{value:.1}")
}

/// A number as people read it, with three digits that count.
pub fn short(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 {
        return "0".into();
    }
    if !(1e-3..1e5).contains(&size) {
        let text = format!("{value:.1e}");
        return text.replace(".0e", "e");
    }
    let decimals = (2 - size.log10().floor() as i32).max(0) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_texts_harmless() {
        let shown = [0.0, 1.0, 0.001_234, 12.34, 1234.5, 99_999.0, 1e5, -2.5e-4, 0.5].map(short);
        assert_eq!(shown, ["0", "1", "0.00123", "12.3", "1234", "99999", "1e5", "-2.5e-4", "0.5"]);
        assert_eq!(text("b", &[("title", "\"<")], "a<b & c"), "<b title=\"&quot;&lt;\">a&lt;b &amp; c</b>");
    }
}
