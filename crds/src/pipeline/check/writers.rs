//! What the pipeline itself writes: the API's events and the generator's, and what is emitted.

use super::Found;
use super::expressions::Expressions;
use crate::mistake::{at, below};
use crate::pipeline::*;
use crate::runtime_config::EventConfig;

struct Written {
    index: usize,
    by_api: bool,
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
        is_read(spec, event, found);
        if event.by_api {
            named_as_the_api_does(spec, event, found);
        }
    }
    not_among_dead_letters(spec, found);
}

/// Whatever lies there is taken for a dead letter.
fn not_among_dead_letters(spec: &OrderPipelineSpec, found: &mut Found) {
    for (index, event) in spec.events.iter().enumerate() {
        for (n, emit) in event.emit.iter().enumerate() {
            let keeps_them = |topic: &&Topic| topic.dead_letter_topic(spec).is_some_and(|dead| *dead == *emit.topic);
            if let Some(owner) = spec.topics.iter().find(keeps_them) {
                let place = below(&at(&below(&at("spec.events", index), "emit"), n), "topic");
                found.add(place, format!("{} holds the dead letters of {}: emit to another topic", emit.topic, owner.name));
            }
        }
    }
}

/// Of what the API and the generator write it is known which attributes it has.
fn is_read(spec: &OrderPipelineSpec, event: &Written, found: &mut Found) {
    let place = below(&at("spec.events", event.index), "when");
    let attributes: &[_] = if event.by_api { &[("requestId", "example"), ("principal", "example")] } else { &[("source", "generator")] };
    if let Some(why) = Expressions::new("", &spec.events[event.index], &event.config).passed_over(attributes)
        && !found.knows(&place)
    {
        let writer = if event.by_api { "API" } else { "generator" };
        found.add(place, format!("{why} for the event's own example when the {writer} writes it, so that nobody would read it"));
    }
}

/// The API calls an order by the orderId of its data: in its answers, in the paths of its requests, and where a client names none.
fn named_as_the_api_does(spec: &OrderPipelineSpec, event: &Written, found: &mut Found) {
    let place = at("spec.events", event.index);
    if event.config.order.id.trim() != "data.orderId" {
        let (name, id, place) = (&event.config.name, &event.config.order.id, below(&below(&place, "order"), "id"));
        if !found.knows(&place) {
            found.add(place, format!("must be data.orderId, but is {id}: {name} is written by the API, which calls an order by that"));
        }
    } else if let Some(schema) = &spec.events[event.index].schema
        && schema.0.get("additionalProperties") == Some(&serde_json::Value::Bool(false))
        && schema.0.pointer("/properties/orderId").is_none()
    {
        let message = "has no room for orderId, which the API puts there where a client names no order: add it to properties";
        found.add(below(&place, "schema"), message);
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
    let events = spec.events.iter().enumerate().filter(|(_, event)| is_written(spec, event));
    let written = |(index, event)| Written { index, by_api: by_api(spec, event), config: spec.event_config(index, event) };
    events.map(written).collect()
}

/// Whether the pipeline itself writes it.
pub(super) fn is_written(spec: &OrderPipelineSpec, event: &Event) -> bool {
    by_api(spec, event) || spec.generator_publishes().is_some_and(|name| event.name == *name.as_str())
}

fn by_api(spec: &OrderPipelineSpec, event: &Event) -> bool {
    [spec.api_creates(), spec.api_updates()].into_iter().flatten().any(|name| event.name == *name.as_str())
}
