//! JSON as it must be for an order: no key twice, nothing behind it, nothing that the store could not hold.

use super::errors::Problem;
use crate::codec::changed;
pub use crate::codec::weigh;
use crds::json::{Json, Object, Text};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

/// Parses a body. What is wrong is said with its line and column.
pub fn parse(body: &[u8]) -> Result<Json<'_>, Problem> {
    let text = std::str::from_utf8(body).map_err(|e| {
        let message = format!("the body is not UTF-8: the byte at position {} is none of any character", e.valid_up_to());
        Problem::bad_request("invalid_utf8", message)
    })?;
    if text.trim_ascii().is_empty() {
        return Err(Problem::bad_request("malformed_json", "the body is empty: send a JSON object"));
    }
    // from_str, unlike from_slice, does not check the UTF-8 again; and it refuses what stands behind the value.
    let Strict(value) = serde_json::from_str::<Strict>(text).map_err(|e| {
        let mut reason = e.to_string();
        if reason.starts_with("recursion limit exceeded") {
            reason = reason.replacen("recursion limit exceeded", "nested more than 127 levels deep", 1);
        }
        Problem::bad_request("malformed_json", format!("the body is not the JSON that it should be: {reason}"))
    })?;
    match changed(text, "data") {
        None => Ok(value),
        Some(changed) => Err(Problem::field(&changed.path, changed.message())),
    }
}

/// A JSON value read more strictly than serde_json does by itself: of a key given twice it would silently take the last,
/// and another reader of the same message the first. A NUL character is legal JSON that PostgreSQL cannot hold.
struct Strict<'t>(Json<'t>);

impl<'t> Deserialize<'t> for Strict<'t> {
    fn deserialize<D: Deserializer<'t>>(deserializer: D) -> Result<Strict<'t>, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'t> Visitor<'t> for StrictVisitor {
    type Value = Json<'t>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Json<'t>, E> {
        Ok(Json::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Json<'t>, E> {
        Ok(Json::Number(value.into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Json<'t>, E> {
        Ok(Json::Number(value.into()))
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Json<'t>, E> {
        Number::from_f64(value).map(Json::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }
    fn visit_borrowed_str<E: de::Error>(self, value: &'t str) -> Result<Json<'t>, E> {
        storable(value)?;
        Ok(Json::from(value))
    }
    fn visit_str<E: de::Error>(self, value: &str) -> Result<Json<'t>, E> {
        self.visit_string(value.to_owned())
    }
    fn visit_string<E: de::Error>(self, value: String) -> Result<Json<'t>, E> {
        storable(&value)?;
        Ok(Json::from(value))
    }
    fn visit_unit<E>(self) -> Result<Json<'t>, E> {
        Ok(Json::Null)
    }
    fn visit_seq<A: SeqAccess<'t>>(self, mut seq: A) -> Result<Json<'t>, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(value)) = seq.next_element()? {
            list.push(value);
        }
        Ok(Json::Array(list))
    }
    fn visit_map<A: MapAccess<'t>>(self, mut entries: A) -> Result<Json<'t>, A::Error> {
        let (mut fields, mut names) = (Vec::new(), Names::default());
        while let Some(Text(name)) = entries.next_key()? {
            storable(&name)?;
            if names.have(name.clone(), &fields) {
                return Err(de::Error::custom(format_args!("the key {name:?} is given twice")));
            }
            let Strict(value) = entries.next_value()?;
            fields.push((name, value));
        }
        Ok(Json::Object(Object::of(fields)))
    }
}

/// The names in an object so far, once they are too many to look at each.
#[derive(Default)]
struct Names<'t>(HashSet<Cow<'t, str>>);

impl<'t> Names<'t> {
    const MANY: usize = 16;

    fn have(&mut self, name: Cow<'t, str>, fields: &[(Cow<'t, str>, Json<'t>)]) -> bool {
        match fields.len() {
            0..Self::MANY => fields.iter().any(|(known, _)| *known == name),
            Self::MANY => {
                self.0.extend(fields.iter().map(|(known, _)| known.clone()));
                !self.0.insert(name)
            }
            _ => !self.0.insert(name),
        }
    }
}

fn storable<E: de::Error>(text: &str) -> Result<(), E> {
    match text.as_bytes().contains(&0) {
        true => Err(E::custom("a text with the character \\u0000, which cannot be stored")),
        false => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::contract::content_hash;
    use proptest::prelude::*;

    fn refused(body: &[u8]) -> String {
        parse(body).unwrap_err().message.into_owned()
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        assert!(refused(b"{\"a\": 1,\n \"b\": }").ends_with("line 2 column 7"), "{}", refused(b"{\"a\": 1,\n \"b\": }"));
        assert!(refused(b"{\"a\": 1, \"a\": 2}").contains("\"a\" is given twice at line 1 column 12"));
        assert!(refused(b"{} x").contains("trailing characters"));
        assert!(refused(b"{\"a\": 1e999}").contains("number out of range"));
        assert!(refused(b"\xff{}").contains("position 0"));
        assert!(refused(b" \n").contains("empty"));
        assert!(refused(br#"{"a": "x\u0000"}"#).contains("cannot be stored"));
    }

    #[test]
    fn an_amount_that_would_be_changed_names_its_field() {
        let problem = parse(br#"{"items": [{"price": 0.30000000000000000001}]}"#).unwrap_err();
        assert_eq!(problem.fields[0].field, "items[0].price");
        assert!(problem.message.contains("0.30000000000000000001 has more digits"), "{}", problem.message);
    }

    #[test]
    fn ten_thousand_nested_lists_are_refused_and_not_a_crash() {
        assert!(refused(&vec![b'['; 10_000]).contains("nested more than 127 levels"));
        assert!(refused("{\"a\":".repeat(10_000).as_bytes()).contains("nested more than 127 levels"));
    }

    #[test]
    fn the_hash_knows_what_is_said_and_not_how_it_is_written() {
        let hash = |text: &str| content_hash(&parse(text.as_bytes()).unwrap());
        assert_eq!(hash(r#"{"a": 1, "b": [true, "x"]}"#), hash("{\"b\":[true,\"\\u0078\"],\n\"a\":1}"));
        assert_ne!(hash(r#"{"a": 1}"#), hash(r#"{"a": 2}"#));
        let long = |c: &str| hash(&format!("{{\"a\": \"{}{c}\"}}", "y".repeat(2000)));
        assert_ne!(long("1"), long("2"));
    }

    #[test]
    fn many_small_values_weigh_more_than_one_large() {
        assert!(weigh("{\"a\":1},".repeat(1000).as_bytes()).bytes > 1000 * 700);
        let text = format!("{{\"notes\": \"{}\"}}", "{,[\\\"".repeat(10_000));
        assert!(weigh(text.as_bytes()).bytes < text.len() + 2000);
        assert_eq!(weigh(b"{\"a\": [{\"b\": \"[[[\"}], \"c\": []}").depth, 3);
    }

    proptest! {
        #[test]
        fn the_strict_reader_reads_what_serde_json_reads(text in "[\\[\\]{}\",:0-9a-c.eE\\\\ -]{0,40}") {
            let ours = parse(text.as_bytes());
            match serde_json::from_str::<serde_json::Value>(&text) {
                Ok(value) => if let Ok(ours) = ours { prop_assert_eq!(ours, value) },
                Err(_) => prop_assert!(ours.is_err()),
            }
        }

        #[test]
        fn any_bytes_are_answered(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = weigh(&body);
            let _ = parse(&body);
        }
    }
}
