use super::expressions::Expressions;
use super::{Found, lookalikes, no_such};
use crate::expression::{self, Demand, Scope};
use crate::mistake::{at, below};
use crate::pipeline::*;
use crate::runtime_config::EventConfig;
use std::collections::BTreeMap;

/// Fields of orders are keys of JSON objects and parts of paths.
const LONGEST_FIELD: usize = 63;

pub(super) fn check(spec: &OrderPipelineSpec, found: &mut Found) {
    let configs: Vec<EventConfig> = spec.events.iter().enumerate().map(|(index, event)| spec.event_config(index, event)).collect();
    for (index, (event, config)) in spec.events.iter().zip(&configs).enumerate() {
        let place = at("spec.events", index);
        topics(spec, &place, event, config, found);
        never_taken(&place, config, &configs[..index], found);
        fields(&place, event, config, found);
        rule_fields(&place, event, config, found);
        Expressions::new(&place, event, config).check(found);
        for (emit, place) in event.emit.iter().zip((0..).map(|n| at(&below(&place, "emit"), n))) {
            if spec.topic(&emit.topic).is_none() {
                let message = no_such("topic", &emit.topic, "spec.topics", spec.topics.iter().map(|t| t.name.as_str()));
                found.add(below(&place, "topic"), message);
            }
        }
        emissions_fit(spec, &place, event, config, found);
        emissions_hold(spec, &place, index, &configs, found);
        emits_itself(&place, index, &configs, found);
    }
    set_and_append(spec, found);
    for (index, first) in lookalikes(spec.events.iter().map(|e| e.name.as_str()), str::to_ascii_lowercase) {
        found.add(format!("spec.events[{index}].name"), format!("differs from {first} only in case"));
    }
}

fn topics(spec: &OrderPipelineSpec, place: &str, event: &Event, config: &EventConfig, found: &mut Found) {
    let place = below(place, "topics");
    for (index, topic) in event.topics.iter().enumerate() {
        if spec.topic(topic).is_none() {
            let message = no_such("topic", topic, "spec.topics", spec.topics.iter().map(|t| t.name.as_str()));
            found.add(at(&place, index), message);
        } else if event.topics[..index].contains(topic) {
            found.add(at(&place, index), format!("{topic} stands here twice: remove one of the two"));
        }
    }
    // Of a document without topics that is said already.
    if config.topics.is_empty() && !spec.topics.is_empty() {
        let names: Vec<&str> = spec.topics.iter().map(|t| t.name.as_str()).collect();
        found
            .add(place, format!("is required where there is more than one topic: name those of {} that it is read from", names.join(", ")));
    }
}

/// The first event whose `when` holds is taken: one behind an equal `when`, or behind `true`, never is. Nor is one that wants the type by
/// which an event before it is told.
fn never_taken(place: &str, config: &EventConfig, before: &[EventConfig], found: &mut Found) {
    let when = config.when.as_deref().map(squeezed);
    // An event without a condition is told by its type: only one that takes everything hides it.
    let place = if when.is_some() { below(place, "when") } else { place.to_owned() };
    if when.as_deref() == Some("false") {
        found.add(place, "never holds: remove the event, or say which messages it is");
        return;
    }
    let compiled = config.when.as_ref().and_then(|when| expression::compile(when, &Scope::default()).ok());
    let demands = compiled.map(|when| when.demands()).unwrap_or_default();
    let hides = |earlier: &&EventConfig, topic: &String| {
        let of_its_type = |demand: &Demand| demand.path == "attributes.type" && demand.text == earlier.name;
        earlier.topics.contains(topic)
            && match earlier.when.as_deref().map(squeezed) {
                Some(earlier) => Some(&earlier) == when.as_ref() || earlier == "true",
                None => demands.iter().any(of_its_type),
            }
    };
    let hiding = |topic: &String| before.iter().find(|earlier| hides(earlier, topic));
    if !config.topics.is_empty()
        && let Some(first) = config.topics.first().and_then(hiding)
        && config.topics.iter().all(|topic| hiding(topic).is_some())
    {
        let message = format!(
            "is never reached: {} stands before it, and takes every message that this event could be; \
             the first event whose `when` holds is taken, so put what is special before what takes the rest",
            first.name
        );
        found.add(place, message);
    }
}

fn squeezed(expression: &str) -> String {
    expression.split_whitespace().collect::<Vec<_>>().join(" ").replace('"', "'")
}

fn fields(place: &str, event: &Event, config: &EventConfig, found: &mut Found) {
    for (list, names) in [("set", event.set.keys()), ("append", event.append.keys())] {
        for name in names {
            let place = below(&below(place, list), name);
            let plain = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
                && name.len() <= LONGEST_FIELD;
            if !plain {
                found.add(place, format!("the name of a field holds letters, digits and underscores, at most {LONGEST_FIELD}"));
            } else if FIELDS_OF_THE_STORE.contains(&name.as_str()) {
                found.add(place, format!("{name} is kept by the store and cannot be changed by an event"));
            } else if list == "append" && FIELDS_OF_EVERY_ORDER.contains(&name.as_str()) {
                found.add(place, format!("{name} is a field of every order and no list: append to another name"));
            }
        }
    }
    let order = event.order.clone().unwrap_or_default();
    let columns = [
        ("tenantId", "tenant", order.tenant),
        ("customerId", "customer", order.customer),
        ("items", "items", order.items),
        ("totalAmount", "total", order.total),
        ("status", "status", order.status),
        ("createdAt", "createdAt", order.created_at),
    ];
    for (name, in_order, expression) in columns {
        if expression.is_some() && event.set.contains_key(name) {
            found.add(below(&below(place, "set"), name), format!("order.{in_order} says already what {name} is: remove one of the two"));
        }
    }
    if config.effect == Effect::None && !(event.set.is_empty() && event.append.is_empty()) {
        found.add(below(place, "effect"), "is None, so that nothing is set or appended: remove set and append, or choose another effect");
    }
}

/// What an answer names as the field to be mended.
fn rule_fields(place: &str, event: &Event, config: &EventConfig, found: &mut Found) {
    for (index, rule) in event.rules.iter().enumerate() {
        let Some(field) = &rule.field else { continue };
        let place = below(&at(&below(place, "rules"), index), "field");
        if !is_path(field) {
            found.add(place, format!("must be the path of a field such as data.items, but is {:?}", field.as_str()));
        } else if let Some(message) = lacks(event, config, field) {
            found.add(place, message);
        }
    }
}

/// That the schema has no such field. `[]` is any item of a list; a name with a dash is no path of an expression, and passes.
fn lacks(event: &Event, config: &EventConfig, field: &str) -> Option<String> {
    let path = field.replace("[]", "[0]");
    if path.contains('-') {
        return None;
    }
    let example = event.example.as_ref().map(|example| &example.0);
    let unknown = expression::compile(&path, &Scope::default()).ok()?.unknown_path(config.schema.as_ref()?, example)?;
    // What a schema that the author did not write does not speak of may be there all the same.
    (unknown.is_slip || event.schema.is_some()).then_some(unknown.message)
}

fn is_path(text: &str) -> bool {
    let first = text.split(['.', '[']).next().unwrap_or_default();
    matches!(first, "data" | "attributes" | "key" | "id") && !text.contains(char::is_whitespace)
}

/// One name cannot be a value for one event and a list for another.
fn set_and_append(spec: &OrderPipelineSpec, found: &mut Found) {
    let mut set: BTreeMap<&str, &Name> = BTreeMap::new();
    for event in &spec.events {
        set.extend(event.set.keys().map(|field| (field.as_str(), &event.name)));
    }
    for (index, event) in spec.events.iter().enumerate() {
        for field in event.append.keys() {
            if let Some(setter) = set.get(field.as_str()) {
                let place = below(&below(&at("spec.events", index), "append"), field);
                found.add(place, format!("{field} cannot be a list here: {setter} sets it to a value"));
            }
        }
    }
}

/// What is emitted as it came can be as large as what came.
fn emissions_fit(spec: &OrderPipelineSpec, place: &str, event: &Event, config: &EventConfig, found: &mut Found) {
    let size = |topic: &Topic| topic.max_message_size.bytes().unwrap_or_default();
    let read = config.topics.iter().filter_map(|topic| spec.topic(topic));
    let Some(largest) = read.max_by_key(|topic| size(topic)) else { return };
    for (index, emit) in event.emit.iter().enumerate().filter(|(_, emit)| emit.data.is_none()) {
        let Some(target) = spec.topic(&emit.topic).filter(|target| size(target) < size(largest)) else { continue };
        let message = format!(
            "{} takes messages up to {}, and what is emitted there as it came may have the {} of {}: raise maxMessageSize of {}, or say \
             with `data` what of the event is emitted",
            target.name, target.max_message_size, largest.max_message_size, largest.name, target.name
        );
        found.add(below(&at(&below(place, "emit"), index), "topic"), message);
    }
}

/// What an event emits on its own example is what the events want that read it.
fn emissions_hold(spec: &OrderPipelineSpec, place: &str, index: usize, all: &[EventConfig], found: &mut Found) {
    let expressions = |index: usize| Expressions::new("", &spec.events[index], &all[index]);
    for (n, emit) in spec.events[index].emit.iter().enumerate() {
        for reader in (0..all.len()).filter(|reader| takes(all, *reader, emit)) {
            if let Some(why) = expressions(index).emits_broken(emit, &expressions(reader)) {
                let (name, topic) = (&all[reader].name, &emit.topic);
                let message = format!("{name} could not take what comes of this event's example on {topic}: {why}");
                found.add(at(&below(place, "emit"), n), message);
            }
        }
    }
}

/// Whether it is certain that what is emitted is this event for whoever reads it: one told by its type, or one that takes all that lies
/// there.
fn takes(all: &[EventConfig], index: usize, emit: &Emit) -> bool {
    let reads = |event: &EventConfig| event.topics.iter().any(|topic| emit.topic == *topic.as_str());
    reads(&all[index])
        && match all[index].when.as_deref().map(squeezed) {
            None => all[index].name == emit.event_type,
            Some(when) => (when == "true" || when == format!("topic == '{}'", &*emit.topic)) && !all[..index].iter().any(reads),
        }
}

/// An event that emits itself, directly or over others, would never come to rest. Only what is certain, and told of the first of them.
fn emits_itself(place: &str, index: usize, all: &[EventConfig], found: &mut Found) {
    let config = &all[index];
    let follows = |event: &EventConfig| -> Vec<usize> {
        (index..all.len()).filter(|&next| event.emit.iter().any(|emit| takes(all, next, emit))).collect()
    };
    for (n, emit) in config.emit.iter().enumerate() {
        let first = EventConfig { emit: vec![emit.clone()], ..config.clone() };
        let (mut waiting, mut seen) = (follows(&first), Vec::new());
        while let Some(next) = waiting.pop() {
            if all[next].name == config.name {
                let message = format!("{} would be emitted again by what it emits, for ever", config.name);
                found.add(at(&below(place, "emit"), n), message);
                break;
            }
            if !seen.contains(&next) {
                seen.push(next);
                waiting.extend(follows(&all[next]));
            }
        }
    }
}
