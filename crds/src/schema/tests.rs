use super::*;
use crate::json::tests::document;
use proptest::prelude::*;
use serde_json::json;

fn faults(schema: Value, data: Value) -> Vec<(String, String)> {
    Schema::compile(&schema).unwrap().faults(&Json::from(&data)).into_iter().map(|fault| (fault.path, fault.message)).collect()
}

fn fault(schema: Value, data: Value) -> (String, String) {
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
    let unknown: serde_json::Map<String, Value> = (0..500).map(|n| (format!("f{n}"), Value::Null)).collect();
    assert_eq!(faults(json!({"properties": {"a": {}}, "additionalProperties": false}), Value::Object(unknown)).len(), MAX_FAULTS);
}

fn refused(schema: Value) -> Vec<(String, String)> {
    Schema::compile(&schema).unwrap_err().into_iter().map(|fault| (fault.path, fault.message)).collect()
}

#[test]
fn every_mistake_of_a_schema_is_told_at_once_with_its_place_and_what_to_do() {
    let mut found = refused(json!({
        "type": "strin",
        "required": "customerId",
        "properties": {
            "a": {"minimum": "1"},
            "b": 5,
            "c": {"$ref": "#/$defs/missing"},
            "d": {"$ref": "https://example.com/order.json"},
            "e": {"pattern": "("},
            "f": {"type": ["string", "nul"]},
            "g": {"minLength": -1},
            "h": {"default": {"$ref": "no reference", "pattern": "("}},
        },
    }));
    found.sort();
    let types = "must be one of string, number, integer, boolean, object, array, null, or a list of several of these, but is";
    assert_eq!(
        found,
        [
            pair("schema.properties.a.minimum", "must be a number but is a text"),
            pair("schema.properties.b", "must be a schema, which is a map such as {type: string}, but is 5"),
            pair(
                "schema.properties.c[\"$ref\"]",
                "there is no #/$defs/missing in this schema: put what it names under $defs, and write $ref: '#/$defs/<name>'"
            ),
            pair(
                "schema.properties.d[\"$ref\"]",
                "https://example.com/order.json lies outside of this schema, and nothing is fetched: copy it into $defs, and write $ref: \
                 '#/$defs/<name>'"
            ),
            pair("schema.properties.e.pattern", "is no regular expression: \"(\""),
            pair("schema.properties.f.type", &format!("{types} \"nul\": did you mean null?")),
            pair("schema.properties.g.minLength", "must be at least 0 but is -1"),
            pair("schema.required", "must be a list but is a text"),
            pair("schema.type", &format!("{types} \"strin\": did you mean string?")),
        ]
    );
}

#[test]
fn what_nothing_can_fulfil_is_told() {
    let mut found = refused(json!({
        "properties": {
            "a": {"minimum": 5, "maximum": 3},
            "b": {"exclusiveMinimum": 3, "maximum": 3},
            "c": {"items": {"minLength": 2, "maxLength": 1}},
            "required": {"minimum": 3, "maximum": 3},
        },
        "required": ["a", "d"],
        "additionalProperties": false,
    }));
    found.sort();
    assert_eq!(
        found,
        [
            pair("schema.properties.a.minimum", "leaves nothing: minimum is 5, and maximum is 3"),
            pair("schema.properties.b.exclusiveMinimum", "leaves nothing: exclusiveMinimum is 3, and maximum is 3"),
            pair("schema.properties.c.items.minLength", "leaves nothing: minLength is 2, and maxLength is 1"),
            pair("schema.required", "names d, which additionalProperties: false does not let in: put it under properties, or leave it out"),
        ]
    );
    for fulfilled in [
        json!({"required": ["d"], "additionalProperties": false, "patternProperties": {"d": {}}}),
        json!({"required": ["d"], "additionalProperties": {"type": "string"}}),
        json!({"properties": {"minLength": {"const": 5}, "maxLength": {"const": 3}}}),
    ] {
        assert!(Schema::compile(&fulfilled).is_ok(), "{fulfilled}");
    }
}

#[test]
fn a_misspelt_keyword_or_format_is_told_and_another_word_is_allowed() {
    let mut found = refused(json!({
        "requried": ["a"],
        "properties": {"a": {"minimun": 1, "maxlength": 2}, "b": {"prefixItems": [{"tpye": "string"}]}, "c": {"type": "array", "item": {}}},
        "additionalPropertys": {"format": "datetime"},
        "$defs": {"d": {"anyOf": [{"not": {"$ref": "#", "format": "e-mail"}}]}},
    }));
    found.sort();
    let keyword = |near: &str| {
        format!("is no keyword of JSON Schema, so that it checks nothing: did you mean {near}? A word of your own begins with x-")
    };
    let format = |near: &str| format!("is no format of JSON Schema, so that it checks nothing: did you mean {near}?");
    assert_eq!(
        found,
        [
            pair("schema.additionalPropertys", &keyword("additionalProperties")),
            pair("schema.properties.a.maxlength", &keyword("maxLength")),
            pair("schema.properties.a.minimun", &keyword("minimum")),
            pair("schema.properties.b.prefixItems[0].tpye", &keyword("type")),
            pair("schema.properties.c.item", &keyword("items")),
            pair("schema.requried", &keyword("required")),
            pair("schema[\"$defs\"].d.anyOf[0].not.format", &format("email")),
        ]
    );
    let allowed = json!({
        "x-requried": true, "note": "n", "form": "f", "example": {"requried": 1}, "default": {"format": "datetime"},
        "properties": {"requried": {"format": "ulid"}, "item": {"format": "int32", "nullable": true}, "format": {"type": "string"}},
        "components": {"minimun": {}}, "dependencies": {"tpye": ["item"]}, "const": {"tpye": 1}, "enum": [{"tpye": 1}],
    });
    assert!(Schema::compile(&allowed).is_ok(), "{:?}", Schema::compile(&allowed));
}

#[test]
fn references_within_a_schema_are_followed_whatever_they_are_called() {
    for target in ["#/$defs/a%25b", "#/$defs/c~1d", "#here", "#"] {
        let schema = json!({
            "$defs": {"a%b": {"type": "string"}, "c/d": {"type": "string"}, "e": {"$anchor": "here", "type": "string"}},
            "properties": {"x": {"$ref": target}},
        });
        assert!(Schema::compile(&schema).is_ok(), "{target}: {:?}", Schema::compile(&schema));
    }
    let with_id = json!({"$id": "https://example.com/a", "$defs": {"b": {"type": "string"}}, "$ref": "https://example.com/a#/$defs/b"});
    assert!(Schema::compile(&with_id).is_ok(), "{:?}", Schema::compile(&with_id));
}

#[test]
fn nothing_is_fetched_and_an_unknown_kind_of_schema_is_named() {
    for target in ["http://127.0.0.1:1/schema.json", "file:///etc/hostname", "other.json"] {
        let said = refused(json!({ "$ref": target }));
        assert!(said.len() == 1 && said[0].1.contains("nothing is fetched"), "{said:?}");
        let said = refused(json!({ "$id": "https://example.com/a", "$ref": target }));
        assert!(said.len() == 1 && said[0].1.contains("leads nowhere"), "{said:?}");
    }
    let said = refused(json!({"$schema": "https://example.com/mine"}));
    assert!(said[0].0.contains("$schema") && said[0].1.contains("leave $schema out"), "{said:?}");
}

fn schemas() -> [Value; 5] {
    [
        json!({"type": "object", "required": ["a", "b"], "properties": {"a": {"type": ["integer", "string"], "minimum": 0}, "é": {"const": 1}}}),
        json!({"properties": {"a": {"enum": [1, "a", [], {}, [1, {"a": 1}], null]}, "b": {"type": "array", "uniqueItems": true, "maxItems": 2}}, "additionalProperties": false}),
        json!({"anyOf": [{"type": "array", "items": {"type": "number", "multipleOf": 0.5}}, {"type": "object", "minProperties": 3, "propertyNames": {"maxLength": 1}}]}),
        json!({"type": "array", "prefixItems": [{"type": "boolean"}], "unevaluatedItems": false, "contains": {"const": {"a": 1}}}),
        json!({"$ref": "#/$defs/tree", "$defs": {"tree": {"type": ["object", "null"], "additionalProperties": {"$ref": "#/$defs/tree"}}}}),
    ]
}

proptest! {
    /// The same schema, compiled for serde_json's own tree.
    #[test]
    fn a_message_is_judged_as_serde_jsons_tree_of_it_is(text in document()) {
        let (data, value): (Json, Value) = (serde_json::from_str(&text).unwrap(), serde_json::from_str(&text).unwrap());
        for schema in schemas() {
            let library = jsonschema::options().offline().should_validate_formats(true).build(&schema).unwrap();
            let mut expected = Vec::new();
            library.iter_errors(&value).for_each(|error| sentence::of_data(&error, &mut expected));
            expected.truncate(MAX_FAULTS);
            prop_assert_eq!(Schema::compile(&schema).unwrap().faults(&data), expected, "{} on {}", schema, text);
            prop_assert_eq!(Schema::compile(&schema).unwrap().faults(&Json::from(&value)).is_empty(), library.is_valid(&value));
        }
    }
}
