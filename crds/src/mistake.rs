//! A mistake in a document, and where it lies.

use std::fmt;

/// What is wrong and where: `spec.events[1].rules[0].rule: ...`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Mistake {
    /// The path of the field, as a person would write it. Empty: the document as a whole.
    pub place: String,
    pub message: String,
    /// Where that is in the text, from 1; of an object that was no text here nobody knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
}

impl Mistake {
    pub fn new(place: impl Into<String>, message: impl Into<String>) -> Self {
        Mistake { place: place.into(), message: message.into(), line: None }
    }

    pub(crate) fn on_line(self, line: usize) -> Self {
        Mistake { line: Some(line), ..self }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        match self.place.as_str() {
            "" => f.write_str(&self.message),
            place => write!(f, "{place}: {}", self.message),
        }
    }
}

/// The place of a field below another: `spec` and `topics` make `spec.topics`; a key that is no plain word stands in brackets.
pub(crate) fn below(place: &str, key: &str) -> String {
    let plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    match (place, plain) {
        ("", true) => key.to_owned(),
        (_, true) => format!("{place}.{key}"),
        (_, false) => format!("{place}[{key:?}]"),
    }
}

/// The place of an element of a list.
pub(crate) fn at(place: &str, index: usize) -> String {
    format!("{place}[{index}]")
}
