//! Questions about topics and groups, and the making of topics. Everything here blocks.

use super::link::Link;
use super::reading::Member;
use super::{ASK_WITHIN, KafkaSettings, error};
use crate::broker::{BrokerError, Commit, Partition, Position, TopicFacts, TopicWish};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// How long a topic that was just made may take until the cluster knows it.
const KNOWN_WITHIN: Duration = Duration::from_secs(10);

/// The partitions of a topic; None if there is no such topic.
pub(super) fn partitions(link: &Link, settings: &KafkaSettings, topic: &str) -> Result<Option<i32>, BrokerError> {
    let backend = &settings.name;
    link.ask_about(topic);
    let metadata = link
        .inspector()
        .fetch_metadata(Some(topic), ASK_WITHIN)
        .map_err(|why| error(backend, &format!("asking for topic {topic}"), &why))?;
    let Some(found) = metadata.topics().iter().find(|t| t.name() == topic) else { return Ok(None) };
    match found.error().map(RDKafkaErrorCode::from) {
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(None),
        Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
            Err(BrokerError::NotAllowed { backend: backend.clone(), user: settings.user(), rights: format!("DESCRIBE on topic {topic}") })
        }
        Some(why) => Err(error(backend, &format!("asking for topic {topic}"), &KafkaError::MetadataFetch(why))),
        None => Ok(i32::try_from(found.partitions().len()).ok()),
    }
}

pub(super) fn facts(settings: &KafkaSettings, link: &Link, topic: &str) -> Result<Option<TopicFacts>, BrokerError> {
    let Some(partitions) = partitions(link, settings, topic)? else { return Ok(None) };
    let described = Handle::current().block_on(async {
        let admin = admin(settings)?;
        let answer = admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options()).await;
        answer.map_err(|why| error(&settings.name, &format!("asking for the settings of topic {topic}"), &why))
    })?;
    // Who may write to a topic need not be allowed to see its settings.
    let limit = described.into_iter().flatten().find_map(|d| d.get("max.message.bytes")?.value.as_ref()?.parse().ok());
    Ok(Some(TopicFacts { partitions, max_message_bytes: limit }))
}

pub(super) fn ensure(settings: &KafkaSettings, link: &Link, wishes: &[TopicWish]) -> Result<(), BrokerError> {
    let mut missing = Vec::new();
    for wish in wishes {
        if partitions(link, settings, &wish.name)?.is_none() {
            missing.push(wish);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    create(settings, &missing)?;
    let deadline = Instant::now() + KNOWN_WITHIN;
    for wish in missing {
        while partitions(link, settings, &wish.name)?.is_none() {
            if Instant::now() > deadline {
                let (backend, topic) = (settings.name.clone(), wish.name.clone());
                return Err(BrokerError::NoTopic { backend, topic, partitions: wish.partitions });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

fn create(settings: &KafkaSettings, wishes: &[&TopicWish]) -> Result<(), BrokerError> {
    let text: Vec<(String, String)> =
        wishes.iter().map(|w| (w.retention.as_millis().to_string(), w.max_message_bytes.to_string())).collect();
    let mut topics = Vec::new();
    for (wish, (retention, largest)) in wishes.iter().zip(&text) {
        let count = i32::try_from(wish.partitions).unwrap_or(i32::MAX);
        // -1: as many as the cluster makes by default
        let replicas = wish.replicas.map_or(-1, |r| i32::try_from(r).unwrap_or(i32::MAX));
        let topic = NewTopic::new(&wish.name, count, TopicReplication::Fixed(replicas));
        topics.push(topic.set("retention.ms", retention).set("max.message.bytes", largest));
    }
    let made = Handle::current().block_on(async {
        let admin = admin(settings)?;
        admin.create_topics(&topics, &options()).await.map_err(|why| error(&settings.name, "creating topics", &why))
    })?;
    for topic in made {
        match topic {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, why)) => return Err(error(&settings.name, &format!("creating topic {topic}"), &KafkaError::AdminOp(why))),
        }
    }
    Ok(())
}

/// Of where each partition begins and ends, what is asked for.
pub(super) fn watermarks(
    settings: &KafkaSettings,
    link: &Link,
    topic: &str,
    which: impl Fn((i64, i64)) -> i64,
) -> Result<Vec<Position>, BrokerError> {
    let Some(count) = partitions(link, settings, topic)? else {
        return Err(BrokerError::NoTopic { backend: settings.name.clone(), topic: topic.into(), partitions: 1 });
    };
    let name: Arc<str> = topic.into();
    let mut all = Vec::new();
    for number in 0..count {
        let both = link
            .inspector()
            .fetch_watermarks(topic, number, ASK_WITHIN)
            .map_err(|why| error(&settings.name, &format!("asking where partition {number} of {topic} begins and ends"), &why))?;
        all.push(Position { partition: Partition { topic: name.clone(), number }, offset: which(both) });
    }
    Ok(all)
}

/// Asked through a `member` of the group where there is one: another client has to find the group's coordinator first, which can take
/// the better part of a second.
pub(super) fn committed(
    settings: &KafkaSettings,
    link: &Link,
    member: Option<Arc<Member>>,
    group: &str,
    topics: &[String],
) -> Result<Vec<Commit>, BrokerError> {
    let mut asked = TopicPartitionList::new();
    for topic in topics {
        if let Some(count) = partitions(link, settings, topic)? {
            asked.add_partition_range(topic, 0, count - 1);
        }
    }
    if asked.count() == 0 {
        return Ok(Vec::new());
    }
    let answer = match member {
        Some(member) => member.committed_offsets(asked, ASK_WITHIN),
        None => {
            let mut config = settings.client();
            config.set("group.id", group).set("enable.auto.commit", "false");
            let client: BaseConsumer = config.create().map_err(|why| error(&settings.name, "setting up a client", &why))?;
            client.committed_offsets(asked, ASK_WITHIN)
        }
    };
    let answer = answer.map_err(|why| error(&settings.name, &format!("asking what group {group} has committed"), &why))?;
    commits(&settings.name, &answer).map(|all| all.into_iter().filter_map(|(_, commit)| commit).collect())
}

/// Reads a broker's answer: each partition that was asked for, with what is committed there.
pub(super) fn commits(backend: &str, answer: &TopicPartitionList) -> Result<Vec<(Partition, Option<Commit>)>, BrokerError> {
    let mut all = Vec::with_capacity(answer.count());
    for at in answer.elements() {
        let partition = Partition { topic: at.topic().into(), number: at.partition() };
        at.error().map_err(|why| error(backend, &format!("asking what is committed in {partition:?}"), &why))?;
        let commit = match at.offset() {
            Offset::Offset(offset) => {
                Some(Commit { next: Position { partition: partition.clone(), offset }, metadata: at.metadata().to_string() })
            }
            _ => None,
        };
        all.push((partition, commit));
    }
    Ok(all)
}

/// A client for one question: these are rare, and an idle pod should hold no connection for them.
fn admin(settings: &KafkaSettings) -> Result<AdminClient<DefaultClientContext>, BrokerError> {
    settings.client().create().map_err(|why| error(&settings.name, "setting up a client", &why))
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ASK_WITHIN)).operation_timeout(Some(ASK_WITHIN))
}
