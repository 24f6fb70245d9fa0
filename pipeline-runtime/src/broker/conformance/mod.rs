//! What every backend must do, as cases that run against a real one: in memory here, against real brokers from the end-to-end tests.
//!
//! `publishing` asks what an ack means, `reading` what a single consumer sees, `sharing` what the members of a group may rely on.
// A case that finds a mistake has nothing to hand it to: it panics, and `run` reports it with the case's name.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod publishing;
pub(in crate::broker) mod reader;
mod reading;
mod sharing;

use super::{Broker, Completion, Header, Outgoing, PublishResult, Target, TopicWish};
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use reader::Reader;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// What may take its time (a group that finds together, a broker that starts) may take so long, and the case then fails with a sentence.
const PATIENCE: Duration = Duration::from_secs(45);
/// The most a whole case may take.
const CASE: Duration = Duration::from_secs(120);
/// What the topics of the cases take.
const MAX_MESSAGE: usize = 1024 * 1024;

/// A running cluster. Each call may give another client or the same: both must see the same topics.
#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    async fn broker(&self) -> Arc<dyn Broker>;
}

pub type Case = (&'static str, fn(Bed) -> BoxFuture<'static, ()>);

macro_rules! cases {
    ($($module:ident :: $name:ident),* $(,)?) => {
        /// Every case, by its name: a sentence with underscores.
        pub fn cases() -> Vec<Case> {
            vec![$((stringify!($name), |bed| Box::pin($module::$name(bed)))),*]
        }
    };
}

cases![
    publishing::an_acked_message_can_be_read,
    publishing::what_is_published_comes_back_bit_for_bit,
    publishing::a_key_keeps_its_order,
    publishing::a_key_has_the_partition_that_kafka_gives_it,
    publishing::a_message_goes_to_the_partition_it_names,
    publishing::a_message_that_is_too_large_is_refused_for_good,
    publishing::an_unknown_topic_is_refused,
    publishing::many_publishers_at_once_are_all_acked_in_their_order,
    publishing::a_flush_leaves_nothing_unanswered,
    publishing::topics_are_made_once_and_then_left_alone,
    publishing::a_topic_tells_what_it_takes_and_where_it_begins_and_ends,
    publishing::a_running_broker_is_connected,
    reading::a_reader_of_all_starts_at_the_start_and_commits_nothing,
    reading::a_group_goes_on_where_it_committed_and_finds_its_note,
    reading::what_was_not_committed_comes_again,
    reading::groups_do_not_know_each_other,
    reading::a_paused_partition_waits_and_loses_nothing,
    reading::a_cancelled_poll_loses_and_repeats_nothing,
    reading::a_batch_keeps_its_bounds,
    reading::a_poll_without_news_is_idle,
    sharing::members_share_the_partitions_and_hand_over_without_loss,
    sharing::what_is_paused_the_moment_it_is_given_is_read_when_it_goes_on,
    sharing::a_revoked_partition_waits_for_its_release,
    sharing::a_commit_after_the_release_is_refused,
    sharing::a_partition_that_was_paused_when_it_went_is_read_when_it_comes_back,
    sharing::a_member_that_leaves_makes_room_at_once,
    sharing::asking_what_is_allowed_leaves_nothing_behind_and_disturbs_no_one,
    sharing::more_members_than_partitions_leave_some_waiting,
];

/// Runs every case, so many at once, and panics with all that failed.
pub async fn run(cluster: Arc<dyn Cluster>, at_once: usize) {
    let run = uuid::Uuid::new_v4().simple().to_string();
    let failed: Vec<String> = stream::iter(cases().into_iter().enumerate())
        .map(|(number, case)| one(Bed::new(cluster.clone(), format!("c{}-{number}", &run[..8])), case))
        .buffer_unordered(at_once.max(1))
        .filter_map(async |result| result.err())
        .collect()
        .await;
    assert!(failed.is_empty(), "{} cases failed:\n{}", failed.len(), failed.join("\n"));
}

/// Runs one case in a task of its own, so that its panic is a result.
async fn one(bed: Bed, (name, case): Case) -> Result<(), String> {
    let started = Instant::now();
    let result = timeout(CASE, tokio::spawn(case(bed))).await;
    println!("{name}: {:?}", started.elapsed());
    match result {
        Ok(Ok(())) => Ok(()),
        Ok(Err(panic)) => Err(format!("- {name}: {}", reason(panic))),
        Err(_) => Err(format!("- {name}: not done within {CASE:?}")),
    }
}

fn reason(error: tokio::task::JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return "cancelled".into() };
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast_ref::<&str>().map_or("panicked".into(), |text| text.to_string()),
    }
}

/// What a case works with: the cluster, and names that no other case uses.
pub struct Bed {
    cluster: Arc<dyn Cluster>,
    prefix: String,
    names: AtomicU32,
}

impl Bed {
    pub fn new(cluster: Arc<dyn Cluster>, prefix: String) -> Bed {
        Bed { cluster, prefix, names: AtomicU32::new(0) }
    }

    async fn broker(&self) -> Arc<dyn Broker> {
        self.cluster.broker().await
    }

    fn name(&self, what: &str) -> String {
        format!("{}-{what}-{}", self.prefix, self.names.fetch_add(1, Ordering::Relaxed))
    }

    /// A new topic.
    async fn topic(&self, broker: &Arc<dyn Broker>, partitions: u32) -> Arc<str> {
        let name = self.name("topic");
        broker.ensure_topics(&[wish(&name, partitions)]).await.expect("a topic is made");
        name.into()
    }
}

fn wish(name: &str, partitions: u32) -> TopicWish {
    TopicWish { name: name.into(), partitions, replicas: None, retention: Duration::from_secs(3600), max_message_bytes: MAX_MESSAGE }
}

fn message(topic: &Arc<str>, key: impl Into<String>, payload: impl Into<String>) -> Outgoing {
    Outgoing {
        topic: topic.clone(),
        target: Target::Key,
        key: Some(key.into().into()),
        headers: vec![Header { name: "type".into(), value: Bytes::from_static(b"Test") }],
        payload: Some(payload.into().into()),
    }
}

fn message_to(topic: &Arc<str>, partition: i32, payload: impl Into<String>) -> Outgoing {
    Outgoing { target: Target::Partition(partition), key: None, ..message(topic, "", payload) }
}

/// Hands a message over; the answer comes later.
fn hand_over(broker: &Arc<dyn Broker>, message: Outgoing) -> oneshot::Receiver<PublishResult> {
    let (completion, answer) = Completion::new(None);
    broker.publish(message, completion);
    answer
}

/// Hands a message over and waits for the answer.
async fn publish(broker: &Arc<dyn Broker>, message: Outgoing) -> PublishResult {
    timeout(PATIENCE, hand_over(broker, message)).await.expect("a publish is answered").expect("a completion is answered")
}

/// Hands them over one behind the other without waiting, then waits until all are acked.
async fn publish_all(broker: &Arc<dyn Broker>, messages: impl IntoIterator<Item = Outgoing>) -> Vec<super::Position> {
    let answers: Vec<_> = messages.into_iter().map(|message| hand_over(broker, message)).collect();
    let mut positions = Vec::with_capacity(answers.len());
    for answer in answers {
        positions.push(timeout(PATIENCE, answer).await.expect("a publish is answered").unwrap().expect("a publish is acked"));
    }
    positions
}
