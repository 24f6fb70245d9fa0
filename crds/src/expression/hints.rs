//! What a JSON Schema says about numbers: CEL does not mix int and double, and `100` in a JSON text may be either.

use serde_json::Value as Json;
use std::collections::BTreeMap;

/// Deeper fields are taken as they look; schemas that refer to themselves end here too.
const MAX_DEPTH: usize = 12;
const MAX_NODES: usize = 5000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    Int,
    Double,
}

/// How the numbers at a place and below it are read.
#[derive(Debug, Default)]
pub(super) struct Hint {
    pub number: Option<Number>,
    fields: BTreeMap<String, Hint>,
    /// Fields without an own entry.
    others: Option<Box<Hint>>,
    items: Option<Box<Hint>>,
}

impl Hint {
    pub fn of_schema(schema: &Json) -> Hint {
        let mut hint = Hint::default();
        hint.merge(schema, schema, 0, &mut 0);
        hint
    }

    pub fn field(&self, name: &str) -> Option<&Hint> {
        self.fields.get(name).or(self.others.as_deref())
    }

    pub fn items(&self) -> Option<&Hint> {
        self.items.as_deref()
    }

    fn merge(&mut self, schema: &Json, root: &Json, depth: usize, nodes: &mut usize) {
        *nodes += 1;
        if depth > MAX_DEPTH || *nodes > MAX_NODES {
            return;
        }
        self.merge_type(&schema["type"]);
        if let Some(target) = schema["$ref"].as_str().and_then(|r| r.strip_prefix('#')).and_then(|pointer| root.pointer(pointer)) {
            self.merge(target, root, depth + 1, nodes);
        }
        for keyword in ["allOf", "anyOf", "oneOf"] {
            for part in schema[keyword].as_array().into_iter().flatten() {
                self.merge(part, root, depth + 1, nodes);
            }
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            self.fields.entry(name.clone()).or_default().merge(field, root, depth + 1, nodes);
        }
        if schema["additionalProperties"].is_object() {
            self.others.get_or_insert_default().merge(&schema["additionalProperties"], root, depth + 1, nodes);
        }
        if schema["items"].is_object() {
            self.items.get_or_insert_default().merge(&schema["items"], root, depth + 1, nodes);
        }
    }

    /// A number that may be either is a double.
    fn merge_type(&mut self, kind: &Json) {
        let named = |name: &str| kind == name || kind.as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == name));
        if named("number") {
            self.number = Some(Number::Double);
        } else if named("integer") {
            self.number.get_or_insert(Number::Int);
        }
    }
}
