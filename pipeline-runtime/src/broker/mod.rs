//! Message brokers behind one trait: publish and wait for the ack, consume in a group, commit with metadata.
//!
//! Every backend behaves the same, held to that by `conformance`. Nothing here knows orders, contracts or the switch.
//! Only `publish` (the publisher, behind its gate) may call [`Broker::publish`].

pub mod conformance;
pub mod embedded;
pub mod kafka;

use crate::publish::Pass;
use async_trait::async_trait;
use bytes::Bytes;
use crds::runtime_config::TopicConfig;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// A message on its way to a broker.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub topic: Arc<str>,
    pub target: Target,
    pub key: Option<Bytes>,
    pub headers: Vec<Header>,
    /// None is a message without a body: a seal of the switch.
    pub payload: Option<Bytes>,
}

/// Where a message goes: by its key (the same key, the same partition, on every backend alike), or to a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Key,
    Partition(i32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub name: Arc<str>,
    pub value: Bytes,
}

/// A message as a broker hands it out.
#[derive(Clone, Debug)]
pub struct Incoming {
    pub at: Position,
    pub key: Option<Bytes>,
    pub headers: Vec<Header>,
    pub payload: Option<Bytes>,
    /// When it was published, milliseconds since 1970.
    pub timestamp_ms: i64,
}

impl Incoming {
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|h| &*h.name == name).map(|h| h.value.as_ref())
    }
    /// What it takes in memory, to bound queues by bytes.
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|h| h.name.len() + h.value.len()).sum();
        headers + self.payload.as_ref().map_or(0, Bytes::len) + self.key.as_ref().map_or(0, Bytes::len) + 128
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition {
    pub topic: Arc<str>,
    pub number: i32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    pub partition: Partition,
    pub offset: i64,
}

/// What a publish came to. There is no other kind: a call that never answers becomes `Unknown` at its deadline.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PublishError {
    /// The message is not on the broker and never will be.
    #[error("not published: {reason}")]
    Refused { reason: String, retriable: bool },
    /// As one that is refused for good: a smaller message may be taken.
    #[error("not published: {reason}")]
    TooLarge { reason: String },
    /// The message may or may not be on the broker.
    #[error("outcome unknown: {reason}")]
    Unknown { reason: String },
}

pub type PublishResult = Result<Position, PublishError>;

/// Handed over with each publish, and answered by the backend exactly once, whatever becomes of the caller's future:
/// what is in flight is counted here. Dropped without an answer it reports `Unknown`.
pub struct Completion {
    answer: Option<oneshot::Sender<PublishResult>>,
    in_flight: Option<Pass>,
}

impl Completion {
    pub fn new(in_flight: Option<Pass>) -> (Completion, oneshot::Receiver<PublishResult>) {
        let (sender, receiver) = oneshot::channel();
        (Completion { answer: Some(sender), in_flight }, receiver)
    }

    pub fn done(mut self, result: PublishResult) {
        self.report(result);
    }

    fn report(&mut self, result: PublishResult) {
        if let Some(pass) = self.in_flight.take().filter(|_| result.is_ok()) {
            pass.arrived();
        }
        if let Some(answer) = self.answer.take() {
            // The one who asked may have given up; the count above is what matters then.
            let _ = answer.send(result);
        }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if self.answer.is_some() {
            self.report(Err(PublishError::Unknown { reason: "the client ended before the broker answered".into() }));
        }
    }
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum BrokerError {
    #[error("{backend} cannot be reached: {reason}")]
    Unreachable { backend: String, reason: String },
    #[error("{backend} refuses: {reason}")]
    Refused { backend: String, reason: String },
    #[error("{backend} does not allow {user} all that it has to do there: grant it {rights}")]
    NotAllowed { backend: String, user: String, rights: String },
    #[error("topic {topic} does not exist on {backend}: create it with {partitions} partitions, or let its operator do it")]
    NoTopic { backend: String, topic: String, partitions: u32 },
    #[error("this consumer no longer owns {partition:?}: another one reads it")]
    NotOwned { partition: Partition },
    #[error("{backend}: {reason}")]
    Other { backend: String, reason: String },
}

/// What a topic can take, as the broker says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicFacts {
    pub partitions: i32,
    /// None where the broker does not tell.
    pub max_message_bytes: Option<usize>,
}

/// A topic as it should be.
#[derive(Clone, Debug)]
pub struct TopicWish {
    pub name: String,
    pub partitions: u32,
    pub replicas: Option<u32>,
    pub retention: Duration,
    pub max_message_bytes: usize,
}

impl TopicWish {
    pub fn of(topic: &TopicConfig) -> TopicWish {
        TopicWish {
            name: topic.name.clone(),
            partitions: topic.partitions,
            replicas: topic.replicas,
            retention: topic.retention,
            max_message_bytes: topic.max_message_bytes,
        }
    }
}

/// A group's position in a partition: the next offset to read, and what was noted with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    pub next: Position,
    pub metadata: String,
}

/// How a consumer reads.
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    pub topics: Vec<String>,
    pub mode: ConsumerMode,
    /// The most messages in one batch, and how long a poll waits for the first of them.
    pub batch_size: usize,
    pub poll_interval: Duration,
    /// The most bytes fetched ahead of the caller.
    pub prefetch_bytes: usize,
}

#[derive(Clone, Debug)]
pub enum ConsumerMode {
    /// Shares the partitions with the other members; goes on at what the group committed, else at the start.
    Group(String),
    /// Reads every partition from its start, commits nothing, is no member of anything.
    All,
}

/// What a process does on a broker, and so has to be allowed there.
#[derive(Clone, Debug, Default)]
pub struct Uses {
    /// A message to ask with, for each topic that it writes to. None is kept; of a broker that has no such question, and keeps it all the
    /// same, nobody must take it for more than nothing.
    pub writes: Vec<Outgoing>,
    pub reads: Vec<Reads>,
}

#[derive(Clone, Debug)]
pub struct Reads {
    pub mode: ConsumerMode,
    pub topics: Vec<String>,
}

/// So long every backend waits, at the least, for what is revoked to be released. Who takes longer has lost it, and its commit too.
pub const RELEASE_WITHIN: Duration = Duration::from_secs(5);

/// What a consumer is told. Order matters: between `Assigned` and `Revoked` of a partition its messages come in their order.
#[derive(Debug)]
pub enum Happening {
    /// Partitions that are now this consumer's, with what the group had committed there.
    Assigned(Vec<(Partition, Option<Commit>)>),
    Messages(Vec<Incoming>),
    /// These partitions go to another consumer. Finish or drop what is in hand, commit, then drop `release` (or send on it);
    /// the broker waits for it, but not for ever ([`RELEASE_WITHIN`]).
    Revoked {
        partitions: Vec<Partition>,
        release: oneshot::Sender<()>,
    },
    /// These partitions are gone already: nothing may be committed for them.
    Lost(Vec<Partition>),
    /// Nothing to read came within the poll interval.
    Idle,
    /// The broker cannot be reached or complains; the consumer goes on trying by itself.
    Trouble(BrokerError),
}

#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// The backend's name in the document.
    fn name(&self) -> &str;

    /// Hands a message over without waiting. Never blocks: a full queue is answered as refused and retriable.
    fn publish(&self, message: Outgoing, completion: Completion);

    /// Whether the broker answers now. Cheap: it reads what the client has noticed, or asks with a short deadline.
    async fn connected(&self) -> Result<(), BrokerError>;

    /// Whether it is certain that nothing can be published now: then another attempt makes no sense. Asks nobody.
    fn known_down(&self) -> bool;

    async fn topic(&self, name: &str) -> Result<Option<TopicFacts>, BrokerError>;

    /// Only how many partitions a topic has: for whoever must not wait for the rest.
    async fn partitions(&self, topic: &str) -> Result<Option<i32>, BrokerError> {
        Ok(self.topic(topic).await?.map(|facts| facts.partitions))
    }

    /// Creates the topics that are missing; leaves the others as they are.
    async fn ensure_topics(&self, wishes: &[TopicWish]) -> Result<(), BrokerError>;

    async fn consumer(&self, options: ConsumerOptions) -> Result<Box<dyn Consumer>, BrokerError>;

    /// What a group has committed.
    async fn committed(&self, group: &str, topics: &[String]) -> Result<Vec<Commit>, BrokerError>;

    /// The offset of the first message of each partition that is still there. Its end, where none is.
    async fn starts(&self, topic: &str) -> Result<Vec<Position>, BrokerError>;

    /// The offset behind the last message of each partition.
    async fn ends(&self, topic: &str) -> Result<Vec<Position>, BrokerError>;

    /// Whether all of this is allowed to us. What is not is named, right by right; what the broker does not let us find out is no error.
    /// Asking leaves nothing behind and disturbs no one: no message, no commit, no member of a group.
    async fn allows(&self, _uses: &Uses, _within: Duration) -> Result<(), BrokerError> {
        Ok(())
    }

    /// Makes ready all that the first message to these topics would otherwise wait for. What keeps messages from getting through for so
    /// long is the error: a broker that leads a partition and cannot be reached, for one.
    async fn warm_up(&self, _topics: &[String], _within: Duration) -> Result<(), BrokerError> {
        Ok(())
    }

    /// Gives up what is in flight: each of it is reported soon, as `Unknown` where it may have arrived. A broker that answers by itself
    /// within moments has nothing to do.
    fn purge(&self) {}

    /// Sends what is queued, waits at most so long for the acks. What is left afterwards is answered `Unknown`.
    async fn flush(&self, deadline: Duration);
}

#[async_trait]
pub trait Consumer: Send + Sync {
    /// The next thing that happens. Cancel-safe: what was not returned is returned by the next call.
    async fn next(&self) -> Happening;

    /// Stops handing out messages of these partitions; they stay assigned.
    fn pause(&self, partitions: &[Partition]) -> Result<(), BrokerError>;
    fn resume(&self, partitions: &[Partition]) -> Result<(), BrokerError>;

    /// Commits and waits for the broker's answer. Refused as `NotOwned` for a partition that is no longer this consumer's.
    async fn commit(&self, commits: &[Commit]) -> Result<(), BrokerError>;

    /// Leaves the group, so that others take over at once.
    async fn close(&self);
}
