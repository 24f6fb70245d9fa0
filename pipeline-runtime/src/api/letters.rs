//! Dead letters, for administrators: what became one and why, and replaying it.
//!
//! A replay is the message again: to its own topic, with its key, its headers and its data, through the gate like everything that is written.
//! It keeps the event's id, so that it takes effect at most once, however often it is replayed. Many are replayed the oldest first, some in
//! one request, which says where the next one goes on.

use super::admin::for_admins;
use super::call::Call;
use super::errors::{Answer, Problem};
use super::{Shared, body, query, strict};
use crate::broker::{Header, Outgoing, PublishError, Target};
use crate::codec::attribute;
use crate::publish::Publisher;
use crate::store::{Content, Facts, Failed, FailedMessages, Filter};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use crds::runtime_config::RuntimeConfig;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const DEFAULT_LIMIT: u32 = 50;
const LARGEST_LIMIT: u32 = 500;
const LONGEST_BODY: usize = 16 << 10;
/// The most that one request replays.
const AT_ONCE: u32 = 100;
/// No further one is begun after this: clients wait for ten seconds.
const WITHIN: Duration = Duration::from_secs(4);
const PUBLISH_DEADLINE: Duration = Duration::from_secs(5);

pub(super) async fn list(State(api): Shared, request: Request) -> Response {
    for_admins(api, request, async |call| {
        let asked = call.head.uri.query().unwrap_or_default();
        let names = ["topic", "errorType", "from", "to", "replayed", "limit", "below"];
        let [topic, error_type, from, to, replayed, limit, below] = query::values(asked, names)?;
        let filter = Filter {
            topic,
            error_type,
            from: query::time("from", from)?,
            to: query::time("to", to)?,
            replayed: replayed.map(|text| text.parse().map_err(|_| Problem::field("replayed", "must be true or false"))).transpose()?,
        };
        let below = below.map(|text| text.parse().map_err(|_| Problem::field("below", "must be next of the page before"))).transpose()?;
        let limit = query::limit(limit, DEFAULT_LIMIT, LARGEST_LIMIT)?;
        let page = strict::ask(letters(&call)?.list(&filter, below, limit)).await.map_err(|e| strict::away(&e))?;
        let next = page.letters.last().filter(|_| page.more).map(|last| last.seq);
        let shown: Vec<Json> = page.letters.iter().map(shown).collect();
        Answer::json(StatusCode::OK, &json!({"count": shown.len(), "next": next, "deadLetters": shown}))
    })
    .await
}

pub(super) async fn show(State(api): Shared, path: Result<Path<String>, PathRejection>, request: Request) -> Response {
    for_admins(api, request, async |call| {
        let id = id_of(path)?;
        let Ok(place) = call.api.lists.clone().try_acquire_owned() else {
            return Err(Problem::unavailable("overloaded", "too many dead letters are being read: ask again a little later", 1));
        };
        let found = strict::ask(letters(&call)?.show(&id)).await.map_err(|e| strict::away(&e))?;
        let (failed, content) = found.ok_or_else(|| nobody(&id))?;
        let mut whole = shown(&failed);
        whole["headers"] = content.headers.iter().map(|header| json!([&*header.name, readable(Some(&header.value))])).collect();
        whole["data"] = readable(content.data.as_ref());
        Ok(Answer::json(StatusCode::OK, &whole)?.in_place(place))
    })
    .await
}

fn id_of(path: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    let Path(id) =
        path.map_err(|e| Problem::bad_request("invalid_path", format!("the dead letter's id in the path cannot be read: {e}")))?;
    Ok(id)
}

fn nobody(id: &str) -> Problem {
    let message = format!("no dead letter {id} is kept: it was forgotten, or there never was one; see GET /admin/dead-letters");
    Problem::new(StatusCode::NOT_FOUND, "not_found", message)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wish {
    /// These, and no others.
    #[serde(default)]
    ids: Vec<String>,
    topic: Option<String>,
    error_type: Option<String>,
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
    /// Also those that were replayed before.
    #[serde(default)]
    again: bool,
    /// Only behind this one: `next` of the answer before.
    #[serde(default)]
    above: i64,
    limit: Option<u32>,
}

pub(super) async fn replay(State(api): Shared, request: Request) -> Response {
    for_admins(api, request, async |call| {
        let letters = letters(&call)?.clone();
        let config = call.api.admin.as_ref().map(|admin| admin.config.load_full()).ok_or_else(not_kept)?;
        let Call { api, head, body, principal, .. } = call;
        let read = body::read(&head.headers, body, LONGEST_BODY, &api.budget).await?;
        let wish: Wish = serde_json::from_value((&read.said()?).into()).map_err(|error| {
            Problem::field("ids", format!("send {{\"ids\": [...]}}, or any of topic, errorType, from, to, again, above and limit: {error}"))
        })?;
        let limit = wish.limit.unwrap_or(AT_ONCE);
        if wish.ids.len() > AT_ONCE as usize || !(1..=AT_ONCE).contains(&limit) {
            let (field, many) = if wish.ids.is_empty() { ("limit", limit as usize) } else { ("ids", wish.ids.len()) };
            return Err(Problem::field(field, format!("1 to {AT_ONCE} are replayed in one request, not {many}")));
        }
        let mut replay =
            Replay { publisher: &api.publisher, letters, config, by: &principal, done: Vec::new(), skipped: Vec::new(), stopped: None };
        let next = match wish.ids.is_empty() {
            false => replay.these(&wish.ids).await,
            true => replay.all(wish, limit).await,
        };
        let Replay { done, skipped, stopped, .. } = replay;
        tracing::info!(by = &*principal, replayed = done.len(), skipped = skipped.len(), stopped, "dead letters were replayed");
        Answer::json(StatusCode::OK, &json!({"replayed": done, "skipped": skipped, "next": next, "stopped": stopped}))
    })
    .await
}

/// One request's worth of replaying, and what it came to.
struct Replay<'a> {
    publisher: &'a Publisher,
    letters: Arc<dyn FailedMessages>,
    config: Arc<RuntimeConfig>,
    by: &'a str,
    done: Vec<Json>,
    skipped: Vec<Json>,
    /// Why it did not go on: that is not the letter's fault.
    stopped: Option<String>,
}

impl Replay<'_> {
    async fn these(&mut self, ids: &[String]) -> Option<i64> {
        let until = Instant::now() + WITHIN;
        for id in ids {
            if Instant::now() >= until {
                self.stopped = Some(format!("it took longer than {WITHIN:?}: replay those that are not named here with another request"));
                break;
            }
            match strict::ask(self.letters.show(id)).await {
                Ok(Some((failed, content))) => self.one(&failed, content).await,
                Ok(None) => self.skipped.push(json!({"id": id, "reason": nobody(id).message})),
                Err(error) => self.stopped = Some(error.to_string()),
            }
            if self.stopped.is_some() {
                break;
            }
        }
        None
    }

    /// Returns where to go on, if there may be more.
    async fn all(&mut self, wish: Wish, limit: u32) -> Option<i64> {
        let Wish { topic, error_type, from, to, again, above, .. } = wish;
        let filter = Filter { topic, error_type, from, to, replayed: (!again).then_some(false) };
        let (mut at, until) = (above, Instant::now() + WITHIN);
        for _ in 0..limit {
            if Instant::now() >= until {
                break;
            }
            match strict::ask(self.letters.first_above(&filter, at)).await {
                Ok(None) => return None,
                Ok(Some((failed, content))) => {
                    self.one(&failed, content).await;
                    if self.stopped.is_some() {
                        break;
                    }
                    at = failed.seq;
                }
                Err(error) => {
                    self.stopped = Some(error.to_string());
                    break;
                }
            }
        }
        Some(at)
    }

    async fn one(&mut self, failed: &Failed, content: Content) {
        let facts = &failed.facts;
        let message = match again(&self.config, facts, content) {
            Ok(message) => message,
            Err(reason) => return self.skipped.push(json!({"id": facts.id, "reason": reason})),
        };
        match self.publisher.publish(&message, PUBLISH_DEADLINE).await {
            Ok(at) => {
                self.done.push(json!({
                    "id": facts.id, "eventId": facts.event_id, "topic": facts.topic, "partition": at.partition.number, "offset": at.offset,
                }));
                if let Err(error) = strict::ask(self.letters.note_replay(&facts.id, self.by)).await {
                    self.stopped = Some(format!("{}: replayed, which cannot be noted: {error}; a second replay takes no effect", facts.id));
                }
            }
            Err(PublishError::Refused { reason, retriable: false } | PublishError::TooLarge { reason }) => {
                self.skipped.push(json!({"id": facts.id, "reason": reason}))
            }
            Err(error) => self.stopped = Some(format!("{}: {error}; replay it again, it takes effect once", facts.id)),
        }
    }
}

/// The message that became a dead letter, or why it cannot be replayed.
fn again(config: &RuntimeConfig, facts: &Facts, content: Content) -> Result<Outgoing, String> {
    if let Some(obstacle) = &facts.obstacle {
        return Err(obstacle.clone());
    }
    let topic = facts.topic.as_deref().unwrap_or_default();
    if !config.topics_read().any(|read| read.name == topic) {
        return Err(format!("no event of the document is read from topic {topic}: nobody would take it"));
    }
    let Content { mut headers, data } = content;
    if let (Some(partition), Some(offset)) = (facts.partition, facts.offset)
        && !headers.iter().any(|header| &*header.name == attribute::ORIGIN)
    {
        let origin = format!("{topic}/{partition}/{offset}@{}", facts.published_at.timestamp_millis());
        headers.push(Header { name: attribute::ORIGIN.into(), value: origin.into() });
    }
    Ok(Outgoing { topic: topic.into(), target: Target::Key, key: facts.key.clone(), headers, payload: data })
}

fn letters(call: &Call) -> Result<&Arc<dyn FailedMessages>, Problem> {
    call.api.admin.as_ref().and_then(|admin| admin.letters.as_ref()).ok_or_else(not_kept)
}

fn not_kept() -> Problem {
    let message =
        "with a store in memory dead letters are kept on their topics only: set spec.store.postgres to review and replay them here";
    Problem::new(StatusCode::CONFLICT, "not_kept", message)
}

/// Text as it is, anything else in hexadecimal.
fn readable(bytes: Option<&Bytes>) -> Json {
    let Some(bytes) = bytes else { return Json::Null };
    match std::str::from_utf8(bytes) {
        Ok(text) => Json::from(text),
        Err(_) => json!({"hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()}),
    }
}

fn shown(failed: &Failed) -> Json {
    let Failed { facts, .. } = failed;
    let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Millis, true);
    json!({
        "id": facts.id, "number": failed.seq, "topic": facts.topic, "partition": facts.partition, "offset": facts.offset,
        "key": readable(facts.key.as_ref()), "eventId": facts.event_id, "errorType": facts.error_type, "reason": facts.reason,
        "attempts": facts.attempts, "publishTime": time(facts.published_at), "failedAt": time(facts.failed_at), "keptAt": time(failed.kept_at),
        "bytes": failed.bytes, "obstacle": facts.obstacle, "deadLetter": facts.letter,
        "replays": failed.replays, "replayedAt": failed.replayed_at.map(time), "replayedBy": failed.replayed_by,
        "alertedAt": failed.alerted_at.map(time), "alertFailure": failed.alert_failure,
    })
}
