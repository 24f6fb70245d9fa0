use super::{DecodeError, digits};
use crds::json::Json;
use serde_json::error::Category;

/// The most that a body may take once it is parsed. A pod of 128 MiB must be able to read whatever lies on a broker, or it would
/// die of it again and again.
pub const MAX_WEIGHT: usize = 32 << 20;

/// What a body becomes when it is parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    /// About what it takes in memory at most: as serde_json's tree, whose objects are nodes of 632 bytes even when they have one field.
    pub bytes: usize,
    /// How deep it is nested.
    pub depth: usize,
}

/// Without parsing it: what is no JSON is weighed too.
pub fn weigh(body: &[u8]) -> Weight {
    let (mut objects, mut lists, mut values, mut strings) = (0, 0, 1, 0);
    let (mut level, mut depth) = (0usize, 0);
    let mut bytes = body.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                if *byte == b'{' {
                    objects += 1
                } else {
                    lists += 1
                }
                level += 1;
                depth = depth.max(level);
            }
            b'}' | b']' => level = level.saturating_sub(1),
            b',' => values += 1,
            b'"' => {
                strings += 1;
                while let Some(inner) = bytes.next() {
                    match inner {
                        b'"' => break,
                        b'\\' => drop(bytes.next()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Weight { bytes: objects * 640 + lists * 128 + values * 64 + strings * 32 + body.len(), depth }
}

/// Parses a body, which as a whole is called `root` where a field of it is named. The parser stops behind 127 levels of nesting, so that a
/// hostile body cannot overflow the stack.
pub(super) fn parse<'b>(body: &'b [u8], root: &str) -> Result<Json<'b>, DecodeError> {
    // No byte weighs more than an object: most bodies need no second look.
    if body.len() > MAX_WEIGHT / 1024 {
        let weight = weigh(body).bytes;
        if weight > MAX_WEIGHT {
            return Err(DecodeError(format!(
                "the body holds too many values: parsed it would take about {} MiB of memory, at most {} are taken",
                weight >> 20,
                MAX_WEIGHT >> 20
            )));
        }
    }
    let text =
        std::str::from_utf8(body).map_err(|error| DecodeError(format!("the body is not UTF-8: byte {} is wrong", error.valid_up_to())))?;
    let json = serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        DecodeError(match error.classify() {
            Category::Eof => format!("the body is cut off: its JSON does not end (line {line}, column {column})"),
            _ if error.to_string().starts_with("recursion limit") => {
                format!("the body is nested deeper than 127 levels (line {line}, column {column})")
            }
            _ => format!("the body is not JSON: {error}"),
        })
    })?;
    match digits::changed(text, root) {
        None => Ok(json),
        Some(path) => Err(DecodeError(format!("{path} {}", digits::TOO_MANY_DIGITS))),
    }
}
