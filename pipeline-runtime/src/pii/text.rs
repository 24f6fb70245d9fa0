//! JSON that stays the text that it is: where fields stand in it, and the encrypted values in an answer.

use super::keys::Keyring;
use super::value::{self, PREFIX};
use crds::pipeline::Step;
use std::borrow::Cow;
use std::ops::Range;

/// What is shown to whoever may not read a value, as JSON.
const MASKED: &str = "\"***\"";

/// A field that was found: which of those asked for, and where its value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub field: usize,
    pub at: Range<usize>,
}

/// A path, and how many steps of it one before it has too.
pub(super) struct Path<'a> {
    pub steps: Vec<Cow<'a, Step>>,
    pub shared: Option<usize>,
}

/// The values at these paths, in the order of the text, as [`crds::pipeline::FieldPath::each`] finds them in the same data. The text must
/// be JSON; of what is none, less is found.
pub(super) fn find(text: &str, paths: &[Path<'_>]) -> Vec<Found> {
    let mut scan = Scan { bytes: text.as_bytes(), at: 0, paths, found: Vec::new() };
    scan.value(&(0..paths.len()).map(|path| (path, 0)).collect::<Vec<_>>());
    scan.found
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    paths: &'a [Path<'a>],
    found: Vec<Found>,
}

impl Scan<'_> {
    /// Passes a value. `open`: the paths that lead here, and how far each has come.
    fn value(&mut self, open: &[(usize, usize)]) {
        self.spaces();
        let start = self.at;
        let Some(first) = self.bytes.get(start).copied() else { return };
        if open.is_empty() {
            return self.skip();
        }
        let next = |path: &(usize, usize)| self.paths[path.0].steps.get(path.1).map(|step| &**step);
        let (mut further, mut here) = (Vec::new(), Vec::new());
        for path in open {
            match (next(path), first) {
                (Some(Step::Field(_)), b'{') | (Some(Step::Items), b'[') => further.push(*path),
                // Another path has come the same way, and what stands here is its.
                (Some(_), _) if self.paths[path.0].shared.is_some_and(|shared| path.1 <= shared) => {}
                _ => here.push(path.0),
            }
        }
        match first {
            b'{' if !further.is_empty() => self.object(&further),
            b'[' if !further.is_empty() => self.list(&further),
            _ => self.skip(),
        }
        if first != b'n' {
            let at = start..self.at;
            self.found.extend(here.into_iter().map(|field| Found { field, at: at.clone() }));
        }
    }

    fn object(&mut self, open: &[(usize, usize)]) {
        self.at += 1;
        loop {
            self.spaces();
            if self.bytes.get(self.at) != Some(&b'"') {
                self.at += 1;
                return;
            }
            let start = self.at;
            self.string();
            let name = &self.bytes[start..self.at];
            let is = |path: &&(usize, usize)| matches!(self.paths[path.0].steps.get(path.1).map(|step| &**step), Some(Step::Field(field)) if is_name(name, field));
            let below: Vec<(usize, usize)> = open.iter().filter(is).map(|(path, come)| (*path, come + 1)).collect();
            self.spaces();
            self.at += 1; // the colon
            self.value(&below);
            self.spaces();
            self.at += 1; // a comma or the end
            if self.bytes.get(self.at - 1) != Some(&b',') {
                return;
            }
        }
    }

    fn list(&mut self, open: &[(usize, usize)]) {
        let below: Vec<(usize, usize)> = open.iter().map(|(path, come)| (*path, come + 1)).collect();
        self.at += 1;
        self.spaces();
        if self.bytes.get(self.at) == Some(&b']') {
            self.at += 1;
            return;
        }
        loop {
            self.value(&below);
            self.spaces();
            self.at += 1;
            if self.bytes.get(self.at - 1) != Some(&b',') {
                return;
            }
        }
    }

    /// Passes a value that nobody asked for.
    fn skip(&mut self) {
        self.spaces();
        let mut depth = 0usize;
        while let Some(byte) = self.bytes.get(self.at) {
            match byte {
                b'"' => {
                    self.string();
                    if depth == 0 {
                        return;
                    }
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' if depth <= 1 => {
                    self.at += depth;
                    return;
                }
                b'}' | b']' => depth -= 1,
                b',' | b' ' | b'\n' | b'\t' | b'\r' if depth == 0 => return,
                _ => {}
            }
            self.at += 1;
        }
    }

    fn string(&mut self) {
        self.at += 1;
        while let Some(byte) = self.bytes.get(self.at) {
            self.at += match byte {
                b'"' => break,
                b'\\' => 2,
                _ => 1,
            };
        }
        self.at = (self.at + 1).min(self.bytes.len());
    }

    fn spaces(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\n' | b'\t' | b'\r')) {
            self.at += 1;
        }
    }
}

/// Whether a key in its quotes is this name. Names of paths need no escapes, but who writes a message may use them.
fn is_name(quoted: &[u8], name: &str) -> bool {
    match quoted {
        [b'"', plain @ .., b'"'] if !plain.contains(&b'\\') => plain == name.as_bytes(),
        escaped => serde_json::from_slice::<String>(escaped).is_ok_and(|key| key == name),
    }
}

impl Keyring {
    /// An answer, which is JSON, with its encrypted values as what they say, or masked. One that does not open stays masked.
    /// None: there are none in it.
    pub fn reveal(&self, json: &str, may_read: bool) -> Option<String> {
        let start = format!("\"{PREFIX}");
        let mut shown = String::new();
        let mut from = 0;
        for (at, _) in json.match_indices(&start) {
            let Some(value) = value_at(json, at) else { continue };
            let said = may_read.then(|| self.said(value)).flatten();
            shown.push_str(&json[from..at]);
            shown.push_str(said.as_deref().unwrap_or(MASKED));
            from = at + value.len() + 2;
        }
        if from == 0 {
            return None;
        }
        shown.push_str(&json[from..]);
        Some(shown)
    }

    /// The JSON that an encrypted value is.
    fn said(&self, value: &str) -> Option<String> {
        let (plain, _) = self.decrypt(value)?.ok()?;
        String::from_utf8(plain).ok()
    }
}

/// The encrypted value whose quote this is. Within another text the quote has a backslash before it, and a key has a colon behind it.
fn value_at(json: &str, quote: usize) -> Option<&str> {
    let escapes = json.as_bytes()[..quote].iter().rev().take_while(|byte| **byte == b'\\').count();
    let rest = &json[quote + 1..];
    let value = &rest[..rest.find('"')?];
    let is_key = rest[value.len() + 1..].trim_start().starts_with(':');
    (escapes.is_multiple_of(2) && !is_key && value::is_one(value)).then_some(value)
}
