//! What the broker's handles, its writer and its consumers share: the database, the topics with their ends, the groups.

use super::groups::Groups;
use super::tables::{LOAD, MAX_OFFSET, message_id, offset_of};
use crate::broker::{BrokerError, Partition, PublishError, Target};
use crate::sqlite::Database;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Notify;

pub struct Core {
    pub name: Arc<str>,
    pub database: Database,
    topics: RwLock<HashMap<Arc<str>, Arc<Topic>>>,
    pub groups: Groups,
    /// Wakes whoever waits for messages, after each commit of new ones.
    pub published: Notify,
    down: AtomicBool,
    /// Why the last write failed, if it did.
    trouble: Mutex<Option<String>>,
}

pub struct Topic {
    pub name: Arc<str>,
    pub retention: Duration,
    pub max_message_bytes: usize,
    /// By their number.
    pub logs: Vec<Log>,
    /// Whose turn it is among the partitions for a message without a key.
    turn: AtomicUsize,
}

/// The messages of one partition.
pub struct Log {
    /// Its row in `broker_partitions`.
    pub row: i64,
    /// The offset behind the last committed message. Only the writer moves it.
    end: AtomicI64,
}

impl Log {
    pub fn end(&self) -> i64 {
        self.end.load(Ordering::Acquire)
    }
    pub fn set_end(&self, end: i64) {
        self.end.store(end, Ordering::Release);
    }
    /// The ids that this partition's messages have, from an offset on.
    pub fn ids_from(&self, offset: i64) -> std::ops::Range<i64> {
        message_id(self.row, offset)..message_id(self.row + 1, 0)
    }
}

impl Topic {
    pub fn log(&self, number: i32) -> Option<&Log> {
        self.logs.get(usize::try_from(number).ok()?)
    }

    pub fn partition(&self, number: i32) -> Partition {
        Partition { topic: self.name.clone(), number }
    }

    pub fn partitions(&self) -> impl Iterator<Item = Partition> {
        (0..self.logs.len() as i32).map(|number| self.partition(number))
    }

    /// The partition that a message goes to.
    pub fn place(&self, target: Target, key: Option<&[u8]>) -> Result<i32, PublishError> {
        let refused = |reason| PublishError::Refused { reason, retriable: false };
        let number = match (target, key) {
            (Target::Partition(number), _) => number,
            (Target::Key, Some(key)) => super::partitioner::partition_of(key, self.logs.len()) as i32,
            (Target::Key, None) => (self.turn.fetch_add(1, Ordering::Relaxed) % self.logs.len()) as i32,
        };
        match self.log(number) {
            None => Err(refused(format!("topic {} has {} partitions and none with the number {number}", self.name, self.logs.len()))),
            Some(log) if log.end() >= MAX_OFFSET - i64::from(u32::MAX) => {
                Err(refused(format!("partition {number} of topic {} has used up its offsets", self.name)))
            }
            Some(_) => Ok(number),
        }
    }
}

type TopicRow = (String, i64, i64, i64, i32, i64, Option<i64>);

impl Core {
    pub fn new(name: &str, database: Database, release_within: Duration) -> Core {
        Core {
            name: name.into(),
            database,
            topics: RwLock::default(),
            groups: Groups::new(release_within),
            published: Notify::new(),
            down: AtomicBool::new(false),
            trouble: Mutex::default(),
        }
    }

    /// Reads the topics that are in the tables and not known yet.
    pub async fn load(&self) -> Result<(), sqlx::Error> {
        let rows: Vec<TopicRow> = sqlx::query_as(LOAD).bind(&*self.name).fetch_all(&self.database.writer).await?;
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        for rows in rows.chunk_by(|a, b| a.0 == b.0) {
            let (name, retention, max_message_bytes, ..) = &rows[0];
            if topics.contains_key(name.as_str()) {
                continue; // its ends are ahead of what was read
            }
            let logs = rows.iter().map(|(.., row, _, next, last)| {
                let end = last.map_or(0, |id| offset_of(id) + 1).max(*next);
                Log { row: *row, end: AtomicI64::new(end) }
            });
            let topic = Topic {
                name: name.as_str().into(),
                retention: Duration::from_millis(*retention as u64),
                max_message_bytes: *max_message_bytes as usize,
                logs: logs.collect(),
                turn: AtomicUsize::new(0),
            };
            topics.insert(topic.name.clone(), Arc::new(topic));
        }
        Ok(())
    }

    pub fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub fn topics(&self) -> Vec<Arc<Topic>> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub fn known_topic(&self, name: &str) -> Result<Arc<Topic>, BrokerError> {
        self.topic(name).ok_or_else(|| BrokerError::NoTopic { backend: self.name.to_string(), topic: name.into(), partitions: 1 })
    }

    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
        self.published.notify_waiters();
    }

    /// Err while the broker plays dead, and once the database's file is gone.
    pub fn up(&self) -> Result<(), BrokerError> {
        if self.down.load(Ordering::SeqCst) {
            return Err(self.unreachable("it has been switched off"));
        }
        self.database.gone().map_or(Ok(()), |why| Err(self.unreachable(why)))
    }

    pub fn unreachable(&self, reason: impl ToString) -> BrokerError {
        BrokerError::Unreachable { backend: self.name.to_string(), reason: reason.to_string() }
    }

    pub fn refused(&self, reason: impl ToString) -> BrokerError {
        BrokerError::Refused { backend: self.name.to_string(), reason: reason.to_string() }
    }

    pub fn note(&self, trouble: Option<String>) {
        *locked(&self.trouble) = trouble;
    }

    /// Whether it can be written to. After a failed write that is found out by a small one.
    pub async fn writable(&self) -> Result<(), BrokerError> {
        self.up()?;
        if locked(&self.trouble).is_none() {
            return Ok(());
        }
        self.probe().await.map_err(|error| {
            self.note(Some(error.to_string()));
            self.unreachable(error)
        })?;
        self.note(None);
        Ok(())
    }

    async fn probe(&self) -> Result<(), sqlx::Error> {
        const PROBE: &str = "INSERT INTO broker_probe VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET count = count + 1";
        let mut transaction = self.database.writer.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query(PROBE).execute(&mut *transaction).await?;
        transaction.commit().await
    }
}

/// What these locks guard is whole at any moment, so a panic elsewhere does not spoil it.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
