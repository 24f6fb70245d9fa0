//! From serde_json's tree and back.

use super::{Json, Object};
use serde_json::{Map, Value};
use std::borrow::Cow;

impl<'t> From<&'t Value> for Json<'t> {
    fn from(value: &'t Value) -> Json<'t> {
        match value {
            Value::Null => Json::Null,
            Value::Bool(is) => Json::Bool(*is),
            Value::Number(number) => Json::Number(number.clone()),
            Value::String(text) => Json::String(Cow::Borrowed(text)),
            Value::Array(items) => Json::Array(items.iter().map(Json::from).collect()),
            Value::Object(fields) => Json::Object(fields.into()),
        }
    }
}

impl<'t> From<&'t Map<String, Value>> for Object<'t> {
    fn from(fields: &'t Map<String, Value>) -> Object<'t> {
        fields.iter().map(|(name, value)| (name.as_str(), Json::from(value))).collect()
    }
}

impl From<&Json<'_>> for Value {
    fn from(json: &Json<'_>) -> Value {
        match json {
            Json::Null => Value::Null,
            Json::Bool(is) => Value::Bool(*is),
            Json::Number(number) => Value::Number(number.clone()),
            Json::String(text) => Value::String(text.clone().into_owned()),
            Json::Array(items) => Value::Array(items.iter().map(Value::from).collect()),
            Json::Object(fields) => Value::Object(fields.iter().map(|(name, value)| (name.to_owned(), Value::from(value))).collect()),
        }
    }
}

impl<'t> From<&'t str> for Json<'t> {
    fn from(text: &'t str) -> Json<'t> {
        Json::String(Cow::Borrowed(text))
    }
}

impl From<String> for Json<'_> {
    fn from(text: String) -> Self {
        Json::String(Cow::Owned(text))
    }
}

impl From<i64> for Json<'_> {
    fn from(number: i64) -> Self {
        Json::Number(number.into())
    }
}

impl From<u64> for Json<'_> {
    fn from(number: u64) -> Self {
        Json::Number(number.into())
    }
}

impl PartialEq<str> for Json<'_> {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == Some(other)
    }
}

impl PartialEq<&str> for Json<'_> {
    fn eq(&self, other: &&str) -> bool {
        self == *other
    }
}

impl PartialEq<Value> for Json<'_> {
    fn eq(&self, other: &Value) -> bool {
        let other = Json::from(other);
        *self == other
    }
}
