//! Keeps dead letters for review: reads the dead-letter topics, in a group of its own, and puts each letter into the store once.
//!
//! Whoever wrote it: a worker of this pipeline, which says in headers what happened, or another system, which may say nothing. The topic is
//! the truth and the table follows it: a letter is committed when it is kept, and kept once by its id, so that a crash in between changes
//! nothing. Letters have no order and obey no fence: they are read on every backend, whichever is written to.

use super::dead_letter::{header, letter_id};
use super::{WorkerError, WorkerHealth, connect, of_all};
use crate::broker::{Broker, Commit, Consumer, ConsumerMode, ConsumerOptions, Happening, Header, Incoming, Partition, Position};
use crate::codec::{self, Codecs, Decoded, attribute};
use crate::contract::{Contract, Message};
use crate::store::{Content, Facts, FailedMessages, Letter, StoreError};
use arc_swap::ArcSwap;
use chrono::DateTime;
use crds::json::{Json, Object};
use crds::runtime_config::RuntimeConfig;
use futures::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

/// Letters are rare: little is fetched ahead.
const PREFETCH_BYTES: usize = 1 << 20;
const BATCH: usize = 50;
const POLL: Duration = Duration::from_millis(500);
const COMMIT_DEADLINE: Duration = Duration::from_secs(5);
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// Ours are those of a UUID.
const LONGEST_ID: usize = 64;

pub struct ReviewDeps {
    pub config: Arc<ArcSwap<RuntimeConfig>>,
    pub contract: Arc<ArcSwap<Contract>>,
    pub codecs: Codecs,
    pub broker: Arc<dyn Broker>,
    pub letters: Arc<dyn FailedMessages>,
    pub health: Arc<WorkerHealth>,
    /// Told when somebody is to be told of a letter.
    pub alert: Arc<Notify>,
}

/// The group that reads the dead letters of a pipeline whose workers are this one.
pub fn review_group(group: &str) -> String {
    format!("{group}-dlq")
}

/// Runs until `shutdown`.
pub async fn review(deps: ReviewDeps, shutdown: impl Future<Output = ()> + Send) -> Result<(), WorkerError> {
    let config = deps.config.load_full();
    let topics: Vec<String> = config.dead_letter_topics().into_iter().map(str::to_owned).collect();
    tokio::pin!(shutdown);
    let Some(worker) = config.worker.as_ref().filter(|_| !topics.is_empty()) else {
        shutdown.await;
        return Ok(());
    };
    let mode = ConsumerMode::Group(review_group(&worker.group));
    let options = ConsumerOptions { topics, mode, batch_size: BATCH, poll_interval: POLL, prefetch_bytes: PREFETCH_BYTES };
    let consumer = tokio::select! {
        biased;
        () = &mut shutdown => return Ok(()),
        consumer = connect(&*deps.broker, &options, |_| ()) => consumer,
    };
    let mut reading =
        Review { deps, consumer, held: Vec::new(), assigned: BTreeSet::new(), paused: false, again: None, backoff: FIRST_BACKOFF };
    let read = async {
        loop {
            reading.step().await;
        }
    };
    tokio::select! {
        biased;
        () = &mut shutdown => {}
        () = read => {}
    }
    let _ = timeout(COMMIT_DEADLINE, reading.consumer.close()).await;
    Ok(())
}

struct Review {
    deps: ReviewDeps,
    consumer: Box<dyn Consumer>,
    /// Read and not kept yet, since the store is away; no more than had been handed out when reading was paused.
    held: Vec<Incoming>,
    assigned: BTreeSet<Partition>,
    paused: bool,
    /// When to try again.
    again: Option<Instant>,
    backoff: Duration,
}

impl Review {
    /// Cancel-safe: what was not committed is read again.
    async fn step(&mut self) {
        let due = async {
            match self.again {
                Some(again) => sleep_until(again).await,
                None => std::future::pending().await,
            }
        };
        let happening = tokio::select! {
            biased;
            () = due => None,
            happening = self.consumer.next() => Some(happening),
        };
        match happening {
            None => self.keep().await,
            Some(Happening::Messages(messages)) => {
                self.held.extend(messages);
                if self.again.is_none() {
                    self.keep().await;
                }
            }
            Some(Happening::Assigned(partitions)) => {
                self.assigned.extend(partitions.into_iter().map(|(partition, _)| partition));
                if self.paused {
                    self.pause();
                }
            }
            Some(Happening::Revoked { partitions, release }) => {
                self.lose(&partitions);
                drop(release);
            }
            Some(Happening::Lost(partitions)) => self.lose(&partitions),
            Some(Happening::Trouble(error)) => tracing::warn!(%error, "reading dead letters is in trouble; the client goes on trying"),
            Some(Happening::Idle) => {}
        }
    }

    fn lose(&mut self, partitions: &[Partition]) {
        self.held.retain(|message| !partitions.contains(&message.at.partition));
        self.assigned.retain(|partition| !partitions.contains(partition));
    }

    fn pause(&mut self) {
        self.paused = true;
        let all: Vec<Partition> = self.assigned.iter().cloned().collect();
        of_all(&all, "pausing", |partitions| self.consumer.pause(partitions));
    }

    /// Keeps what is held and commits it. While the store is away nothing more is read.
    async fn keep(&mut self) {
        let (config, contract) = (self.deps.config.load_full(), self.deps.contract.load_full());
        let backend = self.deps.broker.name();
        // Together: a schema registry that hangs costs one wait and not one for each letter.
        let judged = self.held.iter().filter_map(|message| Some((message, letter_of(&config, backend, message)?)));
        let judged = judged.map(async |(message, mut letter)| {
            letter.alert = alerts(&config, &contract, &self.deps.codecs, message, &letter).await;
            letter
        });
        let letters = join_all(judged).await;
        let kept = match self.deps.letters.keep(&letters).await {
            Err(StoreError::Refused(_)) => self.keep_each(&letters).await,
            kept => kept,
        };
        match kept {
            Ok(new) => {
                self.deps.health.counters.letters_kept.add(new);
                if letters.iter().any(|letter| letter.alert) {
                    self.deps.alert.notify_one();
                }
            }
            Err(error) => {
                tracing::warn!(%error, letters = letters.len(), "dead letters cannot be kept for review yet, trying again in {:?}", self.backoff);
                self.again = Some(Instant::now() + self.backoff);
                self.backoff = (self.backoff * 2).min(LONGEST_BACKOFF);
                self.pause();
                return;
            }
        }
        self.commit().await;
        (self.again, self.backoff) = (None, FIRST_BACKOFF);
        if std::mem::take(&mut self.paused) {
            let all: Vec<Partition> = self.assigned.iter().cloned().collect();
            of_all(&all, "resuming", |partitions| self.consumer.resume(partitions));
        }
    }

    /// The store does not take one of them: it is not to keep all others from being seen.
    async fn keep_each(&self, letters: &[Letter]) -> Result<u64, StoreError> {
        let mut new = 0;
        for letter in letters {
            match self.deps.letters.keep(std::slice::from_ref(letter)).await {
                Ok(kept) => new += kept,
                Err(StoreError::Refused(reason)) => {
                    tracing::error!(reason, letter = letter.facts.letter, "a dead letter cannot be kept for review: it stays on its topic");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(new)
    }

    /// What is not committed is read once more, and kept already.
    async fn commit(&mut self) {
        let mut next: BTreeMap<Partition, i64> = BTreeMap::new();
        for message in self.held.drain(..) {
            next.insert(message.at.partition, message.at.offset + 1);
        }
        let commits: Vec<Commit> =
            next.into_iter().map(|(partition, offset)| Commit { next: Position { partition, offset }, metadata: String::new() }).collect();
        match timeout(COMMIT_DEADLINE, self.consumer.commit(&commits)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!(%error, "dead letters are kept and not committed: they may be read once more"),
            Err(_) => tracing::info!("dead letters are kept, and no answer to their commit within {COMMIT_DEADLINE:?}"),
        }
    }
}

/// A message of a dead-letter topic as it is kept; whether somebody is told of it is asked apart. None: it is no letter, but a seal of the
/// switch.
fn letter_of(config: &RuntimeConfig, backend: &str, message: &Incoming) -> Option<Letter> {
    let text = |name: &str| message.header(name).map(|value| String::from_utf8_lossy(value).into_owned());
    let said = text(header::TOPIC);
    let empty = message.payload.as_ref().is_none_or(|body| body.is_empty());
    if empty && said.is_none() && message.header(attribute::STAMP).is_some() {
        return None;
    }
    let published = |name: &str| text(name).and_then(|time| DateTime::parse_from_rfc3339(&time).ok()).map(|time| time.to_utc());
    let here = DateTime::from_timestamp_millis(message.timestamp_ms).unwrap_or_default();
    let own = |header: &&Header| &*header.name != attribute::STAMP && !header::ALL.contains(&&*header.name);
    let content = Content { headers: message.headers.iter().filter(own).cloned().collect(), data: message.payload.clone() };
    let topic = said.clone().or_else(|| only_owner(config, &message.at.partition.topic));
    let facts = Facts {
        id: told_id(message).unwrap_or_else(|| letter_id(backend, &message.at, message.timestamp_ms).to_string()),
        partition: text(header::PARTITION).and_then(|number| number.parse().ok()),
        offset: text(header::OFFSET).and_then(|number| number.parse().ok()),
        key: message.key.clone(),
        event_id: text(header::EVENT_ID),
        error_type: text(header::ERROR_TYPE).unwrap_or_else(|| "external".into()),
        reason: text(header::REASON).unwrap_or_else(|| "buried by another system, which does not say why".into()),
        attempts: text(header::ATTEMPTS).and_then(|count| count.parse().ok()).unwrap_or(0),
        published_at: published(header::PUBLISH_TIME).unwrap_or(here),
        failed_at: published(header::TIME).unwrap_or(here),
        obstacle: obstacle(&text, empty, topic.is_some()),
        letter: format!("{backend}/{}", codec::place(&message.at)),
        topic,
    };
    Some(Letter { facts, content, alert: false })
}

/// As a worker says it; whatever else stands there is another system's.
fn told_id(message: &Incoming) -> Option<String> {
    let id = message.header(header::ID).filter(|id| id.len() <= LONGEST_ID && id.iter().all(u8::is_ascii_graphic))?;
    String::from_utf8(id.to_vec()).ok()
}

/// The topic whose dead letters these are, where it is only one.
fn only_owner(config: &RuntimeConfig, dead: &str) -> Option<String> {
    let mut owners = config.topics.iter().filter(|topic| topic.dead_letter.as_deref() == Some(dead));
    owners.next().filter(|_| owners.next().is_none()).map(|topic| topic.name.clone())
}

fn obstacle(text: &dyn Fn(&str) -> Option<String>, empty: bool, topic: bool) -> Option<String> {
    let parts = [(header::CUT_FROM, "data"), (header::HEADERS_CUT_FROM, "headers"), (header::KEY_CUT_FROM, "key")];
    let cut: Vec<String> = parts.iter().filter_map(|(name, part)| Some(format!("its {part} from {} bytes", text(name)?))).collect();
    if !cut.is_empty() {
        let cut = cut.join(", ");
        return Some(format!("it was cut, {cut}: the dead-letter topic takes no more; replay it from its own topic"));
    }
    if text(header::BODY).is_some() {
        return Some("its order never came, and what is left of it is not the message but what it would have changed".into());
    }
    if empty {
        return Some("it has no body: there is nothing to replay".into());
    }
    (!topic).then(|| format!("it does not say which topic it was on: whoever buries messages there must set the header {}", header::TOPIC))
}

/// Whether somebody is to be told of it. What cannot be decoded has only its headers; what cannot be now, since nobody says by which schema,
/// is told: better one alert too many.
async fn alerts(config: &RuntimeConfig, contract: &Contract, codecs: &Codecs, message: &Incoming, letter: &Letter) -> bool {
    if !contract.tells_of_letters() {
        return false;
    }
    let Letter { facts, content, .. } = letter;
    let name = facts.topic.as_deref().unwrap_or(&message.at.partition.topic);
    let original = Incoming { headers: content.headers.clone(), ..message.clone() };
    let decoded = match config.topic(name) {
        None => None,
        Some(topic) => match codecs.decode_asking(topic, &original).await {
            Ok(decoded) => decoded.ok(),
            Err(why) => {
                tracing::warn!(why, letter = facts.id, "a dead letter cannot be read now, so that somebody is told of it");
                return true;
            }
        },
    };
    let mut decoded = decoded.unwrap_or_else(|| Decoded {
        id: facts.event_id.clone().unwrap_or_default(),
        publish_time: facts.published_at,
        attributes: texts(&content.headers),
        data: Json::Null,
    });
    let said = [
        ("errorType", Json::from(facts.error_type.as_str())),
        ("reason", Json::from(facts.reason.as_str())),
        ("attempts", Json::from(i64::from(facts.attempts))),
    ];
    said.into_iter().for_each(|(name, value)| decoded.attributes.insert(name, value));
    let key = facts.key.as_deref().and_then(|key| std::str::from_utf8(key).ok());
    contract.alerts(&Message { topic: name, key, decoded: &decoded })
}

fn texts(headers: &[Header]) -> Object<'_> {
    let texts = headers.iter().filter_map(|header| Some((&*header.name, Json::from(std::str::from_utf8(&header.value).ok()?))));
    texts.collect()
}
