//! What stands in a query, and texts as they stand in paths.

use super::errors::Problem;

/// The values of these names, in their order. Anything else in the query is refused.
pub(super) fn read<const N: usize>(text: &str, names: [&'static str; N]) -> Result<[Option<String>; N], Problem> {
    let mut values = [const { None }; N];
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decoded(name, name)?, decoded(name, value)?);
        let Some(index) = names.iter().position(|known| *known == name) else {
            // A mistyped tenantId must not show the orders of all tenants.
            return Err(Problem::field(&name, format!("is not known here: there {}", listed(&names))));
        };
        if values[index].replace(value).is_some() {
            return Err(Problem::field(&name, "stands in the query more than once: send it once"));
        }
    }
    Ok(values)
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
