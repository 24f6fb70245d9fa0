//! How data lies in a message: JSON, in an envelope or bare, or Avro. Nothing here knows what the data means.

pub mod avro;
mod bare;
mod digits;
mod envelope;
mod json;
mod topics;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;

pub use avro::Wanted;
pub use digits::{TOO_MANY_DIGITS, changed};
pub use json::{MAX_WEIGHT, Weight, weigh};
pub use topics::{Codecs, Undecoded, Unwritten};

use crate::broker::{Incoming, Outgoing, Position, Target};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use crds::json::{Json, Object};
use crds::pipeline::Envelope;
use crds::runtime_config::TopicConfig;

/// Attributes that the pipeline itself writes. In a Bare topic attributes are the headers.
pub mod attribute {
    /// The event's id: what makes a repeat a repeat.
    pub const ID: &str = "id";
    /// The event's name in the document.
    pub const TYPE: &str = "type";
    /// When it was published, RFC 3339.
    pub const TIME: &str = "time";
    pub const REQUEST_ID: &str = "requestId";
    /// Who posted it: the name of the API key.
    pub const PRINCIPAL: &str = "principal";
    pub const SCHEMA_VERSION: &str = "schemaVersion";
    /// What others call the business that an event is part of.
    pub const CORRELATION_ID: &str = "correlationId";
    /// `<lineage>:<epoch>` of the switch. Always a header, never in the envelope.
    pub const STAMP: &str = "op-stamp";
    /// Of a message that was replayed, and in its dead letter: topic/partition/offset@milliseconds of what it was first. Where it has no id
    /// and no time of its own, it has those that it had there, so that a second replay is a repeat. Always a header.
    pub const ORIGIN: &str = "op-origin";
}

/// The schema version that this runtime writes and understands.
pub const SCHEMA_VERSION: &str = "1";

/// An event about to become a message.
#[derive(Clone, Debug)]
pub struct Draft {
    pub event: String,
    pub id: String,
    pub time: DateTime<Utc>,
    pub key: String,
    /// Further attributes: requestId, principal, ...
    pub attributes: Vec<(String, String)>,
    /// As its topic's codec writes it: JSON text for most. Bytes, so that what a client sent goes to the broker without a copy.
    pub data: Bytes,
}

/// A message taken apart. Its texts are those of the message.
#[derive(Clone, Debug)]
pub struct Decoded<'m> {
    /// Never empty: a message without an id has its place and time (topic/partition/offset@milliseconds) as its id.
    pub id: String,
    pub publish_time: DateTime<Utc>,
    pub attributes: Object<'m>,
    pub data: Json<'m>,
}

/// Why a message cannot be read. It is never worth another try.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub String);

/// Longer ids would not fit the index of a store.
const MAX_ID_CHARS: usize = 500;

pub fn encode(topic: &TopicConfig, draft: &Draft) -> Outgoing {
    let (headers, payload) = match topic.envelope {
        Envelope::Bare => (bare::headers(draft), draft.data.clone()),
        Envelope::Attributes => (Vec::new(), envelope::body(draft)),
    };
    Outgoing {
        topic: topic.name.as_str().into(),
        target: Target::Key,
        key: Some(Bytes::copy_from_slice(draft.key.as_bytes())),
        headers,
        payload: Some(payload),
    }
}

/// A message that says nothing of its id is known by its place.
fn finish<'m>(message: &Incoming, mut decoded: Decoded<'m>) -> Result<Decoded<'m>, DecodeError> {
    if decoded.id.is_empty() {
        decoded.id = origin(message).map_or_else(|| place_in_time(&message.at, message.timestamp_ms), str::to_owned);
    }
    if decoded.id.chars().nth(MAX_ID_CHARS).is_some() {
        return Err(DecodeError(format!("the message's id is longer than {MAX_ID_CHARS} characters")));
    }
    Ok(decoded)
}

impl<'m> Decoded<'m> {
    /// What readers will see of a draft: so its contract can be checked before it is published. The draft's key and data are not looked at.
    pub fn of(topic: &TopicConfig, draft: &Draft, data: Json<'m>) -> Decoded<'m> {
        let attributes = match topic.envelope {
            Envelope::Bare => bare::attributes(draft).map(|(name, value)| (name.to_owned(), Json::from(value.into_owned()))).collect(),
            Envelope::Attributes => own_attributes(draft).map(|(name, value)| (name.to_owned(), Json::from(value.to_owned()))).collect(),
        };
        Decoded { id: draft.id.clone(), publish_time: draft.time, attributes, data }
    }
}

/// What a draft says of itself, then what was given with it.
fn own_attributes(draft: &Draft) -> impl Iterator<Item = (&str, &str)> {
    let own = [(attribute::TYPE, draft.event.as_str()), (attribute::SCHEMA_VERSION, SCHEMA_VERSION)];
    let given = draft.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    own.into_iter().chain(given.filter(move |(name, _)| own.iter().all(|(taken, _)| taken != name)))
}

/// When a message was published: as it says itself, also where the rest of it cannot be read; else as the broker says.
pub fn publish_time(topic: &TopicConfig, message: &Incoming) -> DateTime<Utc> {
    let said = match topic.envelope {
        Envelope::Bare => bare::publish_time(message),
        Envelope::Attributes => envelope::publish_time(message),
    };
    said.unwrap_or_else(|| broker_time(message))
}

/// With its time: in a topic that was made anew another message has the same place.
pub fn place_in_time(at: &Position, timestamp_ms: i64) -> String {
    format!("{}@{timestamp_ms}", place(at))
}

/// Where a message that was replayed lay first.
fn origin(message: &Incoming) -> Option<&str> {
    message.header(attribute::ORIGIN).and_then(|origin| std::str::from_utf8(origin).ok()).filter(|origin| !origin.is_empty())
}

/// topic/partition/offset
pub fn place(at: &Position) -> String {
    format!("{}/{}/{}", at.partition.topic, at.partition.number, at.offset)
}

/// Microseconds, as the stores keep them.
fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// When the broker says that it was published, for the first time.
fn broker_time(message: &Incoming) -> DateTime<Utc> {
    let first = origin(message).and_then(|origin| origin.rsplit_once('@')?.1.parse().ok());
    DateTime::from_timestamp_millis(first.unwrap_or(message.timestamp_ms)).unwrap_or_default()
}
