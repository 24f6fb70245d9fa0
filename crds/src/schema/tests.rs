use super::*;
use serde_json::json;

fn faults(schema: Json, data: Json) -> Vec<(String, String)> {
    Schema::compile(&schema).unwrap().faults(&data).into_iter().map(|fault| (fault.path, fault.message)).collect()
}

fn fault(schema: Json, data: Json) -> (String, String) {
    faults(schema, data).into_iter().next().expect("nothing found")
}

fn pair(path: &str, message: &str) -> (String, String) {
    (path.to_owned(), message.to_owned())
}

#[test]
fn every_mistake_is_told_with_its_place() {
    let schema = json!({
        "type": "object",
        "required": ["customerId", "items"],
        "additionalProperties": false,
        "properties": {
            "customerId": {"type": "string"},
            "channel": {"enum": ["web", "pos"]},
            "email": {"format": "email"},
            "items": {"type": "array", "items": {"type": "object", "properties": {"quantity": {"type": "integer", "exclusiveMinimum": 0}}}},
        },
    });
    let data = json!({"channel": "fax", "email": "nobody", "extra": 1, "items": [{"quantity": 1}, {"quantity": -3}, {"quantity": "x"}]});
    let mut found = faults(schema.clone(), data);
    found.sort();
    let mut expected = vec![
        pair("data.customerId", "customerId is required"),
        pair("data.channel", "channel must be one of \"web\", \"pos\""),
        pair("data.email", "email must be a valid email"),
        pair("data.extra", "extra is not a known field"),
        pair("data.items[1].quantity", "quantity must be above 0 but is -3"),
        pair("data.items[2].quantity", "quantity must be a whole number but is a text"),
    ];
    expected.sort();
    assert_eq!(found, expected);
    assert!(faults(schema, json!({"customerId": "c", "items": []})).is_empty());
}

#[test]
fn sentences_say_what_is_expected() {
    assert_eq!(fault(json!({"type": "object"}), json!([])), pair("data", "data must be an object but is a list"));
    assert_eq!(fault(json!({"items": {"minLength": 1}}), json!(["a", ""])), pair("data[1]", "data[1] must not be empty"));
    assert_eq!(fault(json!({"type": ["string", "null"]}), json!(5)).1, "data must be null or a text but is 5");
    assert_eq!(fault(json!({"minItems": 2}), json!([1])).1, "data must have at least 2 items");
    assert_eq!(fault(json!({"pattern": "^a"}), json!("secret")).1, "data must match the pattern ^a");
    assert_eq!(
        fault(json!({"anyOf": [{"type": "string"}, {"minimum": 3}]}), json!(1)).1,
        "data is none of the forms that the schema allows"
    );
    assert_eq!(fault(json!({"properties": {"a.b": {"type": "null"}}}), json!({"a.b": 1})).0, "data[\"a.b\"]");
}

#[test]
fn no_more_than_twenty_mistakes_and_in_large_data_only_the_first() {
    let schema = json!({"items": {"type": "string"}});
    assert_eq!(faults(schema.clone(), json!(vec![1; 500])).len(), MAX_FAULTS);
    assert_eq!(faults(schema, json!(vec![1; 200_000])).len(), 1);
    let unknown: serde_json::Map<String, Json> = (0..500).map(|n| (format!("f{n}"), Json::Null)).collect();
    assert_eq!(faults(json!({"properties": {"a": {}}, "additionalProperties": false}), Json::Object(unknown)).len(), MAX_FAULTS);
}

#[test]
fn a_schema_that_is_none_is_refused_and_nothing_is_fetched() {
    assert!(Schema::compile(&json!({"type": "strin"})).unwrap_err().starts_with("at /type: "));
    assert!(Schema::compile(&json!({"pattern": "("})).is_err());
    assert!(Schema::compile(&json!({"$ref": "http://127.0.0.1:1/schema.json"})).is_err());
    assert!(Schema::compile(&json!({"$ref": "file:///etc/hostname"})).is_err());
}
