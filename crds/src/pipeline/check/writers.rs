//! What the pipeline itself writes: the API's events and the generator's.

use super::Found;
use crate::mistake::{at, below};
use crate::pipeline::*;
use crate::runtime_config::EventConfig;

struct Written {
    index: usize,
    config: EventConfig,
}

pub(super) fn check(spec: &OrderPipelineSpec, found: &mut Found) {
    let written = written(spec);
    for (n, event) in written.iter().enumerate() {
        let Some(topic) = event.config.topics.first() else { continue };
        if let Some(owner) = spec.topics.iter().find(|t| t.dead_letter_topic(spec).as_ref() == Some(topic) && t.name != *topic.as_str()) {
            let place = below(&at("spec.events", event.index), "topics");
            found.add(place, format!("{} would be written to {topic}, which holds the dead letters of {}", event.config.name, owner.name));
        }
        one_key(topic, event, &written[..n], found);
    }
}

/// A key is first in, first out on its topic. Were two events of an order to lie under two keys, the later could overtake the earlier.
fn one_key(topic: &str, event: &Written, before: &[Written], found: &mut Found) {
    let spaceless = |key: &str| key.split_whitespace().collect::<String>();
    let other = before.iter().find(|other| {
        other.config.topics.first().is_some_and(|t| t == topic) && spaceless(&other.config.key) != spaceless(&event.config.key)
    });
    if let Some(other) = other {
        let message = format!(
            "{} and {} are both written to {topic} by this pipeline, so their keys must be the same, but are {} and {}: \
             otherwise a change could overtake the order that it changes",
            event.config.name, other.config.name, event.config.key, other.config.key
        );
        found.add(below(&at("spec.events", event.index), "key"), message);
    }
}

/// In the order of the document, each once.
fn written(spec: &OrderPipelineSpec) -> Vec<Written> {
    let names = [spec.api_creates(), spec.api_updates(), spec.generator_publishes()];
    let events = spec.events.iter().enumerate().filter(|(_, event)| names.iter().flatten().any(|name| event.name == *name.as_str()));
    events.map(|(index, event)| Written { index, config: spec.event_config(index, event) }).collect()
}
