//! How the mistakes of a document's structure are said.

use super::nearest::nearest;
use serde_json::Value as Json;

pub(super) const EMPTY: &str = "is empty: give it a value, {} for one with all defaults, or remove the line";

pub(super) fn wrong_type(wanted: &str, found: &Json) -> String {
    let wanted = match wanted {
        "object" => "a map of fields",
        "array" => "a list",
        "string" => "a text",
        "integer" => "a whole number",
        "boolean" => "true or false",
        "quantity" => "a quantity such as 500m, 128Mi or 2",
        other => other,
    };
    match found {
        Json::Null => EMPTY.to_owned(),
        Json::Array(_) => format!("must be {wanted}, but is a list"),
        Json::Object(_) => format!("must be {wanted}, but is a map of fields"),
        Json::String(text) => format!("must be {wanted}, but is the text {}", quoted(text)),
        // The most common of all: `name: 5` and `tenants: [1]` are numbers to YAML.
        Json::Number(number) if wanted == "a text" => format!("must be a text, but is the number {number}: write it in quotes"),
        Json::Bool(value) if wanted == "a text" => format!("must be a text, but is {value}: write it in quotes"),
        Json::Number(number) => format!("must be {wanted}, but is {number}"),
        Json::Bool(value) => format!("must be {wanted}, but is {value}"),
    }
}

/// What one entry of the list may look like.
pub(super) fn too_few(place: &str, least: u64) -> String {
    let entries = if least == 1 { "entry" } else { "entries" };
    let example = match place.rsplit('.').next().unwrap_or_default() {
        "topics" => "- {name: orders}",
        "events" => "- {name: OrderCreated}",
        "backends" => "- {name: kafka, kafka: {bootstrapServers: \"kafka:9092\"}}",
        _ => return format!("needs at least {least} {entries}"),
    };
    format!("needs at least {least} {entries}, such as {example}")
}

pub(super) fn unknown_field<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let mut known: Vec<&str> = known.collect();
    known.sort_unstable();
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("there is no such field: did you mean {near}?"),
        None if known.is_empty() => "there is no such field: none are possible here".to_owned(),
        None => format!("there is no such field: possible are {}", known.join(", ")),
    }
}

/// A sentence for each pattern of the schema; a test holds that none is missing.
pub(super) fn wrong_pattern(pattern: &str, text: &str) -> String {
    let text = quoted(text);
    match pattern {
        p if p.contains("ms|s|m|h") => format!("must be a duration such as 300ms, 1s, 1m30s or 168h, but is {text}"),
        p if p.contains("Ki|Mi|Gi|k|M|G)") => format!("must be a size such as 512Ki, 1Mi or 10Mi, but is {text}"),
        p if p.contains("(m|k|M") => format!("must be a quantity such as 500m, 128Mi or 2, but is {text}"),
        p if p.starts_with("^https?://") => format!("must begin with http:// or https://, but is {text}"),
        p if p.starts_with("^[A-Za-z0-9]") => {
            format!("may hold letters, digits, dot, dash and underscore, and begins and ends with a letter or digit, but is {text}")
        }
        p if p.starts_with("^[a-z_]") => {
            format!("may hold small letters, digits, dash and underscore, and begins with a letter or underscore, but is {text}")
        }
        p if p.starts_with("^[a-z0-9](") => {
            format!("may hold small letters, digits, dashes and dots, as names of Secrets do, but is {text}")
        }
        p if p.starts_with("^\\.?[-_") => {
            format!("may hold letters, digits, dot, dash and underscore, as keys of Secrets do, but is {text}")
        }
        p => format!("must match {p}, but is {text}"),
    }
}

/// A text as it is shown in a sentence: never longer than a line.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}
