//! Most expressions ask for fields, compare them, count and add: those are evaluated here, without the library's boxes and searches, at
//! a tenth of the time. Whatever this does not know, and whatever goes wrong, is left to the interpreter, which says the same of what is
//! known here (a test compares them) and finds the words for the rest.

mod given;
mod make;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;

pub(super) use given::Given;

use super::evaluate::Input;
use super::functions;
use super::hints::Hint;
use given::{among, sum};
use regex::Regex;

/// An expression that is made of nothing else.
#[derive(Debug)]
pub(super) enum Direct {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(String),
    List(Vec<Direct>),
    Variable(Variable),
    /// What `all()`, `map()` and their like go through: of those around, the number from within.
    Local(usize),
    Field(Box<Direct>, String),
    Has(Box<Direct>, String),
    /// `a.?b.orValue(c)`.
    Or(Box<Direct>, String, Box<Direct>),
    Not(Box<Direct>),
    Minus(Box<Direct>),
    Both(Box<[Direct; 2]>),
    Either(Box<[Direct; 2]>),
    If(Box<[Direct; 3]>),
    Compare(Comparison, Box<[Direct; 2]>),
    Compute(Operation, Box<[Direct; 2]>),
    In(Box<[Direct; 2]>),
    Size(Box<Direct>),
    ToDouble(Box<Direct>),
    Round(Box<[Direct; 2]>),
    Sum(Box<Direct>),
    TextTest(TextTest, Box<[Direct; 2]>),
    Matches(Box<Direct>, Regex),
    All(Box<[Direct; 2]>),
    Exists(Box<[Direct; 2]>),
    /// The list, the condition, what becomes of an item.
    Map(Box<Direct>, Option<Box<Direct>>, Box<Direct>),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Variable {
    Topic,
    Key,
    Id,
    Attributes,
    Data,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    Plus,
    Minus,
    Times,
    By,
    Rest,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum TextTest {
    Contains,
    StartsWith,
    EndsWith,
}

/// What the names in an expression stand for.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a, 's> {
    pub input: &'s Input<'a>,
    pub data: &'a Hint,
    locals: Option<&'s Locals<'a, 's>>,
}

struct Locals<'a, 's> {
    item: Given<'a>,
    around: Option<&'s Locals<'a, 's>>,
}

impl Direct {
    /// None: the interpreter has to say.
    pub fn give<'a>(&'a self, scene: &Scene<'a, '_>) -> Option<Given<'a>> {
        Some(match self {
            Direct::Null => Given::Null,
            Direct::Bool(bool) => Given::Bool(*bool),
            Direct::Int(int) => Given::Int(*int),
            Direct::Double(double) => Given::Double(*double),
            Direct::Text(text) => Given::Text(text),
            Direct::List(items) => Given::List(items.iter().map(|item| item.give(scene)).collect::<Option<_>>()?),
            Direct::Variable(variable) => scene.variable(*variable),
            Direct::Local(number) => scene.local(*number)?,
            Direct::Field(of, name) => of.give(scene)?.field(name)??,
            Direct::Has(of, name) => Given::Bool(of.give(scene)?.field(name)?.is_some()),
            Direct::Or(of, name, other) => match of.give(scene)?.field(name)? {
                Some(given) => given,
                None => other.give(scene)?,
            },
            Direct::Not(of) => Given::Bool(!of.bool(scene)?),
            Direct::Minus(of) => match of.give(scene)? {
                Given::Int(int) => Given::Int(int.checked_neg()?),
                Given::Double(double) => Given::Double(-double),
                _ => return None,
            },
            Direct::Both(both) => Given::Bool(both[0].bool(scene)? && both[1].bool(scene)?),
            Direct::Either(both) => Given::Bool(both[0].bool(scene)? || both[1].bool(scene)?),
            Direct::If(parts) => parts[if parts[0].bool(scene)? { 1 } else { 2 }].give(scene)?,
            Direct::Compare(comparison, both) => Given::Bool(comparison.holds(&both[0].give(scene)?, &both[1].give(scene)?)?),
            Direct::Compute(operation, both) => operation.compute(&both[0].give(scene)?, &both[1].give(scene)?)?,
            Direct::In(both) => Given::Bool(among(&both[0].give(scene)?, &both[1].give(scene)?)?),
            Direct::Size(of) => Given::Int(of.give(scene)?.size()?),
            Direct::ToDouble(of) => match of.give(scene)? {
                Given::Int(int) => Given::Double(int as f64),
                Given::Double(double) => Given::Double(double),
                _ => return None,
            },
            Direct::Round(both) => match (both[0].give(scene)?, both[1].give(scene)?) {
                (Given::Double(x), Given::Int(digits)) => Given::Double(functions::rounded(x, digits)?),
                (Given::Int(x), Given::Int(digits)) => Given::Double(functions::rounded(x as f64, digits)?),
                _ => return None,
            },
            Direct::Sum(of) => sum(of.give(scene)?)?,
            Direct::TextTest(test, both) => match (both[0].give(scene)?, both[1].give(scene)?) {
                (Given::Text(text), Given::Text(part)) => Given::Bool(test.holds(text, part)),
                _ => return None,
            },
            Direct::Matches(of, pattern) => match of.give(scene)? {
                Given::Text(text) => Given::Bool(pattern.is_match(text)),
                _ => return None,
            },
            Direct::All(parts) => Given::Bool(parts[0].give(scene)?.each(scene, |within| Some(!parts[1].bool(within)?))?.is_none()),
            Direct::Exists(parts) => Given::Bool(parts[0].give(scene)?.each(scene, |within| parts[1].bool(within))?.is_some()),
            Direct::Map(list, condition, becomes) => {
                let mut made = Vec::new();
                list.give(scene)?.each(scene, |within| {
                    if condition.as_ref().map_or(Some(true), |condition| condition.bool(within))? {
                        made.push(becomes.give(within)?);
                    }
                    Some(false)
                })?;
                Given::List(made)
            }
        })
    }

    fn bool<'a>(&'a self, scene: &Scene<'a, '_>) -> Option<bool> {
        match self.give(scene)? {
            Given::Bool(bool) => Some(bool),
            _ => None,
        }
    }
}

impl<'a, 's> Scene<'a, 's> {
    pub fn new(input: &'s Input<'a>, data: &'a Hint) -> Scene<'a, 's> {
        Scene { input, data, locals: None }
    }

    fn variable(&self, variable: Variable) -> Given<'a> {
        match variable {
            Variable::Topic => Given::Text(self.input.topic),
            Variable::Key => self.input.key.map_or(Given::Null, Given::Text),
            Variable::Id => Given::Text(self.input.id),
            Variable::Attributes => Given::Attributes(self.input.attributes),
            Variable::Data => Given::Part(self.input.data, Some(self.data)),
        }
    }

    fn local(&self, number: usize) -> Option<Given<'a>> {
        let mut local = self.locals?;
        for _ in 0..number {
            local = local.around?;
        }
        Some(local.item.clone())
    }
}
