//! The body is an object of messageId, publishTime, attributes and data.

use super::{DecodeError, Decoded, Draft, broker_time, own_attributes, rfc3339};
use crate::broker::Incoming;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use crds::json::{Json, Object};
use serde::Deserialize;

/// The data goes in as the text that it is: it is not parsed again.
pub(super) fn body(draft: &Draft) -> Bytes {
    let attributes: Object = own_attributes(draft).map(|(name, value)| (name, Json::from(value))).collect();
    let head = format!(
        r#"{{"messageId":{},"publishTime":"{}","attributes":{},"data":"#,
        Json::from(draft.id.as_str()),
        rfc3339(draft.time),
        Json::Object(attributes)
    );
    let mut body = Vec::with_capacity(head.len() + draft.data.len() + 1);
    body.extend_from_slice(head.as_bytes());
    body.extend_from_slice(&draft.data);
    body.push(b'}');
    Bytes::from(body)
}

pub(super) fn decode<'m>(message: &Incoming, body: Json<'m>) -> Result<Decoded<'m>, DecodeError> {
    let wrong = |what: &str| Err(DecodeError(what.to_owned()));
    let Json::Object(mut body) = body else {
        return wrong("the body must be an object of messageId, publishTime, attributes and data");
    };
    let id = match body.remove("messageId") {
        Some(Json::String(id)) => id.into_owned(),
        Some(Json::Number(id)) => id.to_string(),
        Some(Json::Null) | None => String::new(),
        Some(_) => return wrong("messageId must be a text"),
    };
    let publish_time = match body.remove("publishTime") {
        Some(Json::String(time)) => match DateTime::parse_from_rfc3339(&time) {
            Ok(time) => time.to_utc(),
            Err(_) => return wrong("publishTime must be a time such as 2025-01-31T12:00:00Z"),
        },
        Some(Json::Null) | None => broker_time(message),
        Some(_) => return wrong("publishTime must be a text such as 2025-01-31T12:00:00Z"),
    };
    let attributes = match body.remove("attributes") {
        Some(Json::Object(attributes)) => attributes,
        Some(Json::Null) | None => Object::new(),
        Some(_) => return wrong("attributes must be an object"),
    };
    match body.remove("data") {
        Some(data) => Ok(Decoded { id, publish_time, attributes, data }),
        None => wrong("data is missing: the body must be an object of messageId, publishTime, attributes and data"),
    }
}

/// Of a body that need not be more than JSON; nothing else of it is taken apart.
pub(super) fn publish_time(message: &Incoming) -> Option<DateTime<Utc>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Said {
        publish_time: String,
    }
    let Said { publish_time } = serde_json::from_slice(message.payload.as_deref()?).ok()?;
    DateTime::parse_from_rfc3339(&publish_time).ok().map(|time| time.to_utc())
}
