//! What an event does to its order.

use super::{EventContract, Message, Violation};
use crate::store::{Change, Fields};
use chrono::{DateTime, Utc};
use crds::expression::{Compiled, EvaluationError, Input};
use crds::json::Json;
use crds::pipeline::{Effect, FIELDS_OF_EVERY_ORDER, FIELDS_OF_THE_STORE};
use serde_json::{Map, Number, Value};

/// Longer ids would not fit the index of a store.
const MAX_ID_CHARS: usize = 500;

pub(super) fn is_column(field: &str) -> bool {
    FIELDS_OF_EVERY_ORDER.contains(&field) || FIELDS_OF_THE_STORE.contains(&field)
}

impl EventContract {
    pub(super) fn make_change(&self, message: &Message<'_>) -> Result<Change, Violation> {
        let (input, decoded) = (message.input(), message.decoded);
        let event_id = match &self.expressions.id {
            Some(id) => identifier(id, &input)?,
            None => decoded.id.clone(),
        };
        let mut fields = self.fields(&input)?;
        let mut set = Map::new();
        for (name, expression) in &self.expressions.set {
            if FIELDS_OF_EVERY_ORDER.contains(&name.as_str()) {
                self.set_column(&mut fields, name, expression, &input)?;
            } else if let Some(value) = value(expression, &input)? {
                set.insert(name.clone(), value);
            }
        }
        let mut append = Map::new();
        for (name, expression) in &self.expressions.append {
            if let Some(value) = value(expression, &input)?.filter(|value| !value.is_null()) {
                append.insert(name.clone(), value);
            }
        }
        Ok(Change {
            event_id,
            event: self.config.name.clone(),
            effect: self.config.effect,
            order_id: self.order_id(message)?,
            content: [0; 32],
            fields,
            set,
            append,
            at: optional(self.expressions.at.as_ref(), &input, time)?,
            published_at: decoded.publish_time,
            source: String::new(),
        })
    }

    /// An event without effect needs no order.
    pub fn order_id(&self, message: &Message<'_>) -> Result<String, Violation> {
        let input = &message.input();
        let expression = &self.expressions.order_id;
        if self.config.effect == Effect::None && matches!(expression.json(input), Err(EvaluationError::Missing { .. })) {
            return Ok(String::new());
        }
        identifier(expression, input)
    }

    fn fields(&self, input: &Input<'_>) -> Result<Fields, Violation> {
        let of = &self.expressions;
        Ok(Fields {
            tenant: self.optional_text(of.tenant.as_ref(), input)?,
            customer: self.optional_text(of.customer.as_ref(), input)?,
            items: optional(of.items.as_ref(), input, json_text)?,
            total: optional(of.total.as_ref(), input, amount)?,
            status: self.optional_text(of.status.as_ref(), input)?,
            created_at: optional(of.created_at.as_ref(), input, time)?,
        })
    }

    fn set_column(&self, fields: &mut Fields, name: &str, expression: &Compiled, input: &Input<'_>) -> Result<(), Violation> {
        let expression = Some(expression);
        match name {
            "tenantId" => replace(&mut fields.tenant, self.optional_text(expression, input)?),
            "customerId" => replace(&mut fields.customer, self.optional_text(expression, input)?),
            "items" => replace(&mut fields.items, optional(expression, input, json_text)?),
            "totalAmount" => replace(&mut fields.total, optional(expression, input, amount)?),
            "status" => replace(&mut fields.status, self.optional_text(expression, input)?),
            _ => replace(&mut fields.created_at, optional(expression, input, time)?),
        }
        Ok(())
    }

    pub(super) fn optional_text(&self, expression: Option<&Compiled>, input: &Input<'_>) -> Result<Option<String>, Violation> {
        optional(expression, input, text)
    }
}

fn replace<T>(field: &mut Option<T>, value: Option<T>) {
    if value.is_some() {
        *field = value;
    }
}

/// What an expression gives; None where its path is missing.
fn value(expression: &Compiled, input: &Input<'_>) -> Result<Option<Value>, Violation> {
    match expression.json(input) {
        Ok(value) => Ok(Some(Value::from(&*value))),
        Err(EvaluationError::Missing { .. }) => Ok(None),
        Err(error) => Err(Violation::of(expression, error)),
    }
}

/// A field that may be missing or null. `read` makes it of the JSON that is there, or says what it must be.
fn optional<T>(
    expression: Option<&Compiled>,
    input: &Input<'_>,
    read: impl Fn(&Json<'_>) -> Result<T, &'static str>,
) -> Result<Option<T>, Violation> {
    let Some(expression) = expression else { return Ok(None) };
    let value = match expression.json(input) {
        Ok(value) if value.is_null() => return Ok(None),
        Ok(value) => value,
        Err(EvaluationError::Missing { .. }) => return Ok(None),
        Err(error) => return Err(Violation::of(expression, error)),
    };
    read(&value).map(Some).map_err(|must| {
        let field = expression.path().unwrap_or("data").to_owned();
        let name = expression.path().and_then(|path| path.rsplit_once('.')).map_or(expression.text(), |(_, name)| name);
        Violation { field, message: format!("{name} must be {must}") }
    })
}

fn identifier(expression: &Compiled, input: &Input<'_>) -> Result<String, Violation> {
    let id = expression.string(input).map_err(|error| Violation::of(expression, error))?;
    let wrong = |message: String| Err(Violation { field: expression.path().unwrap_or("data").to_owned(), message });
    if id.is_empty() {
        return wrong(format!("{} must not be empty", expression.text()));
    }
    if id.chars().nth(MAX_ID_CHARS).is_some() {
        return wrong(format!("{} must have at most {MAX_ID_CHARS} characters", expression.text()));
    }
    Ok(id)
}

fn text(value: &Json<'_>) -> Result<String, &'static str> {
    match value {
        Json::String(text) => Ok(text.clone().into_owned()),
        Json::Number(number) if !number.is_f64() => Ok(number.to_string()),
        _ => Err("a text"),
    }
}

fn json_text(value: &Json<'_>) -> Result<String, &'static str> {
    Ok(value.to_string())
}

fn time(value: &Json<'_>) -> Result<DateTime<Utc>, &'static str> {
    const MUST: &str = "a time such as 2025-01-31T12:00:00Z";
    let text = value.as_str().ok_or(MUST)?;
    DateTime::parse_from_rfc3339(text).map(|time| time.to_utc()).map_err(|_| MUST)
}

/// The decimal text of an amount. Many write amounts as texts, so that no float ever touches them.
fn amount(value: &Json<'_>) -> Result<String, &'static str> {
    match value {
        Json::Number(number) => Ok(decimal(number)),
        Json::String(text) if crds::pipeline::is_decimal(text) => Ok(text.clone().into_owned()),
        _ => Err("a number"),
    }
}

fn decimal(number: &Number) -> String {
    match number.as_f64() {
        // Display of f64 gives the shortest digits that mean it, and unlike JSON never an exponent. Those are the digits that came: a
        // number of which that is not true is refused when its message is decoded.
        Some(double) if number.is_f64() => double.to_string(),
        _ => number.to_string(),
    }
}
