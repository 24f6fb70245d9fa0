use super::DecodeError;
use serde_json::{Value as Json, error::Category};

/// Parses a body. The parser stops behind 127 levels of nesting, so that a hostile body cannot overflow the stack.
pub(super) fn parse(body: &[u8]) -> Result<Json, DecodeError> {
    let text =
        std::str::from_utf8(body).map_err(|error| DecodeError(format!("the body is not UTF-8: byte {} is wrong", error.valid_up_to())))?;
    serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        DecodeError(match error.classify() {
            Category::Eof => format!("the body is cut off: its JSON does not end (line {line}, column {column})"),
            _ if error.to_string().starts_with("recursion limit") => {
                format!("the body is nested deeper than 127 levels (line {line}, column {column})")
            }
            _ => format!("the body is not JSON: {error}"),
        })
    })
}
