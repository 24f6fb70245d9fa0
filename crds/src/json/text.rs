//! From JSON text and back.

use super::{Json, Object};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Number;
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

/// Most objects of an order have no more fields.
const USUAL_FIELDS: usize = 8;

/// On which terms JSON is read, beyond its grammar.
pub trait Terms {
    /// Else the last one counts.
    const NAMES_ONCE: bool;
    /// Whether this may be a text, or a name.
    fn text<E: Error>(text: &str) -> Result<(), E>;
}

/// As serde_json's own tree is read.
struct AsItIs;

impl Terms for AsItIs {
    const NAMES_ONCE: bool = false;
    fn text<E>(_: &str) -> Result<(), E> {
        Ok(())
    }
}

impl<'t> Deserialize<'t> for Json<'t> {
    fn deserialize<D: Deserializer<'t>>(deserializer: D) -> Result<Json<'t>, D::Error> {
        Read::<AsItIs>::deserialize(deserializer).map(|read| read.json)
    }
}

/// JSON that was read on these terms.
pub struct Read<'t, T> {
    pub json: Json<'t>,
    terms: PhantomData<T>,
}

impl<'t, T: Terms> Deserialize<'t> for Read<'t, T> {
    fn deserialize<D: Deserializer<'t>>(deserializer: D) -> Result<Read<'t, T>, D::Error> {
        let json = deserializer.deserialize_any(Reader::<T>(PhantomData))?;
        Ok(Read { json, terms: PhantomData })
    }
}

struct Reader<T>(PhantomData<T>);

impl<'t, T: Terms> Visitor<'t> for Reader<T> {
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
    fn visit_f64<E: Error>(self, value: f64) -> Result<Json<'t>, E> {
        Number::from_f64(value).map(Json::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }
    fn visit_borrowed_str<E: Error>(self, value: &'t str) -> Result<Json<'t>, E> {
        T::text(value)?;
        Ok(Json::from(value))
    }
    fn visit_str<E: Error>(self, value: &str) -> Result<Json<'t>, E> {
        self.visit_string(value.to_owned())
    }
    fn visit_string<E: Error>(self, value: String) -> Result<Json<'t>, E> {
        T::text(&value)?;
        Ok(Json::from(value))
    }
    fn visit_unit<E>(self) -> Result<Json<'t>, E> {
        Ok(Json::Null)
    }
    fn visit_seq<A: SeqAccess<'t>>(self, mut items: A) -> Result<Json<'t>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Read<T>>()? {
            list.push(item.json);
        }
        Ok(Json::Array(list))
    }
    fn visit_map<A: MapAccess<'t>>(self, mut entries: A) -> Result<Json<'t>, A::Error> {
        let (mut fields, mut names) = (Vec::new(), Names::default());
        while let Some(Text(name)) = entries.next_key()? {
            T::text(&name)?;
            if T::NAMES_ONCE && names.have(name.clone(), &fields) {
                return Err(Error::custom(format_args!("the key {name:?} is given twice")));
            }
            let value = entries.next_value::<Read<T>>()?.json;
            if fields.is_empty() {
                fields.reserve_exact(USUAL_FIELDS);
            }
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

/// A text, which is copied only where it holds escapes. (serde copies every `Cow` that stands by itself.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text<'t>(pub Cow<'t, str>);

impl<'t> Deserialize<'t> for Text<'t> {
    fn deserialize<D: Deserializer<'t>>(deserializer: D) -> Result<Text<'t>, D::Error> {
        deserializer.deserialize_str(TextVisitor)
    }
}

struct TextVisitor;

impl<'t> Visitor<'t> for TextVisitor {
    type Value = Text<'t>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }
    fn visit_borrowed_str<E>(self, value: &'t str) -> Result<Text<'t>, E> {
        Ok(Text(Cow::Borrowed(value)))
    }
    fn visit_str<E>(self, value: &str) -> Result<Text<'t>, E> {
        Ok(Text(Cow::Owned(value.to_owned())))
    }
    fn visit_string<E>(self, value: String) -> Result<Text<'t>, E> {
        Ok(Text(Cow::Owned(value)))
    }
}

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Json::Null => serializer.serialize_unit(),
            Json::Bool(is) => serializer.serialize_bool(*is),
            Json::Number(number) => number.serialize(serializer),
            Json::String(text) => serializer.serialize_str(text),
            Json::Array(items) => serializer.collect_seq(items),
            Json::Object(fields) => fields.serialize(serializer),
        }
    }
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (name, value) in self {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// As JSON text, without spaces.
impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}
