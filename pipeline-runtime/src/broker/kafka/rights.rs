//! What the cluster allows our user to do. Everything here blocks.
//!
//! Kafka would tell with a topic's metadata and a group's description, but librdkafka's Rust binding does not. So it is asked with requests
//! that every broker checks for rights first, and then refuses for a reason that is always there: nothing is left behind, and no one is
//! disturbed. Only a plain "not authorized" counts as one.

use super::link::log;
use super::producer::record;
use super::{KafkaSettings, error};
use crate::broker::{BrokerError, ConsumerMode, Outgoing, Target, Uses};
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A message is acknowledged by none, by one or by all. What asks for another number is refused, behind the question whether it may be
/// written at all.
const ACKS_OF_NOBODY: &str = "2";
/// A commit there is refused, behind the questions whether the group may be used and the topic be read.
const PARTITION_OF_NOBODY: i32 = i32::MAX;
/// How long the brokers may take over the messages. One that says nothing to them is no obstacle.
const WRITE_WITHIN: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);

/// As they are granted.
type Rights = BTreeSet<String>;

pub(super) fn check(settings: &KafkaSettings, uses: &Uses, within: Duration) -> Result<(), BrokerError> {
    let until = Instant::now() + within;
    let mut missing = writing(settings, &uses.writes, until.min(Instant::now() + WRITE_WITHIN))?;
    for reads in &uses.reads {
        missing.append(&mut match &reads.mode {
            ConsumerMode::Group(group) => in_group(settings, group, &reads.topics, until)?,
            ConsumerMode::All => reading(settings, &reads.topics, until)?,
        });
    }
    if missing.is_empty() {
        return Ok(());
    }
    let rights: Vec<String> = missing.into_iter().collect();
    Err(BrokerError::NotAllowed { backend: settings.name.clone(), user: settings.user(), rights: rights.join(", ") })
}

fn read(topic: &str) -> String {
    format!("READ on topic {topic}")
}

/// What is missing to write these messages.
fn writing(settings: &KafkaSettings, messages: &[Outgoing], until: Instant) -> Result<Rights, BrokerError> {
    if messages.is_empty() {
        return Ok(Rights::new());
    }
    let mut config = settings.client();
    config.set("acks", ACKS_OF_NOBODY).set("retries", "0").set("linger.ms", "0");
    config.set("message.timeout.ms", until.saturating_duration_since(Instant::now()).as_millis().max(1).to_string());
    let sender: BaseProducer<Asking> =
        config.create_with_context(Asking::on(settings)).map_err(|why| error(&settings.name, "setting up a client", &why))?;
    for message in messages {
        let partition = match message.target {
            Target::Partition(number) => Some(number),
            Target::Key => None,
        };
        if let Err((why, _)) = sender.send(record(message, partition, ())) {
            sender.context().told(&message.topic, &why);
        }
    }
    while sender.in_flight_count() > 0 && Instant::now() < until {
        sender.poll(LOOK);
    }
    Ok(std::mem::take(&mut *sender.context().missing()))
}

/// What is missing to read these topics as a member of the group, and to commit there. One that does not answer could not be joined.
fn in_group(settings: &KafkaSettings, group: &str, topics: &[String], until: Instant) -> Result<Rights, BrokerError> {
    let mut config = settings.client();
    config.set("group.id", group).set("enable.auto.commit", "false").set("retry.backoff.ms", "10");
    // It joins nothing. So long a commit, and the end of the client, wait for a coordinator that is not found, or does not answer.
    config.set("session.timeout.ms", "500").set("heartbeat.interval.ms", "100").set("socket.timeout.ms", "1000");
    let client: BaseConsumer<Asking> =
        config.create_with_context(Asking::on(settings)).map_err(|why| error(&settings.name, "setting up a client", &why))?;
    let mut missing = Rights::new();
    for topic in topics {
        match can_commit(&client, topic, until) {
            Ok(Commits::Yes) => {}
            Ok(Commits::NotOfTopic) => _ = missing.insert(read(topic)),
            Ok(Commits::NotInGroup) => {
                missing.insert(format!("READ on group {group}"));
                missing.append(&mut reading(settings, topics, until)?);
                break;
            }
            Err(why) => return Err(error(&settings.name, &format!("asking whether group {group} can be joined"), &why)),
        }
    }
    Ok(missing)
}

enum Commits {
    Yes,
    NotOfTopic,
    NotInGroup,
}

fn can_commit(client: &BaseConsumer<Asking>, topic: &str, until: Instant) -> KafkaResult<Commits> {
    use RDKafkaErrorCode::{GroupAuthorizationFailed, TopicAuthorizationFailed};
    let mut nowhere = TopicPartitionList::new();
    nowhere.add_partition_offset(topic, PARTITION_OF_NOBODY, Offset::Offset(0))?;
    loop {
        let Err(why) = client.commit(&nowhere, CommitMode::Sync) else { return Ok(Commits::Yes) };
        match why.rdkafka_error_code() {
            Some(GroupAuthorizationFailed) => return Ok(Commits::NotInGroup),
            Some(TopicAuthorizationFailed) => return Ok(Commits::NotOfTopic),
            _ if !matches!(error("", "", &why), BrokerError::Unreachable { .. }) => return Ok(Commits::Yes),
            _ => {}
        }
        // Who may not even know of the group does not find who would answer.
        while let Some(heard) = client.poll(Duration::ZERO) {
            if heard.is_err_and(|why| is(&why, GroupAuthorizationFailed)) {
                return Ok(Commits::NotInGroup);
            }
        }
        // The place for commits is made when a cluster is first asked for it, which takes a moment.
        if Instant::now() >= until {
            return Err(why);
        }
        std::thread::sleep(LOOK);
    }
}

/// What is missing to read these topics. Each is asked for what comes next in its first partition, which nobody waits for.
fn reading(settings: &KafkaSettings, topics: &[String], until: Instant) -> Result<Rights, BrokerError> {
    let mut config = settings.client();
    // Never joined; but librdkafka wants a name.
    config.set("group.id", format!("reader-{}", uuid::Uuid::new_v4())).set("enable.auto.commit", "false");
    config.set("enable.partition.eof", "true").set("fetch.wait.max.ms", "10").set("session.timeout.ms", "500");
    let client: BaseConsumer<Asking> =
        config.create_with_context(Asking::on(settings)).map_err(|why| error(&settings.name, "setting up a client", &why))?;
    let mut missing = Rights::new();
    for topic in topics {
        if !can_read(&client, topic, until)
            .map_err(|why| error(&settings.name, &format!("asking whether topic {topic} can be read"), &why))?
        {
            missing.insert(read(topic));
        }
    }
    Ok(missing)
}

fn can_read(client: &BaseConsumer<Asking>, topic: &str, until: Instant) -> KafkaResult<bool> {
    // Of a topic that may not be seen nothing more is heard.
    let metadata = client.fetch_metadata(Some(topic), until.saturating_duration_since(Instant::now()))?;
    match metadata.topics().iter().find(|found| found.name() == topic).and_then(|found| found.error()).map(RDKafkaErrorCode::from) {
        Some(RDKafkaErrorCode::TopicAuthorizationFailed) => return Ok(false),
        Some(why) => return Err(KafkaError::MetadataFetch(why)),
        None => {}
    }
    let mut first = TopicPartitionList::new();
    first.add_partition_offset(topic, 0, Offset::End)?;
    client.assign(&first)?;
    loop {
        match client.poll(LOOK) {
            // A message that came just now, or that there is none.
            Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => return Ok(true),
            Some(Err(why)) if is(&why, RDKafkaErrorCode::TopicAuthorizationFailed) => return Ok(false),
            _ if Instant::now() >= until => return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut)),
            _ => {}
        }
    }
}

fn is(why: &KafkaError, code: RDKafkaErrorCode) -> bool {
    why.rdkafka_error_code() == Some(code)
}

#[derive(Default)]
struct Asking {
    backend: String,
    /// To write what was sent.
    missing: Mutex<Rights>,
}

impl Asking {
    fn on(settings: &KafkaSettings) -> Asking {
        Asking { backend: settings.name.clone(), ..Asking::default() }
    }

    fn missing(&self) -> MutexGuard<'_, Rights> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What became of a message.
    fn told(&self, topic: &str, why: &KafkaError) {
        if is(why, RDKafkaErrorCode::TopicAuthorizationFailed) {
            self.missing().insert(format!("WRITE on topic {topic}"));
        }
    }
}

impl ClientContext for Asking {
    /// It is heard where it is asked.
    fn error(&self, _: KafkaError, _: &str) {}

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(&self.backend, level, facility, message);
    }
}

impl ProducerContext for Asking {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((why, message)) = result {
            self.told(message.topic(), why);
        }
    }
}

impl ConsumerContext for Asking {}
