//! What expressions give, and what can be done with it.

use super::super::hints::Hint;
use super::super::view::{Seen, seen};
use super::{Comparison, Locals, Operation, Scene, TextTest};
use crate::json::{Json, Object};
use std::cmp::Ordering;

/// What an expression gives.
#[derive(Clone, Debug)]
pub enum Given<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(&'a str),
    List(Vec<Given<'a>>),
    /// A list or a map of the message.
    Part(&'a Json<'a>, Option<&'a Hint>),
    Attributes(&'a Object<'a>),
}

/// None: a number beyond int.
fn given<'a>(value: &'a Json<'a>, hint: Option<&'a Hint>) -> Option<Given<'a>> {
    Some(match value {
        Json::Null => Given::Null,
        Json::Bool(bool) => Given::Bool(*bool),
        Json::String(text) => Given::Text(text),
        Json::Number(number) => match seen(number, hint.and_then(|hint| hint.number)) {
            Seen::Int(int) => Given::Int(int),
            Seen::Double(double) => Given::Double(double),
            Seen::UInt(_) => return None,
        },
        Json::Array(_) | Json::Object(_) => Given::Part(value, hint),
    })
}

impl<'a> Given<'a> {
    /// Some(None): there is no such field.
    pub fn field(&self, name: &str) -> Option<Option<Given<'a>>> {
        let (map, hint) = match *self {
            Given::Part(Json::Object(map), hint) => (map, hint),
            Given::Attributes(map) => (map, None),
            _ => return None,
        };
        match map.get(name) {
            Some(value) => given(value, hint.and_then(|hint| hint.field(name))).map(Some),
            None => Some(None),
        }
    }

    pub fn size(&self) -> Option<i64> {
        let size = match self {
            Given::Text(text) => text.chars().count(),
            Given::List(list) => list.len(),
            Given::Part(Json::Array(list), _) => list.len(),
            Given::Part(Json::Object(map), _) => map.len(),
            Given::Attributes(map) => map.len(),
            _ => return None,
        };
        i64::try_from(size).ok()
    }

    /// Looks at each item until it is enough. Some(Some): it was.
    pub fn each(&self, scene: &Scene<'a, '_>, mut enough: impl FnMut(&Scene<'a, '_>) -> Option<bool>) -> Option<Option<()>> {
        let mut look = |item: Given<'a>| enough(&Scene { locals: Some(&Locals { item, around: scene.locals }), ..*scene });
        match self {
            Given::List(list) => {
                for item in list {
                    if look(item.clone())? {
                        return Some(Some(()));
                    }
                }
            }
            Given::Part(Json::Array(list), hint) => {
                let hint = hint.and_then(Hint::items);
                for item in list {
                    if look(given(item, hint)?)? {
                        return Some(Some(()));
                    }
                }
            }
            _ => return None,
        }
        Some(None)
    }

    /// None: one of them is no number.
    fn numbers(&self, other: &Given<'_>) -> Option<Option<Ordering>> {
        Some(match (self, other) {
            (Given::Int(a), Given::Int(b)) => Some(a.cmp(b)),
            (Given::Double(a), Given::Double(b)) => a.partial_cmp(b),
            (Given::Int(a), Given::Double(b)) => (*a as f64).partial_cmp(b),
            (Given::Double(a), Given::Int(b)) => a.partial_cmp(&(*b as f64)),
            _ => return None,
        })
    }

    /// None: lists and maps.
    fn equals(&self, other: &Given<'_>) -> Option<bool> {
        use Given::*;
        if let Some(ordering) = self.numbers(other) {
            return Some(ordering == Some(Ordering::Equal));
        }
        Some(match (self, other) {
            (List(_) | Part(..) | Attributes(_), _) | (_, List(_) | Part(..) | Attributes(_)) => return None,
            (Null, Null) => true,
            (Bool(a), Bool(b)) => a == b,
            (Text(a), Text(b)) => a == b,
            _ => false,
        })
    }
}

impl Comparison {
    pub fn holds(self, a: &Given<'_>, b: &Given<'_>) -> Option<bool> {
        if let Comparison::Equal | Comparison::Unequal = self {
            return a.equals(b).map(|equal| equal == matches!(self, Comparison::Equal));
        }
        let ordering = match (a, b) {
            (Given::Text(a), Given::Text(b)) => a.cmp(b),
            _ => a.numbers(b)??,
        };
        Some(match self {
            Comparison::Less => ordering.is_lt(),
            Comparison::LessOrEqual => ordering.is_le(),
            Comparison::Greater => ordering.is_gt(),
            _ => ordering.is_ge(),
        })
    }
}

impl Operation {
    /// Whole numbers that leave their range, and what does not go together: the interpreter knows the words.
    pub fn compute<'a>(self, a: &Given<'a>, b: &Given<'a>) -> Option<Given<'a>> {
        Some(match (a, b) {
            (Given::Int(a), Given::Int(b)) => Given::Int(match self {
                Operation::Plus => a.checked_add(*b)?,
                Operation::Minus => a.checked_sub(*b)?,
                Operation::Times => a.checked_mul(*b)?,
                Operation::By => a.checked_div(*b)?,
                Operation::Rest => a.checked_rem(*b)?,
            }),
            (Given::Double(a), Given::Double(b)) => Given::Double(match self {
                Operation::Plus => a + b,
                Operation::Minus => a - b,
                Operation::Times => a * b,
                Operation::By => a / b,
                Operation::Rest => return None,
            }),
            _ => return None,
        })
    }
}

impl TextTest {
    pub fn holds(self, text: &str, part: &str) -> bool {
        match self {
            TextTest::Contains => text.contains(part),
            TextTest::StartsWith => text.starts_with(part),
            TextTest::EndsWith => text.ends_with(part),
        }
    }
}

pub fn among(item: &Given<'_>, of: &Given<'_>) -> Option<bool> {
    match of {
        Given::List(list) => {
            for other in list {
                if item.equals(other)? {
                    return Some(true);
                }
            }
            Some(false)
        }
        Given::Part(Json::Array(list), hint) => {
            for other in list {
                if item.equals(&given(other, hint.and_then(Hint::items))?)? {
                    return Some(true);
                }
            }
            Some(false)
        }
        _ => match item {
            Given::Text(name) => of.field(name).map(|field| field.is_some()),
            _ => None,
        },
    }
}

/// As `functions::sum` does.
pub fn sum<'a>(list: Given<'a>) -> Option<Given<'a>> {
    let (mut ints, mut doubles, mut all_ints) = (0i64, 0f64, true);
    let mut add = |item: Given<'_>| match item {
        Given::Int(int) => ints.checked_add(int).map(|sum| ints = sum),
        Given::Double(double) => {
            (doubles, all_ints) = (doubles + double, false);
            Some(())
        }
        _ => None,
    };
    match list {
        Given::List(list) => list.into_iter().try_for_each(&mut add)?,
        Given::Part(Json::Array(list), hint) => {
            let hint = hint.and_then(Hint::items);
            list.iter().try_for_each(|item| add(given(item, hint)?))?;
        }
        _ => return None,
    }
    Some(if all_ints { Given::Int(ints) } else { Given::Double(ints as f64 + doubles) })
}
