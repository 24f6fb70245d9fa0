//! What a document means, where the schema cannot say it: names that nothing has, expressions that do not run, parts that contradict
//! each other. Every mistake at once, each with its place.

mod addresses;
mod backends;
mod events;
mod expressions;
mod pii;
mod roles;
mod store;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
mod topics;
mod unsupported;
mod writers;

use super::*;
use crate::document::{self, Purpose};
use crate::mistake::Mistake;
use std::time::Duration;

/// Every mistake of a document: its structure as the API server sees it, and what it means.
pub fn check(pipeline: &OrderPipeline) -> Vec<Mistake> {
    match serde_json::to_value(pipeline) {
        Ok(object) => document::accept(&object).err().unwrap_or_default(),
        Err(error) => vec![Mistake::new("", error.to_string())],
    }
}

/// Names of objects, labels and consumer groups are made of the pipeline's name and a suffix; 63 is the longest that Kubernetes takes.
const LONGEST_NAME: usize = 40;

/// Of a document whose structure is as the schema wants it, or of what is left of one.
pub(crate) fn check_meaning(pipeline: &OrderPipeline, purpose: Purpose) -> Vec<Mistake> {
    let spec = &pipeline.spec;
    let mut found = Found::default();
    name(pipeline.metadata.name.as_deref().unwrap_or_default(), &mut found);
    backends::check(spec, &mut found);
    topics::check(spec, &mut found);
    events::check(spec, &mut found);
    pii::check(spec, &mut found);
    roles::check(spec, &mut found);
    addresses::check(spec, &mut found);
    store::check(pipeline, &mut found);
    writers::check(spec, &mut found);
    unsupported::check(spec, purpose, &mut found);
    found.0
}

/// What is wrong with a text that would stand at this place of a document, `[]` for an entry of a list, for whoever sets it in another
/// way. What is wrong with it beside other places is not looked for.
pub fn misfit(place: &str, text: &str) -> Option<String> {
    let mut found = Found(document::misfit(place, text));
    match place {
        _ if !found.0.is_empty() => {}
        "spec.backends[].kafka.bootstrapServers" => backends::bootstrap_servers(place, text, &mut found),
        "spec.worker.batch.pollInterval" => roles::poll_interval(&text.into(), &mut found),
        "spec.telemetry.otlp.endpoint" => addresses::collector(text, &mut found),
        _ => {}
    }
    found.0.into_iter().next().map(|mistake| mistake.message)
}

#[derive(Default)]
struct Found(Vec<Mistake>);

impl Found {
    fn add(&mut self, place: impl Into<String>, message: impl Into<String>) {
        self.0.push(Mistake::new(place, message));
    }

    fn knows(&self, place: &str) -> bool {
        self.0.iter().any(|mistake| mistake.place == place)
    }

    fn duration(&mut self, place: &str, text: &GoDuration, longest: Duration) {
        match text.parse() {
            Some(duration) if duration.is_zero() => self.add(place, "must be longer than 0"),
            Some(duration) if duration > longest => self.add(place, format!("must be at most {}s, but is {text}", longest.as_secs())),
            Some(_) => {}
            None => self.add(place, format!("{text} is no duration that can be waited for")),
        }
    }
}

/// The Service's name must begin with a letter, so the pipeline's must.
fn name(name: &str, found: &mut Found) {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() {
        // The structure has said that it is required; a name that is empty is none.
        found.add("metadata.name", "must not be empty");
    } else if !name.chars().all(allowed) || !name.starts_with(|c: char| c.is_ascii_lowercase()) || name.ends_with('-') {
        let message = "may hold small letters, digits and dashes, begins with a letter and ends with a letter or digit: \
                       Deployments and Services are named after it";
        found.add("metadata.name", message);
    } else if name.len() > LONGEST_NAME {
        let message =
            format!("has {} characters, at most {LONGEST_NAME} are allowed: objects are named after it with a suffix", name.len());
        found.add("metadata.name", message);
    }
}

/// A name that should be that of something in a list of the document.
fn no_such<'a>(what: &str, name: &str, list: &str, known: impl Iterator<Item = &'a str>) -> String {
    let hint = document::nearest::nearest(name, known).map(|near| format!(": did you mean {near}?"));
    format!("there is no {what} {name} in {list}{}", hint.unwrap_or_default())
}

/// The first of two names that are the same once `alike` has been applied, for every name that has one before it.
fn lookalikes<'a>(names: impl Iterator<Item = &'a str>, alike: impl Fn(&str) -> String) -> Vec<(usize, &'a str)> {
    let names: Vec<(&str, String)> = names.map(|name| (name, alike(name))).collect();
    let twin = |index: usize| names[..index].iter().find(|(name, alike)| *alike == names[index].1 && *name != names[index].0);
    (0..names.len()).filter_map(|index| twin(index).map(|(first, _)| (index, *first))).collect()
}
