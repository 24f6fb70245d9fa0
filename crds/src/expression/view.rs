//! JSON as CEL values, without a copy: what an expression does not read costs nothing.

use super::hints::{Hint, Number};
use crate::json::{Json, Object};
use cel::ExecutionError;
use cel::common::traits::{Container, Indexer, Iterable, Iterator, Sizer};
use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelNull, CelString, CelUInt, MAP_TYPE, Type};
use cel::common::value::{CowVal, Val};
use std::sync::{Arc, OnceLock};

pub(super) fn view<'v>(value: &'v Json<'v>, hint: Option<&'v Hint>) -> Box<dyn Val + 'v> {
    match value {
        Json::Null => Box::new(CelNull),
        Json::Bool(bool) => Box::new(CelBool::from(*bool)),
        Json::Number(number) => match seen(number, hint.and_then(|hint| hint.number)) {
            Seen::Int(int) => Box::new(CelInt::from(int)),
            Seen::UInt(uint) => Box::new(CelUInt::from(uint)),
            Seen::Double(double) => Box::new(CelDouble::from(double)),
        },
        Json::String(string) => Box::new(CelString::from(&**string)),
        Json::Array(array) => {
            let hint = hint.and_then(Hint::items);
            Box::new(CelList::from(array.iter().map(|item| view(item, hint)).collect::<Vec<_>>()))
        }
        Json::Object(map) => Box::new(Fields::new(map, hint)),
    }
}

/// Whole numbers up to here are the same as int and as double.
const EXACT: u64 = 1 << 53;

/// A number, as expressions see it.
pub(super) enum Seen {
    Int(i64),
    UInt(u64),
    Double(f64),
}

pub(super) fn seen(number: &serde_json::Number, hint: Option<Number>) -> Seen {
    if let Some(int) = number.as_i64() {
        // Beyond that it stays an int whatever the schema says: an error is told, a number that changed is not.
        return match hint {
            Some(Number::Double) if int.unsigned_abs() <= EXACT => Seen::Double(int as f64),
            _ => Seen::Int(int),
        };
    }
    if let Some(uint) = number.as_u64() {
        return Seen::UInt(uint);
    }
    let double = number.as_f64().unwrap_or(f64::NAN);
    // JSON Schema counts 5.0 as an integer.
    if hint == Some(Number::Int) && double.fract() == 0.0 && double.abs() <= EXACT as f64 {
        return Seen::Int(double as i64);
    }
    Seen::Double(double)
}

#[derive(Debug)]
pub(super) struct Fields<'v> {
    map: &'v Object<'v>,
    hint: Option<&'v Hint>,
    keys: OnceLock<Vec<CelString<'v>>>,
}

impl<'v> Fields<'v> {
    pub fn new(map: &'v Object<'v>, hint: Option<&'v Hint>) -> Self {
        Fields { map, hint, keys: OnceLock::new() }
    }
}

impl Val for Fields<'_> {
    fn get_type(&self) -> &Type {
        &MAP_TYPE
    }
    fn cel_type() -> &'static Type {
        &MAP_TYPE
    }
    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }
    fn as_indexer<'b, 'w>(&'b self) -> Option<&'b (dyn Indexer + 'w)>
    where
        Self: 'w,
    {
        Some(self)
    }
    fn as_iterable<'b, 'w>(&'b self) -> Option<&'b (dyn Iterable + 'w)>
    where
        Self: 'w,
    {
        Some(self)
    }
    fn as_sizer(&self) -> Option<&dyn Sizer> {
        Some(self)
    }
    fn equals(&self, other: &dyn Val) -> bool {
        let (Some(size), Some(indexer)) = (other.as_sizer(), other.as_indexer()) else { return false };
        *size.size().inner() == self.map.len() as i64
            && self.map.iter().all(|(key, value)| {
                let mine = view(value, self.hint.and_then(|hint| hint.field(key)));
                indexer.get(&CelString::from(key)).is_ok_and(|theirs| mine.equals(&*theirs))
            })
    }
    fn clone_as_boxed<'w>(&self) -> Box<dyn Val + 'w>
    where
        Self: 'w,
    {
        Box::new(Fields::new(self.map, self.hint))
    }
}

impl Container for Fields<'_> {
    fn contains(&self, key: &dyn Val) -> Result<bool, ExecutionError> {
        Ok(key.downcast_ref::<CelString>().is_some_and(|key| self.map.contains_key(key.inner())))
    }
}

impl Sizer for Fields<'_> {
    fn size(&self) -> CelInt {
        CelInt::from(self.map.len() as i64)
    }
}

impl Indexer for Fields<'_> {
    fn get<'b, 'w>(&'b self, key: &dyn Val) -> Result<CowVal<'b, 'w>, ExecutionError>
    where
        Self: 'w,
    {
        let Some(key) = key.downcast_ref::<CelString>().map(CelString::inner) else {
            return Err(ExecutionError::UnexpectedType { got: key.get_type().name().into(), want: "string".into() });
        };
        match self.map.get(key) {
            Some(value) => Ok(CowVal::Owned(view(value, self.hint.and_then(|hint| hint.field(key))))),
            None => Err(missing(self.map, key)),
        }
    }
    fn steal<'w>(self: Box<Self>, key: &dyn Val) -> Result<Box<dyn Val + 'w>, ExecutionError>
    where
        Self: 'w,
    {
        self.get(key).map(CowVal::into_owned)
    }
}

struct Keys<'b, 'v>(std::slice::Iter<'b, CelString<'v>>);

impl<'b, 'v: 'w, 'w> Iterator<'b, 'w> for Keys<'b, 'v> {
    fn next(&mut self) -> Option<&'b (dyn Val + 'w)> {
        self.0.next().map(|key| key as &'b (dyn Val + 'w))
    }
}

impl Iterable for Fields<'_> {
    fn iter<'b, 'w>(&'b self) -> Box<dyn Iterator<'b, 'w> + 'b>
    where
        Self: 'w,
    {
        let keys = self.keys.get_or_init(|| self.map.keys().map(CelString::from).collect());
        Box::new(Keys(keys.iter()))
    }
}

/// Between the address of a map and the key that it lacks; no key that a person writes holds it.
const MARK: char = '\u{1}';

/// The error carries only a text. It names the map by its address, from which [`missing_path`] finds the whole path,
/// but only when somebody reads it: `has()` and `.?` make this error too, and drop it.
fn missing(map: &Object<'_>, key: &str) -> ExecutionError {
    ExecutionError::NoSuchKey(Arc::new(format!("{:x}{MARK}{key}", address(map))))
}

fn address(map: &Object<'_>) -> usize {
    std::ptr::from_ref(map).addr()
}

/// The whole path of a missing key, given the variables under which its map may lie.
pub(super) fn missing_path(key: &str, data: &Json<'_>, attributes: &Object<'_>) -> String {
    let Some((map, key)) = key.split_once(MARK) else { return key.to_owned() };
    let Ok(map) = usize::from_str_radix(map, 16) else { return key.to_owned() };
    let mut path = "data".to_owned();
    if map == address(attributes) {
        path = "attributes".to_owned();
    } else if !find(data, map, &mut path) {
        path.clear();
    }
    if !path.is_empty() {
        path.push('.');
    }
    path + key
}

fn find(value: &Json<'_>, map: usize, path: &mut String) -> bool {
    let length = path.len();
    match value {
        Json::Object(fields) => {
            address(fields) == map
                || fields.iter().any(|(name, field)| {
                    path.truncate(length);
                    path.push('.');
                    path.push_str(name);
                    find(field, map, path)
                })
        }
        Json::Array(items) => items.iter().enumerate().any(|(index, item)| {
            path.truncate(length);
            path.push_str(&format!("[{index}]"));
            find(item, map, path)
        }),
        _ => false,
    }
}
