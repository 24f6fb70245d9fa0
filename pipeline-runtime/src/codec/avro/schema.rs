//! An Avro schema, parsed: types, with the named ones in a list, since they may refer to themselves.

use super::default::in_view;
use serde_json::{Map, Value as Json};
use std::collections::HashMap;

/// Whoever registers a schema decides how much of a reader it takes.
const LONGEST_TEXT: usize = 1 << 20;
const MOST_TYPES: usize = 10_000;
const DEEPEST: usize = 64;
/// Unscaled, such a decimal fits 128 bits.
const MOST_DIGITS: u64 = 38;

#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Decimal(Decimal),
    /// Days since 1970.
    Date,
    Timestamp(Unit),
    Array(Box<Type>),
    Map(Box<Type>),
    Union(Vec<Type>),
    /// Its place among the schema's named types.
    Named(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decimal {
    pub precision: u32,
    pub scale: u32,
    /// Of a fixed. None: as many bytes as it takes.
    pub size: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Millis,
    Micros,
}

#[derive(Clone, Debug)]
pub struct Named {
    /// With its namespace.
    pub name: String,
    /// Likewise.
    pub aliases: Vec<String>,
    pub is: Shape,
}

#[derive(Clone, Debug)]
pub enum Shape {
    Record(Vec<Field>),
    Enum { symbols: Vec<String>, default: Option<String> },
    Fixed(usize),
}

#[derive(Clone, Debug)]
pub struct Field {
    pub name: String,
    pub aliases: Vec<String>,
    pub of: Type,
    /// As a reader sees it.
    pub default: Option<Json>,
}

#[derive(Clone, Debug)]
pub struct Schema {
    pub root: Type,
    pub named: Vec<Named>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaError {
    /// fields[2].type
    pub place: String,
    pub message: String,
}

impl std::fmt::Display for SchemaError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.place.as_str() {
            "" => f.write_str(&self.message),
            place => write!(f, "{place}: {}", self.message),
        }
    }
}

impl std::error::Error for SchemaError {}

fn wrong(place: &str, message: impl Into<String>) -> SchemaError {
    SchemaError { place: place.to_owned(), message: message.into() }
}

impl Schema {
    pub fn parse(text: &str) -> Result<Schema, SchemaError> {
        if text.len() > LONGEST_TEXT {
            return Err(wrong("", format!("the schema has {} bytes, at most {LONGEST_TEXT} are read", text.len())));
        }
        let json: Json = serde_json::from_str(text).map_err(|e| wrong("", format!("the schema is no JSON: {e}")))?;
        let mut parser = Parser::default();
        let root = parser.read(&json, "", "", 0)?;
        let mut schema = Schema { root, named: parser.named };
        schema.settle_defaults(&parser.defaults)?;
        Ok(schema)
    }

    pub fn named(&self, index: usize) -> &Named {
        &self.named[index]
    }

    /// Only now is each type known that a default may be of.
    fn settle_defaults(&mut self, defaults: &[Given]) -> Result<(), SchemaError> {
        for Given { record, field, place, value } in defaults {
            let Shape::Record(fields) = &self.named[*record].is else { continue };
            let seen = in_view(self, &fields[*field].of, value).map_err(|message| wrong(place, message))?;
            if let Shape::Record(fields) = &mut self.named[*record].is {
                fields[*field].default = Some(seen);
            }
        }
        Ok(())
    }

    /// What a person calls it.
    pub fn describe(&self, of: &Type) -> String {
        match of {
            Type::Null => "null".into(),
            Type::Boolean => "true or false".into(),
            Type::Int => "a whole number of 32 bits".into(),
            Type::Long => "a whole number".into(),
            Type::Float | Type::Double => "a number".into(),
            Type::Bytes => "a text of bytes (characters up to U+00FF)".into(),
            Type::String => "a text".into(),
            Type::Decimal(d) => format!("a decimal with at most {} digits, {} of them behind the point", d.precision, d.scale),
            Type::Date => "a date such as 2025-01-31".into(),
            Type::Timestamp(_) => "a time such as 2025-01-31T12:00:00Z".into(),
            Type::Array(_) => "a list".into(),
            Type::Map(_) => "an object".into(),
            Type::Union(all) => all.iter().map(|one| self.describe(one)).collect::<Vec<_>>().join(" or "),
            Type::Named(index) => match &self.named(*index).is {
                Shape::Record(_) => format!("an object as the record {}", self.named(*index).name),
                Shape::Enum { symbols, .. } => format!("one of {}", symbols.join(", ")),
                Shape::Fixed(size) => format!("a text of {size} bytes (characters up to U+00FF)"),
            },
        }
    }

    /// Whether a value may be left out.
    pub fn optional(of: &Type) -> bool {
        matches!(of, Type::Null) || matches!(of, Type::Union(all) if all.contains(&Type::Null))
    }
}

struct Given {
    record: usize,
    field: usize,
    place: String,
    value: Json,
}

#[derive(Default)]
struct Parser {
    named: Vec<Named>,
    by_name: HashMap<String, Type>,
    /// In which each type was read; they are looked at when all types are known.
    defaults: Vec<Given>,
    types: usize,
}

impl Parser {
    fn read(&mut self, json: &Json, namespace: &str, place: &str, depth: usize) -> Result<Type, SchemaError> {
        self.types += 1;
        if depth > DEEPEST || self.types > MOST_TYPES {
            return Err(wrong(place, format!("the schema holds more than {MOST_TYPES} types, or is nested more than {DEEPEST} deep")));
        }
        match json {
            Json::String(name) => self.by_name(name, namespace, place),
            Json::Array(all) => self.union(all, namespace, place, depth),
            Json::Object(object) => self.object(object, namespace, place, depth),
            _ => Err(wrong(place, "must be the name of a type, an object or a list")),
        }
    }

    fn by_name(&self, name: &str, namespace: &str, place: &str) -> Result<Type, SchemaError> {
        if let Some(primitive) = primitive(name) {
            return Ok(primitive);
        }
        let known = self.by_name.get(&full_name(name, namespace)).or_else(|| self.by_name.get(name));
        known.cloned().ok_or_else(|| wrong(place, format!("there is no type {name} before this place")))
    }

    fn union(&mut self, all: &[Json], namespace: &str, place: &str, depth: usize) -> Result<Type, SchemaError> {
        let mut branches: Vec<Type> = Vec::with_capacity(all.len());
        for (index, one) in all.iter().enumerate() {
            let place = format!("{place}[{index}]");
            let branch = self.read(one, namespace, &place, depth + 1)?;
            if matches!(branch, Type::Union(_)) {
                return Err(wrong(&place, "a union cannot lie directly in another"));
            }
            if branches.iter().any(|before| kind(before) == kind(&branch)) {
                return Err(wrong(&place, "a union holds each type once"));
            }
            branches.push(branch);
        }
        match branches.is_empty() {
            true => Err(wrong(place, "a union of nothing has no values")),
            false => Ok(Type::Union(branches)),
        }
    }

    fn object(&mut self, object: &Map<String, Json>, namespace: &str, place: &str, depth: usize) -> Result<Type, SchemaError> {
        let below = |what: &str| if place.is_empty() { what.to_owned() } else { format!("{place}.{what}") };
        let of = object.get("type").ok_or_else(|| wrong(place, "the type is missing"))?;
        let Json::String(of) = of else { return self.read(of, namespace, &below("type"), depth + 1) };
        match of.as_str() {
            "array" | "map" => {
                let inner = if of == "array" { "items" } else { "values" };
                let json = object.get(inner).ok_or_else(|| wrong(place, format!("{inner} is missing")))?;
                let inner = Box::new(self.read(json, namespace, &below(inner), depth + 1)?);
                Ok(if of == "array" { Type::Array(inner) } else { Type::Map(inner) })
            }
            "record" | "error" | "enum" | "fixed" => self.define(of, object, namespace, place, depth),
            primitive => {
                let of = self.by_name(primitive, namespace, &below("type"))?;
                logical(of, object, None, place)
            }
        }
    }

    fn define(&mut self, of: &str, object: &Map<String, Json>, namespace: &str, place: &str, depth: usize) -> Result<Type, SchemaError> {
        let name = object.get("name").and_then(Json::as_str).ok_or_else(|| wrong(place, format!("a {of} needs a name")))?;
        let own = object.get("namespace").and_then(Json::as_str).unwrap_or(namespace);
        let name = full_name(name, own);
        if primitive(&name).is_some() {
            return Err(wrong(place, format!("{name} is the name of a type of Avro itself")));
        }
        let namespace = name.rsplit_once('.').map_or("", |(namespace, _)| namespace).to_owned();
        let aliases = texts(object, "aliases").into_iter().map(|alias| full_name(&alias, &namespace)).collect();
        let index = self.named.len();
        if self.by_name.insert(name.clone(), Type::Named(index)).is_some() {
            return Err(wrong(place, format!("{name} is defined twice")));
        }
        // Its place, since its own fields may be of it.
        self.named.push(Named { name, aliases, is: Shape::Record(Vec::new()) });
        self.named[index].is = match of {
            "enum" => {
                let symbols = texts(object, "symbols");
                let default = object.get("default").and_then(Json::as_str).map(str::to_owned);
                if symbols.is_empty() || default.as_ref().is_some_and(|default| !symbols.contains(default)) {
                    return Err(wrong(place, "an enum needs symbols, and its default is one of them"));
                }
                Shape::Enum { symbols, default }
            }
            "fixed" => {
                let size = object.get("size").and_then(Json::as_u64).and_then(|size| usize::try_from(size).ok());
                let size = size.ok_or_else(|| wrong(place, "a fixed needs a size"))?;
                if let decimal @ Type::Decimal(_) = logical(Type::Named(index), object, Some(size), place)? {
                    self.by_name.insert(self.named[index].name.clone(), decimal.clone());
                    self.named[index].is = Shape::Fixed(size);
                    return Ok(decimal);
                }
                Shape::Fixed(size)
            }
            _ => Shape::Record(self.fields(object, index, &namespace, place, depth)?),
        };
        Ok(Type::Named(index))
    }

    fn fields(
        &mut self,
        object: &Map<String, Json>,
        record: usize,
        namespace: &str,
        place: &str,
        depth: usize,
    ) -> Result<Vec<Field>, SchemaError> {
        let all = object.get("fields").and_then(Json::as_array).ok_or_else(|| wrong(place, "a record needs fields"))?;
        let mut fields: Vec<Field> = Vec::with_capacity(all.len());
        for (index, field) in all.iter().enumerate() {
            let place = if place.is_empty() { format!("fields[{index}]") } else { format!("{place}.fields[{index}]") };
            let (Some(object), Some(name)) = (field.as_object(), field.get("name").and_then(Json::as_str)) else {
                return Err(wrong(&place, "a field is an object with a name and a type"));
            };
            if fields.iter().any(|before| before.name == name) {
                return Err(wrong(&place, format!("the field {name} stands there twice")));
            }
            let json = object.get("type").ok_or_else(|| wrong(&place, "the type is missing"))?;
            let of = self.read(json, namespace, &format!("{place}.type"), depth + 1)?;
            if let Some(value) = object.get("default") {
                self.defaults.push(Given { record, field: index, place: format!("{place}.default"), value: value.clone() });
            }
            fields.push(Field { name: name.to_owned(), aliases: texts(object, "aliases"), of, default: None });
        }
        Ok(fields)
    }
}

fn primitive(name: &str) -> Option<Type> {
    Some(match name {
        "null" => Type::Null,
        "boolean" => Type::Boolean,
        "int" => Type::Int,
        "long" => Type::Long,
        "float" => Type::Float,
        "double" => Type::Double,
        "bytes" => Type::Bytes,
        "string" => Type::String,
        _ => return None,
    })
}

/// What a type means beyond its bytes. A meaning that is not known here leaves the type what it is.
fn logical(of: Type, object: &Map<String, Json>, size: Option<usize>, place: &str) -> Result<Type, SchemaError> {
    let Some(meaning) = object.get("logicalType").and_then(Json::as_str) else { return Ok(of) };
    match (meaning, &of) {
        ("decimal", _) if matches!(of, Type::Bytes) || size.is_some() => {
            let number = |name: &str| object.get(name).map_or(Some(0), Json::as_u64);
            match (number("precision"), number("scale")) {
                (Some(precision @ 1..=MOST_DIGITS), Some(scale)) if scale <= precision => {
                    Ok(Type::Decimal(Decimal { precision: precision as u32, scale: scale as u32, size }))
                }
                _ => Err(wrong(place, format!("a decimal needs a precision from 1 to {MOST_DIGITS} and a scale that is not above it"))),
            }
        }
        ("date", Type::Int) => Ok(Type::Date),
        ("timestamp-millis", Type::Long) => Ok(Type::Timestamp(Unit::Millis)),
        ("timestamp-micros", Type::Long) => Ok(Type::Timestamp(Unit::Micros)),
        _ => Ok(of),
    }
}

fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}

fn texts(object: &Map<String, Json>, name: &str) -> Vec<String> {
    object.get(name).and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str).map(str::to_owned).collect()
}

/// By which the branches of a union are told apart: the bytes of two of a kind would not say which one they are.
fn kind(of: &Type) -> (u8, Option<usize>) {
    match of {
        Type::Null => (0, None),
        Type::Boolean => (1, None),
        Type::Int | Type::Date => (2, None),
        Type::Long | Type::Timestamp(_) => (3, None),
        Type::Float => (4, None),
        Type::Double => (5, None),
        Type::Bytes | Type::Decimal(Decimal { size: None, .. }) => (6, None),
        Type::String => (7, None),
        Type::Array(_) => (8, None),
        Type::Map(_) => (9, None),
        Type::Union(_) => (10, None),
        Type::Named(index) => (11, Some(*index)),
        Type::Decimal(Decimal { size, .. }) => (12, *size),
    }
}
