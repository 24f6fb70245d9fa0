//! CEL values back to JSON.

use super::direct::Given;
use super::error::{EvaluationError, an};
use crate::json::{Json, Object};
use cel::common::types::{CelBool, CelDouble, CelDuration, CelInt, CelList, CelNull, CelOptional, CelString, CelTimestamp, CelUInt};
use cel::common::value::Val;
use chrono::SecondsFormat;
use serde_json::Number;

pub(super) fn to_json(value: &dyn Val) -> Result<Json<'static>, EvaluationError> {
    if value.downcast_ref::<CelNull>().is_some() {
        return Ok(Json::Null);
    }
    if let Some(bool) = value.downcast_ref::<CelBool>() {
        return Ok(Json::Bool(*bool.inner()));
    }
    if let Some(int) = value.downcast_ref::<CelInt>() {
        return Ok(Json::from(*int.inner()));
    }
    if let Some(uint) = value.downcast_ref::<CelUInt>() {
        return Ok(Json::from(*uint.inner()));
    }
    if let Some(double) = value.downcast_ref::<CelDouble>() {
        return number(*double.inner());
    }
    if let Some(string) = value.downcast_ref::<CelString>() {
        return Ok(Json::from(string.inner().to_owned()));
    }
    if let Some(time) = value.downcast_ref::<CelTimestamp>() {
        return Ok(Json::from(time.inner().to_utc().to_rfc3339_opts(SecondsFormat::AutoSi, true)));
    }
    if let Some(duration) = value.downcast_ref::<CelDuration>() {
        return Ok(Json::from(seconds(duration.inner())));
    }
    if let Some(list) = value.downcast_ref::<CelList>() {
        return list.inner().iter().map(|item| to_json(&**item)).collect::<Result<_, _>>().map(Json::Array);
    }
    if let Some(optional) = value.downcast_ref::<CelOptional>() {
        return optional.option().map_or(Ok(Json::Null), to_json);
    }
    map_to_json(value)
}

/// None: lists and maps, which [`to_json`] knows.
pub(super) fn scalar(given: &Given<'_>) -> Option<Result<Json<'static>, EvaluationError>> {
    Some(match given {
        Given::Null => Ok(Json::Null),
        Given::Bool(bool) => Ok(Json::Bool(*bool)),
        Given::Int(int) => Ok(Json::from(*int)),
        Given::Double(double) => number(*double),
        Given::Text(text) => Ok(Json::from((*text).to_owned())),
        Given::List(_) | Given::Part(..) | Given::Attributes(_) => return None,
    })
}

/// Both maps that an expression makes and those of the message, which only their traits tell apart from other values.
fn map_to_json(value: &dyn Val) -> Result<Json<'static>, EvaluationError> {
    let (Some(keys), Some(fields)) = (value.as_iterable(), value.as_indexer()) else {
        return Err(EvaluationError::Failed(format!("{} has no form in JSON", an(value.get_type().name()))));
    };
    let mut made = Vec::new();
    let mut keys = keys.iter();
    while let Some(key) = keys.next() {
        let name = match to_json(key)? {
            Json::String(name) => name,
            Json::Number(number) => number.to_string().into(),
            Json::Bool(bool) => bool.to_string().into(),
            _ => return Err(EvaluationError::Failed("the keys of a map must be texts".into())),
        };
        let field = fields.get(key).map_err(|error| EvaluationError::Failed(error.to_string()))?;
        made.push((name, to_json(&*field)?));
    }
    Ok(Json::Object(Object::of(made)))
}

/// A whole number is written as one: 24, not 24.0, whichever way it was computed.
fn number(double: f64) -> Result<Json<'static>, EvaluationError> {
    if double.fract() == 0.0 && double.abs() < 9_007_199_254_740_992.0 {
        return Ok(Json::from(double as i64));
    }
    Number::from_f64(double)
        .map(Json::Number)
        .ok_or_else(|| EvaluationError::Failed(format!("the result is no number ({double}): is something divided by zero?")))
}

fn seconds(duration: &chrono::Duration) -> String {
    let sign = if *duration < chrono::Duration::zero() { "-" } else { "" };
    let duration = duration.abs();
    match duration.subsec_nanos() {
        0 => format!("{sign}{}s", duration.num_seconds()),
        nanos => format!("{sign}{}.{}s", duration.num_seconds(), format!("{nanos:09}").trim_end_matches('0')),
    }
}
