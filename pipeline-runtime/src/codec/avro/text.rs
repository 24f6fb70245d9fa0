//! Values that Avro has and JSON has not, as texts: decimals, bytes, dates, times. A decimal never becomes a float.

use super::schema::{Decimal, Unit};
use chrono::{DateTime, Datelike, NaiveDate, SecondsFormat, Utc};
use crds::json::Json;

/// A decimal of its bytes (an integer, the highest byte first) with all its digits: 2498 at scale 2 is 24.98.
pub(super) fn decimal(bytes: &[u8], scale: u32) -> Result<String, String> {
    let negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
    let filler = if negative { 0xff } else { 0 };
    let mut wide = [filler; 16];
    // What does not fit may still be filler.
    let (over, rest) = bytes.split_at(bytes.len().saturating_sub(16));
    if over.iter().any(|byte| *byte != filler) {
        return Err("a decimal of more than 38 digits".into());
    }
    wide[16 - rest.len()..].copy_from_slice(rest);
    let unscaled = i128::from_be_bytes(wide);
    if (unscaled < 0) != negative {
        return Err("a decimal of more than 38 digits".into());
    }
    let scale = scale as usize;
    let mut digits = format!("{:0>1$}", unscaled.unsigned_abs(), scale + 1);
    if scale > 0 {
        digits.insert(digits.len() - scale, '.');
    }
    Ok(if negative { format!("-{digits}") } else { digits })
}

/// The bytes of a decimal that was given as a number or as a text. None: it has other digits than the schema has room for.
pub(super) fn decimal_bytes(value: &Json<'_>, of: Decimal) -> Option<Vec<u8>> {
    let text = match value {
        Json::String(text) => text.clone().into_owned(),
        // Display of f64 gives the shortest digits that mean it, and unlike JSON never an exponent.
        Json::Number(number) if number.is_f64() => number.as_f64()?.to_string(),
        Json::Number(number) => number.to_string(),
        _ => return None,
    };
    let (negative, digits) = text.strip_prefix('-').map_or((false, text.as_str()), |digits| (true, digits));
    let (whole, fraction) = digits.split_once('.').map_or((digits, None), |(whole, fraction)| (whole, Some(fraction)));
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !plain(whole) || fraction.is_some_and(|fraction| !plain(fraction)) {
        return None;
    }
    let (scale, fraction) = (of.scale as usize, fraction.unwrap_or_default());
    // Nothing is rounded; zeros behind the last place say nothing.
    let (kept, over) = fraction.split_at(fraction.len().min(scale));
    if over.bytes().any(|digit| digit != b'0') {
        return None;
    }
    let all = format!("{whole}{kept:0<scale$}");
    let all = all.trim_start_matches('0');
    if all.len() > of.precision as usize {
        return None;
    }
    let unscaled: i128 = if all.is_empty() { 0 } else { all.parse().ok()? };
    let wide = if negative { -unscaled } else { unscaled }.to_be_bytes();
    match of.size {
        Some(size) if size >= 16 => {
            let filler = if unscaled != 0 && negative { 0xff } else { 0 };
            Some([vec![filler; size - 16], wide.to_vec()].concat())
        }
        size => {
            let least = shortest(&wide);
            let from = 16 - size.unwrap_or(least);
            (size.is_none_or(|size| size >= least)).then(|| wide[from..].to_vec())
        }
    }
}

/// How many of the last bytes say the same.
fn shortest(wide: &[u8; 16]) -> usize {
    let filler = if wide[0] & 0x80 != 0 { 0xff } else { 0 };
    let mut skipped = 0;
    while skipped < 15 && wide[skipped] == filler && (wide[skipped + 1] & 0x80) == (filler & 0x80) {
        skipped += 1;
    }
    16 - skipped
}

/// Bytes as Avro's own JSON has them: one character each.
pub(super) fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

pub(super) fn bytes(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
}

/// Chrono's own count of days begins with the year 1.
const DAYS_TO_1970: i64 = 719_163;

pub(super) fn date(days: i64) -> Option<String> {
    let since_year_1 = i32::try_from(days.checked_add(DAYS_TO_1970)?).ok()?;
    NaiveDate::from_num_days_from_ce_opt(since_year_1).map(|date| date.to_string())
}

pub(super) fn days(value: &Json<'_>) -> Option<i32> {
    match value {
        Json::String(text) => {
            let date: NaiveDate = text.parse().ok()?;
            i32::try_from(i64::from(date.num_days_from_ce()) - DAYS_TO_1970).ok()
        }
        _ => i32::try_from(value.as_i64()?).ok(),
    }
}

pub(super) fn time(since_1970: i64, unit: Unit) -> Option<String> {
    match unit {
        Unit::Millis => DateTime::<Utc>::from_timestamp_millis(since_1970).map(|t| t.to_rfc3339_opts(SecondsFormat::Millis, true)),
        Unit::Micros => DateTime::<Utc>::from_timestamp_micros(since_1970).map(|t| t.to_rfc3339_opts(SecondsFormat::Micros, true)),
    }
}

pub(super) fn since_1970(value: &Json<'_>, unit: Unit) -> Option<i64> {
    match value {
        Json::String(text) => {
            let time = DateTime::parse_from_rfc3339(text).ok()?;
            Some(if unit == Unit::Millis { time.timestamp_millis() } else { time.timestamp_micros() })
        }
        _ => value.as_i64(),
    }
}
