//! What is wrong with a schema itself, in words for its author: the library speaks of its meta-schemas, and of features that it was built
//! without.

use super::sentence::{below, expectation, json_type, path, shortened};
use super::{Fault, MAX_FAULTS};
use crate::document::nearest::{nearest, slip_of};
use jsonschema::ReferencingError as Reference;
use jsonschema::error::{TypeKind, ValidationErrorKind as Kind};
use jsonschema::{PatternOptions, ValidationError};
use serde_json::{Map, Value as Json, json};

const ROOT: &str = "schema";
const TYPES: [&str; 7] = ["string", "number", "integer", "boolean", "object", "array", "null"];
/// What stands below these is data, not schema.
const DATA: [&str; 5] = ["const", "enum", "default", "example", "examples"];
/// Below these names have schemas.
const OF_NAMES: [&str; 6] = ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"];
/// Below these stand schemas.
const OF_SCHEMAS: [&str; 16] = [
    "items",
    "prefixItems",
    "additionalItems",
    "unevaluatedItems",
    "contains",
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "contentSchema",
];
/// Keywords without which something would be let in. A misspelt one checks nothing, and nobody would notice.
const CHECKING: [&str; 36] = [
    "$ref",
    "$defs",
    "definitions",
    "type",
    "enum",
    "const",
    "format",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "items",
    "prefixItems",
    "additionalItems",
    "unevaluatedItems",
    "minItems",
    "maxItems",
    "uniqueItems",
    "contains",
    "minContains",
    "maxContains",
    "required",
    "properties",
    "patternProperties",
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
    "minProperties",
    "maxProperties",
    "allOf",
    "anyOf",
    "oneOf",
];
const FORMATS: [&str; 19] = [
    "date-time",
    "date",
    "time",
    "duration",
    "email",
    "idn-email",
    "hostname",
    "idn-hostname",
    "ipv4",
    "ipv6",
    "uri",
    "uri-reference",
    "uri-template",
    "iri",
    "iri-reference",
    "uuid",
    "json-pointer",
    "relative-json-pointer",
    "regex",
];
/// A least and a most, and whether they may be the same.
const BOUNDS: [(&str, &str, bool); 8] = [
    ("minLength", "maxLength", true),
    ("minItems", "maxItems", true),
    ("minContains", "maxContains", true),
    ("minProperties", "maxProperties", true),
    ("minimum", "maximum", true),
    ("minimum", "exclusiveMaximum", false),
    ("exclusiveMinimum", "maximum", false),
    ("exclusiveMinimum", "exclusiveMaximum", false),
];
/// Other words than a format are as short: ulid, urn.
const SHORT_FORMAT: usize = 4;
/// A document is nested no deeper.
const MAX_DEPTH: usize = 64;

/// Every mistake that can be seen without the library's compiler, which stops at the first.
pub(super) fn faults(schema: &Json) -> Vec<Fault> {
    // Which rules hold for a schema says its $schema alone.
    let Ok(meta) = jsonschema::meta::validator_for(schema) else { return vec![unknown_kind(schema)] };
    let mut faults = Vec::new();
    for error in meta.iter_errors(schema).take(MAX_FAULTS) {
        let fault = Fault { path: path(ROOT, error.instance_path()), message: sentence(&error) };
        // Several vocabularies may say the same.
        if !faults.contains(&fault) {
            faults.push(fault);
        }
    }
    let mut named = Named::default();
    each(schema, Part::Schema, ROOT, 0, &mut |object, _, _| named.add(object));
    each(schema, Part::Schema, ROOT, 0, &mut |object, part, place| {
        faults.extend(unusable(schema, object, place, &named));
        if part == Part::Schema {
            faults.extend(misspelt(object, place));
            faults.extend(contradictory(object, place));
        }
    });
    faults.truncate(MAX_FAULTS);
    faults
}

/// What the compiler finds beyond that.
pub(super) fn of_build(error: &ValidationError<'_>) -> Vec<Fault> {
    let nowhere = |what: &str| Fault {
        path: ROOT.to_owned(),
        message: format!("holds a $ref that leads nowhere, and nothing is fetched: {}", shortened(what)),
    };
    let fault = match error.kind() {
        Kind::Referencing(Reference::Unretrievable { uri, .. }) => nowhere(uri),
        Kind::Referencing(reference) => nowhere(&reference.to_string()),
        _ => Fault { path: path(ROOT, error.instance_path()), message: sentence(error) },
    };
    vec![fault]
}

fn unknown_kind(schema: &Json) -> Fault {
    let message = format!(
        "{} is no JSON Schema that is known here: leave $schema out, or name https://json-schema.org/draft/2020-12/schema",
        shortened(&schema["$schema"].to_string())
    );
    Fault { path: below(ROOT, "$schema"), message }
}

/// What a reference may name beside a place.
#[derive(Default)]
struct Named<'a> {
    ids: bool,
    anchors: Vec<&'a str>,
}

impl<'a> Named<'a> {
    fn add(&mut self, object: &'a Map<String, Json>) {
        self.ids |= object.get("$id").or(object.get("id")).is_some_and(Json::is_string);
        let anchors = ["$anchor", "$dynamicAnchor"].map(|keyword| object.get(keyword).and_then(Json::as_str));
        self.anchors.extend(anchors.into_iter().flatten());
    }
}

/// What an object within a schema is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Schema,
    /// Its keys are names.
    Names,
    /// It stands below a keyword that JSON Schema does not know: it may be one that a reference leads to.
    Unknown,
}

impl Part {
    /// None: data.
    fn below(self, key: &str) -> Option<Part> {
        match self {
            Part::Names => Some(Part::Schema),
            _ if DATA.contains(&key) => None,
            Part::Schema if OF_NAMES.contains(&key) => Some(Part::Names),
            Part::Schema if OF_SCHEMAS.contains(&key) => Some(Part::Schema),
            _ => Some(Part::Unknown),
        }
    }
}

/// Calls `seen` with every object of a schema that may be a schema, with what it is and its place.
fn each<'a>(schema: &'a Json, part: Part, place: &str, depth: usize, seen: &mut impl FnMut(&'a Map<String, Json>, Part, &str)) {
    if depth > MAX_DEPTH {
        return;
    }
    match schema {
        Json::Object(fields) => {
            if part != Part::Names {
                seen(fields, part, place);
            }
            for (name, inner) in fields {
                if let Some(part) = part.below(name) {
                    each(inner, part, &below(place, name), depth + 1, seen);
                }
            }
        }
        Json::Array(list) => {
            list.iter().enumerate().for_each(|(index, inner)| each(inner, part, &format!("{place}[{index}]"), depth + 1, seen));
        }
        _ => {}
    }
}

/// JSON Schema passes over what it does not know. What is nearly one of its words was meant to be it.
fn misspelt(object: &Map<String, Json>, place: &str) -> Vec<Fault> {
    let unknown = object.keys().filter(|keyword| !CHECKING.contains(&keyword.as_str()) && !keyword.starts_with("x-"));
    let keywords = unknown.filter_map(|keyword| Some((keyword.as_str(), slip_of(keyword, CHECKING.into_iter())?)));
    let mut faults: Vec<Fault> = keywords
        .map(|(keyword, near)| Fault {
            path: below(place, keyword),
            message: format!(
                "is no keyword of JSON Schema, so that it checks nothing: did you mean {near}? A word of your own begins with x-"
            ),
        })
        .collect();
    let format = object.get("format").and_then(Json::as_str).filter(|format| !FORMATS.contains(format));
    if let Some(near) = format.and_then(|format| slip_of(format, FORMATS.into_iter().filter(|known| known.len() > SHORT_FORMAT))) {
        let message = format!("is no format of JSON Schema, so that it checks nothing: did you mean {near}?");
        faults.push(Fault { path: below(place, "format"), message });
    }
    faults
}

/// What JSON Schema allows and nothing can fulfil.
fn contradictory(object: &Map<String, Json>, place: &str) -> Vec<Fault> {
    let number = |keyword: &str| object.get(keyword).and_then(Json::as_f64);
    let crossed = BOUNDS.iter().filter_map(|(least, most, same)| {
        let (low, high) = (number(least)?, number(most)?);
        let message = || format!("leaves nothing: {least} is {low}, and {most} is {high}");
        (low > high || low == high && !same).then(|| Fault { path: below(place, least), message: message() })
    });
    let mut faults: Vec<Fault> = crossed.collect();
    if object.get("additionalProperties") == Some(&Json::Bool(false)) && !object.contains_key("patternProperties") {
        let known = |name: &str| object.get("properties").is_some_and(|fields| fields.get(name).is_some());
        let required = object.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str);
        faults.extend(required.filter(|name| !known(name)).map(|name| {
            let name = shortened(name);
            let message =
                format!("names {name}, which additionalProperties: false does not let in: put it under properties, or leave it out");
            Fault { path: below(place, "required"), message }
        }));
    }
    faults
}

/// References that lead out of the schema or nowhere, and patterns that are none.
fn unusable(root: &Json, object: &Map<String, Json>, place: &str, named: &Named<'_>) -> Vec<Fault> {
    let text = |keyword: &str| object.get(keyword).and_then(Json::as_str);
    let reference = text("$ref").and_then(|target| Some(("$ref", astray(root, target, named)?)));
    let pattern = text("pattern").and_then(|pattern| Some(("pattern", no_pattern(pattern)?)));
    let mut faults: Vec<Fault> =
        [reference, pattern].into_iter().flatten().map(|(keyword, message)| Fault { path: below(place, keyword), message }).collect();
    for pattern in object.get("patternProperties").and_then(Json::as_object).into_iter().flat_map(Map::keys) {
        faults.extend(no_pattern(pattern).map(|message| Fault { path: below(place, "patternProperties"), message }));
    }
    faults
}

/// Why it is none.
fn no_pattern(pattern: &str) -> Option<String> {
    let schema = json!({ "pattern": pattern });
    let options = || jsonschema::options().offline();
    if options().with_pattern_options(PatternOptions::regex()).build(&schema).is_ok() {
        return None;
    }
    let shown = shortened(&format!("{pattern:?}"));
    Some(match (regex::Regex::new(pattern), options().build(&schema)) {
        (Err(regex::Error::CompiledTooBig(_)), _) => format!("is too large a regular expression: {shown}; repeat less of it"),
        (_, Ok(_)) => format!(
            "looks around or back, as (?=...), (?<!...) or \\1 do, which may take for ever on a message made for it: {shown}; \
             write it without, or say the rest in a rule"
        ),
        _ => format!("is no regular expression: {shown}"),
    })
}

fn astray(root: &Json, target: &str, named: &Named<'_>) -> Option<String> {
    let shown = shortened(target);
    match target.strip_prefix('#') {
        Some(name) if name.is_empty() || named.anchors.contains(&name) || root.pointer(&unescaped(name)).is_some() => None,
        // Within a part that has an id of its own, a reference is read from there: the compiler knows.
        _ if named.ids => None,
        Some(_) => Some(format!("there is no {shown} in this schema: put what it names under $defs, and write $ref: '#/$defs/<name>'")),
        None => Some(format!(
            "{shown} lies outside of this schema, and nothing is fetched: copy it into $defs, and write $ref: '#/$defs/<name>'"
        )),
    }
}

/// A pointer in a reference is part of an address: %25 is %.
fn unescaped(pointer: &str) -> String {
    let mut parts = pointer.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => bytes.extend([&[byte], &part.as_bytes()[2..]].concat()),
            None => bytes.extend([b"%", part.as_bytes()].concat()),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn sentence(error: &ValidationError<'_>) -> String {
    let found: &Json = error.instance();
    match error.kind() {
        Kind::AnyOf { .. } if error.instance_path().as_str().ends_with("/type") => wrong_type(found),
        Kind::AnyOf { .. } | Kind::OneOfNotValid { .. } => format!("is not what this keyword of JSON Schema takes: {}", shown(found)),
        // The only place where a meta-schema takes either is that of a schema.
        Kind::Type { kind: TypeKind::Multiple(_) } => {
            format!("must be a schema, which is a map such as {{type: string}}, but is {}", shown(found))
        }
        Kind::Enum { .. } => format!("{}, but is {}", expectation(error.kind(), error), shown(found)),
        Kind::Pattern { .. } => format!("is not written as this keyword of JSON Schema wants it: {}", shown(found)),
        kind => expectation(kind, error),
    }
}

fn wrong_type(found: &Json) -> String {
    let wrong = |name: &Json| !name.as_str().is_some_and(|name| TYPES.contains(&name));
    let named = match found {
        Json::Array(list) => list.iter().find(|name| wrong(name)).unwrap_or(found),
        one => one,
    };
    let near = named.as_str().and_then(|name| nearest(name, TYPES.into_iter()));
    let hint = near.map(|near| format!(": did you mean {near}?")).unwrap_or_default();
    format!("must be one of {}, or a list of several of these, but is {}{hint}", TYPES.join(", "), shown(named))
}

/// A text and a number are shown, what is larger is only named.
fn shown(value: &Json) -> String {
    match value {
        Json::String(text) => shortened(&format!("{text:?}")),
        other => json_type(other),
    }
}
