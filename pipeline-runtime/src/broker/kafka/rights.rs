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

fn write(topic: &str) -> String {
    format!("WRITE on topic {topic}")
}
fn read(topic: &str) -> String {
    format!("READ on topic {topic}")
}
fn join(group: &str) -> String {
    format!("READ on group {group}")
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
    Ok(sender.context().take().missing)
}

/// What is missing to read these topics as a member of the group, and to commit there. One that does not answer could not be joined.
fn in_group(settings: &KafkaSettings, group: &str, topics: &[String], until: Instant) -> Result<Rights, BrokerError> {
    let mut config = settings.client();
    config.set("group.id", group).set("enable.auto.commit", "false").set("retry.backoff.ms", "10");
    // It joins nothing: so long its end waits for a coordinator that was not found.
    config.set("session.timeout.ms", "500").set("heartbeat.interval.ms", "100");
    let client: BaseConsumer<Asking> =
        config.create_with_context(Asking::on(settings)).map_err(|why| error(&settings.name, "setting up a client", &why))?;
    let mut commits = TopicPartitionList::with_capacity(topics.len());
    for topic in topics {
        let added = commits.add_partition_offset(topic, PARTITION_OF_NOBODY, Offset::Offset(0));
        added.map_err(|why| error(&settings.name, "asking for rights", &why))?;
    }
    let doing = format!("asking whether group {group} can be joined");
    client.commit(&commits, CommitMode::Async).map_err(|why| error(&settings.name, &doing, &why))?;
    while Instant::now() < until {
        // Who may not even know of the group does not find its coordinator, and has no answer from there.
        let unknown = matches!(client.poll(LOOK), Some(Err(why)) if is(&why, RDKafkaErrorCode::GroupAuthorizationFailed));
        match client.context().take() {
            Answer { group: true, .. } => {}
            _ if unknown => {}
            Answer { given: false, .. } => continue,
            Answer { unreached: Some(why), .. } => return Err(error(&settings.name, &doing, &why)),
            Answer { missing, .. } => return Ok(missing),
        }
        let mut missing = reading(settings, topics, until)?;
        missing.insert(join(group));
        return Ok(missing);
    }
    Err(BrokerError::Unreachable { backend: settings.name.clone(), reason: format!("{doing}: no answer") })
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
        let doing = format!("asking whether topic {topic} can be read");
        let mut one = TopicPartitionList::new();
        let added = one.add_partition_offset(topic, 0, Offset::End).and_then(|()| client.assign(&one));
        added.map_err(|why| error(&settings.name, &doing, &why))?;
        loop {
            match client.poll(LOOK) {
                // A message that came just now, or that there is none.
                Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => break,
                Some(Err(why)) if is(&why, RDKafkaErrorCode::TopicAuthorizationFailed) => {
                    missing.insert(read(topic));
                    break;
                }
                _ if Instant::now() >= until => {
                    return Err(BrokerError::Unreachable { backend: settings.name.clone(), reason: format!("{doing}: no answer") });
                }
                _ => {}
            }
        }
    }
    Ok(missing)
}

fn is(why: &KafkaError, code: RDKafkaErrorCode) -> bool {
    why.rdkafka_error_code() == Some(code)
}

/// What was heard so far.
#[derive(Default)]
struct Asking {
    backend: String,
    answer: Mutex<Answer>,
}

#[derive(Default)]
struct Answer {
    missing: Rights,
    /// To the commit.
    given: bool,
    /// The group itself is not allowed.
    group: bool,
    unreached: Option<KafkaError>,
}

impl Asking {
    fn on(settings: &KafkaSettings) -> Asking {
        Asking { backend: settings.name.clone(), answer: Mutex::default() }
    }

    fn answer(&self) -> MutexGuard<'_, Answer> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Answer {
        std::mem::take(&mut *self.answer())
    }

    /// What became of a message.
    fn told(&self, topic: &str, why: &KafkaError) {
        if is(why, RDKafkaErrorCode::TopicAuthorizationFailed) {
            self.answer().missing.insert(write(topic));
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

impl ConsumerContext for Asking {
    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        let mut answer = self.answer();
        answer.given = true;
        for at in offsets.elements() {
            if at.error().is_err_and(|why| is(&why, RDKafkaErrorCode::TopicAuthorizationFailed)) {
                answer.missing.insert(read(at.topic()));
            }
        }
        if let Err(why) = result {
            answer.group = is(&why, RDKafkaErrorCode::GroupAuthorizationFailed);
            answer.unreached = matches!(error(&self.backend, "", &why), BrokerError::Unreachable { .. }).then_some(why);
        }
    }
}
