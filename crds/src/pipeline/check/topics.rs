use super::writers::is_written;
use super::{Found, lookalikes};
use crate::pipeline::*;
use std::time::Duration;

/// Below it not even the attributes have room; above it neither broker takes a message, and a batch would not fit the memory of a pod.
const MESSAGE_SIZES: std::ops::RangeInclusive<u64> = 1 << 10..=64 << 20;
const LONGEST_RETENTION: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

pub(super) fn check(spec: &OrderPipelineSpec, found: &mut Found) {
    for (index, topic) in spec.topics.iter().enumerate() {
        let place = format!("spec.topics[{index}]");
        found.duration(&format!("{place}.retention"), &topic.retention, LONGEST_RETENTION);
        if !topic.max_message_size.bytes().is_some_and(|bytes| MESSAGE_SIZES.contains(&bytes)) {
            let message = format!("must be between 1Ki and 64Mi, but is {}", topic.max_message_size);
            found.add(format!("{place}.maxMessageSize"), message);
        }
        if let Some(avro) = topic.codec.as_ref().and_then(|codec| codec.avro.as_ref()) {
            self::avro(&place, topic, avro, found);
        }
        dead_letters(spec, &place, topic, found);
    }
    // Kafka keeps one metric for both names, and refuses the second topic.
    for (index, first) in lookalikes(spec.topics.iter().map(|t| t.name.as_str()), |name| name.replace('.', "_")) {
        found.add(
            format!("spec.topics[{index}].name"),
            format!("differs from {first} only in dot and underscore: Kafka refuses such a pair"),
        );
    }
}

fn avro(place: &str, topic: &Topic, avro: &AvroCodec, found: &mut Found) {
    let key = &avro.schema_config_map_ref.key;
    if !key.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)) || key.starts_with("..") || key == "." {
        let message = format!("must be a key of a ConfigMap such as order-event.avsc, which is a file's name too, but is {key:?}");
        found.add(format!("{place}.codec.avro.schemaConfigMapRef.key"), message);
    }
    if topic.envelope == Envelope::Attributes {
        found.add(
            format!("{place}.envelope"),
            "Attributes is an object of JSON around the data: with Avro leave it Bare, attributes are the headers",
        );
    }
}

fn dead_letters(spec: &OrderPipelineSpec, place: &str, topic: &Topic, found: &mut Found) {
    let Some(target) = topic.dead_letter_topic(spec) else { return };
    let place = format!("{place}.deadLetter.topic");
    if target == topic.name.as_str() {
        found.add(place, "must be another topic: its own dead letters would come back to it for ever");
        return;
    }
    if let Some(way) = way_back(spec, topic) {
        found.add(place, format!("dead letters would go round for ever: {}", way.join(" -> ")));
        return;
    }
    // What the pipeline itself would write there is told of its writers.
    let read = |event: &&Event| event.topics.iter().any(|name| name.as_str() == target);
    if let Some(event) = spec.events.iter().filter(read).find(|event| !is_written(spec, event)) {
        let message = format!(
            "{target} is read as {}: dead letters would be taken for events, and events for dead letters; name a topic of their own",
            event.name
        );
        found.add(place, message);
        return;
    }
    let Some(declared) = spec.topic(&target) else { return };
    let (room, largest) = (declared.max_message_size.bytes(), topic.max_message_size.bytes());
    if room < largest {
        let message = format!(
            "{target} takes messages up to {} and {} up to {}: its largest dead letters would not fit; raise maxMessageSize of {target}",
            declared.max_message_size, topic.name, topic.max_message_size
        );
        found.add(place, message);
    }
}

/// The way of a dead letter of this topic back to it, said once: by the first topic on it.
fn way_back(spec: &OrderPipelineSpec, topic: &Topic) -> Option<Vec<String>> {
    let mut way = vec![topic.name.0.clone()];
    let mut at = topic;
    for _ in 0..spec.topics.len() {
        let next = at.dead_letter_topic(spec)?;
        way.push(next.clone());
        if next == topic.name.as_str() {
            let first = spec.topics.iter().find(|t| way.contains(&t.name.0))?;
            return (first.name == topic.name).then_some(way);
        }
        at = spec.topic(&next)?;
    }
    None
}
