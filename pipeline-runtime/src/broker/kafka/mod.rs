//! Apache Kafka, through librdkafka.
//!
//! `settings` says where and how to connect, `link` knows whether the cluster answers, `producer` publishes, `topics` asks
//! about topics and groups, `rights` asks what we may do, and a consumer is three parts: `reading` (a thread that polls),
//! `rebalance` (what happens there when partitions come and go) and `inbox` (what waits for the caller). librdkafka's calls
//! block: here they run on threads of their own or on Tokio's blocking pool, never on its workers.

mod consumer;
mod inbox;
mod link;
mod producer;
mod reading;
mod rebalance;
mod rights;
mod settings;
mod topics;

pub use settings::{Auth, KafkaSettings, Publishing, Tls};

use super::{
    Broker, BrokerError, Commit, Completion, Consumer, ConsumerMode, ConsumerOptions, Outgoing, Position, TopicFacts, TopicWish, Uses,
};
use async_trait::async_trait;
use link::Link;
use producer::Producing;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use reading::Member;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// The longest that a question to the cluster may take.
const ASK_WITHIN: Duration = Duration::from_secs(5);

/// A Kafka cluster.
pub struct Kafka {
    settings: Arc<KafkaSettings>,
    link: Arc<Link>,
    producing: Arc<Producing>,
    /// Those of this process that are members of a group: they know who keeps its commits.
    members: Mutex<HashMap<String, Weak<Member>>>,
}

impl Kafka {
    /// Connects in the background: a cluster that is away is no error here. [`Broker::connected`] tells.
    pub fn new(settings: KafkaSettings) -> Result<Kafka, BrokerError> {
        let settings = Arc::new(settings);
        let link = Link::watch(&settings)?;
        let producing = Arc::new(Producing::new(settings.clone(), link.clone())?);
        Ok(Kafka { settings, link, producing, members: Mutex::default() })
    }

    fn members(&self) -> MutexGuard<'_, HashMap<String, Weak<Member>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs what blocks where it may block.
    async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&KafkaSettings, &Link) -> Result<T, BrokerError> + Send + 'static,
    ) -> Result<T, BrokerError> {
        let (settings, link) = (self.settings.clone(), self.link.clone());
        match tokio::task::spawn_blocking(move || ask(&settings, &link)).await {
            Ok(answer) => answer,
            Err(why) => Err(BrokerError::Other { backend: self.settings.name.clone(), reason: why.to_string() }),
        }
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.link.stop();
    }
}

#[async_trait]
impl Broker for Kafka {
    fn name(&self) -> &str {
        &self.settings.name
    }

    fn publish(&self, message: Outgoing, completion: Completion) {
        self.producing.publish(message, completion);
    }

    async fn connected(&self) -> Result<(), BrokerError> {
        self.link.connected().await
    }

    fn known_down(&self) -> bool {
        self.link.known_down().is_some()
    }

    async fn topic(&self, name: &str) -> Result<Option<TopicFacts>, BrokerError> {
        let name = name.to_string();
        self.ask(move |settings, link| topics::facts(settings, link, &name)).await
    }

    async fn partitions(&self, topic: &str) -> Result<Option<i32>, BrokerError> {
        let topic = topic.to_string();
        self.ask(move |settings, link| topics::partitions(link, settings, &topic)).await
    }

    async fn ensure_topics(&self, wishes: &[TopicWish]) -> Result<(), BrokerError> {
        let wishes = wishes.to_vec();
        self.ask(move |settings, link| topics::ensure(settings, link, &wishes)).await
    }

    async fn consumer(&self, options: ConsumerOptions) -> Result<Box<dyn Consumer>, BrokerError> {
        let runtime = tokio::runtime::Handle::current();
        let mode = options.mode.clone();
        let consumer = self.ask(move |settings, link| reading::start(settings, link, options, runtime)).await?;
        if let ConsumerMode::Group(group) = mode {
            self.members().insert(group, consumer.member.clone());
        }
        Ok(Box::new(consumer))
    }

    async fn committed(&self, group: &str, topics: &[String]) -> Result<Vec<Commit>, BrokerError> {
        let (group, topics, member) = (group.to_string(), topics.to_vec(), self.members().get(group).cloned());
        self.ask(move |settings, link| topics::committed(settings, link, member.and_then(|member| member.upgrade()), &group, &topics)).await
    }

    async fn starts(&self, topic: &str) -> Result<Vec<Position>, BrokerError> {
        let topic = topic.to_string();
        self.ask(move |settings, link| topics::watermarks(settings, link, &topic, |(start, _)| start)).await
    }

    async fn ends(&self, topic: &str) -> Result<Vec<Position>, BrokerError> {
        let topic = topic.to_string();
        self.ask(move |settings, link| topics::watermarks(settings, link, &topic, |(_, end)| end)).await
    }

    async fn allows(&self, uses: &Uses, within: Duration) -> Result<(), BrokerError> {
        let uses = uses.clone();
        self.ask(move |settings, _| rights::check(settings, &uses, within)).await
    }

    async fn warm_up(&self, topics: &[String], within: Duration) -> Result<(), BrokerError> {
        let (producing, topics) = (self.producing.clone(), topics.to_vec());
        self.ask(move |_, _| producing.warm_up(&topics, within)).await
    }

    fn purge(&self) {
        self.producing.purge();
    }

    async fn flush(&self, deadline: Duration) {
        let producing = self.producing.clone();
        // Fails only if the runtime ends, and then nobody waits.
        let _ = tokio::task::spawn_blocking(move || producing.flush(deadline)).await;
    }
}

/// What librdkafka complains of, in the words of all backends.
fn error(backend: &str, doing: &str, why: &KafkaError) -> BrokerError {
    use RDKafkaErrorCode::*;
    let (backend, reason) = (backend.to_string(), format!("{doing}: {why}"));
    match why.rdkafka_error_code() {
        Some(
            Authentication
            | SSL
            | SaslAuthenticationFailed
            | UnsupportedSASLMechanism
            | TopicAuthorizationFailed
            | GroupAuthorizationFailed
            | ClusterAuthorizationFailed
            | PolicyViolation
            | InvalidConfig
            | InvalidReplicationFactor
            | InvalidPartitions
            | InvalidTopic,
        ) => BrokerError::Refused { backend, reason },
        Some(
            BrokerTransportFailure
            | AllBrokersDown
            | Resolve
            | OperationTimedOut
            | TimedOutQueue
            | MessageTimedOut
            | RequestTimedOut
            | NetworkException
            | WaitingForCoordinator
            | CoordinatorNotAvailable
            | CoordinatorLoadInProgress
            | NotCoordinator
            | LeaderNotAvailable
            | BrokerNotAvailable
            | NotController,
        ) => BrokerError::Unreachable { backend, reason },
        _ => BrokerError::Other { backend, reason },
    }
}
