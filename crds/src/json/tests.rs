use super::*;
use crate::expression::{Input, Scope, compile};
use crate::schema::Schema;
use chrono::DateTime;
use proptest::prelude::*;
use serde_json::{Value, json};

/// JSON text as others write it: with spaces and escapes, with names given twice, with numbers of all kinds.
pub fn document() -> impl Strategy<Value = String> {
    let name =
        || proptest::sample::select(&[r#""a""#, r#""\u0061""#, r#""b""#, r#""é""#, r#""\u00e9""#, r#""""#, r#""a\"b""#, r#""aa""#][..]);
    let scalar = prop_oneof![
        proptest::sample::select(
            &[
                "null",
                "true",
                "false",
                "0",
                "-0",
                "1",
                "1.0",
                "-1",
                "1e2",
                "18446744073709551615",
                "-9223372036854775808",
                "1.5",
                "\"\"",
                "\"a\""
            ][..]
        )
        .prop_map(str::to_owned),
        any::<f64>().prop_filter("JSON has no other", |number| number.is_finite()).prop_map(|number| format!("{number:e}")),
        "\\PC{0,8}".prop_map(|text| json!(text).to_string()),
        proptest::sample::select(&[r#""\n\t\u0000""#, r#""\ud83d\ude00 \\ \/""#, r#""\u00E9""#][..]).prop_map(str::to_owned),
    ];
    scalar.prop_recursive(5, 100, 30, move |inner| {
        let field = (name(), inner.clone()).prop_map(|(name, value)| format!("{name} :{value}"));
        let many = ("[c-f]{1,2}", inner.clone()).prop_map(|(name, value)| format!("\"{name}\":{value}"));
        prop_oneof![
            proptest::collection::vec(inner, 0..5).prop_map(|items| format!("[ {}]", items.join(","))),
            proptest::collection::vec(field, 0..6).prop_map(|fields| format!("{{{} }}", fields.join(" , "))),
            proptest::collection::vec(many, 0..30).prop_map(|fields| format!("{{{}}}", fields.join(","))),
        ]
    })
}

fn read_both(text: &str) -> (Result<Json<'_>, String>, Result<Value, String>) {
    (serde_json::from_str(text).map_err(|error| error.to_string()), serde_json::from_str(text).map_err(|error| error.to_string()))
}

proptest! {
    #[test]
    fn it_says_what_serde_jsons_tree_says(text in document()) {
        let (Ok(json), Ok(value)) = read_both(&text) else { return Err(TestCaseError::fail(text)) };
        prop_assert_eq!(&json, &Json::from(&value));
        prop_assert_eq!(json.to_string(), value.to_string());
        prop_assert_eq!(&serde_json::to_value(&json).unwrap(), &value);
        prop_assert_eq!(&json.clone().into_owned(), &json);
        prop_assert_eq!(Value::from(&json), value);
    }

    #[test]
    fn what_is_no_json_is_refused_in_the_same_words(text in "[\\[\\]{}\",:0-9a-c.eE\\\\ -]{0,40}", deep in 0usize..140) {
        for text in [text, format!("{}1{}", "[".repeat(deep), "]".repeat(deep)), format!("{}1{}", "{\"a\":".repeat(deep), "}".repeat(deep))] {
            let (json, value) = read_both(&text);
            prop_assert_eq!(json.map(|json| Value::from(&json)), value, "{}", text);
        }
    }

    #[test]
    fn an_object_is_a_map(puts in proptest::collection::vec(("[a-e]{1,3}", any::<i64>(), any::<bool>()), 0..60), first in any::<bool>()) {
        let (mut object, mut map) = (Object::new(), std::collections::BTreeMap::new());
        if first {
            map.extend(puts.iter().map(|(name, number, _)| (name.clone(), *number)));
            object = puts.iter().map(|(name, number, _)| (name.as_str(), Json::from(*number))).collect();
        }
        for (name, number, put) in &puts {
            if *put {
                map.insert(name.clone(), *number);
                object.insert(name.as_str(), Json::from(*number));
            } else {
                prop_assert_eq!(object.remove(name), map.remove(name).map(Json::from));
            }
            prop_assert_eq!(object.get(name).and_then(Json::as_i64), map.get(name).copied());
            prop_assert_eq!(object.get_mut(name).is_some(), map.contains_key(name));
        }
        let fields: Vec<_> = object.iter().map(|(name, value)| (name.to_owned(), value.as_i64().unwrap())).collect();
        prop_assert_eq!((object.len(), fields), (map.len(), map.into_iter().collect::<Vec<_>>()));
    }

    #[test]
    fn expressions_see_the_same(text in document()) {
        let (Ok(data), Ok(value)) = read_both(&text) else { return Err(TestCaseError::fail(text)) };
        let (copied, attributes) = (Json::from(&value), Object::new());
        let input = Input { topic: "t", key: None, id: "i", publish_time: DateTime::UNIX_EPOCH, attributes: &attributes, data: &data };
        for expression in ["data.a", "[data.a][0]", "data['é'].b", "data.a.size()", "data == data", "data.c > 1", "{'all': data}", "data.map(x, x)"] {
            let compiled = compile(expression, &Scope::default()).unwrap();
            let given = |data| compiled.json(&Input { data, ..input }).map(|given| Value::from(&*given)).map_err(|error| error.to_string());
            prop_assert_eq!(given(&data), given(&copied), "{} on {}", expression, text);
        }
    }
}

#[test]
fn texts_are_those_of_the_message_but_for_those_with_escapes() {
    let text = r#"{"plain":"Ann","esc\u0061ped":"A\u006en"}"#;
    let json: Json = serde_json::from_str(text).unwrap();
    let kept: Vec<bool> = json
        .as_object()
        .unwrap()
        .clone()
        .into_iter()
        .map(|(name, value)| {
            let of_message = |text: &Cow<'_, str>| matches!(text, Cow::Borrowed(_));
            matches!(&value, Json::String(said) if of_message(said)) && of_message(&name)
        })
        .collect();
    assert_eq!(kept, [false, true]);
    assert_eq!(json, json!({"escaped": "Ann", "plain": "Ann"}));
}

/// Each field looked at for each other one would take minutes.
#[test]
fn a_hundred_thousand_fields_are_read_found_and_judged_in_their_own_time() {
    const FIELDS: usize = 100_000;
    let name = |n: usize| format!("f{}", (n * 7919) % FIELDS);
    let fields = |more: usize| (0..FIELDS).map(|n| format!("\"{}\":{}", name(n), n + more)).collect::<Vec<_>>().join(",");
    let text = format!("{{{},{}}}", fields(0), fields(1));
    let json: Json = serde_json::from_str(&text).unwrap();
    let object = json.as_object().unwrap();
    assert_eq!(object.len(), FIELDS);
    assert!((0..FIELDS).all(|n| object.get(&name(n)).and_then(Json::as_i64) == Some(n as i64 + 1)), "the last of each counts");
    let schema = Schema::compile(
        &json!({"required": ["f1"], "properties": {"f2": {"type": "string"}}, "additionalProperties": {"type": "integer"}}),
    );
    assert_eq!(schema.unwrap().faults(&json).len(), 1);
    let input = Input { topic: "t", key: None, id: "i", publish_time: DateTime::UNIX_EPOCH, attributes: &Object::new(), data: &json };
    assert_eq!(compile("data.all(name, data[name] > 0)", &Scope::default()).unwrap().bool(&input), Ok(true));
}
