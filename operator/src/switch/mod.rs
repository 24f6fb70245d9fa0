//! Moves running pipelines from one message broker to another: for every pipeline with two or more backends a task of its own, never in
//! the reconcile queue, runs `crds::switch::step` against the API server. What is decided is decided there; here it is read and written.
//!
//! - `board`: which drivers there are; two watches for all of them, of which each driver hears what concerns its own pipeline.
//! - `driver`: one pipeline: waits for something to happen, then takes the steps that there are to take.
//! - `state_map`: the ConfigMap that holds the state: read, made, rebuilt, replaced under its resourceVersion.
//! - `members`: who has to answer, and what they have said.
//! - `asked`: what the document, its annotations and the members ask for.
//! - `shown`: how it is shown in status. Pure. `status`: reads the pipeline, and writes that if it differs.
//! - `told`: the events that a step is worth. Pure.

mod asked;
mod board;
mod driver;
mod members;
mod shown;
mod state_map;
mod status;
mod told;

pub use board::{Board, Switches};
pub use status::SWITCHING;

use crds::runtime_config::RuntimeConfig;
use crds::switch::names::{ABANDON_ANNOTATION, REQUEST_ANNOTATION};
use serde_json::Value as Json;

/// What a driver has to know of its pipeline, as the last reconcile found it.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// The last document that could be brought about.
    pub config: RuntimeConfig,
    /// Why no switch may begin, in a sentence.
    pub obstacle: Option<String>,
    pub annotations: Annotations,
    /// Status held a mirror of the state: a driver is woken when somebody has removed it.
    pub mirrored: bool,
}

/// What people have asked for beside the document.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Annotations {
    pub switch: Option<String>,
    pub abandon: Option<String>,
}

impl Annotations {
    /// Of a pipeline as the API server gives it.
    pub fn of(document: &Json) -> Annotations {
        let annotation = |name: &str| Some(document["metadata"]["annotations"].get(name)?.as_str()?.to_owned());
        Annotations { switch: annotation(REQUEST_ANNOTATION), abandon: annotation(ABANDON_ANNOTATION) }
    }
}
