//! The library's errors in words for the one who sent the data. Texts of the data are not repeated: they may be a person's, or long.

use super::Fault;
use jsonschema::ValidationError;
use jsonschema::error::{TypeKind, ValidationErrorKind as Kind};
use jsonschema::paths::{Location, LocationSegment};
use serde_json::Value as Json;

const MAX_CHARS: usize = 300;

pub(super) fn of_data(error: &ValidationError<'_>, faults: &mut Vec<Fault>) {
    let path = path("data", error.instance_path());
    match error.kind() {
        Kind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            faults.push(Fault { path: below(&path, name), message: format!("{name} is required") });
        }
        Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
            for name in unexpected {
                let name = shortened(name);
                faults.push(Fault { path: below(&path, &name), message: format!("{name} is not a known field") });
            }
        }
        kind => {
            let message = format!("{} {}", last(&path), expectation(kind, error));
            faults.push(Fault { path, message });
        }
    }
}

pub(super) fn expectation(kind: &Kind, error: &ValidationError<'_>) -> String {
    let instance: &Json = error.instance();
    let but_is = match instance {
        Json::Number(number) => format!(" but is {number}"),
        _ => String::new(),
    };
    let at_least = |limit: u64, what: &str| match limit {
        1 => "must not be empty".to_owned(),
        limit => format!("must have at least {limit} {what}"),
    };
    match kind {
        Kind::Type { kind } => format!("must be {} but is {}", types(kind), json_type(instance)),
        Kind::Minimum { limit } => format!("must be at least {limit}{but_is}"),
        Kind::Maximum { limit } => format!("must be at most {limit}{but_is}"),
        Kind::ExclusiveMinimum { limit } => format!("must be above {limit}{but_is}"),
        Kind::ExclusiveMaximum { limit } => format!("must be below {limit}{but_is}"),
        Kind::MultipleOf { multiple_of } => format!("must be a multiple of {multiple_of}{but_is}"),
        Kind::MinLength { limit } => at_least(*limit, "characters"),
        Kind::MaxLength { limit } => format!("must have at most {limit} characters"),
        Kind::MinItems { limit } => at_least(*limit, "items"),
        Kind::MaxItems { limit } => format!("must have at most {limit} items"),
        Kind::MinProperties { limit } => at_least(*limit, "fields"),
        Kind::MaxProperties { limit } => format!("must have at most {limit} fields"),
        Kind::UniqueItems => "must not hold the same item twice".to_owned(),
        Kind::Contains => "holds no item of the kind that must be there".to_owned(),
        Kind::Pattern { pattern } => format!("must match the pattern {}", shortened(pattern)),
        Kind::Format { format } => format!("must be a valid {format}"),
        Kind::Enum { options } => format!("must be one of {}", options_of(options)),
        Kind::Constant { expected_value } => format!("must be {}", shortened(&expected_value.to_string())),
        Kind::FalseSchema => "is not allowed here".to_owned(),
        Kind::AnyOf { .. } | Kind::OneOfNotValid { .. } => "is none of the forms that the schema allows".to_owned(),
        Kind::OneOfMultipleValid { .. } => "fits more than one of the forms of which the schema allows one".to_owned(),
        Kind::AdditionalItems { limit } => format!("must have at most {limit} items"),
        _ => shortened(&error.masked().to_string()),
    }
}

fn options_of(options: &Json) -> String {
    let list: Vec<String> = options.as_array().into_iter().flatten().map(ToString::to_string).collect();
    shortened(&list.join(", "))
}

fn types(kind: &TypeKind) -> String {
    let named = |name: &str| match name {
        "null" => "null".to_owned(),
        "integer" => "a whole number".to_owned(),
        "array" => "a list".to_owned(),
        "object" => "an object".to_owned(),
        "string" => "a text".to_owned(),
        "boolean" => "true or false".to_owned(),
        other => format!("a {other}"),
    };
    match kind {
        TypeKind::Single(single) => named(&single.to_string()),
        TypeKind::Multiple(set) => set.iter().map(|one| named(&one.to_string())).collect::<Vec<_>>().join(" or "),
    }
}

pub(super) fn json_type(value: &Json) -> String {
    match value {
        Json::Null => "null".to_owned(),
        Json::Bool(bool) => bool.to_string(),
        Json::Number(number) => number.to_string(),
        Json::String(_) => "a text".to_owned(),
        Json::Array(_) => "a list".to_owned(),
        Json::Object(_) => "an object".to_owned(),
    }
}

/// The place of a value below `root`, as documents write it.
pub(super) fn path(root: &str, location: &Location) -> String {
    location.segments().fold(root.to_owned(), |path, segment| match segment {
        LocationSegment::Index(index) => format!("{path}[{index}]"),
        LocationSegment::Property(name) => below(&path, &name),
    })
}

pub(super) fn below(path: &str, name: &str) -> String {
    let plain = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    if plain { format!("{path}.{name}") } else { format!("{path}[{}]", Json::from(name)) }
}

/// How a sentence names the place: the last field's name, with the index behind it.
fn last(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, last)| last)
}

pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
