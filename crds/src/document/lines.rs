//! On which line of a text a place lies, so that a person finds `spec.events[1].rules[0].rule` without counting entries.

use super::KIND;
use crate::mistake::{Mistake, at, below};
use granit_parser::{Event, Parser};
use std::collections::HashMap;

/// Notes for each mistake its line: that of its place, or of what lies around it where the place itself is what is missing.
pub fn note(text: &str, mistakes: &mut [Mistake]) {
    if mistakes.iter().all(|mistake| mistake.line.is_some() || mistake.place.is_empty()) {
        return;
    }
    let lines = of_the_pipeline(text);
    for mistake in mistakes.iter_mut().filter(|mistake| mistake.line.is_none()) {
        let around = std::iter::successors(Some(mistake.place.as_str()), |place| place.rfind(['.', '[']).map(|end| &place[..end]));
        mistake.line = around.filter_map(|place| lines.get(place)).next().copied();
    }
}

/// A map or a list that the parser is in.
enum Open {
    Map { place: String, key: Option<String> },
    List { place: String, next: usize },
}

/// The lines of all places of the one document that is a pipeline, else of the first.
fn of_the_pipeline(text: &str) -> HashMap<String, usize> {
    let mut first = None;
    let mut walk = Walk::default();
    for (event, span) in Parser::new_from_str(text).map_while(Result::ok) {
        let line = span.start.line();
        match event {
            Event::DocumentEnd => {
                let done = std::mem::take(&mut walk);
                if done.is_pipeline {
                    return done.lines;
                }
                first.get_or_insert(done.lines);
            }
            Event::Scalar(text, ..) => walk.scalar(&text, line),
            Event::Alias(_) => drop(walk.node(line)),
            Event::MappingStart(..) => {
                let place = walk.node(line);
                walk.open.push(Open::Map { place, key: None });
            }
            Event::SequenceStart(..) => {
                let place = walk.node(line);
                walk.open.push(Open::List { place, next: 0 });
            }
            Event::MappingEnd | Event::SequenceEnd => drop(walk.open.pop()),
            _ => {}
        }
    }
    first.unwrap_or_default()
}

#[derive(Default)]
struct Walk {
    open: Vec<Open>,
    lines: HashMap<String, usize>,
    is_pipeline: bool,
}

impl Walk {
    fn scalar(&mut self, text: &str, line: usize) {
        if let Some(Open::Map { place, key: key @ None }) = self.open.last_mut() {
            self.lines.insert(below(place, text), line);
            *key = Some(text.to_owned());
            return;
        }
        self.is_pipeline |= self.node(line) == "kind" && text == KIND;
    }

    /// The place of a value that begins now.
    fn node(&mut self, line: usize) -> String {
        match self.open.last_mut() {
            None => String::new(),
            Some(Open::Map { place, key }) => below(place, &key.take().unwrap_or_default()),
            Some(Open::List { place, next }) => {
                let place = at(place, *next);
                *next += 1;
                self.lines.insert(place.clone(), line);
                place
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "kind: Secret\nmetadata: {name: db}\n---\napiVersion: v1\nkind: OrderPipeline\nspec:\n  topics:\n  - name: a\n    \
                        partitions: 1\n  - {name: b}\n  events:\n  - set:\n      'my notes': |\n        data.x\n      other: &x data.y\n      last: *x\n";

    fn line(place: &str) -> Option<usize> {
        let mut mistakes = [Mistake::new(place, "")];
        note(TEXT, &mut mistakes);
        mistakes[0].line
    }

    #[test]
    fn a_place_is_found_in_the_document_that_is_a_pipeline() {
        for (place, expected) in [
            ("spec", 6),
            ("spec.topics", 7),
            ("spec.topics[0]", 8),
            ("spec.topics[0].partitions", 9),
            ("spec.topics[1].name", 10),
            ("spec.events[0].set[\"my notes\"]", 13),
            ("spec.events[0].set.last", 16),
        ] {
            assert_eq!(line(place), Some(expected), "{place}");
        }
    }

    #[test]
    fn what_is_missing_has_the_line_of_what_it_is_missing_in() {
        assert_eq!(line("spec.topics[1].retention"), Some(10));
        assert_eq!(line("spec.events[0].schema.properties[\"a.b\"].type"), Some(12));
        assert_eq!(line("metadata.name"), None, "that of the other document is not ours");
        assert_eq!(line(""), None);
    }
}
