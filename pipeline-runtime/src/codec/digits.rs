//! Numbers that would not come back as they were written.
//!
//! JSON may say 12345678901234567890.12; a double makes 12345678901234567000 of it, and nobody would notice. So such a number is refused
//! where it comes in. Behind that border every number is what was written, digit for digit: whole numbers of 64 bits as they are, all
//! others as the double whose shortest text is theirs. (What is closer to 0 than 1e-290 is nobody's amount, and not looked at.)

/// A number of so many digits always comes back.
const SAFE_DIGITS: usize = 15;

/// What such a number is told, behind its place. Not the number itself: it may be a person's, and this is logged.
pub const TOO_MANY_DIGITS: &str = "has more digits than a number keeps here: send fewer, or the same as a text in quotes";

/// Where the first number of a text, which is JSON, stands that would be changed: `data.items[1].price`. `root` is what the whole of it is
/// called: `data`, or nothing.
pub fn changed(text: &str, root: &str) -> Option<String> {
    has_long_run(text.as_bytes()).then(|| search(text, root)).flatten()
}

/// Whether so many digits stand together anywhere, be it in a text. Looks at every sixteenth byte: most bodies end here, for a fraction
/// of a microsecond.
fn has_long_run(bytes: &[u8]) -> bool {
    const RUN: usize = SAFE_DIGITS + 1;
    let of_number = |byte: &&u8| byte.is_ascii_digit() || **byte == b'.';
    let mut at = RUN - 1;
    while let Some(byte) = bytes.get(at) {
        if of_number(&byte) {
            let before = bytes[at + 1 - RUN..at].iter().rev().take_while(of_number).count();
            let after = bytes[at + 1..].iter().take(RUN).take_while(of_number).count();
            if before + 1 + after >= RUN {
                return true;
            }
        }
        at += RUN;
    }
    false
}

/// What of a text a byte lies in.
enum Inside<'t> {
    Object { key: &'t str },
    List { index: usize },
}

fn search(text: &str, root: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut around: Vec<Inside<'_>> = Vec::new();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                let end = at + 1 + string_length(&bytes[at + 1..]);
                // In an object the last text before a value is its name.
                if let Some(Inside::Object { key }) = around.last_mut()
                    && bytes[end.min(bytes.len())..].iter().skip(1).find(|b| !b.is_ascii_whitespace()) == Some(&b':')
                {
                    *key = text.get(at + 1..end).unwrap_or_default();
                }
                at = end;
            }
            b'{' => around.push(Inside::Object { key: "" }),
            b'[' => around.push(Inside::List { index: 0 }),
            b'}' | b']' => drop(around.pop()),
            b',' => {
                if let Some(Inside::List { index }) = around.last_mut() {
                    *index += 1;
                }
            }
            b'-' | b'0'..=b'9' => {
                let rest = &text[at..];
                let length = rest.find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E')).unwrap_or(rest.len());
                if !comes_back(&rest[..length]) {
                    return Some(path(root, &around));
                }
                at += length - 1;
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// How many bytes lie before the quote that ends a text.
fn string_length(bytes: &[u8]) -> usize {
    let mut at = 0;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at
}

fn path(root: &str, around: &[Inside<'_>]) -> String {
    around.iter().fold(root.to_owned(), |path, inside| match inside {
        Inside::Object { key } if path.is_empty() => (*key).to_owned(),
        Inside::Object { key } => format!("{path}.{key}"),
        Inside::List { index } => format!("{path}[{index}]"),
    })
}

/// Whether the number that is read has this text's value for all who write it again: as JSON, or as a decimal. Where two shortest texts
/// of a double lie equally far from it, serde_json takes one and std the other.
fn comes_back(number: &str) -> bool {
    let Some(written) = Decimal::of(number) else { return false };
    if written.digits.len() <= SAFE_DIGITS || number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok() {
        return true;
    }
    let Ok(double) = number.parse::<f64>() else { return false };
    let json = serde_json::Number::from_f64(double).map(|number| number.to_string());
    json.is_some_and(|json| [json, format!("{double:e}")].iter().all(|text| Decimal::of(text).as_ref() == Some(&written)))
}

/// A decimal number without its sign: 0.<digits> x 10^point, with no zeros around the digits.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    digits: String,
    point: i64,
}

impl Decimal {
    /// None: its exponent has no bounds.
    fn of(number: &str) -> Option<Decimal> {
        let unsigned = number.trim_start_matches('-');
        let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{fraction}");
        let significant = all.trim_start_matches('0');
        let point = whole.len() as i64 - (all.len() - significant.len()) as i64;
        let digits = significant.trim_end_matches('0').to_owned();
        let exponent: i64 = exponent.parse().ok()?;
        Some(if digits.is_empty() { Decimal { digits, point: 0 } } else { Decimal { point: point.checked_add(exponent)?, digits } })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value as Json;

    fn found(text: &str) -> Option<String> {
        serde_json::from_str::<Json>(text).unwrap();
        changed(text, "data")
    }

    #[test]
    fn a_number_that_would_be_changed_is_found_with_its_path() {
        for (text, path) in [
            ("12345678901234567890.12", "data"),
            (r#"{"total": 12345678901234567890.12}"#, "data.total"),
            (r#"{"id": "00340434161094042557", "n": 123456789012345678901}"#, "data.n"),
            (r#"{"a": "{\"x\": [", "items": [{"price": 1}, {"sku":"a","price" : 0.30000000000000000001}]}"#, "data.items[1].price"),
            (r#"{"a": [[1, 2], [3, -1.00000000000000000001e2]]}"#, "data.a[1][1]"),
            (r#"{"a": 0.1000000000000000055511151231257827}"#, "data.a"),
            (r#"{"big": 9007199254740993.0}"#, "data.big"),
            // Both lie as near to the double between them: JSON would say the one, a decimal the other.
            (r#"{"tie": 10000000000.007812}"#, "data.tie"),
            (r#"{"tie": 10000000000.007813}"#, "data.tie"),
        ] {
            assert_eq!(found(text), Some(path.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_comes_back_is_left_alone() {
        for text in [
            "0.30000000000000004",
            "1.10000000000000000000000",
            "0",
            "18446744073709551615",
            "-9223372036854775808",
            "9007199254740993",
            "99999999.99",
            "1e2",
            "-0",
            "0.000000000000000000000000000000",
            "1.7976931348623157e308",
            "123456789012345000000000",
            r#"{"tracking": "12345678901234567890.12", "a": "\"12345678901234567890.12"}"#,
        ] {
            assert_eq!(found(text), None, "{text}");
        }
    }

    proptest! {
        /// Whatever is let through is read as the very number that was written, and nothing else is refused.
        #[test]
        fn no_number_is_changed_in_silence(sign in "-?", whole in "(0|[1-9][0-9]{0,22})", fraction in "(\\.[0-9]{1,22})?", exponent in "(e[+-]?[0-9]{1,2})?") {
            let number = format!("{sign}{whole}{fraction}{exponent}");
            let read: Json = serde_json::from_str(&number).unwrap();
            let decimal = if read.is_f64() { read.as_f64().unwrap().to_string() } else { read.to_string() };
            let same = [read.to_string(), decimal].iter().all(|text| Decimal::of(text) == Decimal::of(&number));
            prop_assert_eq!(changed(&number, "").is_none(), same, "{} is read as {}", number, read);
        }

        #[test]
        fn the_quick_look_misses_no_run(before in "[a-z]{0,40}", run in "[0-9.]{16,20}", after in "[a-z]{0,40}") {
            let text = format!("{before}{run}{after}");
            prop_assert!(has_long_run(text.as_bytes()));
        }
    }
}
