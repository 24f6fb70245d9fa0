//! Dead letters, kept beside the orders: to be looked at, to be replayed, to tell somebody of.
//!
//! What is kept of a message is all of it. Each letter has an id that follows from where its message lay, so that one which is read twice is
//! one row. Old ones are forgotten, and the oldest of too many.

use super::StoreError;
use crate::broker::Header;
use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::{Value as Json, json};
use std::time::Duration;

/// The most rows that are kept.
pub const MOST_KEPT: i64 = 100_000;
/// How long whoever was handed an alert has for telling of it, before it is handed to the next.
pub const ALERT_LEASE: Duration = Duration::from_secs(120);

/// What a dead letter says of its message.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    pub id: String,
    /// Where the message was read from. None: somebody else buried it, and did not say.
    pub topic: Option<String>,
    pub partition: Option<i32>,
    pub offset: Option<i64>,
    pub key: Option<Bytes>,
    pub event_id: Option<String>,
    pub error_type: String,
    pub reason: String,
    pub attempts: i32,
    pub published_at: DateTime<Utc>,
    pub failed_at: DateTime<Utc>,
    /// Why it cannot be replayed from what is kept: a sentence.
    pub obstacle: Option<String>,
    /// Where the letter itself lies: backend/topic/partition/offset.
    pub letter: String,
}

/// The message itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Content {
    pub headers: Vec<Header>,
    pub data: Option<Bytes>,
}

/// A dead letter that is to be kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Letter {
    pub facts: Facts,
    pub content: Content,
    /// Whether somebody is to be told.
    pub alert: bool,
}

/// A dead letter that is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Failed {
    /// The order of arrival.
    pub seq: i64,
    pub facts: Facts,
    /// How large its data is.
    pub bytes: i64,
    pub kept_at: DateTime<Utc>,
    pub replays: i32,
    pub replayed_at: Option<DateTime<Utc>>,
    pub replayed_by: Option<String>,
    pub alerted_at: Option<DateTime<Utc>>,
    pub alert_failure: Option<String>,
}

/// Which of them are meant. Nothing: all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    pub topic: Option<String>,
    pub error_type: Option<String>,
    /// When it failed.
    pub from: Option<DateTime<Utc>>,
    pub to: Option<DateTime<Utc>>,
    pub replayed: Option<bool>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct FailedPage {
    pub letters: Vec<Failed>,
    /// Whether older ones stand behind the last of these.
    pub more: bool,
}

#[async_trait]
pub trait FailedMessages: Send + Sync + 'static {
    /// Keeps those that are not kept yet, in their order, in one transaction. Says how many those were.
    async fn keep(&self, letters: &[Letter]) -> Result<u64, StoreError>;

    /// The newest first, below this number.
    async fn list(&self, filter: &Filter, below: Option<i64>, limit: u32) -> Result<FailedPage, StoreError>;

    async fn show(&self, id: &str) -> Result<Option<(Failed, Content)>, StoreError>;

    /// The oldest above this number.
    async fn first_above(&self, filter: &Filter, above: i64) -> Result<Option<(Failed, Content)>, StoreError>;

    /// Notes that it was replayed.
    async fn note_replay(&self, id: &str, by: &str) -> Result<(), StoreError>;

    /// Some of which somebody is to be told now, and how often that failed. They are handed out again after [`ALERT_LEASE`].
    async fn alerts(&self, most: u32) -> Result<Vec<(Failed, u32)>, StoreError>;

    /// Somebody was told.
    async fn note_alert(&self, id: &str) -> Result<(), StoreError>;

    /// Nobody could be told. `again`: when to try again; None: never. Only a `tried` one counts.
    async fn note_alert_failure(&self, id: &str, reason: &str, tried: bool, again: Option<Duration>) -> Result<(), StoreError>;

    /// Forgets what was kept for longer, and the oldest of more than `most`. Says how many went. One that was replayed stays for
    /// `replayed` after that, unless there are too many: as long as it may still come by, since the note that it took effect stays with it.
    async fn forget_letters(&self, keep: Duration, replayed: Duration, most: i64) -> Result<u64, StoreError>;
}

/// As text, else as it is. PostgreSQL has no text with a NUL in it.
pub(super) fn text_or_bytes(bytes: Option<&Bytes>) -> (Option<&str>, Option<&[u8]>) {
    match bytes.map(|bytes| (std::str::from_utf8(bytes), bytes)) {
        None => (None, None),
        Some((Ok(text), _)) if !text.contains('\0') => (Some(text), None),
        Some((_, bytes)) => (None, Some(bytes)),
    }
}

pub(super) fn joined(text: Option<String>, bytes: Option<Vec<u8>>) -> Option<Bytes> {
    text.map(Bytes::from).or_else(|| bytes.map(Bytes::from))
}

/// For people: a NUL is no fault of theirs.
pub(super) fn plain(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

pub(super) fn headers_to_json(headers: &[Header]) -> String {
    let value = |value: &Bytes| match text_or_bytes(Some(value)) {
        (Some(text), _) => Json::from(text),
        _ => json!({"hex": value.iter().map(|byte| format!("{byte:02x}")).collect::<String>()}),
    };
    let all: Vec<Json> = headers.iter().map(|header| json!([plain(&header.name), value(&header.value)])).collect();
    Json::Array(all).to_string()
}

/// What is not as it was written is left out.
pub(super) fn headers_of_json(text: &str) -> Vec<Header> {
    let all: Vec<(String, Json)> = serde_json::from_str(text).unwrap_or_default();
    let header = |(name, value): (String, Json)| {
        let value = match &value {
            Json::String(text) => Bytes::copy_from_slice(text.as_bytes()),
            other => Bytes::from(unhex(other["hex"].as_str()?)?),
        };
        Some(Header { name: name.into(), value })
    };
    all.into_iter().filter_map(header).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pair = |index: usize| u8::from_str_radix(text.get(index..index + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_any_bytes_come_back_in_their_order() {
        let header = |name: &str, value: &[u8]| Header { name: name.into(), value: Bytes::copy_from_slice(value) };
        let headers = [header("a", b"text \"x\""), header("a", b"\xff\x00"), header("b", b""), header("c", b"\0")];
        assert_eq!(headers_of_json(&headers_to_json(&headers)), headers);
    }
}
