//! Data as a schema describes it, for whoever wants to try something where nobody has written an example.

use serde_json::{Map, Value as Json, json};

const MAX_DEPTH: usize = 12;

/// Data with every field that the schema names, each of its type. What a schema says beyond types (bounds, patterns, alternatives) is not
/// followed: this shows which types meet in an expression, and nothing more.
pub fn sample(schema: &Json) -> Json {
    of(schema, schema, 0).unwrap_or(Json::Null)
}

/// None: the schema does not say what it is.
fn of(schema: &Json, root: &Json, depth: usize) -> Option<Json> {
    if depth > MAX_DEPTH {
        return None;
    }
    if let Some(target) = schema["$ref"].as_str() {
        return of(root.pointer(target.strip_prefix('#')?)?, root, depth + 1);
    }
    if let Some(value) = schema.get("const").or_else(|| schema["enum"].get(0)) {
        return Some(value.clone());
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"].get(0)?.as_str());
    let object = schema["properties"].is_object().then_some("object");
    Some(match kind.or(object)? {
        "object" => {
            let fields = schema["properties"].as_object().into_iter().flatten();
            let fields = fields.filter_map(|(name, field)| Some((name.clone(), of(field, root, depth + 1)?)));
            Json::Object(fields.collect::<Map<_, _>>())
        }
        "array" => Json::Array(of(&schema["items"], root, depth + 1).into_iter().collect()),
        "string" => match schema["format"].as_str() {
            Some("date-time") => json!("2025-01-31T12:00:00Z"),
            Some("date") => json!("2025-01-31"),
            _ => json!("text"),
        },
        "integer" => json!(1),
        "number" => json!(1.5),
        "boolean" => json!(true),
        _ => Json::Null,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_that_is_described_is_there_with_its_type() {
        let schema = json!({
            "type": "object", "$defs": {"line": {"properties": {"n": {"type": "integer"}, "next": {"$ref": "#/$defs/nowhere"}}}},
            "properties": {
                "id": {"type": "string"}, "at": {"type": "string", "format": "date-time"}, "total": {"type": ["number", "null"]},
                "kind": {"enum": ["A", "B"]}, "any": {}, "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
                "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}}, "loop": {"$ref": "#/properties/loop"}, "ok": {"type": "boolean"},
            },
        });
        let expected = json!({"id": "text", "at": "2025-01-31T12:00:00Z", "total": 1.5, "kind": "A", "lines": [{"n": 1}], "ok": true});
        assert_eq!(sample(&schema), expected);
        assert_eq!(sample(&json!({})), json!(null));
    }
}
