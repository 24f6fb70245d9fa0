//! What the API server would say of an object, from the same schema that it has: fields that do not exist, types, bounds,
//! patterns, lists keyed by name, and the CEL rules. It stops at nothing: one walk finds every mistake.

use super::nearest::nearest;
use super::wording;
use crate::manifests;
use crate::mistake::{Mistake, at, below};
use regex::Regex;
use serde_json::{Map, Value as Json, json};
use std::collections::HashMap;
use std::sync::LazyLock;

/// The schema of `spec`.
static SPEC: LazyLock<Json> = LazyLock::new(|| {
    let crd = serde_json::to_value(manifests::order_pipeline()).unwrap_or_default();
    crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").cloned().unwrap_or_default()
});

/// Every pattern of the schema, compiled once.
static PATTERNS: LazyLock<HashMap<String, Regex>> = LazyLock::new(|| {
    let mut patterns = HashMap::new();
    collect_patterns(&SPEC, &mut patterns);
    patterns
});

fn collect_patterns(schema: &Json, patterns: &mut HashMap<String, Regex>) {
    match schema {
        Json::Object(fields) => {
            if let Some(pattern) = fields.get("pattern").and_then(Json::as_str)
                && let Ok(regex) = Regex::new(pattern)
            {
                patterns.insert(pattern.to_owned(), regex);
            }
            fields.values().for_each(|inner| collect_patterns(inner, patterns));
        }
        Json::Array(list) => list.iter().for_each(|inner| collect_patterns(inner, patterns)),
        _ => {}
    }
}

/// Beyond this a person has seen enough, and a document cannot make us write without end.
pub(super) const MAX_MISTAKES: usize = 100;

/// What the API server itself knows of an object.
const ENVELOPE: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];
const METADATA: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// What is left of an object.
pub(super) struct Cleaned {
    /// With its defaults filled in, and with something harmless in the place of what is wrong in it, so that all the rest can be looked at.
    /// Its status is left out: the operator writes it, and nothing of it is the author's.
    pub object: Json,
    /// Where that stands: nothing that is said about it was written by the author.
    pub replaced: Vec<String>,
}

pub(super) fn check(object: &Json, mistakes: &mut Vec<Mistake>) -> Cleaned {
    let mut walk = Walk { mistakes, replaced: Vec::new() };
    let Json::Object(fields) = object else {
        walk.mistake("", wording::wrong_type("object", object));
        return Cleaned { object: Json::Null, replaced: Vec::new() };
    };
    for (name, expected) in [("apiVersion", super::API_VERSION), ("kind", super::KIND)] {
        match fields.get(name) {
            Some(value) if value == expected => {}
            Some(Json::String(text)) => walk.mistake(name, format!("must be {expected}, but is {}", wording::quoted(text))),
            _ => walk.mistake(name, format!("is required: {name}: {expected}")),
        }
    }
    for name in fields.keys().filter(|name| !ENVELOPE.contains(&name.as_str())) {
        walk.mistake(name, wording::unknown_field(name, ENVELOPE.into_iter()));
    }
    let metadata = walk.metadata(fields.get("metadata"));
    let spec = match fields.get("spec") {
        Some(spec) => walk.value(&SPEC, "spec", spec),
        None => {
            walk.mistake("spec", "is required");
            None
        }
    };
    let object = json!({"apiVersion": super::API_VERSION, "kind": super::KIND, "metadata": metadata, "spec": spec});
    Cleaned { object, replaced: walk.replaced }
}

/// What is wrong with a value that would stand at this place, `[]` for an entry of a list.
pub(super) fn misfit(place: &str, value: &Json) -> Vec<Mistake> {
    let schema = place.split('.').skip(1).fold(&*SPEC, |schema, name| {
        let property = &schema["properties"][name.trim_end_matches("[]")];
        if name.ends_with("[]") { &property["items"] } else { property }
    });
    let mut mistakes = Vec::new();
    Walk { mistakes: &mut mistakes, replaced: Vec::new() }.value(schema, place, value);
    mistakes
}

struct Walk<'a> {
    mistakes: &'a mut Vec<Mistake>,
    replaced: Vec<String>,
}

impl Walk<'_> {
    fn mistake(&mut self, place: &str, message: impl Into<String>) {
        if self.mistakes.len() < MAX_MISTAKES {
            self.mistakes.push(Mistake::new(place, message));
        }
    }

    fn metadata(&mut self, metadata: Option<&Json>) -> Json {
        let Some(Json::Object(fields)) = metadata else {
            self.mistake("metadata.name", "is required");
            return json!({});
        };
        for name in fields.keys().filter(|name| !METADATA.contains(&name.as_str())) {
            self.mistake(&below("metadata", name), wording::unknown_field(name, METADATA.into_iter()));
        }
        let mut cleaned = fields.clone();
        match fields.get("name") {
            Some(Json::String(_)) => {}
            None => self.mistake("metadata.name", "is required"),
            Some(other) => self.mistake("metadata.name", wording::wrong_type("string", other)),
        }
        cleaned.retain(|name, value| !matches!(name.as_str(), "name" | "namespace") || value.is_string());
        for name in ["labels", "annotations"] {
            let Some(entries) = fields.get(name) else { continue };
            for (key, value) in entries.as_object().into_iter().flatten().filter(|(_, value)| !value.is_string()) {
                self.mistake(&below(&below("metadata", name), key), wording::wrong_type("string", value));
                cleaned.remove(name);
            }
        }
        Json::Object(cleaned)
    }

    /// None: it is of another type than the schema wants, or none of the words that it allows.
    fn value(&mut self, schema: &Json, place: &str, value: &Json) -> Option<Json> {
        let before = self.mistakes.len();
        let cleaned = if schema["x-kubernetes-int-or-string"] == true {
            self.int_or_string(schema, place, value)
        } else {
            match (schema["type"].as_str().unwrap_or_default(), value) {
                ("object", Json::Object(_)) if schema["x-kubernetes-preserve-unknown-fields"] == true => Some(value.clone()),
                ("object", Json::Object(fields)) => Some(self.object(schema, place, fields)),
                ("array", Json::Array(elements)) => Some(self.array(schema, place, elements)),
                ("string", Json::String(text)) => self.string(schema, place, text),
                ("integer", Json::Number(_)) if value.is_i64() || value.is_u64() => Some(self.integer(schema, place, value)),
                ("boolean", Json::Bool(_)) => Some(value.clone()),
                (wanted, found) => {
                    self.mistake(place, wording::wrong_type(wanted, found));
                    None
                }
            }
        };
        if let Some(cleaned) = &cleaned {
            self.rules(schema, place, value, cleaned, before);
        }
        cleaned
    }

    fn instead(&mut self, schema: &Json, place: String) -> Json {
        self.replaced.push(place);
        placeholder(schema)
    }

    fn object(&mut self, schema: &Json, place: &str, fields: &Map<String, Json>) -> Json {
        if let Some(values) = schema.get("additionalProperties").filter(|v| v.is_object()) {
            return self.map(schema, values, place, fields);
        }
        let none = Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&none);
        for name in fields.keys().filter(|name| !properties.contains_key(*name)) {
            let message = wording::unknown_field(name, properties.keys().map(String::as_str));
            self.mistake(&below(place, name), message);
        }
        let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
        for name in required.iter().filter(|name| !fields.contains_key(**name)) {
            self.mistake(&below(place, name), "is required");
        }
        let mut cleaned = Map::new();
        for (name, property) in properties {
            let default = property.get("default");
            let value = match fields.get(name) {
                // As the API server does: a null where there is a default is the default.
                Some(Json::Null) | None => default.cloned(),
                Some(value) => self.value(property, &below(place, name), value).or_else(|| default.cloned()),
            };
            if let (None, Some(Json::Null)) = (&value, fields.get(name)) {
                self.mistake(&below(place, name), wording::EMPTY);
            }
            let value = match value {
                None if required.contains(&name.as_str()) => Some(self.instead(property, below(place, name))),
                value => value,
            };
            cleaned.extend(value.map(|value| (name.clone(), value)));
        }
        Json::Object(cleaned)
    }

    fn map(&mut self, schema: &Json, values: &Json, place: &str, fields: &Map<String, Json>) -> Json {
        if let Some(most) = schema["maxProperties"].as_u64().filter(|most| fields.len() as u64 > *most) {
            self.mistake(place, format!("has {} entries, at most {most} are allowed", fields.len()));
        }
        let cleaned = fields.iter().filter_map(|(key, value)| Some((key.clone(), self.value(values, &below(place, key), value)?)));
        Json::Object(cleaned.collect())
    }

    fn array(&mut self, schema: &Json, place: &str, elements: &[Json]) -> Json {
        if let Some(least) = schema["minItems"].as_u64().filter(|least| (elements.len() as u64) < *least) {
            self.mistake(place, wording::too_few(place, least));
        }
        if let Some(most) = schema["maxItems"].as_u64().filter(|most| elements.len() as u64 > *most) {
            self.mistake(place, format!("has {} entries, at most {most} are allowed", elements.len()));
            return self.array(schema, place, &elements[..most as usize]);
        }
        if schema["x-kubernetes-list-type"] == "map" {
            for key in schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Json::as_str) {
                self.duplicates(place, key, elements);
            }
        }
        let items = &schema["items"];
        let cleaned = elements.iter().enumerate().map(|(index, element)| {
            let place = at(place, index);
            self.value(items, &place, element).unwrap_or_else(|| self.instead(items, place))
        });
        Json::Array(cleaned.collect())
    }

    fn duplicates(&mut self, place: &str, key: &str, elements: &[Json]) {
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for (index, element) in elements.iter().enumerate() {
            let Some(name) = element.get(key).and_then(Json::as_str) else { continue };
            match seen.get(name) {
                Some(first) => {
                    let message =
                        format!("{name} is already the {key} of {}: give one of the two another {key}, or remove it", at(place, *first));
                    self.mistake(&below(&at(place, index), key), message);
                }
                None => {
                    seen.insert(name, index);
                }
            }
        }
    }

    fn string(&mut self, schema: &Json, place: &str, text: &str) -> Option<Json> {
        let length = text.chars().count() as u64;
        let allowed = schema["enum"].as_array();
        if let Some(allowed) = allowed.filter(|allowed| !allowed.iter().any(|a| a == text)) {
            let allowed: Vec<&str> = allowed.iter().filter_map(Json::as_str).collect();
            let hint = nearest(text, allowed.iter().copied()).map(|near| format!(": did you mean {near}?")).unwrap_or_default();
            self.mistake(place, format!("must be one of {}, but is {}{hint}", allowed.join(", "), wording::quoted(text)));
            return None;
        }
        if length < schema["minLength"].as_u64().unwrap_or(0) && text.is_empty() {
            self.mistake(place, "must not be empty");
            return Some(Json::from(text));
        }
        if let Some(most) = schema["maxLength"].as_u64().filter(|most| length > *most) {
            self.mistake(place, format!("has {length} characters, at most {most} are allowed"));
        }
        if let Some(pattern) = schema["pattern"].as_str()
            && PATTERNS.get(pattern).is_some_and(|regex| !regex.is_match(text))
        {
            self.mistake(place, wording::wrong_pattern(pattern, text));
        }
        Some(Json::from(text))
    }

    fn integer(&mut self, schema: &Json, place: &str, value: &Json) -> Json {
        let number = value.as_f64().unwrap_or_default();
        let (least, most) = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
        match (least, most) {
            (Some(least), Some(most)) if number < least || number > most => {
                self.mistake(place, format!("must be between {least} and {most}, but is {value}"));
            }
            (Some(least), None) if number < least => self.mistake(place, format!("must be at least {least}, but is {value}")),
            (None, Some(most)) if number > most => self.mistake(place, format!("must be at most {most}, but is {value}")),
            _ => return value.clone(),
        }
        // The nearest number that is allowed: the types hold no other.
        let nearest = if least.is_some_and(|least| number < least) { &schema["minimum"] } else { &schema["maximum"] };
        nearest.as_f64().map_or_else(|| value.clone(), |nearest| Json::from(nearest as i64))
    }

    fn int_or_string(&mut self, schema: &Json, place: &str, value: &Json) -> Option<Json> {
        match value {
            Json::String(text) => self.string(schema, place, text),
            Json::Number(number) if !number.is_f64() => Some(value.clone()),
            other => {
                self.mistake(place, wording::wrong_type("quantity", other));
                None
            }
        }
    }

    /// The API server runs rules only on what is well formed, and so tells their mistakes only once all others are mended. Here a rule is
    /// left out only where a field that it speaks of is wrong itself.
    fn rules(&mut self, schema: &Json, place: &str, written: &Json, cleaned: &Json, before: usize) {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            let (text, message) = (rule["rule"].as_str().unwrap_or_default(), rule["message"].as_str().unwrap_or_default());
            let names: Vec<&str> = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|name| !name.is_empty()).collect();
            let wrong = self.mistakes[before.min(self.mistakes.len())..].iter().any(|m| only_of(&m.place, place, &names))
                || misspelt(schema, written, &names);
            match holds(text, cleaned) {
                Some(true) => {}
                Some(false) if wrong => {}
                Some(false) => self.mistake(place, message),
                // A rule that we cannot run is ours to mend, and the API server runs it anyway: a test holds that there is none.
                None => debug_assert!(wrong, "the rule {text} cannot be run"),
            }
        }
    }
}

/// Whether the way from an object to a place below it leads only over fields that a rule of the object names.
fn only_of(place: &str, object: &str, names: &[&str]) -> bool {
    let Some(way) = place.strip_prefix(object).filter(|way| way.starts_with(['.', '['])) else { return false };
    way.split(['.', '[']).map(|step| step.trim_end_matches(']')).all(|step| step.is_empty() || is_index(step) || names.contains(&step))
}

fn is_index(step: &str) -> bool {
    step.bytes().all(|b| b.is_ascii_digit())
}

/// Whether a field of the rule may stand there under a wrong name.
fn misspelt(schema: &Json, written: &Json, names: &[&str]) -> bool {
    let known = |name: &String| schema["properties"].get(name).is_some();
    written.as_object().into_iter().flatten().any(|(name, _)| !known(name) && nearest(name, names.iter().copied()).is_some())
}

/// Something that the types can hold.
fn placeholder(schema: &Json) -> Json {
    if let Some(default) = schema.get("default") {
        return default.clone();
    }
    match schema["type"].as_str().unwrap_or_default() {
        "object" => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str);
            Json::Object(required.map(|name| (name.to_owned(), placeholder(&schema["properties"][name]))).collect())
        }
        "array" => json!([]),
        "integer" => schema.get("minimum").and_then(Json::as_f64).map_or(json!(0), |least| json!(least as i64)),
        "boolean" => json!(false),
        _ => schema["enum"].get(0).cloned().unwrap_or_else(|| json!("")),
    }
}

/// The rules of our own schema: known, short, run on objects of bounded size.
fn holds(rule: &str, value: &Json) -> Option<bool> {
    let program = cel::Program::compile(rule).ok()?;
    let mut context = cel::Context::default();
    context.add_variable("self", value).ok()?;
    match program.execute(&context).ok()? {
        cel::Value::Bool(holds) => Some(holds),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_and_rule_of_the_schema_can_be_run() {
        fn walk(schema: &Json, seen: &mut usize) {
            if let Some(pattern) = schema.get("pattern").and_then(Json::as_str) {
                assert!(PATTERNS.contains_key(pattern), "{pattern}");
                assert_ne!(wording::wrong_pattern(pattern, "x"), wording::wrong_pattern("?", "x"), "{pattern} has no sentence");
            }
            for rule in schema.get("x-kubernetes-validations").and_then(Json::as_array).into_iter().flatten() {
                cel::Program::compile(rule["rule"].as_str().unwrap()).unwrap();
                assert!(rule["message"].is_string(), "{rule}");
                *seen += 1;
            }
            match schema {
                Json::Object(fields) => fields.values().for_each(|inner| walk(inner, seen)),
                Json::Array(list) => list.iter().for_each(|inner| walk(inner, seen)),
                _ => {}
            }
        }
        let mut rules = 0;
        walk(&SPEC, &mut rules);
        assert!(rules >= 10, "{rules}");
    }
}
