//! Which orders a topic tells of, read from the topic itself: from its start to where it ended when it was asked for.
//!
//! That costs as much as the topic is long, so that one such question is answered at a time, within bounds of ids, messages and time.
//! An answer that met one of them, or to which not all came, says so: `complete` is false, and the ids are those that did come.

use super::super::call::{Call, answer};
use super::super::errors::{Answer, Problem};
use super::super::{ApiState, Settings, Shared, query};
use crate::broker::{Broker, BrokerError, Consumer, ConsumerMode, ConsumerOptions, Happening, Incoming, Partition};
use crate::codec::Decoded;
use crate::contract::Message;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use crds::runtime_config::TopicConfig;
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

const MOST_IDS: usize = 10_000;
const MOST_MESSAGES: usize = 200_000;
const WITHIN: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(250);
/// What was removed meanwhile, or a transaction left out, never comes: after a silence of so many polls nobody waits for it any longer.
const SILENT_POLLS: u32 = 8;
const PREFETCH_BYTES: usize = 1 << 20;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Ids {
    topic: String,
    count: usize,
    /// Whether the topic was read to its end.
    complete: bool,
    order_ids: Vec<String>,
}

pub(in super::super) async fn order_ids(State(api): Shared, request: Request) -> Response {
    answer(api, request, async |call: Call| {
        let settings = call.api.settings.load_full();
        let [name] = query::values(call.head.uri.query().unwrap_or_default(), ["topic"])?;
        let topic = topic_of(&settings, name)?;
        let Ok(place) = call.api.scans.clone().try_acquire_owned() else {
            return Err(Problem::unavailable("overloaded", "a topic is being read for somebody else: ask again a little later", 2));
        };
        let ids = read(&call.api, topic).await.map_err(|e| Problem::unavailable("backend_unavailable", e.to_string(), 5))?;
        Ok(Answer::json(StatusCode::OK, &ids)?.in_place(place))
    })
    .await
}

fn topic_of(settings: &Settings, name: Option<String>) -> Result<&TopicConfig, Problem> {
    let known = || settings.read.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>().join(", ");
    match name {
        None => Err(Problem::field("topic", format!("is required: the topics of this pipeline are {}", known()))),
        Some(name) => settings.read.iter().find(|topic| topic.name == name).ok_or_else(|| {
            Problem::field("topic", format!("{name:?} is no topic that events of this pipeline are read from: there is {}", known()))
        }),
    }
}

async fn read(api: &ApiState, topic: &TopicConfig) -> Result<Ids, BrokerError> {
    let broker = api.publisher.broker();
    let deadline = Instant::now() + WITHIN;
    let late = |_| BrokerError::Other { backend: broker.name().into(), reason: format!("the topic cannot be read within {WITHIN:?}") };
    let ends = timeout_at(deadline, broker.ends(&topic.name)).await.map_err(late)??;
    let mut left: HashMap<_, _> = ends.into_iter().map(|end| (end.partition, end.offset)).collect();
    for start in timeout_at(deadline, broker.starts(&topic.name)).await.map_err(late)?? {
        if left.get(&start.partition).is_some_and(|end| start.offset >= *end) {
            left.remove(&start.partition);
        }
    }
    let mut scan = Scan { left, messages: 0, seen: HashSet::new(), ids: Vec::new() };
    let mut complete = scan.left.is_empty();
    if !complete {
        let consumer = timeout_at(deadline, open(&*broker, topic)).await.map_err(late)??;
        complete = timeout_at(deadline, scan.run(api, topic, &*consumer)).await.unwrap_or(Ok(false))?;
        consumer.close().await;
    }
    Ok(Ids { topic: topic.name.clone(), count: scan.ids.len(), complete, order_ids: scan.ids })
}

async fn open(broker: &dyn Broker, topic: &TopicConfig) -> Result<Box<dyn Consumer>, BrokerError> {
    let options = ConsumerOptions {
        topics: vec![topic.name.clone()],
        mode: ConsumerMode::All,
        batch_size: 500,
        poll_interval: POLL,
        prefetch_bytes: PREFETCH_BYTES,
    };
    broker.consumer(options).await
}

struct Scan {
    /// Partitions that are not read to their end, and the offset behind it.
    left: HashMap<Partition, i64>,
    messages: usize,
    seen: HashSet<String>,
    /// In the order in which the topic first tells of them.
    ids: Vec<String>,
}

impl Scan {
    /// Whether all was read.
    async fn run(&mut self, api: &ApiState, topic: &TopicConfig, consumer: &dyn Consumer) -> Result<bool, BrokerError> {
        let mut silent = 0;
        while !self.left.is_empty() {
            match consumer.next().await {
                Happening::Messages(messages) => {
                    silent = 0;
                    for message in &messages {
                        self.take(api, topic, message).await?;
                        if self.ids.len() >= MOST_IDS || self.messages >= MOST_MESSAGES {
                            return Ok(self.left.is_empty());
                        }
                    }
                }
                Happening::Idle => {
                    silent += 1;
                    if silent == SILENT_POLLS {
                        return Ok(false);
                    }
                }
                Happening::Trouble(error @ BrokerError::Unreachable { .. }) => return Err(error),
                Happening::Revoked { release, .. } => drop(release),
                Happening::Assigned(_) | Happening::Lost(_) | Happening::Trouble(_) => {}
            }
        }
        Ok(true)
    }

    async fn take(&mut self, api: &ApiState, topic: &TopicConfig, message: &Incoming) -> Result<(), BrokerError> {
        let Some(end) = self.left.get(&message.at.partition) else { return Ok(()) };
        if message.at.offset + 1 >= *end {
            self.left.remove(&message.at.partition);
        }
        self.messages += 1;
        if let Some(id) = order_id(api, topic, message).await?.filter(|id| !self.seen.contains(id)) {
            self.seen.insert(id.clone());
            self.ids.push(id);
        }
        Ok(())
    }
}

/// None: it is no event of this pipeline, or cannot be read. Those are the worker's to judge.
async fn order_id(api: &ApiState, topic: &TopicConfig, message: &Incoming) -> Result<Option<String>, BrokerError> {
    let away = |reason| BrokerError::Other { backend: api.publisher.broker().name().into(), reason };
    let decoded = api.codecs.decode_asking(topic, message).await.map_err(away)?;
    Ok(decoded.ok().and_then(|decoded| told(api, topic, message, &decoded)))
}

fn told(api: &ApiState, topic: &TopicConfig, message: &Incoming, decoded: &Decoded<'_>) -> Option<String> {
    let contract = api.contract.load();
    let key = message.key.as_deref().and_then(|key| std::str::from_utf8(key).ok());
    let view = Message { topic: &topic.name, key, decoded };
    let event = contract.recognise(&view).ok()??;
    event.order_id(&view).ok().filter(|id| !id.is_empty())
}
