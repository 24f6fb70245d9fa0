//! What a request asks for in its query, and texts as they stand in paths.

use super::errors::Problem;
use chrono::{DateTime, Utc};

/// The values of these names, as they were meant. A name that is not among them is refused: a mistyped tenantId must not show the orders of
/// all tenants.
pub(super) fn values<const N: usize>(query: &str, names: [&str; N]) -> Result<[Option<String>; N], Problem> {
    let mut values = [const { None }; N];
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decoded(name, name)?, decoded(name, value)?);
        let Some(index) = names.iter().position(|known| *known == name) else {
            return Err(Problem::field(&name, format!("is not known here: there {}", listed(&names))));
        };
        if values[index].replace(value).is_some() {
            return Err(Problem::field(&name, "stands in the query more than once: send it once"));
        }
    }
    Ok(values)
}

pub(super) fn limit(text: Option<String>, default: u32, largest: u32) -> Result<u32, Problem> {
    text.map_or(Ok(default), |text| match text.parse() {
        Ok(limit) if (1..=largest).contains(&limit) => Ok(limit),
        _ => Err(Problem::field("limit", format!("must be a whole number from 1 to {largest}, but is {text:?}"))),
    })
}

pub(super) fn time(name: &str, text: Option<String>) -> Result<Option<DateTime<Utc>>, Problem> {
    let wrong = |text: &str| Problem::field(name, format!("must be a time such as 2025-01-31T12:00:00Z, but is {text:?}"));
    text.map(|text| DateTime::parse_from_rfc3339(&text).map(|time| time.to_utc()).map_err(|_| wrong(&text))).transpose()
}

fn listed(names: &[&str]) -> String {
    match names {
        [] => "is nothing to ask for".to_owned(),
        [only] => format!("is {only}"),
        [first @ .., last] => format!("are {} and {last}", first.join(", ")),
    }
}

/// A name or a value of a query as it was meant. Anything that is no text is refused: guessed at, it would be another tenant.
fn decoded(name: &str, text: &str) -> Result<String, Problem> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    let hex = |rest: &mut std::str::Bytes| rest.next().and_then(|digit| char::from(digit).to_digit(16));
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => match (hex(&mut rest), hex(&mut rest)) {
                (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
                _ => return Err(Problem::field(name, "holds a % that is not followed by two hexadecimal digits: write % itself as %25")),
            },
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).map_err(|_| Problem::field(name, "is no text in UTF-8"))
}

/// A text as it stands in a path or a query.
pub(super) fn in_path(id: &str) -> String {
    let mut path = String::with_capacity(id.len());
    for byte in id.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => path.push(char::from(byte)),
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path
}
