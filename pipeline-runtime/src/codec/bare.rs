//! The body is the data, the headers are the attributes.

use super::{DecodeError, Decoded, Draft, attribute, broker_time, own_attributes, rfc3339};
use crate::broker::{Header, Incoming};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use crds::json::{Json, Object};
use std::borrow::Cow;

pub(super) fn headers(draft: &Draft) -> Vec<Header> {
    attributes(draft).map(|(name, value)| Header { name: name.into(), value: Bytes::from(value.into_owned()) }).collect()
}

pub(super) fn attributes(draft: &Draft) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
    let own = [(attribute::ID, Cow::Borrowed(draft.id.as_str())), (attribute::TIME, Cow::Owned(rfc3339(draft.time)))];
    let further = own_attributes(draft).filter(|(name, _)| ![attribute::ID, attribute::TIME].contains(name));
    own.into_iter().chain(further.map(|(name, value)| (name, Cow::Borrowed(value))))
}

pub(super) fn decode<'m>(message: &'m Incoming, data: Json<'m>) -> Result<Decoded<'m>, DecodeError> {
    let mut attributes = Vec::with_capacity(message.headers.len());
    for header in message.headers.iter().filter(|header| ![attribute::STAMP, attribute::ORIGIN].contains(&&*header.name)) {
        match std::str::from_utf8(&header.value) {
            // Of several headers of a name the last one counts, as everywhere in Kafka.
            Ok(value) => attributes.push((Cow::Borrowed(&*header.name), Json::from(value))),
            Err(_) if is_own(&header.name) => return Err(DecodeError(format!("the header {} is not UTF-8", header.name))),
            // A binary header of somebody else (tracing, a connector) is none of ours to judge.
            Err(_) => {}
        }
    }
    let attributes = Object::of(attributes);
    let text = |name: &str| attributes.get(name).and_then(Json::as_str);
    let id = text(attribute::ID).unwrap_or_default().to_owned();
    Ok(Decoded { id, publish_time: publish_time(message).unwrap_or_else(|| broker_time(message)), attributes, data })
}

/// Others may mean something else by a header of that name: what is no time says nothing.
pub(super) fn publish_time(message: &Incoming) -> Option<DateTime<Utc>> {
    let time = message.headers.iter().rfind(|header| &*header.name == attribute::TIME)?;
    let time = DateTime::parse_from_rfc3339(std::str::from_utf8(&time.value).ok()?).ok()?;
    Some(time.to_utc())
}

fn is_own(name: &str) -> bool {
    use attribute::*;
    [ID, TYPE, TIME, REQUEST_ID, PRINCIPAL, SCHEMA_VERSION].contains(&name)
}
