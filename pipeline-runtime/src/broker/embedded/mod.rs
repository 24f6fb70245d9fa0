//! A durable broker inside the process, in the SQLite file that also holds the store: for `up`, and for tests.
//!
//! An ack means that the message is on the disk. Groups live in the process: its consumers are all there are.
//! Several backends of one document share a file; every row belongs to one of them.

mod balance;
mod consumer;
mod core;
mod groups;
mod partitioner;
mod retention;
mod tables;
mod writer;

#[cfg(test)]
mod tests;

use self::core::Core;
use super::*;
use crate::sqlite::Database;
use consumer::EmbeddedConsumer;
use writer::Queue;

/// One for each backend and database; all its users share it.
pub struct EmbeddedBroker {
    core: Arc<Core>,
    queue: Queue,
}

impl EmbeddedBroker {
    /// `name` is the backend's name in the document.
    pub async fn open(database: Database, name: &str) -> Result<EmbeddedBroker, BrokerError> {
        EmbeddedBroker::with_release_within(database, name, RELEASE_WITHIN).await
    }

    async fn with_release_within(database: Database, name: &str, release_within: Duration) -> Result<EmbeddedBroker, BrokerError> {
        let core = Arc::new(Core::new(name, database, release_within));
        let unreachable = |error| core.unreachable(error);
        sqlx::raw_sql(tables::TABLES).execute(&core.database.writer).await.map_err(unreachable)?;
        core.load().await.map_err(unreachable)?;
        tokio::spawn(retention::run(Arc::downgrade(&core)));
        Ok(EmbeddedBroker { queue: Queue::start(core.clone()), core })
    }

    /// Plays dead: refuses to publish, to commit and to read until it is set up again. For tests of what happens then.
    pub fn set_down(&self, down: bool) {
        self.core.set_down(down);
    }

    /// Writes what is queued, then takes nothing more.
    pub async fn close(&self) {
        self.queue.end().await;
    }

    /// Where the message goes and how large it is, if it may go there.
    fn admit(&self, message: &Outgoing) -> Result<(Arc<self::core::Topic>, i32, usize), PublishError> {
        let refused = |reason, retriable| PublishError::Refused { reason, retriable };
        self.core.up().map_err(|error| refused(error.to_string(), true))?;
        let topic = self.core.known_topic(&message.topic).map_err(|error| refused(error.to_string(), false))?;
        let headers: usize = message.headers.iter().map(|header| header.name.len() + header.value.len()).sum();
        let bytes = headers + message.key.as_ref().map_or(0, Bytes::len) + message.payload.as_ref().map_or(0, Bytes::len);
        if bytes > topic.max_message_bytes {
            let reason = format!("the message has {bytes} bytes and topic {} takes {}", topic.name, topic.max_message_bytes);
            return Err(PublishError::TooLarge { reason });
        }
        let number = topic.place(message.target, message.key.as_deref())?;
        Ok((topic, number, bytes))
    }

    async fn create(&self, wishes: &[TopicWish]) -> Result<(), sqlx::Error> {
        let mut transaction = self.core.database.writer.begin_with("BEGIN IMMEDIATE").await?;
        for wish in wishes {
            let created: Option<i64> = sqlx::query_scalar(
                "INSERT INTO broker_topics (backend, name, retention_ms, max_message_bytes) VALUES (?, ?, ?, ?)
                 ON CONFLICT (backend, name) DO NOTHING RETURNING id",
            )
            .bind(&*self.core.name)
            .bind(&wish.name)
            .bind(wish.retention.as_millis() as i64)
            .bind(wish.max_message_bytes as i64)
            .fetch_optional(&mut *transaction)
            .await?;
            for number in 0..wish.partitions {
                let Some(topic) = created else { break };
                let partition = sqlx::query("INSERT INTO broker_partitions (topic, number) VALUES (?, ?)").bind(topic).bind(number);
                partition.execute(&mut *transaction).await?;
            }
        }
        transaction.commit().await
    }
}

#[async_trait]
impl Broker for EmbeddedBroker {
    fn name(&self) -> &str {
        &self.core.name
    }

    fn publish(&self, message: Outgoing, completion: Completion) {
        match self.admit(&message) {
            Ok((topic, number, bytes)) => self.queue.push(topic, number, message, bytes, completion),
            Err(error) => completion.done(Err(error)),
        }
    }

    async fn connected(&self) -> Result<(), BrokerError> {
        self.core.writable().await
    }

    fn known_down(&self) -> bool {
        self.core.up().is_err()
    }

    async fn topic(&self, name: &str) -> Result<Option<TopicFacts>, BrokerError> {
        self.core.up()?;
        Ok(self
            .core
            .topic(name)
            .map(|topic| TopicFacts { partitions: topic.logs.len() as i32, max_message_bytes: Some(topic.max_message_bytes) }))
    }

    async fn ensure_topics(&self, wishes: &[TopicWish]) -> Result<(), BrokerError> {
        const PARTITIONS: std::ops::RangeInclusive<u32> = 1..=1000;
        self.core.up()?;
        if let Some(wish) = wishes.iter().find(|wish| !PARTITIONS.contains(&wish.partitions)) {
            return Err(self.core.refused(format!("topic {} with {} partitions: take 1 to 1000", wish.name, wish.partitions)));
        }
        if wishes.iter().all(|wish| self.core.topic(&wish.name).is_some()) {
            return Ok(());
        }
        let creating = async {
            self.create(wishes).await?;
            self.core.load().await
        };
        creating.await.map_err(|error| self.core.unreachable(error))
    }

    async fn consumer(&self, options: ConsumerOptions) -> Result<Box<dyn Consumer>, BrokerError> {
        Ok(Box::new(EmbeddedConsumer::open(self.core.clone(), options)?))
    }

    async fn committed(&self, group: &str, topics: &[String]) -> Result<Vec<Commit>, BrokerError> {
        self.core.up()?;
        let mut partitions = Vec::new();
        for topic in topics {
            partitions.extend(self.core.known_topic(topic)?.partitions());
        }
        Ok(consumer::read_commits(&self.core, group, &partitions).await?.into_values().collect())
    }

    async fn starts(&self, topic: &str) -> Result<Vec<Position>, BrokerError> {
        self.core.up()?;
        let topic = self.core.known_topic(topic)?;
        let mut starts = Vec::with_capacity(topic.logs.len());
        for (log, partition) in topic.logs.iter().zip(topic.partitions()) {
            let end = log.end();
            let ids = log.ids_from(0);
            let first: Option<i64> = sqlx::query_scalar("SELECT min(id) FROM broker_messages WHERE id >= ? AND id < ?")
                .bind(ids.start)
                .bind(ids.end)
                .fetch_one(&self.core.database.readers)
                .await
                .map_err(|error| self.core.unreachable(error))?;
            starts.push(Position { partition, offset: first.map_or(end, tables::offset_of) });
        }
        Ok(starts)
    }

    async fn ends(&self, topic: &str) -> Result<Vec<Position>, BrokerError> {
        self.core.up()?;
        let topic = self.core.known_topic(topic)?;
        let ends = topic.logs.iter().zip(topic.partitions());
        Ok(ends.map(|(log, partition)| Position { partition, offset: log.end() }).collect())
    }

    async fn flush(&self, deadline: Duration) {
        self.queue.flush(deadline).await;
    }
}
