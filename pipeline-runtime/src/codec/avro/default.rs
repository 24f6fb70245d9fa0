//! The defaults of a schema. Avro writes them in a way of its own (bytes as text, times as numbers, of a union its first branch): here they
//! become what a reader sees.

use super::schema::{Schema, Shape, Type};
use super::text;
use serde_json::{Map, Value as Json};

/// A default as a reader sees it.
pub(super) fn in_view(schema: &Schema, of: &Type, default: &Json) -> Result<Json, String> {
    let unfit = || format!("the default must be {}", schema.describe(of));
    let whole = || default.as_i64().ok_or_else(unfit);
    match of {
        // By the older specifications the first branch; by the newer ones any.
        Type::Union(branches) => branches.iter().find_map(|branch| in_view(schema, branch, default).ok()).ok_or_else(unfit),
        Type::Null if default.is_null() => Ok(Json::Null),
        Type::Boolean if default.is_boolean() => Ok(default.clone()),
        Type::Int => whole().and_then(|n| i32::try_from(n).map(Json::from).map_err(|_| unfit())),
        Type::Long => whole().map(Json::from),
        Type::Float | Type::Double if default.is_number() => Ok(default.clone()),
        Type::String if default.is_string() => Ok(default.clone()),
        Type::Bytes => default.as_str().filter(|text| text::bytes(text).is_some()).map(Json::from).ok_or_else(unfit),
        Type::Decimal(decimal) => {
            let bytes = default.as_str().and_then(text::bytes).ok_or_else(unfit)?;
            text::decimal(&bytes, decimal.scale).map(Json::from)
        }
        Type::Date => text::date(whole()?).map(Json::from).ok_or_else(unfit),
        Type::Timestamp(unit) => text::time(whole()?, *unit).map(Json::from).ok_or_else(unfit),
        Type::Array(items) => {
            let all = default.as_array().ok_or_else(unfit)?;
            all.iter().map(|one| in_view(schema, items, one)).collect::<Result<Vec<_>, _>>().map(Json::Array)
        }
        Type::Map(values) => {
            let all = default.as_object().ok_or_else(unfit)?;
            let all = all.iter().map(|(name, one)| Ok((name.clone(), in_view(schema, values, one)?)));
            all.collect::<Result<Map<_, _>, String>>().map(Json::Object)
        }
        Type::Named(index) => match &schema.named(*index).is {
            Shape::Enum { symbols, .. } => {
                default.as_str().filter(|symbol| symbols.iter().any(|known| known == symbol)).map(Json::from).ok_or_else(unfit)
            }
            Shape::Fixed(size) => {
                default.as_str().filter(|text| text::bytes(text).is_some_and(|b| b.len() == *size)).map(Json::from).ok_or_else(unfit)
            }
            Shape::Record(fields) => {
                let given = default.as_object().ok_or_else(unfit)?;
                let mut record = Map::new();
                for field in fields {
                    let value = match given.get(&field.name) {
                        Some(value) => in_view(schema, &field.of, value)?,
                        None => field.default.clone().ok_or_else(|| format!("the default lacks {}", field.name))?,
                    };
                    if !(value.is_null() && Schema::optional(&field.of)) {
                        record.insert(field.name.clone(), value);
                    }
                }
                Ok(Json::Object(record))
            }
        },
        Type::Null | Type::Boolean | Type::Float | Type::Double | Type::String => Err(unfit()),
    }
}
