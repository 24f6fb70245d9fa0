#![allow(clippy::unwrap_used, clippy::expect_used)]

mod faults;
mod kill;

use super::*;
use crate::broker::conformance::{self, Cluster, reader::Reader};
use crate::sqlite::Place;

struct Embedded(Arc<EmbeddedBroker>);

#[async_trait]
impl Cluster for Embedded {
    async fn broker(&self) -> Arc<dyn Broker> {
        self.0.clone()
    }
}

async fn open(place: &Place) -> Arc<EmbeddedBroker> {
    Arc::new(EmbeddedBroker::open(Database::open(place).await.unwrap(), "test").await.unwrap())
}

/// A broker with a topic `t`.
async fn with_topic(place: &Place, partitions: u32) -> (Arc<EmbeddedBroker>, Arc<dyn Broker>) {
    let broker = open(place).await;
    broker.ensure_topics(&[topic_t(partitions)]).await.unwrap();
    (broker.clone(), broker)
}

fn topic_t(partitions: u32) -> TopicWish {
    let retention = Duration::from_secs(3600);
    TopicWish { name: "t".into(), partitions, replicas: None, retention, max_message_bytes: 10 * 1024 * 1024 }
}

fn to_t(number: i32, payload: impl Into<String>) -> Outgoing {
    let payload = Some(Bytes::from(payload.into()));
    Outgoing { topic: "t".into(), target: Target::Partition(number), key: None, headers: vec![], payload }
}

fn hand_over(broker: &EmbeddedBroker, message: Outgoing) -> oneshot::Receiver<PublishResult> {
    let (completion, answer) = Completion::new(None);
    broker.publish(message, completion);
    answer
}

async fn publish(broker: &EmbeddedBroker, message: Outgoing) -> PublishResult {
    hand_over(broker, message).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_passes_the_conformance_suite_in_memory() {
    conformance::run(Arc::new(Embedded(open(&Place::Memory).await)), 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_passes_the_conformance_suite_in_a_file() {
    let directory = tempfile::tempdir().unwrap();
    conformance::run(Arc::new(Embedded(open(&Place::File(directory.path().join("state.db"))).await)), 4).await;
}

#[tokio::test]
async fn after_a_restart_messages_positions_and_commits_are_as_they_were() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::File(directory.path().join("state.db"));
    let (embedded, broker) = with_topic(&place, 2).await;
    for n in 0..5 {
        publish(&embedded, to_t(1, n.to_string())).await.unwrap();
    }
    let mut reader = Reader::join(&broker, &"t".into(), "g").await;
    reader.read(5).await;
    let mut commit = reader.commit_for(&reader.seen[0].at.partition, "note").unwrap();
    commit.next.offset = 3;
    reader.consumer.commit(std::slice::from_ref(&commit)).await.unwrap();
    embedded.close().await;
    assert!(matches!(publish(&embedded, to_t(1, "late")).await, Err(PublishError::Refused { retriable: false, .. })));
    drop((reader, broker, embedded));

    let (embedded, broker) = with_topic(&place, 7).await;
    assert_eq!(embedded.topic("t").await.unwrap().unwrap().partitions, 2);
    assert_eq!(embedded.committed("g", &["t".into()]).await.unwrap(), [commit]);
    assert_eq!(publish(&embedded, to_t(1, "5")).await.unwrap().offset, 5);
    let mut reader = Reader::join(&broker, &"t".into(), "g").await;
    reader.read(3).await;
    assert_eq!(reader.payloads(), ["3", "4", "5"]);
}

#[tokio::test]
async fn two_backends_in_one_file_do_not_see_each_other() {
    let database = Database::open(&Place::Memory).await.unwrap();
    let first = EmbeddedBroker::open(database.clone(), "first").await.unwrap();
    let second = EmbeddedBroker::open(database, "second").await.unwrap();
    first.ensure_topics(&[topic_t(1)]).await.unwrap();
    assert_eq!(second.topic("t").await.unwrap(), None);
    second.ensure_topics(&[topic_t(3)]).await.unwrap();
    publish(&first, to_t(0, "of the first")).await.unwrap();
    let (first, second): (Arc<dyn Broker>, Arc<dyn Broker>) = (Arc::new(first), Arc::new(second));
    let ends: Vec<_> = second.ends("t").await.unwrap().iter().map(|end| end.offset).collect();
    assert_eq!(ends, [0, 0, 0]);
    let mut reader = Reader::join(&first, &"t".into(), "g").await;
    reader.read(1).await;
    reader.consumer.commit(&[reader.commit_for(&reader.seen[0].at.partition, "").unwrap()]).await.unwrap();
    assert_eq!(second.committed("g", &["t".into()]).await.unwrap(), []);
}

#[tokio::test]
async fn what_is_past_its_retention_goes_and_offsets_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::File(directory.path().join("state.db"));
    let (embedded, broker) = with_topic(&place, 1).await;
    let answers: Vec<_> = (0..2500).map(|n| hand_over(&embedded, to_t(0, n.to_string()))).collect();
    for answer in answers {
        answer.await.unwrap().unwrap();
    }
    let hour = topic_t(1).retention.as_millis() as i64;
    assert_eq!(retention::remove_old(&embedded.core, writer::now_ms() + hour - 60_000).await.unwrap(), 0);
    assert_eq!(retention::remove_old(&embedded.core, writer::now_ms() + hour + 60_000).await.unwrap(), 2500);
    drop((embedded.close().await, embedded, broker));

    let (embedded, broker) = with_topic(&place, 1).await;
    assert_eq!(embedded.ends("t").await.unwrap()[0].offset, 2500, "an empty partition does not begin again");
    assert_eq!(embedded.starts("t").await.unwrap()[0].offset, 2500, "nothing is there any more");
    let mut reader = Reader::join(&broker, &"t".into(), "g").await;
    reader.until("an idle poll", |reader| reader.idle > 0).await;
    publish(&embedded, to_t(0, "new")).await.unwrap();
    reader.read(1).await;
    assert_eq!((reader.seen[0].at.offset, reader.payloads()), (2500, vec!["new".to_string()]));
}

#[tokio::test]
async fn what_a_group_has_not_committed_outlives_its_retention() {
    let (embedded, broker) = with_topic(&Place::Memory, 2).await;
    for n in 0..5 {
        publish(&embedded, to_t(0, n.to_string())).await.unwrap();
        publish(&embedded, to_t(1, n.to_string())).await.unwrap();
    }
    let later = writer::now_ms() + 2 * topic_t(1).retention.as_millis() as i64;
    let mut reader = Reader::join(&broker, &"t".into(), "g").await;
    reader.read(10).await;
    let first = reader.owned.keys().next().unwrap().clone();
    let mut commit = reader.commit_for(&first, "").unwrap();
    commit.next.offset = 3;
    reader.consumer.commit(std::slice::from_ref(&commit)).await.unwrap();
    assert_eq!(retention::remove_old(&embedded.core, later).await.unwrap(), 3, "nothing of the partition where it has committed nothing");
    commit.next.offset = 5;
    let other = reader.commit_for(reader.owned.keys().nth(1).unwrap(), "").unwrap();
    reader.consumer.commit(&[commit, other]).await.unwrap();
    assert_eq!(retention::remove_old(&embedded.core, later).await.unwrap(), 7);
}
