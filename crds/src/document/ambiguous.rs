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
    let (sign, digits) = match word.strip_prefix(['-', '+']) {
        Some(rest) => (if word.starts_with('-') { "-" } else { "" }, rest),
        None => ("", word),
    };
    let numeral = |c: char| c.is_ascii_digit() || c == '_';
    if !digits.starts_with(|c: char| c.is_ascii_digit()) || !digits.chars().all(numeral) {
        return None;
    }
    let bare = digits.replace('_', "");
    match bare.strip_prefix('0').filter(|rest| !rest.is_empty()) {
        Some(octal) => match i64::from_str_radix(octal, 8) {
            Ok(number) => Some(format!("{sign}{number}")),
            Err(_) => Some(format!("{sign}{}", bare.trim_start_matches('0'))),
        },
        None => digits.contains('_').then(|| format!("{sign}{bare}")),
    }
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
    fn what_everyone_reads_alike_is_left_alone() {
        assert_eq!(
            said("a: true\nb: 10\nc: 0\nd: -3\ne: 0.5\nf: 1e3\ng: 'on'\nh: |\n  no\ni: one_two\nj: 12a\nk: onward\nl: 1_a\n"),
            Vec::<String>::new()
        );
    }
}
