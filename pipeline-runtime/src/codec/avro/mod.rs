//! Avro: the body is a zero, the number of its schema in the registry, and the data, as Confluent's clients write it.
//!
//! `schema` is a parsed schema, `write` and `read` turn JSON into bytes by one and back, `text` and `default` are what Avro has and JSON has
//! not, `own` does both by a topic's own schema, `registry` is where schemas are kept, `check` is for documents.
//! Here is what one topic needs: its own schema, registered; the schemas of others, by number.

mod check;
mod default;
mod own;
pub mod read;
pub mod registry;
pub mod schema;
mod text;
mod write;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;

pub use check::{Remarks, check};
pub use own::Own;
pub use write::{Unfit, write};

use super::{DecodeError, Undecoded, Unwritten};
use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use crds::json::Json;
use read::Plan;
use registry::{Registry, RegistryError};
use schema::Schema;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const MAGIC: u8 = 0;
const HEAD: usize = 5;
/// Of the schemas of others. Beyond it they are asked for anew.
const MOST_KNOWN: usize = 1000;
/// A schema that the registry does not have may still come there.
const UNREADABLE_FOR: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// What is refused is so until a person changes the registry or the schema.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_secs(15);

/// A topic whose data is Avro.
pub struct AvroTopic {
    name: String,
    /// As it was given: that is what is registered.
    text: String,
    own: Own,
    registry: Arc<Registry>,
    /// The number of the own schema; none before it is registered.
    id: ArcSwapOption<u32>,
    /// Why it is not registered yet.
    trouble: ArcSwapOption<String>,
    known: ArcSwap<HashMap<u32, Known>>,
    /// One asks for all. Holds when and why that was in vain last.
    asking: tokio::sync::Mutex<Option<(Instant, RegistryError)>>,
}

/// A schema that messages were written by.
#[derive(Clone, Debug)]
enum Known {
    Readable(Arc<Plan>),
    Unreadable { why: String, since: Instant },
}

impl AvroTopic {
    pub fn new(name: &str, text: String, registry: Arc<Registry>) -> Result<AvroTopic, String> {
        Ok(AvroTopic {
            name: name.to_owned(),
            own: Own::parse(&text)?,
            text,
            registry,
            id: ArcSwapOption::empty(),
            trouble: ArcSwapOption::from_pointee("it was not asked yet: this process has just started".to_owned()),
            known: ArcSwap::default(),
            asking: tokio::sync::Mutex::default(),
        })
    }

    /// The message's body, and in the place of the data what its readers will see.
    pub(super) fn write(self: &Arc<AvroTopic>, data: &mut Json<'_>) -> Result<Bytes, Unwritten> {
        let Some(id) = self.id.load_full() else {
            return Err(Unwritten::NotYet(Wanted { topic: self.clone(), what: What::Registration }));
        };
        let mut body = Vec::with_capacity(128);
        body.push(MAGIC);
        body.extend_from_slice(&id.to_be_bytes());
        self.own.write(data, &mut body)?;
        Ok(body.into())
    }

    pub(super) fn read<'b>(self: &Arc<AvroTopic>, body: &'b [u8]) -> Result<Json<'b>, Undecoded> {
        let Some((&[magic, a, b, c, d], data)) = body.split_first_chunk::<HEAD>() else {
            return Err(DecodeError(format!("the body has {} bytes: too short for Avro with the number of its schema", body.len())).into());
        };
        if magic != MAGIC {
            return Err(
                DecodeError(format!("the body begins with the byte {magic} and not with 0: it names no schema of a registry")).into()
            );
        }
        let id = u32::from_be_bytes([a, b, c, d]);
        let known = self.known.load();
        match known.get(&id) {
            Some(Known::Readable(plan)) => plan.read(data).map_err(|why| DecodeError(format!("schema {id}: {why}")).into()),
            Some(Known::Unreadable { why, since }) if since.elapsed() < UNREADABLE_FOR => Err(DecodeError(why.clone()).into()),
            _ => Err(Undecoded::NotYet(Wanted { topic: self.clone(), what: What::Schema(id) })),
        }
    }

    /// Until the schema is registered: for as long as it takes.
    pub(super) async fn register(self: Arc<AvroTopic>) {
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.registry.register(&subject(&self.name), &self.text).await {
                Ok(id) => {
                    tracing::info!(topic = self.name, subject = subject(&self.name), id, "the schema is registered");
                    self.know(id, Known::Readable(self.own.plan.clone()));
                    self.id.store(Some(Arc::new(id)));
                    self.trouble.store(None);
                    return;
                }
                Err(error) => error,
            };
            let why = format!("the schema of topic {} is not registered: {error}", self.name);
            if self.trouble.load().as_deref() != Some(&why) {
                tracing::error!(topic = self.name, "{why}; nothing is written there before it is, and it is tried again and again");
            }
            self.trouble.store(Some(Arc::new(why)));
            let refused = matches!(error, RegistryError::Refused { .. });
            sleep(if refused { PAUSE_AFTER_REFUSAL } else { pause }).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.load().as_deref().cloned()
    }

    /// Learns a schema by its number. The error says why the registry cannot be asked.
    async fn learn(&self, id: u32) -> Result<(), RegistryError> {
        let came = Instant::now();
        let mut last = self.asking.lock().await;
        let is_news = |known: &Known| !matches!(known, Known::Unreadable { since, .. } if since.elapsed() >= UNREADABLE_FOR);
        if self.known.load().get(&id).is_some_and(is_news) {
            return Ok(());
        }
        // Who waited while a registry hung does not wait as long once more.
        if let Some((_, away)) = last.as_ref().filter(|(at, _)| *at >= came) {
            return Err(away.clone());
        }
        let unreadable = |why: String| Known::Unreadable { why, since: Instant::now() };
        let known = match self.registry.schema(id).await {
            Ok(text) => match self.plan(&text) {
                Ok(plan) => Known::Readable(Arc::new(plan)),
                Err(why) => unreadable(format!("it was written by schema {id}, which this topic's schema cannot read: {why}")),
            },
            Err(RegistryError::Refused { registry, words }) => {
                unreadable(format!("it was written by schema {id}, of which the schema registry {registry} says: {words}"))
            }
            Err(away) => {
                *last = Some((Instant::now(), away.clone()));
                return Err(away);
            }
        };
        self.know(id, known);
        Ok(())
    }

    fn plan(&self, writer: &str) -> Result<Plan, String> {
        let writer = Schema::parse(writer).map_err(|e| e.to_string())?;
        Plan::new(&writer, &self.own.schema)
    }

    fn know(&self, id: u32, what: Known) {
        self.known.rcu(|known| {
            let mut more = if known.len() < MOST_KNOWN { HashMap::clone(known) } else { HashMap::new() };
            more.insert(id, what.clone());
            more
        });
    }
}

/// Under which the registry has the schemas of a topic's data, as Confluent's clients name it.
pub fn subject(topic: &str) -> String {
    format!("{topic}-value")
}

/// What a registry has to be asked for first. Then the same is tried again.
pub struct Wanted {
    topic: Arc<AvroTopic>,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Schema(u32),
    /// Somebody is at it.
    Registration,
}

impl Wanted {
    /// Asks once. The error says why it is still wanted.
    pub async fn get(&self) -> Result<(), String> {
        match self.what {
            What::Schema(id) => self.topic.learn(id).await.map_err(|e| e.to_string()),
            What::Registration => self.topic.trouble().map_or(Ok(()), Err),
        }
    }

    pub fn why(&self) -> String {
        match self.what {
            What::Schema(id) => format!("schema {id} of topic {} is not known yet", self.topic.name),
            What::Registration => self.topic.trouble().unwrap_or_else(|| "the schema was registered just now".into()),
        }
    }
}

impl std::fmt::Debug for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} of {}", self.what, self.topic.name)
    }
}
