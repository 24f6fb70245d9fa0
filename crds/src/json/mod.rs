//! What a message says: JSON whose texts are those of the message itself, without a copy, and whose objects are lists sorted by name. Filling
//! it takes about half of what serde_json's own tree takes, and every message is read. What it says is the same: of a name given twice the last
//! counts, numbers are kept as they are there, and fields come in the order of their names.
//!
//! Documents, schemas and what a store keeps are serde_json's: nobody reads those a thousand times a second.

mod convert;
mod object;
mod text;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
pub(crate) mod tests;

pub use object::{Iter, Object};
pub use text::{Read, Terms};

use serde_json::Number;
use std::borrow::Cow;
use std::ops::Index;

#[derive(Clone, Debug, Default, PartialEq)]
pub enum Json<'t> {
    #[default]
    Null,
    Bool(bool),
    Number(Number),
    String(Cow<'t, str>),
    Array(Vec<Json<'t>>),
    Object(Object<'t>),
}

impl<'t> Json<'t> {
    pub fn is_null(&self) -> bool {
        matches!(self, Json::Null)
    }

    pub fn as_bool(&self) -> Option<bool> {
        if let Json::Bool(is) = self { Some(*is) } else { None }
    }

    pub fn as_number(&self) -> Option<&Number> {
        if let Json::Number(number) = self { Some(number) } else { None }
    }

    pub fn as_i64(&self) -> Option<i64> {
        self.as_number().and_then(Number::as_i64)
    }

    pub fn as_f64(&self) -> Option<f64> {
        self.as_number().and_then(Number::as_f64)
    }

    pub fn as_str(&self) -> Option<&str> {
        if let Json::String(text) = self { Some(text) } else { None }
    }

    pub fn as_array(&self) -> Option<&[Json<'t>]> {
        if let Json::Array(items) = self { Some(items) } else { None }
    }

    pub fn as_object(&self) -> Option<&Object<'t>> {
        if let Json::Object(fields) = self { Some(fields) } else { None }
    }

    /// The same with texts of its own, for what outlives the message.
    pub fn into_owned(self) -> Json<'static> {
        match self {
            Json::Null => Json::Null,
            Json::Bool(is) => Json::Bool(is),
            Json::Number(number) => Json::Number(number),
            Json::String(text) => Json::String(Cow::Owned(text.into_owned())),
            Json::Array(items) => Json::Array(items.into_iter().map(Json::into_owned).collect()),
            Json::Object(fields) => Json::Object(fields.into_owned()),
        }
    }
}

/// Null where there is no such field.
impl<'t> Index<&str> for Json<'t> {
    type Output = Json<'t>;

    fn index(&self, name: &str) -> &Json<'t> {
        self.as_object().and_then(|fields| fields.get(name)).unwrap_or(&Json::Null)
    }
}
