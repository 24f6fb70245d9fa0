//! Fields of persons: which they are, what they are encrypted with, and who may read them.

use super::scalar::*;
use crate::json::Json;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The entry of the Secret for what must be equal to be found, and for nothing else: partition keys, the ids and customers of orders, the
/// hashes by which a repeat is known. It stays what it is for as long as the orders are kept.
pub const MATCHING_KEY: &str = "match";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pii {
    /// The keys: one entry each, name to 32 random bytes in base64. The entry whose name sorts last encrypts (call them by their date),
    /// all of them decrypt; `match` is for what must be equal to be found, and is never changed.
    pub keys_secret_ref: SecretRef,
    /// Whose API keys read these fields as they are: names of entries of `api.keysSecretRef`. All others see `***`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub readers: Vec<String>,
    /// A key that is added while pods run encrypts after so long: by then each of them has it.
    #[serde(default = "new_key_after")]
    pub new_key_after: GoDuration,
}

fn new_key_after() -> GoDuration {
    "2m".into()
}

/// The path of a field that is encrypted: `data.customer.email`, and in each item of a list `data.lines[].note` (within brackets YAML wants it in quotes).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Field(String),
    /// Each item of a list.
    Items,
}

impl FieldPath {
    /// Or what is wrong with it.
    pub fn parse(text: &str) -> Result<FieldPath, String> {
        let shape = || format!("must be the path of a field below data, such as data.email or data.lines[].note, but is {text:?}");
        let mut steps = Vec::new();
        for part in text.strip_prefix("data.").ok_or_else(shape)?.split('.') {
            let name = part.trim_end_matches("[]");
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            if name.is_empty() || !name.chars().all(plain) {
                return Err(shape());
            }
            steps.push(Step::Field(name.to_owned()));
            steps.extend((0..(part.len() - name.len()) / 2).map(|_| Step::Items));
        }
        Ok(FieldPath(steps))
    }

    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// Hands out each value at this path, but null, which says nothing of anybody. Where the data has another shape than the path, what
    /// stands there instead is handed out: it may say what the field would have said.
    pub fn each<'t>(&self, data: &mut Json<'t>, seen: &mut impl FnMut(&mut Json<'t>)) {
        self.each_beyond(None, data, seen);
    }

    /// The same but for what departs from the path within its first so many steps: another path has these too, and what stands there.
    pub fn each_beyond<'t>(&self, shared: Option<usize>, data: &mut Json<'t>, seen: &mut impl FnMut(&mut Json<'t>)) {
        each(&self.0, 0, shared, data, seen);
    }

    /// How many steps two paths have in common, from their start.
    pub fn shared_with(&self, other: &FieldPath) -> usize {
        self.0.iter().zip(&other.0).take_while(|(one, other)| one == other).count()
    }

    /// Whether the other is this field or lies in it.
    pub fn holds(&self, other: &FieldPath) -> bool {
        other.0.starts_with(&self.0)
    }
}

fn each<'t>(steps: &[Step], depth: usize, shared: Option<usize>, value: &mut Json<'t>, seen: &mut impl FnMut(&mut Json<'t>)) {
    match (steps.get(depth), value) {
        (_, Json::Null) => {}
        (Some(Step::Field(name)), Json::Object(fields)) => {
            if let Some(field) = fields.get_mut(name) {
                each(steps, depth + 1, shared, field, seen);
            }
        }
        (Some(Step::Items), Json::Array(items)) => items.iter_mut().for_each(|item| each(steps, depth + 1, shared, item, seen)),
        (Some(_), _) if shared.is_some_and(|shared| depth <= shared) => {}
        (_, value) => seen(value),
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("data")?;
        self.0.iter().try_for_each(|step| match step {
            Step::Field(name) => write!(f, ".{name}"),
            Step::Items => f.write_str("[]"),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_path_is_written_as_it_was_read_and_what_is_none_is_refused() {
        for path in ["data.email", "data.customer.e-mail", "data.lines[].note", "data.a[][].b", "data.tags[]"] {
            assert_eq!(FieldPath::parse(path).unwrap().to_string(), path);
        }
        for wrong in
            ["", "data", "data.", "data.a..b", "email", "attributes.a", "data.a[0]", "data.[]", "data.a b", "data.a[].", "data.a:b"]
        {
            assert!(FieldPath::parse(wrong).unwrap_err().contains("such as data.email"), "{wrong}");
        }
        let parse = |text| FieldPath::parse(text).unwrap();
        assert!(parse("data.a").holds(&parse("data.a[].b")) && parse("data.a").holds(&parse("data.a")));
        assert!(!parse("data.a.b").holds(&parse("data.a")) && !parse("data.a").holds(&parse("data.ab")));
    }

    #[test]
    fn what_stands_at_a_path_or_in_its_place_is_found_and_null_is_not() {
        let found = |path: &str, data: serde_json::Value| {
            let (mut data, mut found) = (Json::from(&data), Vec::new());
            FieldPath::parse(path).unwrap().each(&mut data, &mut |value| found.push(value.to_string()));
            found
        };
        assert_eq!(found("data.a.b", json!({"a": {"b": 1, "c": 2}})), ["1"]);
        assert_eq!(found("data.a[].b", json!({"a": [{"b": 1}, {}, {"b": null}, {"b": [2]}]})), ["1", "[2]"]);
        assert_eq!(found("data.tags[]", json!({"tags": ["x", "y"]})), ["\"x\"", "\"y\""]);
        for other_shape in [json!({"a": "Ann"}), json!({"a": ["Ann"]}), json!("Ann"), json!(["Ann"])] {
            assert!(found("data.a.b", other_shape)[0].contains("Ann"));
        }
        assert_eq!(found("data.a[].b", json!({"a": {"b": "Ann"}})), ["{\"b\":\"Ann\"}"]);
        assert!(found("data.a.b", json!({"a": null})).is_empty() && found("data.a.b", json!({})).is_empty());
    }
}
