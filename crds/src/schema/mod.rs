//! JSON Schema of an event's data: compiled once, its mistakes told to a person in the notation of our documents.

mod instance;
mod own;
mod sample;
mod sentence;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;

pub use sample::sample;

use crate::json::Json;
use instance::Instance;
use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

/// The most mistakes that are told at once.
pub const MAX_FAULTS: usize = 20;
/// The library makes an error for every mistake before the first is read. In data with more values than that only the first is looked for.
const MAX_VALUES: usize = 10_000;

/// A compiled schema. Formats are asserted; nothing is fetched from a network or a file.
#[derive(Debug)]
pub struct Schema(Validator<Instance>);

/// Something in the data that the schema does not allow: `data.items[1].quantity` and `quantity must be above 0 but is -3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub path: String,
    pub message: String,
}

impl Schema {
    /// Or every mistake of the schema itself, at most [`MAX_FAULTS`], each at a place such as `schema.properties.total.type`.
    pub fn compile(schema: &Value) -> Result<Schema, Vec<Fault>> {
        let faults = own::faults(schema);
        if !faults.is_empty() {
            return Err(faults);
        }
        let options = jsonschema::options_for::<Instance>().offline().should_validate_formats(true);
        // In time that grows with the text alone: a pattern that looks around may take for ever on a message made for it.
        let validator = options.with_pattern_options(PatternOptions::regex()).build(schema);
        validator.map(Schema).map_err(|error| own::of_build(&error))
    }

    /// Every mistake, at most [`MAX_FAULTS`]. None: the data is as it should be.
    pub fn faults(&self, data: &Json<'_>) -> Vec<Fault> {
        if self.0.is_valid(data) {
            return Vec::new();
        }
        let mut faults = Vec::new();
        if values_up_to(data, MAX_VALUES) < MAX_VALUES {
            for error in self.0.iter_errors(data) {
                sentence::of_data(&error, &mut faults);
                if faults.len() >= MAX_FAULTS {
                    break;
                }
            }
        } else if let Err(error) = self.0.validate(data) {
            sentence::of_data(&error, &mut faults);
        }
        faults.truncate(MAX_FAULTS);
        faults
    }
}

/// How many values there are, counted no further than the bound.
fn values_up_to(data: &Json<'_>, bound: usize) -> usize {
    let mut count = 1;
    let mut add = |value| {
        if count < bound {
            count += values_up_to(value, bound - count);
        }
    };
    match data {
        Json::Array(items) => items.iter().for_each(&mut add),
        Json::Object(fields) => fields.values().for_each(&mut add),
        _ => {}
    }
    count
}
