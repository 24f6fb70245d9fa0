//! What a message says, as the library looks at it.

use crate::json::{Iter, Json, Object};
use jsonschema::JsonType;
use jsonschema::json::{self as library, Array, Node, NodeIdentity, cmp};
use jsonschema_value::LazyInstance;
use serde_json::{Number, Value};
use std::borrow::Cow;
use std::slice;

#[derive(Debug)]
pub struct Instance;

impl library::Json for Instance {
    type Node<'a> = &'a Json<'a>;
    type PreparedKey = String;
    type StringBuffer = Json<'static>;

    /// As with serde_json's maps: finding a name compares some others.
    const KEYS_PER_LOOKUP: usize = 2;

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>(buffer: &mut Json<'static>, string: &str, f: impl for<'a> FnOnce(&'a Json<'a>) -> T) -> T {
        *buffer = Json::from(string.to_owned());
        f(buffer)
    }
}

impl<'a> Node<'a, Instance> for &'a Json<'a> {
    type Object = &'a Object<'a>;
    type Array = &'a [Json<'a>];
    type Number = &'a Number;

    fn as_object(&self) -> Option<&'a Object<'a>> {
        Json::as_object(self)
    }
    fn as_array(&self) -> Option<&'a [Json<'a>]> {
        Json::as_array(self)
    }
    fn as_string(&self) -> Option<Cow<'a, str>> {
        Json::as_str(self).map(Cow::Borrowed)
    }
    fn as_number(&self) -> Option<&'a Number> {
        Json::as_number(self)
    }
    fn as_boolean(&self) -> Option<bool> {
        Json::as_bool(self)
    }
    fn is_null(&self) -> bool {
        Json::is_null(self)
    }
    fn json_type(&self) -> JsonType {
        match self {
            Json::Null => JsonType::Null,
            Json::Bool(_) => JsonType::Boolean,
            Json::Number(_) => JsonType::Number,
            Json::String(_) => JsonType::String,
            Json::Array(_) => JsonType::Array,
            Json::Object(_) => JsonType::Object,
        }
    }
    fn equals_value(&self, expected: &Value) -> bool {
        equals(self, expected)
    }
    fn to_value(&self) -> Cow<'a, Value> {
        Cow::Owned(Value::from(*self))
    }
    /// Every error holds what it is about, and there are thousands before the first is read. Our sentences ask for the kind and for a number:
    /// a list and an object are shown without what lies in them.
    fn lazy_value(&self) -> LazyInstance<'a> {
        let shown = match self {
            Json::Array(_) => Value::Array(Vec::new()),
            Json::Object(_) => Value::Object(serde_json::Map::new()),
            scalar => Value::from(*scalar),
        };
        LazyInstance::Ready(Cow::Owned(shown))
    }
    fn identity(&self) -> Option<NodeIdentity> {
        Some(NodeIdentity::new(std::ptr::from_ref::<Json>(self).addr()))
    }
}

impl<'a> library::Object<'a, Instance> for &'a Object<'a> {
    type Node = &'a Json<'a>;
    type MemberName = &'a str;
    type MembersIter = Iter<'a, 'a>;

    fn len(&self) -> usize {
        Object::len(self)
    }
    fn get(&self, key: &String) -> Option<&'a Json<'a>> {
        Object::get(self, key)
    }
    fn members(&self) -> Iter<'a, 'a> {
        Object::iter(self)
    }
}

impl<'a> Array<'a, Instance> for &'a [Json<'a>] {
    type Node = &'a Json<'a>;
    type ElementsIter = slice::Iter<'a, Json<'a>>;

    fn len(&self) -> usize {
        <[Json]>::len(self)
    }
    fn elements(&self) -> slice::Iter<'a, Json<'a>> {
        <[Json]>::iter(self)
    }
}

/// As the library has it: 1 is 1.0.
fn equals(data: &Json<'_>, expected: &Value) -> bool {
    match (data, expected) {
        (Json::Null, Value::Null) => true,
        (Json::Bool(one), Value::Bool(other)) => one == other,
        (Json::Number(one), Value::Number(other)) => cmp::equal_numbers(one, other),
        (Json::String(one), Value::String(other)) => one == other,
        (Json::Array(one), Value::Array(other)) => one.len() == other.len() && one.iter().zip(other).all(|(one, other)| equals(one, other)),
        (Json::Object(one), Value::Object(other)) => {
            one.len() == other.len() && one.iter().all(|(name, value)| other.get(name).is_some_and(|other| equals(value, other)))
        }
        _ => false,
    }
}
