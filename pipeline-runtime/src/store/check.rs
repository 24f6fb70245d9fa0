//! Finds in a change what one of the databases would refuse, before anything is sent: then that change alone is refused.
//! Both stores keep to the limits of the stricter one, so that a pipeline behaves on a laptop as in a cluster.

use super::Change;
use chrono::{DateTime, Datelike, Utc};
use serde_json::Value as Json;

/// PostgreSQL indexes no more than 2704 bytes of a row, and an index may hold more than one id.
const MAX_ID: usize = 800;
/// `DECIMAL(10,2)`.
const DECIMALS: i64 = 2;
const WHOLE_DIGITS: i64 = 8;
/// Beyond it the parser of PostgreSQL may run out of stack.
const MAX_DEPTH: usize = 500;
/// What set and append put into an order is read again with all that is around it, and the reader stops at 127.
const MAX_FIELD_DEPTH: usize = 100;
/// `numeric` goes further, but no amount of anything does.
const MAX_EXPONENT: i64 = 1000;
const MAX_DIGITS: usize = 2000;

/// A change that both databases can hold.
#[derive(Clone, Copy, Debug)]
pub struct Checked<'a> {
    pub change: &'a Change,
    pub total: Option<Cents>,
}

/// An amount in hundredths; written as decimal text with exactly two decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cents(i64);

impl std::fmt::Display for Cents {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let cents = self.0.unsigned_abs();
        write!(f, "{}{}.{:02}", if self.0 < 0 { "-" } else { "" }, cents / 100, cents % 100)
    }
}

pub fn check(change: &Change) -> Result<Checked<'_>, String> {
    let fields = &change.fields;
    identifier("the event's id", &change.event_id)?;
    identifier("the order's id", &change.order_id)?;
    text("the event's name", &change.event)?;
    text("the event's source", &change.source)?;
    for (name, value) in [("the tenant", &fields.tenant), ("the customer", &fields.customer)] {
        value.as_deref().map_or(Ok(()), |v| identifier(name, v))?;
    }
    fields.status.as_deref().map_or(Ok(()), |v| text("the status", v))?;
    fields.items.as_deref().map_or(Ok(()), json_text).map_err(|why| format!("the items cannot be stored: {why}"))?;
    for (name, at) in [("createdAt", fields.created_at), ("at", change.at), ("the publish time", Some(change.published_at))] {
        at.map_or(Ok(()), |at| time(name, at))?;
    }
    for (name, value) in change.set.iter().chain(&change.append) {
        text("the name of a field", name)?;
        json_value(value, 0).map_err(|why| format!("the field {name} cannot be stored: {why}"))?;
    }
    let total = fields.total.as_deref().map(amount).transpose()?;
    Ok(Checked { change, total })
}

/// What of an order's own columns no database could hold: the field's name, and why. For those who can still tell the sender. (JSON
/// that was just parsed holds no items that could not be stored.)
pub fn unstorable(change: &Change) -> Option<(&'static str, String)> {
    let fields = &change.fields;
    let id = |name: &'static str, value: Option<&String>| Some((name, identifier("it", value?).err()?));
    let at = |name: &'static str, value: Option<DateTime<Utc>>| Some((name, time("it", value?).err()?));
    id("orderId", Some(&change.order_id))
        .or_else(|| id("tenantId", fields.tenant.as_ref()))
        .or_else(|| id("customerId", fields.customer.as_ref()))
        .or_else(|| at("createdAt", fields.created_at))
        .or_else(|| at("at", change.at))
        .or_else(|| Some(("totalAmount", amount(fields.total.as_deref()?).err()?)))
}

fn text(name: &str, value: &str) -> Result<(), String> {
    if value.contains('\0') { Err(format!("{name} holds the character NUL, which a database cannot keep")) } else { Ok(()) }
}

fn identifier(name: &str, value: &str) -> Result<(), String> {
    if value.len() > MAX_ID {
        return Err(format!("{name} has {} bytes, the most that can be stored are {MAX_ID}", value.len()));
    }
    text(name, value)
}

fn time(name: &str, at: DateTime<Utc>) -> Result<(), String> {
    if (1..=9999).contains(&at.year()) { Ok(()) } else { Err(format!("{name} is in the year {}, which cannot be stored", at.year())) }
}

fn json_value(value: &Json, depth: usize) -> Result<(), String> {
    if depth > MAX_FIELD_DEPTH {
        return Err(format!("it is nested deeper than {MAX_FIELD_DEPTH}"));
    }
    match value {
        Json::String(s) => text("a text", s),
        Json::Array(all) => all.iter().try_for_each(|v| json_value(v, depth + 1)),
        Json::Object(all) => all.iter().try_for_each(|(k, v)| text("a name", k).and_then(|()| json_value(v, depth + 1))),
        Json::Null | Json::Bool(_) | Json::Number(_) => Ok(()),
    }
}

/// JSON allows texts and numbers that `jsonb` does not: NUL, halves of a surrogate pair, numbers with thousands of digits.
fn json_text(json: &str) -> Result<(), String> {
    serde_json::from_str::<&serde_json::value::RawValue>(json).map_err(|e| format!("it is not JSON: {e}"))?;
    let bytes = json.as_bytes();
    let (mut at, mut depth) = (0, 0usize);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                let (length, escaped) = string_end(&bytes[at + 1..]);
                if escaped {
                    escapes(&json[at..at + length + 2])?;
                }
                at += length + 2;
            }
            b'-' | b'0'..=b'9' => {
                let rest = &bytes[at..];
                let length = rest.iter().position(|b| !matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')).unwrap_or(rest.len());
                number(&json[at..at + length])?;
                at += length;
            }
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(format!("it is nested deeper than {MAX_DEPTH}"));
                }
                at += 1;
            }
            b']' | b'}' => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            _ => at += 1,
        }
    }
    Ok(())
}

/// How many bytes lie before the quote that ends a string, and whether there are escapes among them.
fn string_end(bytes: &[u8]) -> (usize, bool) {
    let (mut at, mut escaped) = (0, false);
    while at < bytes.len() && bytes[at] != b'"' {
        let escape = bytes[at] == b'\\';
        escaped |= escape;
        at += if escape { 2 } else { 1 };
    }
    (at, escaped)
}

fn escapes(quoted: &str) -> Result<(), String> {
    if !quoted.contains("\\u") {
        return Ok(());
    }
    match serde_json::from_str::<String>(quoted) {
        Ok(s) => text("a text", &s),
        Err(_) => Err("a text holds half of a surrogate pair".into()),
    }
}

fn number(token: &str) -> Result<(), String> {
    let exponent = token.find(['e', 'E']).map_or(Ok(0), |e| token[e + 1..].parse::<i64>());
    match exponent {
        Ok(exponent) if exponent.abs() <= MAX_EXPONENT && token.len() <= MAX_DIGITS => Ok(()),
        _ => Err(format!("the number {}… is out of range", &token[..token.len().min(20)])),
    }
}

/// Decimal text, also with an exponent; nothing is rounded.
fn amount(given: &str) -> Result<Cents, String> {
    let wrong = || format!("the amount {} is not a decimal number", shortened(given));
    let (sign, unsigned) = given.strip_prefix('-').map_or((1, given), |rest| (-1, rest));
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(e) => (&unsigned[..e], unsigned[e + 1..].parse::<i32>().map_err(|_| wrong())?),
        None => (unsigned, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let all = format!("{whole}{fraction}");
    let significant = all.trim_start_matches('0');
    let digits = significant.trim_end_matches('0');
    if digits.is_empty() {
        return Ok(Cents(0));
    }
    // the value is 0.<digits> x 10^point
    let point = whole.len() as i64 - (all.len() - significant.len()) as i64 + i64::from(exponent);
    if point > WHOLE_DIGITS {
        let most = format!("{}.{}", "9".repeat(WHOLE_DIGITS as usize), "9".repeat(DECIMALS as usize));
        return Err(format!("the amount {} does not fit: it must be between -{most} and {most}", shortened(given)));
    }
    let zeros = point + DECIMALS - digits.len() as i64;
    if zeros < 0 {
        return Err(format!(
            "the amount {} has more than {DECIMALS} decimals, and is not rounded silently: round(x, {DECIMALS}) does it",
            shortened(given)
        ));
    }
    // at most ten digits in all, so that neither step can overflow
    let cents = digits.parse::<i64>().map_err(|_| wrong())?.saturating_mul(10i64.saturating_pow(zeros as u32));
    Ok(Cents(sign * cents))
}

/// Cut where it must be, and visibly: a number without its last digits would be another number.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}... ({} characters)", &text[..end], text.chars().count()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn amounts_keep_their_value() {
        for (given, kept) in [
            ("12", "12.00"),
            ("12.5", "12.50"),
            ("12.340", "12.34"),
            ("0", "0.00"),
            ("-0", "0.00"),
            ("0.0e99", "0.00"),
            ("-7.05", "-7.05"),
            ("1e2", "100.00"),
            ("1.5E+1", "15.00"),
            ("1250e-2", "12.50"),
            ("5e-2", "0.05"),
            ("5e-1", "0.50"),
            ("0.05", "0.05"),
            ("1000", "1000.00"),
            ("99999999.99", "99999999.99"),
            ("007", "7.00"),
        ] {
            assert_eq!(amount(given).map(|a| a.to_string()).as_deref(), Ok(kept), "{given}");
        }
    }

    #[test]
    fn amounts_that_would_change_are_refused() {
        for (given, why) in [
            ("12.345", "more than 2 decimals"),
            ("0.001", "more than 2 decimals"),
            ("1e-3", "more than 2 decimals"),
            ("1e-999999999", "more than 2 decimals"),
            ("100000000", "does not fit"),
            ("1e8", "does not fit"),
            ("1e999999999", "does not fit"),
            ("", "not a decimal"),
            ("abc", "not a decimal"),
            ("1e", "not a decimal"),
            (".5", "not a decimal"),
            ("--1", "not a decimal"),
            ("1e99999999999999999999", "not a decimal"),
        ] {
            let error = amount(given).unwrap_err();
            assert!(error.contains(why), "{given}: {error}");
        }
        let large = amount(&1e300.to_string()).unwrap_err();
        assert!(large.contains("... (301 characters)") && large.contains("between -99999999.99 and 99999999.99"), "{large}");
    }

    #[test]
    fn json_that_jsonb_refuses_is_found() {
        for good in [r#"[]"#, r#"[{"a":1.5e10,"b":"\\u0000 \" \u00e4 \ud83d\ude00"}]"#, r#"{"a":-1,"b":[true,null]}"#] {
            assert_eq!(json_text(good), Ok(()), "{good}");
        }
        let deep = format!("{}{}", "[".repeat(600), "]".repeat(600));
        for bad in [r#"["\u0000"]"#, r#"{"\u0000":1}"#, r#"["\ud800"]"#, "[1e2000]", "[1e-99999999999999999999]", "[", "", &deep] {
            assert!(json_text(bad).is_err(), "{bad}");
        }
    }
}
