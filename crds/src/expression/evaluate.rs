use super::direct::{Given, Scene};
use super::error::{EvaluationError, an, explain_failure};
use super::hints::Hint;
use super::view::{Fields, missing_path, view};
use super::{Compiled, Program, functions, result};
use crate::json::{Json, Object};
use cel::common::ast::Expr;
use cel::common::types::{CelNull, CelOptional, CelString, CelTimestamp};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::{Context, ExecutionError, IdedExpr, objects::Value};
use chrono::{DateTime, SecondsFormat, Utc};
use std::borrow::Cow;
use std::fmt;

/// A message, as expressions see it.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    pub topic: &'a str,
    pub key: Option<&'a str>,
    pub id: &'a str,
    pub publish_time: DateTime<Utc>,
    pub attributes: &'a Object<'a>,
    pub data: &'a Json<'a>,
}

impl Compiled {
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The expression itself, if it is a path and nothing else: the field to name where its value is wrong.
    pub fn path(&self) -> Option<&str> {
        matches!(self.program, Program::Path(_)).then(|| self.text.trim())
    }

    /// Whether it holds. Anything but true or false is an error.
    pub fn bool(&self, input: &Input<'_>) -> Result<bool, EvaluationError> {
        let given = match self.direct(input) {
            Some(Given::Bool(holds)) => return Ok(holds),
            given => given,
        };
        match &*self.whole(given.as_ref(), input)? {
            Json::Bool(holds) => Ok(*holds),
            other => Err(self.unexpected("true or false", other)),
        }
    }

    /// A text, or a whole number as its digits.
    pub fn string(&self, input: &Input<'_>) -> Result<String, EvaluationError> {
        match self.json(input)? {
            Cow::Owned(Json::String(text)) => Ok(text.into_owned()),
            Cow::Borrowed(Json::String(text)) => Ok(text.clone().into_owned()),
            other => match &*other {
                Json::Number(number) if !number.is_f64() => Ok(number.to_string()),
                other => Err(self.unexpected("a text", other)),
            },
        }
    }

    /// A time: a timestamp, or a text as RFC 3339 writes it.
    pub fn time(&self, input: &Input<'_>) -> Result<DateTime<Utc>, EvaluationError> {
        match &*self.json(input)? {
            Json::String(text) => DateTime::parse_from_rfc3339(text)
                .map(|time| time.to_utc())
                .map_err(|_| EvaluationError::Failed(format!("`{}` must be a time such as 2025-01-31T12:00:00Z", self.text))),
            other => Err(self.unexpected("a time", other)),
        }
    }

    /// The result as JSON: borrowed where the expression is a path, with numbers as they are.
    pub fn json<'a>(&self, input: &Input<'a>) -> Result<Cow<'a, Json<'a>>, EvaluationError> {
        self.whole(self.direct(input).as_ref(), input)
    }

    /// From what was given directly, if that says it all.
    fn whole<'a>(&self, given: Option<&Given<'_>>, input: &Input<'a>) -> Result<Cow<'a, Json<'a>>, EvaluationError> {
        match &self.program {
            Program::Path(path) => path.read(input),
            Program::Cel(expression, _) => match given.and_then(result::scalar) {
                Some(result) => result.map(Cow::Owned),
                None => self.interpret(expression, input).map(Cow::Owned),
            },
        }
    }

    pub(super) fn direct<'a>(&'a self, input: &Input<'a>) -> Option<Given<'a>> {
        let Program::Cel(_, Some(direct)) = &self.program else { return None };
        direct.give(&Scene::new(input, &self.scope.data))
    }

    /// Why types that meet in it never go together; None: they do, or the data does not get that far. On data that only has the right
    /// types: what its values do is not looked at.
    pub fn type_error(&self, input: &Input<'_>) -> Option<String> {
        let Program::Cel(expression, _) = &self.program else { return None };
        let names = Names { input, data: &self.scope.data };
        let mut context = Context::with_env(functions::environment().clone());
        context.set_variable_resolver(&names);
        match Value::resolve_val(expression, &context).err()? {
            error @ (ExecutionError::UnsupportedBinaryOperator(..)
            | ExecutionError::NoSuchOverload(_)
            | ExecutionError::UnexpectedType { .. }
            | ExecutionError::ValuesNotComparable(..)) => Some(explain_failure(&error)),
            _ => None,
        }
    }

    pub(super) fn interpret(&self, expression: &IdedExpr, input: &Input<'_>) -> Result<Json<'static>, EvaluationError> {
        let names = Names { input, data: &self.scope.data };
        let mut context = Context::with_env(functions::environment().clone());
        context.set_variable_resolver(&names);
        let value = Value::resolve_val(expression, &context).map_err(|error| self.explain(&error, input))?;
        // `data.?a.?b` that found nothing says the same as a path that is missing.
        if value.downcast_ref::<CelOptional>().is_some_and(|optional| optional.option().is_none()) {
            return Err(EvaluationError::Missing { path: self.text.clone() });
        }
        result::to_json(&*value)
    }

    fn explain(&self, error: &ExecutionError, input: &Input<'_>) -> EvaluationError {
        match error {
            ExecutionError::NoSuchKey(key) => EvaluationError::Missing { path: missing_path(key, input.data, input.attributes) },
            ExecutionError::IndexOutOfBounds(_) => EvaluationError::Missing { path: self.text.clone() },
            other => EvaluationError::Failed(explain_failure(other)),
        }
    }

    fn unexpected(&self, wanted: &str, found: &Json<'_>) -> EvaluationError {
        EvaluationError::Failed(format!("`{}` must give {wanted}, but gives {}", self.text, an(kind(found))))
    }
}

/// The variables of an expression, made only when it asks for them.
struct Names<'a> {
    input: &'a Input<'a>,
    data: &'a Hint,
}

impl VariableResolver for Names<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let input = self.input;
        let value: Box<dyn Val + 'b> = match variable {
            "data" => view(input.data, Some(self.data)),
            "attributes" => Box::new(Fields::new(input.attributes, None)),
            "id" => Box::new(CelString::from(input.id)),
            "topic" => Box::new(CelString::from(input.topic)),
            "key" => match input.key {
                Some(key) => Box::new(CelString::from(key)),
                None => Box::new(CelNull),
            },
            "publishTime" => Box::new(CelTimestamp::from(input.publish_time.fixed_offset())),
            _ => return None,
        };
        Some(CowVal::Owned(value))
    }
}

/// A variable and the fields below it.
#[derive(Debug)]
pub(super) struct Path {
    variable: String,
    fields: Vec<String>,
}

impl Path {
    pub fn variable(&self) -> &str {
        &self.variable
    }

    pub fn fields(&self) -> &[String] {
        &self.fields
    }

    /// The path that an expression is, if it is nothing else.
    pub fn of(expression: &IdedExpr) -> Option<Path> {
        match &expression.expr {
            Expr::Ident(variable) if super::VARIABLES.contains(&variable.as_str()) => {
                Some(Path { variable: variable.clone(), fields: Vec::new() })
            }
            Expr::Select(select) if !select.test => {
                let mut path = Path::of(&select.operand)?;
                path.fields.push(select.field.clone());
                Some(path)
            }
            _ => None,
        }
    }

    fn read<'a>(&self, input: &Input<'a>) -> Result<Cow<'a, Json<'a>>, EvaluationError> {
        let text = |text: &'a str| Cow::Owned(Json::from(text));
        let variable = match self.variable.as_str() {
            "data" => return self.below(input.data, 0).map(Cow::Borrowed),
            "attributes" => {
                let Some(first) = self.fields.first() else { return Ok(Cow::Owned(Json::Object(input.attributes.clone()))) };
                let value = input.attributes.get(first).ok_or_else(|| self.missing(1))?;
                return self.below(value, 1).map(Cow::Borrowed);
            }
            "id" => text(input.id),
            "topic" => text(input.topic),
            "key" => input.key.map_or(Cow::Owned(Json::Null), text),
            _ => Cow::Owned(Json::from(input.publish_time.to_rfc3339_opts(SecondsFormat::AutoSi, true))),
        };
        if self.fields.is_empty() { Ok(variable) } else { Err(no_fields(&variable)) }
    }

    fn below<'a>(&self, mut value: &'a Json<'a>, from: usize) -> Result<&'a Json<'a>, EvaluationError> {
        for (index, field) in self.fields.iter().enumerate().skip(from) {
            let Json::Object(map) = value else { return Err(no_fields(value)) };
            value = map.get(field).ok_or_else(|| self.missing(index + 1))?;
        }
        Ok(value)
    }

    fn missing(&self, fields: usize) -> EvaluationError {
        let mut path = self.variable.clone();
        for field in &self.fields[..fields] {
            path.push('.');
            path.push_str(field);
        }
        EvaluationError::Missing { path }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.variable)?;
        self.fields.iter().try_for_each(|field| write!(f, ".{field}"))
    }
}

fn no_fields(value: &Json<'_>) -> EvaluationError {
    EvaluationError::Failed(format!("{} has no fields", an(kind(value))))
}

fn kind(value: &Json<'_>) -> &'static str {
    match value {
        Json::Null => "null_type",
        Json::Bool(_) => "bool",
        Json::Number(number) if number.is_f64() => "double",
        Json::Number(_) => "int",
        Json::String(_) => "string",
        Json::Array(_) => "list",
        Json::Object(_) => "map",
    }
}
