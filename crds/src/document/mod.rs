//! From text to a pipeline: YAML as the API server reads it, then every mistake of the document at once.
//! Whoever starts from a file uses `read`; whoever has the object already (the operator) uses `accept`.

mod ambiguous;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod examples;
mod lines;
pub(crate) mod nearest;
mod structure;
pub(crate) mod wording;
mod yaml;

pub use lines::note as note_lines;
pub use yaml::MAX_BYTES;

use crate::mistake::Mistake;
use crate::pipeline::{OrderPipeline, check_meaning};
use serde_json::Value as Json;
use structure::MAX_MISTAKES;

const API_VERSION: &str = "orderpipeline.dev/v1alpha1";
const KIND: &str = "OrderPipeline";

/// What a document is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It will run on the backend that it names.
    Deploy,
    /// It will run on the embedded broker, in the place of every backend: what its backends are does not matter.
    Embedded,
}

/// The one OrderPipeline in a YAML text, or every mistake that was found.
pub fn read(text: &str) -> Result<OrderPipeline, Vec<Mistake>> {
    read_for(text, Purpose::Deploy)
}

pub fn read_for(text: &str, purpose: Purpose) -> Result<OrderPipeline, Vec<Mistake>> {
    let documents = yaml::parse(text).map_err(|mistake| vec![mistake])?;
    let object = the_pipeline(documents).map_err(|mistake| vec![mistake])?;
    let mut mistakes = ambiguous::check(text);
    match accept_for(&object, purpose) {
        Ok(pipeline) if mistakes.is_empty() => Ok(pipeline),
        accepted => {
            mistakes.extend(accepted.err().unwrap_or_default());
            mistakes.truncate(MAX_MISTAKES);
            note_lines(text, &mut mistakes);
            Err(mistakes)
        }
    }
}

/// The pipeline that a JSON object is, or every mistake in it.
pub fn accept(object: &Json) -> Result<OrderPipeline, Vec<Mistake>> {
    accept_for(object, Purpose::Deploy)
}

pub fn accept_for(object: &Json, purpose: Purpose) -> Result<OrderPipeline, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let cleaned = structure::check(object, &mut mistakes);
    match serde_path_to_error::deserialize::<_, OrderPipeline>(&cleaned.object) {
        Ok(pipeline) => {
            let mut found = check_meaning(&pipeline, purpose);
            // What is said of a field that is wrong in itself, or of what stands in its place, is a mere consequence.
            found
                .retain(|m| !mistakes.iter().any(|known| known.place == m.place) && !cleaned.replaced.iter().any(|p| lies_in(&m.place, p)));
            mistakes.extend(found);
            mistakes.truncate(MAX_MISTAKES);
            if mistakes.is_empty() { Ok(pipeline) } else { Err(mistakes) }
        }
        // What is left of a broken document cannot always be read; of a sound one it can, or schema and types differ.
        Err(error) if mistakes.is_empty() => Err(vec![Mistake::new(error.path().to_string(), error.inner().to_string())]),
        Err(_) => Err(mistakes),
    }
}

/// What the schema does not allow of a text at this place, such as `spec.topics[].name`.
pub(crate) fn misfit(place: &str, text: &str) -> Vec<Mistake> {
    structure::misfit(place, &Json::from(text))
}

/// Whether a place is another one or lies below it.
fn lies_in(place: &str, outer: &str) -> bool {
    place.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// A file may hold other objects beside the pipeline, but not a second pipeline: nobody could say which one is meant.
fn the_pipeline(documents: Vec<Json>) -> Result<Json, Mistake> {
    let kind = |d: &Json| d.get("kind").and_then(Json::as_str).unwrap_or("something without a kind").to_owned();
    let others: Vec<String> = documents.iter().map(kind).collect();
    if let [only] = &documents[..]
        && (only.get("kind").is_none() || !only.is_object())
    {
        return Ok(only.clone());
    }
    let mut pipelines = documents.into_iter().filter(|d| kind(d) == KIND);
    match (pipelines.next(), pipelines.count()) {
        (Some(pipeline), 0) => Ok(pipeline),
        (Some(_), more) => {
            Err(Mistake::new("", format!("there are {} OrderPipelines in this file: put each into a file of its own", more + 1)))
        }
        (None, _) if others.is_empty() => Err(Mistake::new("", "the file is empty: there is no OrderPipeline in it")),
        (None, _) => Err(Mistake::new(
            "",
            format!("there is no OrderPipeline in this file (apiVersion: {API_VERSION}, kind: {KIND}), only {}", others.join(", ")),
        )),
    }
}
