//! YAML to JSON as `kubectl apply` would do it, but strict: a key that stands twice is refused with its place, where
//! serde_yaml would quietly take the last one. What kubectl and YAML 1.2 read differently is refused by `ambiguous`.

use crate::mistake::{Mistake, at, below};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value as Json};
use std::cell::RefCell;
use std::fmt;

/// etcd takes no larger object.
pub const MAX_BYTES: usize = 1 << 20;
/// No field of the resource lies deeper than 12; the rest is room for JSON Schemas and examples.
const MAX_DEPTH: usize = 64;
/// Documents in one file.
const MAX_DOCUMENTS: usize = 100;

/// All documents of a text, empty ones left out.
pub(super) fn parse(text: &str) -> Result<Vec<Json>, Mistake> {
    if text.len() > MAX_BYTES {
        return Err(Mistake::new("", format!("the file has {} bytes, more than the {MAX_BYTES} that Kubernetes can store", text.len())));
    }
    let mut documents = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        // Where in the document the reader stands when it stops: serde_yaml knows the line, but of its own errors only.
        let stopped = RefCell::new(String::new());
        let value = Node { place: String::new(), depth: 0, stopped: &stopped }.deserialize(document);
        match value {
            Ok(Json::Null) => {}
            Ok(value) if documents.len() < MAX_DOCUMENTS => documents.push(value),
            Ok(_) => return Err(Mistake::new("", format!("more than {MAX_DOCUMENTS} documents in one file"))),
            Err(error) => return Err(mistake(text, &error, stopped.into_inner())),
        }
    }
    Ok(documents)
}

fn mistake(document: &str, error: &serde_yaml::Error, place: String) -> Mistake {
    let text = error.to_string();
    let Some(location) = error.location() else { return Mistake::new(place, explained(&text, "")) };
    // serde_yaml appends the position in its own words, and puts its own path before.
    let text = text.split(" at line ").next().unwrap_or(&text);
    let line = document.lines().nth(location.line().saturating_sub(1)).unwrap_or_default();
    let text = match text.split_once(MARK) {
        Some((_, ours)) => ours.to_owned(),
        None => explained(text, line),
    };
    Mistake::new(place, text).on_line(location.line())
}

/// What the reader of YAML complains of, and what to do about it.
fn explained(text: &str, line: &str) -> String {
    let do_what = if line.trim_start_matches(' ').starts_with('\t') {
        "the line is indented with a tab, which YAML does not allow: use spaces"
    } else if text.contains("cannot start any token") && line.contains('\t') {
        "there is a tab where YAML allows only spaces: replace it"
    } else if text.contains("cannot start any token") {
        "a text that begins with a special character such as @ or ` or % must stand in quotes"
    } else if text.contains("unknown anchor") {
        "a word that begins with * is an alias, and stands for what is marked with & before it; nothing is: mark it, or write a text in quotes"
    } else if text.contains("repetition limit") || text.contains("recursion limit") {
        "aliases (*name) repeat too much, or nesting is too deep: write it out, or make it smaller"
    } else if text.contains("mapping values are not allowed") {
        "there is a colon too many here: a text with a colon must stand in quotes, and a field begins on a line of its own"
    } else if text.contains("did not find expected key") || text.contains("block mapping") {
        "the line does not fit the ones before it: fields of one map are indented alike, and brackets and quotes are closed"
    } else if text.contains("did not find expected '-' indicator") {
        "the line does not fit the list before it: every entry begins with - and is indented alike"
    } else if text.contains("flow") || text.contains("did not find expected ','") {
        "a bracket is not closed, or a comma is missing"
    } else if text.contains("quoted scalar") || text.contains("end of stream") {
        "a quote or a bracket is not closed"
    } else {
        return text.to_owned();
    };
    format!("{do_what} ({text})")
}

/// Stands before our own messages, so that what serde_yaml puts before them can be cut off.
const MARK: &str = "\u{1}";

struct Node<'a> {
    place: String,
    depth: usize,
    stopped: &'a RefCell<String>,
}

impl Node<'_> {
    fn child(&self, place: String) -> Node<'_> {
        Node { place, depth: self.depth + 1, stopped: self.stopped }
    }

    fn refuse<E: Error>(&self, place: &str, message: String) -> E {
        self.stopped.replace(place.to_owned());
        E::custom(format!("{MARK}{message}"))
    }

    fn too_long<T, E: Error>(&self, number: impl fmt::Display) -> Result<T, E> {
        Err(self.refuse(&self.place, format!("{number} has more digits than a number keeps: write it as a text in quotes")))
    }

    fn not_too_deep<E: Error>(&self) -> Result<(), E> {
        match self.depth {
            MAX_DEPTH.. => Err(self.refuse(&self.place, format!("nested deeper than {MAX_DEPTH} levels"))),
            _ => Ok(()),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Json;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }
    fn visit_none<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(self)
    }
    fn visit_bool<E: Error>(self, value: bool) -> Result<Json, E> {
        Ok(value.into())
    }
    fn visit_i64<E: Error>(self, value: i64) -> Result<Json, E> {
        Ok(value.into())
    }
    fn visit_u64<E: Error>(self, value: u64) -> Result<Json, E> {
        Ok(value.into())
    }
    fn visit_i128<E: Error>(self, value: i128) -> Result<Json, E> {
        self.too_long(value)
    }
    fn visit_u128<E: Error>(self, value: u128) -> Result<Json, E> {
        self.too_long(value)
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<Json, E> {
        /// Whole numbers up to here are the same as float and as integer.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        match Number::from_f64(value) {
            // 3.0 is 3, as kubectl sends it.
            Some(_) if value.fract() == 0.0 && value.abs() < EXACT => Ok((value as i64).into()),
            Some(number) => Ok(number.into()),
            None => Err(self.refuse(&self.place, format!("{value} is no number that JSON can hold"))),
        }
    }
    fn visit_str<E: Error>(self, value: &str) -> Result<Json, E> {
        Ok(value.into())
    }
    fn visit_string<E: Error>(self, value: String) -> Result<Json, E> {
        Ok(value.into())
    }
    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Json, A::Error> {
        Err(self.refuse(&self.place, "a YAML tag (!...) means nothing here: remove it".into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Json, A::Error> {
        self.not_too_deep()?;
        let mut list = Vec::new();
        while let Some(element) = elements.next_element_seed(self.child(at(&self.place, list.len())))? {
            list.push(element);
        }
        Ok(Json::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        self.not_too_deep()?;
        let mut map = Map::new();
        while let Some(key) = entries.next_key_seed(Key { node: &self, seen: &map })? {
            let value = entries.next_value_seed(self.child(below(&self.place, &key)))?;
            map.insert(key, value);
        }
        Ok(Json::Object(map))
    }
}

/// YAML 1.1 puts the fields of another map in its place, and YAML 1.2 knows nothing of it.
const MERGE: &str = "<<";

/// A key of a map; refused while the reader still stands on its line.
struct Key<'a> {
    node: &'a Node<'a>,
    seen: &'a Map<String, Json>,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = String;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Key<'_> {
    fn new_one<E: Error>(&self, key: String) -> Result<String, E> {
        if key == MERGE {
            let message = "merge keys (<<) are not taken here, though kubectl takes them: write what is merged field by field";
            return Err(self.node.refuse(&self.node.place, message.into()));
        }
        match self.seen.contains_key(&key) {
            false => Ok(key),
            true => {
                let place = below(&self.node.place, &key);
                Err(self.node.refuse(&place, format!("the key {key} stands here twice: remove one of the two")))
            }
        }
    }
}

impl<'de> Visitor<'de> for Key<'_> {
    type Value = String;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key that is a text")
    }
    fn visit_str<E: Error>(self, key: &str) -> Result<String, E> {
        self.new_one(key.to_owned())
    }
    // Keys of JSON are texts: a number or a truth value as a key is the text that was written.
    fn visit_i64<E: Error>(self, key: i64) -> Result<String, E> {
        self.new_one(key.to_string())
    }
    fn visit_u64<E: Error>(self, key: u64) -> Result<String, E> {
        self.new_one(key.to_string())
    }
    fn visit_i128<E: Error>(self, key: i128) -> Result<String, E> {
        self.node.too_long(key)
    }
    fn visit_u128<E: Error>(self, key: u128) -> Result<String, E> {
        self.node.too_long(key)
    }
    fn visit_bool<E: Error>(self, key: bool) -> Result<String, E> {
        self.new_one(key.to_string())
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        String::deserialize(deserializer)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refusal(text: &str) -> String {
        parse(text).expect_err("should be refused").to_string()
    }

    #[test]
    fn values_are_read_as_they_stand() {
        assert_eq!(
            parse("a: yes\nb: 010\nc: 10.0\nd: 1.5\ne: true\nf: ~\n").unwrap(),
            vec![json!({
                "a": "yes", "b": "010", "c": 10, "d": 1.5, "e": true, "f": null
            })]
        );
    }

    #[test]
    fn a_key_that_stands_twice_is_refused_with_its_path_and_line() {
        let text = "spec:\n  topics:\n  - name: a\n    partitions: 1\n    name: b\n";
        assert_eq!(refusal(text), "line 5: spec.topics[0].name: the key name stands here twice: remove one of the two");
    }

    #[test]
    fn a_syntax_error_says_its_line() {
        assert!(refusal("a: 1\nb: [1, 2\nc: 3\n").contains("line 3"), "{}", refusal("a: 1\nb: [1, 2\nc: 3\n"));
        assert!(refusal("a: \"never closed\n").contains("line "));
    }

    #[test]
    fn nesting_size_tags_and_infinite_numbers_are_refused() {
        assert!(refusal(&"[".repeat(100_000)).contains("nested") || refusal(&"[".repeat(100_000)).contains("recursion"));
        assert!(refusal(&format!("a: {}1{}", "[".repeat(70), "]".repeat(70))).contains("nested deeper than 64"));
        assert!(refusal(&" ".repeat(MAX_BYTES + 1)).contains("more than the 1048576"));
        assert_eq!(refusal("a:\n  b: !secret x\n"), "line 2: a.b: a YAML tag (!...) means nothing here: remove it");
        assert!(refusal("a: .inf").contains("line 1: a: inf is no number"));
    }

    #[test]
    fn a_whole_number_that_no_number_keeps_is_refused_in_our_words() {
        for number in ["18446744073709551616", "-9223372036854775809"] {
            let meant = format!("line 2: a.b: {number} has more digits than a number keeps: write it as a text in quotes");
            assert_eq!(refusal(&format!("a:\n  b: {number}\n")), meant);
        }
        assert!(refusal("18446744073709551616: a\n").contains("more digits than a number keeps"));
        assert_eq!(parse("a: 18446744073709551615\n").unwrap(), vec![json!({"a": u64::MAX})]);
    }

    #[test]
    fn a_merge_key_is_refused_with_what_to_write_instead() {
        let text = "spec:\n  topics:\n  - &t {name: a, partitions: 1}\n  - <<: *t\n    name: b\n";
        let meant = "merge keys (<<) are not taken here, though kubectl takes them: write what is merged field by field";
        assert_eq!(refusal(text), format!("line 4: spec.topics[1]: {meant}"));
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..30 {
            let (alias, last) = (format!("*a{}, ", i - 1).repeat(9), i - 1);
            text.push_str(&format!("a{i}: &a{i} [{alias}*a{last}]\n"));
        }
        assert!(refusal(&text).contains("repetition limit exceeded"), "{}", refusal(&text));
    }

    #[test]
    fn several_documents_are_read_and_empty_ones_left_out() {
        assert_eq!(parse("---\na: 1\n---\n---\nb: 2\n").unwrap(), vec![json!({"a": 1}), json!({"b": 2})]);
    }
}
