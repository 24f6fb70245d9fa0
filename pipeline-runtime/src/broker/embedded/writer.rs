//! The only one that writes messages: what waits goes into one transaction, and is answered after its commit.
//! So a hundred callers that wait share one sync of the disk.

use super::core::{Core, Topic};
use super::tables::{encode_headers, message_id, offset_of};
use crate::broker::{Completion, Header, Outgoing, Position, PublishError};
use bytes::Bytes;
use sqlx::{AssertSqlSafe, Sqlite, Transaction};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

/// The most messages and bytes that wait; what comes on top is refused and may be tried again.
const MAX_QUEUED: usize = 10_000;
const MAX_QUEUED_BYTES: usize = 32 * 1024 * 1024;
/// The most messages and bytes in one transaction.
const MAX_BATCH: usize = 1000;
const MAX_BATCH_BYTES: usize = 8 * 1024 * 1024;

enum Job {
    Write(Entry),
    /// Answered when everything before it has been.
    Barrier(oneshot::Sender<()>),
    /// Like a barrier, and nothing is taken any more.
    End(oneshot::Sender<()>),
}

struct Entry {
    topic: Arc<Topic>,
    number: i32,
    key: Option<Bytes>,
    headers: Vec<Header>,
    payload: Option<Bytes>,
    timestamp_ms: i64,
    bytes: usize,
    ticket: u64,
    completion: Option<Completion>,
}

/// The way to the writer. The writer ends when this is dropped.
pub struct Queue {
    jobs: mpsc::Sender<Job>,
    bytes: Arc<AtomicUsize>,
    tickets: AtomicU64,
    /// What has a ticket below this one is given up.
    given_up: watch::Sender<u64>,
}

impl Queue {
    pub fn start(core: Arc<Core>) -> Queue {
        let (jobs, receiver) = mpsc::channel(MAX_QUEUED);
        let (given_up, seen) = watch::channel(0);
        let bytes = Arc::new(AtomicUsize::new(0));
        let writer = Writer { core, bytes: bytes.clone(), given_up: seen, unsure: false };
        tokio::spawn(writer.run(receiver));
        Queue { jobs, bytes, tickets: AtomicU64::new(0), given_up }
    }

    pub fn push(&self, topic: Arc<Topic>, number: i32, message: Outgoing, bytes: usize, completion: Completion) {
        let full = |completion: Completion, what| {
            let reason = format!("{what} wait to be written already: try again");
            completion.done(Err(PublishError::Refused { reason, retriable: true }));
        };
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > MAX_QUEUED_BYTES.max(bytes) {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return full(completion, format!("{MAX_QUEUED_BYTES} bytes"));
        }
        let Outgoing { key, headers, payload, .. } = message;
        let ticket = self.tickets.fetch_add(1, Ordering::SeqCst);
        let entry = Entry { topic, number, key, headers, payload, timestamp_ms: now_ms(), bytes, ticket, completion: Some(completion) };
        match self.jobs.try_send(Job::Write(entry)) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(Job::Write(entry))) => {
                self.bytes.fetch_sub(bytes, Ordering::Relaxed);
                if let Some(completion) = entry.completion {
                    full(completion, format!("{MAX_QUEUED} messages"));
                }
            }
            Err(error) => {
                if let Job::Write(Entry { completion: Some(completion), .. }) = error.into_inner() {
                    let reason = "the broker has been closed".into();
                    completion.done(Err(PublishError::Refused { reason, retriable: false }));
                }
            }
        }
    }

    /// Waits until what was pushed before is answered; at the deadline it is answered as unknown.
    pub async fn flush(&self, deadline: Duration) {
        let until = self.tickets.load(Ordering::SeqCst);
        let (sender, answered) = oneshot::channel();
        let flushed = async {
            if self.jobs.send(Job::Barrier(sender)).await.is_ok() {
                let _ = answered.await;
            }
        };
        if timeout(deadline, flushed).await.is_err() {
            self.given_up.send_modify(|given_up| *given_up = until.max(*given_up));
        }
    }

    /// Writes what is queued; the writer has then ended.
    pub async fn end(&self) {
        let (sender, ended) = oneshot::channel();
        if self.jobs.send(Job::End(sender)).await.is_ok() {
            let _ = ended.await;
        }
    }
}

struct Writer {
    core: Arc<Core>,
    bytes: Arc<AtomicUsize>,
    given_up: watch::Receiver<u64>,
    /// A commit failed, so that it is not known what is in the table: the ends are read again before the next write.
    unsure: bool,
}

/// What a write failed at: before its commit nothing is there, at its commit nobody knows.
enum Failure {
    Before(sqlx::Error),
    AtCommit(sqlx::Error),
}

impl Writer {
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut ended = None;
        while let Some(job) = jobs.recv().await {
            let (mut batch, mut waiting, mut bytes) = (Vec::new(), Vec::new(), 0);
            let mut next = Some(job);
            while let Some(job) = next {
                match job {
                    Job::Write(entry) => {
                        bytes += entry.bytes;
                        batch.push(entry);
                    }
                    Job::Barrier(sender) => waiting.push(sender),
                    Job::End(sender) => {
                        jobs.close();
                        ended = Some(sender);
                    }
                }
                next = if batch.len() < MAX_BATCH && bytes < MAX_BATCH_BYTES { jobs.try_recv().ok() } else { None };
            }
            self.write(batch).await;
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            drop(waiting); // a barrier is answered by its sender's end
        }
        drop(self);
        drop(ended);
    }

    async fn write(&mut self, mut batch: Vec<Entry>) {
        give_up(&mut batch, *self.given_up.borrow());
        batch.retain(|entry| entry.completion.is_some());
        let Some(first) = batch.iter().map(|entry| entry.ticket).min() else { return };
        let mut given_up = self.given_up.clone();
        let mut completions: Vec<_> = batch.iter_mut().map(|entry| (entry.ticket, entry.completion.take())).collect();
        let (core, unsure) = (self.core.clone(), self.unsure);
        let mut writing = std::pin::pin!(write_batch(&core, &batch, unsure));
        let written = tokio::select! {
            result = &mut writing => Some(result),
            Ok(until) = given_up.wait_for(|until| *until > first) => {
                for (_, completion) in completions.iter_mut().filter(|(ticket, _)| *ticket < *until) {
                    answer(completion, Err(unknown("not written before the deadline")));
                }
                None
            }
        };
        // Given up or not, a write that has begun comes to its end before the next one.
        let result = match written {
            Some(result) => result,
            None => writing.await,
        };
        self.settle(result, &batch, completions);
    }

    fn settle(&mut self, result: Result<Vec<i64>, Failure>, batch: &[Entry], completions: Vec<(u64, Option<Completion>)>) {
        let error = match result {
            Ok(offsets) => {
                self.unsure = false;
                self.core.note(None);
                for (entry, offset) in batch.iter().zip(&offsets) {
                    if let Some(log) = entry.topic.log(entry.number) {
                        log.set_end(offset + 1);
                    }
                }
                // First those who read: they find it while the others still hear of it.
                self.core.published.notify_waiters();
                for ((entry, offset), (_, mut completion)) in batch.iter().zip(offsets).zip(completions) {
                    answer(&mut completion, Ok(Position { partition: entry.topic.partition(entry.number), offset }));
                }
                return;
            }
            Err(Failure::Before(error)) => {
                self.core.note(Some(error.to_string()));
                PublishError::Refused { reason: format!("the database cannot be written: {error}"), retriable: true }
            }
            Err(Failure::AtCommit(error)) => {
                self.unsure = true;
                self.core.note(Some(error.to_string()));
                unknown(&format!("the database did not confirm the write: {error}"))
            }
        };
        tracing::warn!(backend = &*self.core.name, messages = batch.len(), "{error}");
        for (_, mut completion) in completions {
            answer(&mut completion, Err(error.clone()));
        }
    }
}

fn give_up(batch: &mut [Entry], until: u64) {
    for entry in batch.iter_mut().filter(|entry| entry.ticket < until) {
        answer(&mut entry.completion, Err(unknown("not written before the deadline")));
    }
}

fn answer(completion: &mut Option<Completion>, result: Result<Position, PublishError>) {
    if let Some(completion) = completion.take() {
        completion.done(result);
    }
}

fn unknown(reason: &str) -> PublishError {
    PublishError::Unknown { reason: reason.into() }
}

/// Writes the entries in their order and returns the offsets that they got.
async fn write_batch(core: &Core, batch: &[Entry], unsure: bool) -> Result<Vec<i64>, Failure> {
    let mut transaction = core.database.writer.begin_with("BEGIN IMMEDIATE").await.map_err(Failure::Before)?;
    if unsure {
        find_ends(&mut transaction, batch).await.map_err(Failure::Before)?;
    }
    let mut ends: BTreeMap<i64, i64> = BTreeMap::new();
    let rows: Vec<(i64, &Entry)> = batch
        .iter()
        .filter_map(|entry| {
            let log = entry.topic.log(entry.number)?;
            let end = ends.entry(log.row).or_insert_with(|| log.end());
            *end += 1;
            Some((message_id(log.row, *end - 1), entry))
        })
        .collect();
    debug_assert_eq!(rows.len(), batch.len(), "a partition is checked before its message is queued");
    insert(&mut transaction, &rows).await.map_err(Failure::Before)?;
    transaction.commit().await.map_err(Failure::AtCommit)?;
    Ok(rows.into_iter().map(|(id, _)| offset_of(id)).collect())
}

async fn find_ends(transaction: &mut Transaction<'_, Sqlite>, batch: &[Entry]) -> Result<(), sqlx::Error> {
    for log in batch.iter().filter_map(|entry| entry.topic.log(entry.number)) {
        let ids = log.ids_from(log.end());
        let last: Option<i64> = sqlx::query_scalar("SELECT max(id) FROM broker_messages WHERE id >= ? AND id < ?")
            .bind(ids.start)
            .bind(ids.end)
            .fetch_one(&mut **transaction)
            .await?;
        if let Some(last) = last {
            log.set_end(offset_of(last) + 1);
        }
    }
    Ok(())
}

/// The statements that insert so many rows at once, the largest first: few sizes, so that each is prepared once.
static INSERTS: LazyLock<[(usize, Arc<str>); 4]> = LazyLock::new(|| {
    [128, 16, 4, 1].map(|rows| {
        let values = vec!["(?,?,?,?,?)"; rows].join(",");
        (rows, format!("INSERT INTO broker_messages (id, timestamp_ms, key, headers, payload) VALUES {values}").into())
    })
});

async fn insert(transaction: &mut Transaction<'_, Sqlite>, mut rows: &[(i64, &Entry)]) -> Result<(), sqlx::Error> {
    for (count, statement) in INSERTS.iter() {
        while let Some((now, later)) = rows.split_at_checked(*count) {
            let mut query = sqlx::query(AssertSqlSafe(statement.clone()));
            for (id, entry) in now {
                query = query
                    .bind(id)
                    .bind(entry.timestamp_ms)
                    .bind(entry.key.as_deref())
                    .bind(encode_headers(&entry.headers))
                    .bind(entry.payload.as_deref());
            }
            query.execute(&mut **transaction).await?;
            rows = later;
        }
    }
    Ok(())
}

pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
