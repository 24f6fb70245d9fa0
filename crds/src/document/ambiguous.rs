//! Words without quotes that kubectl reads by the rules of YAML 1.1: `yes` is true to it, `010` is 8, the key `y` is "true". Everyone
//! else reads texts and tens. A document must mean the same on a laptop and on a cluster, so these are refused.

use super::structure::MAX_MISTAKES;
use crate::mistake::Mistake;
use granit_parser::{Event, Parser, ScalarStyle};

/// Of a text that has been read: what cannot be read is somebody else's mistake to tell.
pub(super) fn check(text: &str) -> Vec<Mistake> {
    let plain = Parser::new_from_str(text).map_while(Result::ok).filter_map(|(event, span)| match event {
        Event::Scalar(word, ScalarStyle::Plain, _, None) => Some((word, span.start.line())),
        _ => None,
    });
    let mistakes = plain.filter_map(|(word, line)| {
        let meant = meant_by_kubectl(&word)?;
        Some(Mistake::new("", format!("kubectl reads {word} as {meant}: write \"{word}\" in quotes, or {meant}")).on_line(line))
    });
    mistakes.take(MAX_MISTAKES).collect()
}

fn meant_by_kubectl(word: &str) -> Option<String> {
    match word {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Some("true".into()),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Some("false".into()),
        _ => {}
    }
    let unsigned = word.strip_prefix(['-', '+']).unwrap_or(word);
    // Numbers of everyone else have none of these.
    let octal = unsigned.len() > 1 && unsigned.starts_with('0') && unsigned.chars().all(|c| c.is_ascii_digit());
    let only_kubectl = word.contains('_') || octal || ["0X", "0O", "0B"].iter().any(|prefix| unsigned.starts_with(prefix));
    only_kubectl.then(|| number_to_kubectl(word)).flatten()
}

/// Go's reading, once every `_` is gone: a whole number with the base that its prefix says, else one with a fraction.
fn number_to_kubectl(word: &str) -> Option<String> {
    let begins = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    if !begins(word) && !word.starts_with(['-', '+']) && !word.strip_prefix('.').is_some_and(begins) {
        return None;
    }
    let plain = word.replace('_', "");
    let unsigned = plain.strip_prefix(['-', '+']).unwrap_or(&plain);
    let sign = if plain.starts_with('-') { "-" } else { "" };
    let (digits, radix) = match unsigned.get(..2) {
        Some("0x" | "0X") => (&unsigned[2..], 16),
        Some("0o" | "0O") => (&unsigned[2..], 8),
        Some("0b" | "0B") => (&unsigned[2..], 2),
        _ if unsigned.starts_with('0') => (unsigned, 8),
        _ => (unsigned, 10),
    };
    if digits.starts_with(['-', '+']) {
        return None;
    }
    let whole = format!("{sign}{digits}");
    let whole = i64::from_str_radix(&whole, radix).map(i128::from).or_else(|_| u64::from_str_radix(&whole, radix).map(i128::from));
    if let Ok(number) = whole {
        return Some(number.to_string());
    }
    // Words like infinity are numbers to Rust alone.
    let fraction = plain.chars().all(|c| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E'));
    let number = plain.parse::<f64>().ok().filter(|number| fraction && number.is_finite())?;
    Some(number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Vec<String> {
        check(text).iter().map(Mistake::to_string).collect()
    }

    #[test]
    fn a_plain_word_that_kubectl_takes_for_something_else_is_refused_with_its_line() {
        let said = said("a: yes\nb: \"yes\"\nc:\n- 010\n- n: 1\n- 1_000\n- off # comment\n");
        assert_eq!(
            said,
            [
                "line 1: kubectl reads yes as true: write \"yes\" in quotes, or true",
                "line 4: kubectl reads 010 as 8: write \"010\" in quotes, or 8",
                "line 5: kubectl reads n as false: write \"n\" in quotes, or false",
                "line 6: kubectl reads 1_000 as 1000: write \"1_000\" in quotes, or 1000",
                "line 7: kubectl reads off as false: write \"off\" in quotes, or false",
            ]
        );
    }

    #[test]
    fn numbers_that_only_kubectl_sees_are_refused_with_what_it_sees() {
        let read = [
            ("1_0.5", "10.5"),
            ("685_230.15", "685230.15"),
            ("1_0.", "10"),
            ("1_0e3", "10000"),
            ("+_0.5", "0.5"),
            (".5_0", "0.5"),
            ("0x_1F", "31"),
            ("0x1F_FF", "8191"),
            ("0X1F", "31"),
            ("0b1_1", "3"),
            ("0B11", "3"),
            ("0O17", "15"),
            ("-0O17", "-15"),
            ("0o1_7", "15"),
            ("-010", "-8"),
            ("-_1", "-1"),
            ("1_", "1"),
            ("00", "0"),
            ("08", "8"),
            ("0_8", "8"),
        ];
        for (word, meant) in read {
            assert_eq!(
                said(&format!("a: {word}\n")),
                [format!("line 1: kubectl reads {word} as {meant}: write \"{word}\" in quotes, or {meant}")]
            );
        }
    }

    #[test]
    fn what_everyone_reads_alike_is_left_alone() {
        assert_eq!(
            said("a: true\nb: 10\nc: 0\nd: -3\ne: 0.5\nf: 1e3\ng: 'on'\nh: |\n  no\ni: one_two\nj: 12a\nk: onward\nl: 1_a\n"),
            Vec::<String>::new()
        );
        for word in
            ["0x1F", "+0x1f", "-0b11", "0o17", "010.5", "1.", ".5", "_1", "._5", "-_", "0x_G", "0x-1_", "0b_", "1_0:20", "2020_01-01"]
        {
            assert_eq!(said(&format!("a: {word}\n")), Vec::<String>::new(), "{word}");
        }
    }
}
