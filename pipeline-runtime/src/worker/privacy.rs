//! Messages whose body is encrypted as a whole, and what of a message its dead letter may say. Which fields are encrypted, and how, is in
//! [`crate::pii`].

use crate::broker::Incoming;
use crate::codec::{self, Codecs};
use crate::contract::{Contract, EventContract, Message};
use crate::pii::{Body, Fields, Unreadable};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use crds::pipeline::Envelope;
use crds::runtime_config::{RuntimeConfig, TopicConfig};
use std::borrow::Cow;

/// The message as it was before it became a dead letter: of one that could not be read the whole body is encrypted.
pub(super) fn readable<'a>(fields: &Fields, message: &'a Incoming) -> Result<Cow<'a, Incoming>, Unreadable> {
    let body = message.payload.as_deref().and_then(|body| fields.open_body(&message.at.partition.topic, body));
    body.map_or(Ok(Cow::Borrowed(message)), |body| Ok(Cow::Owned(with(message, body?))))
}

/// Where the data of a message lies as text.
pub(super) fn body<'a>(topic: &TopicConfig, message: &'a Incoming) -> Body<'a> {
    let text = message.payload.as_deref().and_then(|body| std::str::from_utf8(body).ok()).unwrap_or_default();
    let data = match topic.envelope {
        Envelope::Bare => None,
        Envelope::Attributes => Some("data"),
    };
    Body { text, data }
}

/// The message as its dead letter may hold it: what others wrote in plain is encrypted, so that a replay is the message again. What was
/// encrypted on its way stays byte for byte.
pub(super) fn discreet<'a>(
    config: &RuntimeConfig,
    contract: &Contract,
    codecs: &Codecs,
    message: &'a Incoming,
) -> Result<Cow<'a, Incoming>, Unreadable> {
    let topic = &message.at.partition.topic;
    let (Some(topic), Some(fields), Some(payload)) = (config.topic(topic), contract.encrypted(topic), &message.payload) else {
        return Ok(Cow::Borrowed(message));
    };
    // Nothing is nothing to hide.
    if payload.is_empty() || fields.open_body(&topic.name, payload).is_some() {
        return Ok(Cow::Borrowed(message));
    }
    let Ok(mut decoded) = codecs.decode(topic, message) else {
        return Ok(Cow::Owned(with(message, fields.hide_body(&topic.name, payload)?)));
    };
    // Known as what it is, it can be read again after a replay.
    let opened = fields.open(&mut decoded.data);
    let view = Message { topic: &topic.name, key: None, decoded: &decoded };
    let event = opened.ok().and_then(|_| contract.recognise(&view).ok().flatten());
    let hidden = event.and_then(EventContract::encrypted).unwrap_or(fields).hide_text(body(topic, message), &decoded.id)?;
    Ok(hidden.map_or(Cow::Borrowed(message), |hidden| Cow::Owned(with(message, hidden))))
}

/// A message that becomes a dead letter.
pub(super) struct Buried<'a> {
    pub message: Cow<'a, Incoming>,
    pub published: DateTime<Utc>,
    /// Where fields are encrypted: the body as it could be read, and what encrypts it.
    pub plain: Option<(Bytes, &'a Fields)>,
}

impl<'a> Buried<'a> {
    pub fn of(config: &RuntimeConfig, contract: &'a Contract, codecs: &Codecs, message: &'a Incoming) -> Result<Buried<'a>, Unreadable> {
        let name = &*message.at.partition.topic;
        let fields = contract.encrypted(name);
        let read = fields.map_or(Ok(Cow::Borrowed(message)), |fields| readable(fields, message));
        let read = read.unwrap_or(Cow::Borrowed(message));
        let published = config.topic(name).map(|topic| codec::publish_time(topic, &read));
        Ok(Buried {
            published: published.unwrap_or_else(|| DateTime::from_timestamp_millis(message.timestamp_ms).unwrap_or_default()),
            plain: fields.and_then(|fields| Some((read.payload.clone()?, fields))),
            message: discreet(config, contract, codecs, message)?,
        })
    }

    /// What of the body has room in so many bytes, and the size of it all where that is not all.
    pub fn shortened(&self, room: usize) -> (Bytes, Option<usize>) {
        let (body, taken, size) = match (&self.plain, &self.message.payload) {
            (Some((plain, fields)), _) => {
                let hidden = fields.hide_beginning(&self.message.at.partition.topic, plain, room);
                let (body, taken) = hidden.unwrap_or_default();
                (body, taken, plain.len())
            }
            (None, Some(body)) => (body.slice(..room.min(body.len())), room.min(body.len()), body.len()),
            (None, None) => return (Bytes::new(), None),
        };
        (body, (taken < size).then_some(size))
    }
}

fn with(message: &Incoming, payload: Bytes) -> Incoming {
    Incoming { payload: Some(payload), ..message.clone() }
}
