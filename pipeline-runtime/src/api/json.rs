//! JSON as it must be for an order: no key twice, nothing behind it, nothing that the store could not hold.

use super::errors::Problem;
pub use crate::codec::weigh;
use crate::codec::{TOO_MANY_DIGITS, changed};
use crds::json::{Json, Read, Terms};
use serde::de::Error;

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
    let read = serde_json::from_str::<Read<Storable>>(text).map_err(|e| {
        let mut reason = e.to_string();
        if reason.starts_with("recursion limit exceeded") {
            reason = reason.replacen("recursion limit exceeded", "nested more than 127 levels deep", 1);
        }
        Problem::bad_request("malformed_json", format!("the body is not the JSON that it should be: {reason}"))
    })?;
    match changed(text, "data") {
        None => Ok(read.json),
        Some(path) => Err(Problem::field(&path, TOO_MANY_DIGITS)),
    }
}

/// Of a key given twice one reader takes the last and another the first. A NUL character is legal JSON that PostgreSQL cannot hold.
struct Storable;

impl Terms for Storable {
    const NAMES_ONCE: bool = true;

    fn text<E: Error>(text: &str) -> Result<(), E> {
        match text.as_bytes().contains(&0) {
            true => Err(E::custom("a text with the character \\u0000, which cannot be stored")),
            false => Ok(()),
        }
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
        assert!(problem.message.contains("has more digits"), "{}", problem.message);
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
