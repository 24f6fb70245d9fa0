use crds::json::Json;
use sha2::{Digest, Sha256};

/// The hash of what data says: spaces and the order of fields do not count, so that a client may write the same order anew.
/// (A number counts as it is written: 1.0 is not 1.) It is kept with each order, so how it is made must never change.
pub fn content_hash(value: &Json<'_>) -> [u8; 32] {
    let mut hash = Hashing { sha: Sha256::new(), waiting: [0; 512], len: 0 };
    hash.value(value);
    hash.flush();
    hash.sha.finalize().into()
}

/// Each value as its kind, its length and its bytes: no two values are the same sequence, and nothing has to be written as text.
struct Hashing {
    sha: Sha256,
    /// Many tiny pieces go into the hash together.
    waiting: [u8; 512],
    len: usize,
}

impl Hashing {
    fn value(&mut self, value: &Json<'_>) {
        match value {
            Json::Null => self.piece(b'n', &[]),
            Json::Bool(is) => self.piece(b'b', &[u8::from(*is)]),
            Json::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(whole), ..) => self.piece(b'u', &whole.to_le_bytes()),
                (_, Some(whole), _) => self.piece(b'i', &whole.to_le_bytes()),
                (.., float) => self.piece(b'f', &float.unwrap_or_default().to_le_bytes()),
            },
            Json::String(text) => self.text(text),
            Json::Array(all) => {
                self.length(b'a', all.len());
                all.iter().for_each(|value| self.value(value));
            }
            // Objects are sorted by name.
            Json::Object(all) => {
                self.length(b'o', all.len());
                for (name, value) in all {
                    self.text(name);
                    self.value(value);
                }
            }
        }
    }

    fn text(&mut self, text: &str) {
        self.length(b's', text.len());
        self.bytes(text.as_bytes());
    }

    fn length(&mut self, kind: u8, length: usize) {
        self.piece(kind, &(length as u64).to_le_bytes());
    }

    fn piece(&mut self, kind: u8, bytes: &[u8]) {
        self.bytes(&[kind]);
        self.bytes(bytes);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        if self.len + bytes.len() > self.waiting.len() {
            self.flush();
        }
        if bytes.len() > self.waiting.len() {
            self.sha.update(bytes);
        } else {
            self.waiting[self.len..self.len + bytes.len()].copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }

    fn flush(&mut self) {
        self.sha.update(&self.waiting[..self.len]);
        self.len = 0;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    fn hash(value: &Value) -> [u8; 32] {
        content_hash(&value.into())
    }

    #[test]
    fn what_says_the_same_has_the_same_hash_and_nothing_else_has() {
        let long = "x".repeat(2000);
        let values = [
            json!(null),
            json!(false),
            json!(true),
            json!(0),
            json!(-1),
            json!(1),
            json!(1.0),
            json!(u64::MAX),
            json!(""),
            json!("1"),
            json!([]),
            json!([[]]),
            json!(["a", "b"]),
            json!(["ab"]),
            json!([["a"], "b"]),
            json!({}),
            json!({"a": "b"}),
            json!({"a": {"b": []}}),
            json!({"a": [], "b": []}),
            json!(long),
            json!([long, 1]),
        ];
        for (n, one) in values.iter().enumerate() {
            for (m, other) in values.iter().enumerate() {
                assert_eq!(hash(one) == hash(other), n == m, "{one} {other}");
            }
        }
        let again: Json = serde_json::from_str(r#"{ "b":[],  "a":[] }"#).unwrap_or_default();
        assert_eq!(content_hash(&again), hash(&json!({"a": [], "b": []})));
    }

    #[test]
    fn the_hash_stays_what_it_is_in_stores() {
        let hash = hash(&json!({"orderId": "o-1", "items": [{"quantity": 2, "price": 1.5}], "ok": true, "note": null}));
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "051291d6fa8fe215d0b0ea86f0ab0f2c2d7ecaf223a68c693874ffb762e13fbe");
    }

    proptest! {
        /// As they lay in serde_json's maps when the first orders were kept: sorted, and of a name given twice the last.
        #[test]
        fn the_order_of_fields_and_a_name_given_twice_change_nothing(fields in proptest::collection::vec(("[ab\u{e9}]{0,2}", any::<i64>()), 0..40)) {
            let text = |field: &(String, i64)| format!("\"{}\":{{\"b\":1,\"a\":{},\"b\":2}}", field.0, field.1);
            let text = format!("{{{}}}", fields.iter().map(text).collect::<Vec<_>>().join(","));
            let map: BTreeMap<&str, Value> = fields.iter().map(|(name, number)| (name.as_str(), json!({"a": number, "b": 2}))).collect();
            prop_assert_eq!(content_hash(&serde_json::from_str(&text).unwrap()), hash(&json!(map)));
        }
    }
}
