//! How data lies in a message: JSON, in an envelope or bare. Nothing here knows what the data means.

use crate::broker::{Incoming, Outgoing};
use chrono::{DateTime, Utc};
use crds::runtime_config::TopicConfig;
use serde_json::{Map, Value as Json};

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
    /// `<lineage>:<epoch>` of the switch. Always a header, never in the envelope.
    pub const STAMP: &str = "op-stamp";
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
    /// JSON text.
    pub data: String,
}

/// A message taken apart.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// Never empty: a message without an id has its place (topic/partition/offset) as its id.
    pub id: String,
    pub publish_time: DateTime<Utc>,
    pub attributes: Map<String, Json>,
    pub data: Json,
}

/// Why a message cannot be read. It is never worth another try.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub String);

pub fn encode(topic: &TopicConfig, draft: &Draft) -> Outgoing {
    let _ = (topic, draft);
    unimplemented!()
}

pub fn decode(topic: &TopicConfig, message: &Incoming) -> Result<Decoded, DecodeError> {
    let _ = (topic, message);
    unimplemented!()
}
