//! Publishing: an idempotent producer that waits for all replicas, and says honestly what became of each message.

use super::link::{Link, log};
use super::{KafkaSettings, error};
use crate::broker::{BrokerError, Completion, Outgoing, Partition, Position, PublishError, Target};
use arc_swap::ArcSwap;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, PurgeConfig, ThreadedProducer};
use rdkafka::util::IntoOpaque;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The most that waits here for the broker: enough for three messages of 10 MB, little enough for a small pod.
const QUEUED_KIB: usize = 32 * 1024;
/// The largest message that is handed to the broker at all; its own limit decides.
const LARGEST_MESSAGE: usize = 16 << 20;

/// While it is warmed up: how long a question for leaders may take, how long they may take to be reached, and the time between two tries.
const LOOK_UP: Duration = Duration::from_secs(1);
const REACH: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_millis(100);

type Sender = ThreadedProducer<Deliveries>;

pub(super) struct Producing {
    settings: Arc<KafkaSettings>,
    link: Arc<Link>,
    sender: ArcSwap<Sender>,
    /// Whether a broken producer is being replaced just now.
    replacing: AtomicBool,
}

/// What travels with a message through librdkafka and comes back with its report.
type Ticket = Box<(Completion, Arc<str>)>;

impl Producing {
    pub fn new(settings: Arc<KafkaSettings>, link: Arc<Link>) -> Result<Producing, BrokerError> {
        let sender = ArcSwap::from_pointee(create(&settings)?);
        Ok(Producing { settings, link, sender, replacing: AtomicBool::new(false) })
    }

    pub fn publish(self: &Arc<Self>, message: Outgoing, completion: Completion) {
        self.link.ask_about(&message.topic);
        if let Some(why) = self.link.known_down() {
            return completion.done(Err(PublishError::Refused { reason: why.to_string(), retriable: true }));
        }
        let sender = self.sender.load();
        if sender.context().broken.load(Ordering::Relaxed) {
            self.replace();
            let reason = format!("the producer for {} is being renewed", self.settings.name);
            return completion.done(Err(PublishError::Refused { reason, retriable: true }));
        }
        let partition = match message.target {
            Target::Key => None,
            // librdkafka would take -1 for "by the key"
            Target::Partition(number) if number < 0 => {
                let reason = format!("{} has no partition {number}", message.topic);
                return completion.done(Err(PublishError::Refused { reason, retriable: false }));
            }
            Target::Partition(number) => Some(number),
        };
        let ticket = Box::new((completion, message.topic.clone()));
        if let Err((why, record)) = sender.send(record(&message, partition, ticket)) {
            let (completion, topic) = *record.delivery_opaque;
            // It was not even taken into the queue.
            let reason = format!("{topic} on {}: {why}", self.settings.name);
            completion.done(Err(match why.rdkafka_error_code() {
                Some(RDKafkaErrorCode::MessageSizeTooLarge) => PublishError::TooLarge { reason },
                code => {
                    PublishError::Refused { reason, retriable: matches!(code, Some(RDKafkaErrorCode::QueueFull | RDKafkaErrorCode::Fatal)) }
                }
            }));
        }
    }

    /// Asks each broker that leads a partition, over the very connection that messages will take: it is made by then, its handshakes are
    /// done, and the producer knows who leads what. What may pass (a leader that changes, a node that hangs) is tried again. Blocks.
    pub fn warm_up(self: &Arc<Self>, topics: &[String], within: Duration) -> Result<(), BrokerError> {
        let until = Instant::now() + within;
        let mut unreached = None;
        loop {
            let sender = self.sender.load_full();
            let why = match self.leaders(&sender, topics, until) {
                Ok(leaders) => match self.reach(&sender, &leaders, until) {
                    Ok(()) => return Ok(()),
                    Err(why) => unreached.insert(why).clone(),
                },
                // A question that happened to go to a node that hangs: which leader is out of reach says more.
                Err(why) => unreached.clone().unwrap_or(why),
            };
            if Instant::now() + AGAIN >= until {
                return Err(why);
            }
            std::thread::sleep(AGAIN);
        }
    }

    /// Of each broker that leads some, one partition.
    fn leaders(self: &Arc<Self>, sender: &Sender, topics: &[String], until: Instant) -> Result<Vec<(String, i32)>, BrokerError> {
        let name = &self.settings.name;
        if sender.context().broken.load(Ordering::Relaxed) {
            self.replace();
            return Err(BrokerError::Other { backend: name.clone(), reason: "its producer is being renewed".into() });
        }
        let mut leaders = BTreeMap::new();
        for topic in topics {
            let asking = |why| error(name, &format!("asking who leads topic {topic}"), &why);
            let metadata = sender.client().fetch_metadata(Some(topic), LOOK_UP.min(left(until))).map_err(asking)?;
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            if let Some(why) = found.and_then(|found| found.error()) {
                return Err(asking(KafkaError::MetadataFetch(why.into())));
            }
            let partitions = found.map(|found| found.partitions()).unwrap_or_default();
            if let Some(first) = partitions.iter().find(|partition| partition.leader() < 0) {
                let reason = format!("partition {} of topic {topic} has no leader", first.id());
                return Err(BrokerError::Unreachable { backend: name.clone(), reason });
            }
            if partitions.is_empty() {
                return Err(BrokerError::Unreachable { backend: name.clone(), reason: format!("it does not know topic {topic} yet") });
            }
            for partition in partitions {
                leaders.entry(partition.leader()).or_insert_with(|| (topic.clone(), partition.id()));
            }
        }
        Ok(leaders.into_values().collect())
    }

    /// All at once: a first connection takes several round trips.
    fn reach(&self, sender: &Sender, leaders: &[(String, i32)], until: Instant) -> Result<(), BrokerError> {
        let within = REACH.min(left(until));
        let ask = |topic: &str, partition| {
            let reaching = |why| error(&self.settings.name, &format!("reaching the leader of partition {partition} of {topic}"), &why);
            sender.client().fetch_watermarks(topic, partition, within).map(drop).map_err(reaching)
        };
        std::thread::scope(|scope| {
            let asked: Vec<_> = leaders.iter().map(|(topic, partition)| scope.spawn(|| ask(topic, *partition))).collect();
            asked.into_iter().try_for_each(|asked| asked.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }

    /// Sends what is queued; what is left at the deadline is given up, with an unknown outcome.
    pub fn flush(&self, deadline: Duration) {
        let sender = self.sender.load_full();
        if sender.flush(deadline).is_err() {
            sender.purge(PurgeConfig::default().queue().inflight());
            let _ = sender.flush(Duration::from_millis(500)); // hands out the reports of the purge
        }
    }

    pub fn purge(&self) {
        self.sender.load().purge(PurgeConfig::default().queue().inflight());
    }

    /// Puts a new producer in the place of a broken one: on a thread, since ending the old one takes a moment, and at most
    /// once a second. What the old one had in flight is reported with an unknown outcome.
    fn replace(self: &Arc<Self>) {
        if self.replacing.swap(true, Ordering::AcqRel) {
            return;
        }
        let this = self.clone();
        let started = std::thread::Builder::new().name("kafka-renew".into()).spawn(move || {
            match create(&this.settings) {
                Ok(fresh) => drop(this.sender.swap(Arc::new(fresh))),
                Err(why) => tracing::error!(backend = this.settings.name, "renewing the producer: {why}"),
            }
            std::thread::sleep(Duration::from_secs(1));
            this.replacing.store(false, Ordering::Release);
        });
        if let Err(why) = started {
            tracing::error!(backend = self.settings.name, "starting a thread: {why}");
            self.replacing.store(false, Ordering::Release);
        }
    }
}

/// A message as librdkafka takes it; to the partition of its key where none is given.
pub(super) fn record<T: IntoOpaque>(message: &Outgoing, partition: Option<i32>, ticket: T) -> BaseRecord<'_, [u8], [u8], T> {
    let mut record = BaseRecord::with_opaque_to(&message.topic, ticket);
    record.partition = partition;
    record.key = message.key.as_deref();
    record.payload = message.payload.as_deref();
    if !message.headers.is_empty() {
        let headers = OwnedHeaders::new_with_capacity(message.headers.len());
        record.headers =
            Some(message.headers.iter().fold(headers, |all, h| all.insert(Header { key: &h.name, value: Some(h.value.as_ref()) })));
    }
    record
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

fn create(settings: &KafkaSettings) -> Result<Sender, BrokerError> {
    let publishing = settings.publishing;
    // librdkafka looks for overdue messages once a second: with a fifth to spare their report comes before the caller gives
    // up, and nothing is sent after that.
    let timeout = (publishing.deadline * 4 / 5).max(Duration::from_millis(100));
    let mut config = settings.client();
    config.set("enable.idempotence", "true").set("acks", "all");
    config.set("linger.ms", publishing.linger.as_millis().to_string());
    config.set("message.timeout.ms", timeout.as_millis().to_string());
    config.set("request.timeout.ms", timeout.as_millis().to_string());
    config.set("queue.buffering.max.kbytes", QUEUED_KIB.to_string()).set("queue.buffering.max.messages", "100000");
    config.set("message.max.bytes", LARGEST_MESSAGE.to_string()).set("batch.size", publishing.batch_bytes.to_string());
    config.set("partitioner", "murmur2_random"); // a key's partition is the same as with the Java client
    config.set("retry.backoff.ms", "50").set("retry.backoff.max.ms", "500");
    let context = Deliveries { backend: settings.name.clone(), broken: AtomicBool::new(false) };
    config.create_with_context(context).map_err(|why| error(&settings.name, "setting up the producer", &why))
}

struct Deliveries {
    backend: String,
    /// An idempotent producer that lost count of its messages sends nothing more.
    broken: AtomicBool,
}

impl ClientContext for Deliveries {
    fn error(&self, why: KafkaError, reason: &str) {
        if why.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            tracing::error!(backend = self.backend, "the producer cannot go on and is renewed: {reason}");
            self.broken.store(true, Ordering::Relaxed);
        }
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(&self.backend, level, facility, message);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Ticket;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Ticket) {
        let (completion, topic) = *ticket;
        completion.done(match result {
            Ok(message) => Ok(Position { partition: Partition { topic, number: message.partition() }, offset: message.offset() }),
            Err((why, _)) => Err(outcome(&self.backend, &topic, why)),
        });
    }
}

/// What a failed delivery means. librdkafka knows whether a message was ever sent, but its Rust binding does not tell: so
/// only what a broker, or the cluster's metadata, has plainly refused is called refused.
fn outcome(backend: &str, topic: &str, why: &KafkaError) -> PublishError {
    use RDKafkaErrorCode::*;
    let reason = format!("{topic} on {backend}: {why}");
    match why.rdkafka_error_code() {
        // A topic may be on its way; librdkafka has already looked for a second.
        Some(UnknownTopic | UnknownTopicOrPartition) => PublishError::Refused { reason, retriable: true },
        Some(TopicAuthorizationFailed) => {
            PublishError::Refused { reason: format!("{reason}; grant its user WRITE on topic {topic}"), retriable: false }
        }
        Some(MessageSizeTooLarge | MessageBatchTooLarge) => PublishError::TooLarge { reason },
        Some(
            InvalidMessageSize
            | UnknownPartition
            | InvalidTopic
            | ClusterAuthorizationFailed
            | PolicyViolation
            | InvalidRecord
            | InvalidTimestamp
            | InvalidRequiredAcks
            | UnsupportedForMessageFormat,
        ) => PublishError::Refused { reason, retriable: false },
        _ => PublishError::Unknown { reason },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn of(code: RDKafkaErrorCode) -> PublishError {
        outcome("events", "letters", &KafkaError::MessageProduction(code))
    }

    #[test]
    fn only_a_plain_refusal_is_called_refused() {
        assert!(matches!(of(RDKafkaErrorCode::MessageSizeTooLarge), PublishError::TooLarge { .. }));
        assert!(matches!(of(RDKafkaErrorCode::TopicAuthorizationFailed), PublishError::Refused { retriable: false, .. }));
        assert!(matches!(of(RDKafkaErrorCode::UnknownTopicOrPartition), PublishError::Refused { retriable: true, .. }));
        for code in [
            RDKafkaErrorCode::MessageTimedOut,
            RDKafkaErrorCode::PurgeQueue, // it may be a resend of one that did arrive
            RDKafkaErrorCode::PurgeInflight,
            RDKafkaErrorCode::NotEnoughReplicasAfterAppend,
            RDKafkaErrorCode::BrokerTransportFailure,
            RDKafkaErrorCode::Fatal,
        ] {
            assert!(matches!(of(code), PublishError::Unknown { .. }), "{code:?}");
        }
    }
}
