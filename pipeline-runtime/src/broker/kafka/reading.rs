//! The thread that reads. It always polls, whatever the caller does, so that the group never takes it for dead: a caller
//! that is behind makes it wait a moment, and then pause what it reads.

use super::consumer::{KafkaConsumer, Shared, list};
use super::link::Link;
use super::rebalance::{Membership, SESSION};
use super::{KafkaSettings, error, topics};
use crate::broker::{BrokerError, ConsumerMode, ConsumerOptions, Happening, Header, Incoming, Partition, Position};
use bytes::{Bytes, BytesMut};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// How long a poll waits, and so how soon the end of the consumer is noticed.
const POLL: Duration = Duration::from_millis(100);
/// How long a full inbox holds up polling, before partitions are paused. Pausing throws away what librdkafka has fetched.
const PATIENCE: Duration = Duration::from_millis(500);
/// At most so often the same kind of trouble is told.
const TROUBLE_EVERY: Duration = Duration::from_secs(1);
/// The names of topics and headers that are kept to be shared by messages.
const NAMES: usize = 64;

pub(super) fn start(
    settings: &KafkaSettings,
    link: &Link,
    options: ConsumerOptions,
    runtime: Handle,
) -> Result<KafkaConsumer, BrokerError> {
    if let Some(topic) = options.topics.first() {
        link.ask_about(topic);
    }
    let shared = Arc::new(Shared::new(settings, options));
    let context = Membership { shared: shared.clone(), runtime };
    let member: BaseConsumer<Membership> = configure(settings, &shared.options)
        .create_with_context(context)
        .map_err(|why| error(&settings.name, "setting up the consumer", &why))?;
    let member = Arc::new(member);
    match &shared.options.mode {
        ConsumerMode::Group(_) => {
            let topics: Vec<&str> = shared.options.topics.iter().map(String::as_str).collect();
            member.subscribe(&topics).map_err(|why| error(&settings.name, "subscribing", &why))?;
        }
        ConsumerMode::All => assign_all(settings, link, &shared, &member)?,
    }
    let (alive, ended) = watch::channel(());
    let consumer = KafkaConsumer { shared: shared.clone(), member: Arc::downgrade(&member), ended, idle_at: Mutex::default() };
    std::thread::Builder::new()
        .name("kafka-read".into())
        .spawn(move || {
            Reading { shared, names: Vec::new(), troubled: None }.run(member);
            drop(alive);
        })
        .map_err(|why| BrokerError::Other { backend: settings.name.clone(), reason: format!("starting a thread: {why}") })?;
    Ok(consumer)
}

fn configure(settings: &KafkaSettings, options: &ConsumerOptions) -> rdkafka::ClientConfig {
    let mut config = settings.client();
    // A reader of everything never joins its group, but librdkafka wants a name for it.
    let group = match &options.mode {
        ConsumerMode::Group(group) => group.clone(),
        ConsumerMode::All => format!("reader-{}", uuid::Uuid::new_v4()),
    };
    config.set("group.id", group).set("group.protocol", "classic").set("partition.assignment.strategy", "cooperative-sticky");
    config.set("session.timeout.ms", SESSION.as_millis().to_string()).set("heartbeat.interval.ms", "1000");
    config.set("max.poll.interval.ms", "60000"); // also the longest that others wait for a member that hangs
    config.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false").set("auto.offset.reset", "earliest");
    config.set("topic.metadata.refresh.interval.ms", "10000"); // topics and partitions that are made later
    // A broker answers at once when there is something. This is how long a fetch for the other partitions can hold up one
    // that was just resumed.
    config.set("fetch.wait.max.ms", "100").set("fetch.queue.backoff.ms", "20").set("fetch.error.backoff.ms", "100");
    // Half of what may be read ahead waits in the inbox, the rest in librdkafka: queued, and in an answer that just came.
    let quarter = (options.prefetch_bytes / 4).max(64 << 10);
    config.set("queued.max.messages.kbytes", (quarter >> 10).to_string()).set("queued.min.messages", "10000");
    // (librdkafka raises fetch.max.bytes to message.max.bytes; a message that is larger than both comes all the same.)
    config.set("message.max.bytes", "65536").set("fetch.max.bytes", quarter.to_string());
    config.set("max.partition.fetch.bytes", quarter.min(1 << 20).to_string());
    config
}

fn assign_all(settings: &KafkaSettings, link: &Link, shared: &Shared, member: &BaseConsumer<Membership>) -> Result<(), BrokerError> {
    let mut all = TopicPartitionList::new();
    let mut told = Vec::new();
    for topic in &shared.options.topics {
        let Some(count) = topics::partitions(link, settings, topic)? else {
            return Err(BrokerError::NoTopic { backend: settings.name.clone(), topic: topic.clone(), partitions: 1 });
        };
        let name: Arc<str> = topic.as_str().into();
        for number in 0..count {
            let added = all.add_partition_offset(topic, number, Offset::Beginning);
            added.map_err(|why| error(&settings.name, "choosing where to start", &why))?;
            told.push((Partition { topic: name.clone(), number }, None));
        }
    }
    shared.owned().extend(told.iter().map(|(p, _)| p.clone()));
    shared.tell(Happening::Assigned(told));
    member.assign(&all).map_err(|why| error(&settings.name, "taking all partitions", &why))
}

struct Reading {
    shared: Arc<Shared>,
    names: Vec<Arc<str>>,
    troubled: Option<Instant>,
}

pub(super) type Member = BaseConsumer<Membership>;

impl Reading {
    fn run(mut self, mut member: Arc<Member>) {
        let limit = (self.shared.options.prefetch_bytes / 2).max(64 << 10);
        while !self.shared.is_closing() {
            let patience = if self.shared.inbox().is_choked() { Duration::ZERO } else { PATIENCE };
            if self.shared.wait_for_room(limit, patience) {
                self.unchoke(&member);
            } else {
                self.choke(&member);
            }
            self.read(&member, limit);
        }
        // Dropping it leaves the group. A commit that is under way holds it for a moment more.
        while let Err(held) = Arc::try_unwrap(member) {
            member = held;
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Reads what is there, until a batch is together or the inbox is full.
    fn read(&mut self, member: &Member, limit: usize) {
        let mut wait = POLL;
        for _ in 0..self.shared.options.batch_size.max(1) {
            match member.poll(wait) {
                Some(Ok(message)) => {
                    let message = self.incoming(&message);
                    let mut inbox = self.shared.inbox();
                    inbox.push(message);
                    if inbox.bytes() >= limit {
                        break;
                    }
                }
                Some(Err(why)) => self.complain(&why),
                None => break,
            }
            wait = Duration::ZERO;
        }
        self.shared.wake();
    }

    /// Stops fetching, so that polling can go on while the caller catches up.
    fn choke(&mut self, member: &Member) {
        let owned: Vec<Partition> = self.shared.owned().iter().cloned().collect();
        let mut inbox = self.shared.inbox();
        let choked = inbox.choke(owned);
        // Fails only for partitions that have just gone.
        let _ = member.pause(&list(&choked));
    }

    fn unchoke(&mut self, member: &Member) {
        let mut inbox = self.shared.inbox();
        if inbox.is_choked() {
            let _ = member.resume(&list(&inbox.unchoke()));
        }
    }

    fn complain(&mut self, why: &KafkaError) {
        if self.troubled.is_some_and(|last| last.elapsed() < TROUBLE_EVERY) {
            return;
        }
        let code = why.rdkafka_error_code();
        let ConsumerOptions { topics, mode, .. } = &self.shared.options;
        let doing = match (code, mode) {
            // A reader of everything is no member of a group and needs no right to one.
            (Some(RDKafkaErrorCode::GroupAuthorizationFailed), ConsumerMode::All) => return,
            (Some(RDKafkaErrorCode::GroupAuthorizationFailed), ConsumerMode::Group(group)) => {
                format!("reading needs the right READ on group {group}")
            }
            // librdkafka does not tell of which.
            (Some(RDKafkaErrorCode::TopicAuthorizationFailed), _) => {
                format!("reading needs the right READ on each of the topics {}", topics.join(", "))
            }
            _ => "reading".into(),
        };
        self.troubled = Some(Instant::now());
        self.shared.tell(Happening::Trouble(error(&self.shared.backend, &doing, why)));
    }

    /// Takes a message out of librdkafka's memory: one allocation for all its bytes.
    fn incoming(&mut self, message: &BorrowedMessage<'_>) -> Incoming {
        let topic = self.name(message.topic());
        let (key, payload) = (message.key(), message.payload());
        let headers = message.headers();
        let values: usize = headers.map_or(0, |all| all.iter().map(|h| h.value.map_or(0, <[u8]>::len)).sum());
        let mut bytes = BytesMut::with_capacity(key.map_or(0, <[u8]>::len) + payload.map_or(0, <[u8]>::len) + values);
        let mut keep = |part: &[u8]| -> Bytes {
            bytes.extend_from_slice(part);
            bytes.split().freeze()
        };
        let key = key.map(&mut keep);
        let payload = payload.map(&mut keep);
        let mut own = Vec::with_capacity(headers.map_or(0, Headers::count));
        for header in headers.into_iter().flat_map(Headers::iter) {
            own.push(Header { name: self.name(header.key), value: keep(header.value.unwrap_or_default()) });
        }
        let at = Position { partition: Partition { topic, number: message.partition() }, offset: message.offset() };
        Incoming { at, key, headers: own, payload, timestamp_ms: message.timestamp().to_millis().unwrap_or_default() }
    }

    /// Names come again and again: messages share them.
    fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.iter().find(|n| &***n == name) {
            return known.clone();
        }
        let name: Arc<str> = name.into();
        if self.names.len() < NAMES {
            self.names.push(name.clone());
        }
        name
    }
}
