//! One consumer: what it owns, how far it has read, and what comes next for it.

use super::balance::MemberId;
use super::core::{Core, Topic, locked};
use super::groups::{Group, News};
use super::tables::{Names, READ, decode_headers, offset_of};
use crate::broker::{BrokerError, Commit, Consumer, ConsumerMode, ConsumerOptions, Happening, Incoming, Partition, Position};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

pub struct EmbeddedConsumer {
    core: Arc<Core>,
    membership: Option<Membership>,
    wake: Arc<Notify>,
    state: Mutex<State>,
    /// One poll at a time.
    turn: tokio::sync::Mutex<Turn>,
    batch_size: usize,
    batch_bytes: usize,
    poll_interval: Duration,
}

struct Membership {
    group: Arc<Group>,
    member: MemberId,
}

#[derive(Default)]
struct State {
    /// Only polls add, remove and move cursors.
    cursors: BTreeMap<Partition, Cursor>,
    /// What a reader of all is told first.
    first: Option<Vec<Partition>>,
    /// Where the last batch ended: the next begins with the partition behind it, so that each has its turn.
    last_read: Option<Partition>,
    closed: bool,
}

#[derive(Clone)]
struct Cursor {
    topic: Arc<Topic>,
    next: i64,
    paused: bool,
}

type MessageRow = (i64, i64, Option<Vec<u8>>, Option<Vec<u8>>, Option<Vec<u8>>);

/// Of the one call that may read at a time.
#[derive(Default)]
struct Turn {
    names: Names,
    /// When it is time to say that nothing came.
    idle_at: Option<Instant>,
}

impl EmbeddedConsumer {
    pub fn open(core: Arc<Core>, options: ConsumerOptions) -> Result<EmbeddedConsumer, BrokerError> {
        let mut partitions = BTreeSet::new();
        for topic in &options.topics {
            partitions.extend(core.known_topic(topic)?.partitions());
        }
        let wake = Arc::new(Notify::new());
        let mut state = State::default();
        let membership = match options.mode {
            ConsumerMode::All => {
                state.first = Some(partitions.into_iter().collect());
                None
            }
            ConsumerMode::Group(name) => {
                let group = core.groups.get(&name);
                let member = group.join(partitions, wake.clone());
                Some(Membership { group, member })
            }
        };
        Ok(EmbeddedConsumer {
            core,
            membership,
            wake,
            state: Mutex::new(state),
            turn: tokio::sync::Mutex::default(),
            batch_size: options.batch_size.max(1),
            batch_bytes: options.prefetch_bytes,
            poll_interval: options.poll_interval,
        })
    }

    /// What has happened to its partitions, if anything.
    async fn news(&self) -> Result<Option<Happening>, BrokerError> {
        let Some(Membership { group, member }) = &self.membership else {
            let first = locked(&self.state).first.take();
            return first.map(|partitions| self.assign(partitions.into_iter().map(|partition| (partition, None)).collect())).transpose();
        };
        match group.next_news(*member) {
            None => Ok(None),
            Some(News::Assigned(partitions)) => {
                let _no_commit_meanwhile = group.gate.lock().await;
                let mut commits = read_commits(&self.core, &group.name, &partitions).await?;
                let found = partitions.iter().map(|partition| (partition.clone(), commits.remove(partition))).collect();
                if group.taken(*member) { Ok(Some(self.assign(found)?)) } else { Ok(None) }
            }
            Some(News::Revoked { partitions, release }) => {
                self.forget(&partitions);
                Ok(Some(Happening::Revoked { partitions, release }))
            }
            Some(News::Lost(partitions)) => {
                self.forget(&partitions);
                Ok(Some(Happening::Lost(partitions)))
            }
        }
    }

    fn assign(&self, partitions: Vec<(Partition, Option<Commit>)>) -> Result<Happening, BrokerError> {
        let mut state = locked(&self.state);
        for (partition, commit) in &partitions {
            let next = commit.as_ref().map_or(0, |commit| commit.next.offset);
            let cursor = Cursor { topic: self.core.known_topic(&partition.topic)?, next, paused: false };
            state.cursors.insert(partition.clone(), cursor);
        }
        Ok(Happening::Assigned(partitions))
    }

    fn forget(&self, partitions: &[Partition]) {
        let mut state = locked(&self.state);
        for partition in partitions {
            state.cursors.remove(partition);
        }
    }

    /// A batch from the partitions that have something, each in its turn. Nothing moves before all is read.
    async fn read(&self, names: &mut Names) -> Result<Vec<Incoming>, BrokerError> {
        let mut messages: Vec<Incoming> = Vec::new();
        let mut bytes = 0;
        let mut reached: Vec<(Partition, i64)> = Vec::new();
        for (partition, cursor) in self.ready() {
            let (room, room_bytes) = (self.batch_size - messages.len(), self.batch_bytes.saturating_sub(bytes));
            if room == 0 || (room_bytes == 0 && !messages.is_empty()) {
                break;
            }
            let Some(log) = cursor.topic.log(partition.number) else { continue };
            let end = log.end();
            let rows: Vec<MessageRow> = sqlx::query_as(READ)
                .bind(log.ids_from(cursor.next).start)
                .bind(log.ids_from(end).start)
                .bind(room as i64)
                .bind(room_bytes as i64)
                .fetch_all(&self.core.database.readers)
                .await
                .map_err(|error| self.core.unreachable(error))?;
            // No rows: retention has been here.
            let next = rows.last().map_or(end, |row| offset_of(row.0) + 1);
            for row in rows {
                let message = incoming(&partition, row, names).map_err(|at| self.core.refused(at))?;
                bytes += message.size();
                messages.push(message);
            }
            reached.push((partition, next));
        }
        Ok(self.advance(messages, reached))
    }

    /// The partitions with something to read, beginning behind the one that was read last.
    fn ready(&self) -> Vec<(Partition, Cursor)> {
        let state = locked(&self.state);
        let behind = |cursor: &Cursor, partition: &Partition| {
            !cursor.paused && cursor.topic.log(partition.number).is_some_and(|log| cursor.next < log.end())
        };
        let ready = state.cursors.iter().filter(|(partition, cursor)| behind(cursor, partition));
        let mut ready: Vec<_> = ready.map(|(partition, cursor)| (partition.clone(), cursor.clone())).collect();
        let later = ready.partition_point(|(partition, _)| Some(partition) <= state.last_read.as_ref());
        ready.rotate_left(later);
        ready
    }

    /// Moves the cursors over what was read; what was paused meanwhile comes another time.
    fn advance(&self, mut messages: Vec<Incoming>, reached: Vec<(Partition, i64)>) -> Vec<Incoming> {
        let mut state = locked(&self.state);
        for (partition, next) in reached {
            match state.cursors.get_mut(&partition) {
                Some(cursor) if !cursor.paused => {
                    cursor.next = next;
                    state.last_read = Some(partition);
                }
                _ => messages.retain(|message| message.at.partition != partition),
            }
        }
        messages
    }

    fn set_paused(&self, partitions: &[Partition], paused: bool) -> Result<(), BrokerError> {
        let mut state = locked(&self.state);
        if let Some(partition) = partitions.iter().find(|partition| !state.cursors.contains_key(partition)) {
            return Err(BrokerError::NotOwned { partition: partition.clone() });
        }
        for partition in partitions {
            if let Some(cursor) = state.cursors.get_mut(partition) {
                cursor.paused = paused;
            }
        }
        self.wake.notify_one();
        Ok(())
    }

    fn leave(&self) {
        let mut state = locked(&self.state);
        state.closed = true;
        state.first = None;
        state.cursors.clear();
        drop(state);
        if let Some(Membership { group, member }) = &self.membership {
            group.leave(*member);
        }
    }

    async fn until(&self, until: Instant, names: &mut Names) -> Happening {
        loop {
            // Listens before it looks: what comes in between wakes it.
            let published = self.core.published.notified();
            tokio::pin!(published);
            published.as_mut().enable();
            match self.happening(names).await {
                Ok(Some(happening)) => return happening,
                Ok(None) => {}
                Err(error) => {
                    sleep_until(until).await; // at most one complaint in a poll interval
                    return Happening::Trouble(error);
                }
            }
            tokio::select! {
                _ = published => {}
                _ = self.wake.notified() => {}
                _ = sleep_until(until) => return Happening::Idle,
            }
        }
    }

    async fn happening(&self, names: &mut Names) -> Result<Option<Happening>, BrokerError> {
        self.core.up()?;
        if let Some(news) = self.news().await? {
            return Ok(Some(news));
        }
        let messages = self.read(names).await?;
        Ok((!messages.is_empty()).then_some(Happening::Messages(messages)))
    }
}

#[async_trait]
impl Consumer for EmbeddedConsumer {
    async fn next(&self) -> Happening {
        let mut turn = self.turn.lock().await;
        let turn = &mut *turn;
        // Kept over calls that are cancelled: one who looks in again and again still learns that nothing comes.
        let until = *turn.idle_at.get_or_insert_with(|| Instant::now() + self.poll_interval);
        let happening = self.until(until, &mut turn.names).await;
        turn.idle_at = None;
        happening
    }

    fn pause(&self, partitions: &[Partition]) -> Result<(), BrokerError> {
        self.set_paused(partitions, true)
    }

    fn resume(&self, partitions: &[Partition]) -> Result<(), BrokerError> {
        self.set_paused(partitions, false)
    }

    async fn commit(&self, commits: &[Commit]) -> Result<(), BrokerError> {
        let Some(Membership { group, member }) = &self.membership else {
            return Err(self.core.refused("a reader of all belongs to no group and commits nothing"));
        };
        if commits.is_empty() {
            return Ok(());
        }
        // In a task of its own: a caller who gives up must not leave half a commit behind.
        let writing = tokio::spawn(write_commits(self.core.clone(), group.clone(), *member, commits.to_vec()));
        writing.await.unwrap_or_else(|ended| Err(self.core.unreachable(ended)))
    }

    async fn close(&self) {
        self.leave();
    }
}

impl Drop for EmbeddedConsumer {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Err names the message that cannot be read.
fn incoming(partition: &Partition, (id, timestamp_ms, key, headers, payload): MessageRow, names: &mut Names) -> Result<Incoming, String> {
    let at = Position { partition: partition.clone(), offset: offset_of(id) };
    let headers = decode_headers(headers.unwrap_or_default().into(), names)
        .ok_or_else(|| format!("the headers of {at:?} are damaged: delete row {id} of broker_messages to go on without it"))?;
    Ok(Incoming { at, key: key.map(Bytes::from), headers, payload: payload.map(Bytes::from), timestamp_ms })
}

async fn write_commits(core: Arc<Core>, group: Arc<Group>, member: MemberId, commits: Vec<Commit>) -> Result<(), BrokerError> {
    const COMMIT: &str = "INSERT INTO broker_commits (partition, group_name, next, metadata) VALUES (?, ?, ?, ?)
        ON CONFLICT (partition, group_name) DO UPDATE SET next = excluded.next, metadata = excluded.metadata";
    core.up()?;
    let _gate = group.gate.lock().await;
    let mut rows = Vec::with_capacity(commits.len());
    for commit in &commits {
        let partition = &commit.next.partition;
        let topic = core.known_topic(&partition.topic)?;
        match topic.log(partition.number) {
            Some(log) if group.holds(member, partition) => rows.push((log.row, commit)),
            _ => return Err(BrokerError::NotOwned { partition: partition.clone() }),
        }
    }
    let writing = async {
        let mut transaction = core.database.writer.begin_with("BEGIN IMMEDIATE").await?;
        for (row, commit) in rows {
            let query = sqlx::query(COMMIT).bind(row).bind(&group.name).bind(commit.next.offset).bind(&commit.metadata);
            query.execute(&mut *transaction).await?;
        }
        transaction.commit().await
    };
    writing.await.map_err(|error: sqlx::Error| core.unreachable(error))
}

/// What a group has committed for these partitions.
pub async fn read_commits(core: &Core, group: &str, partitions: &[Partition]) -> Result<BTreeMap<Partition, Commit>, BrokerError> {
    const COMMITS: &str = "SELECT t.name, p.number, c.next, c.metadata FROM broker_commits c
        JOIN broker_partitions p ON p.id = c.partition JOIN broker_topics t ON t.id = p.topic WHERE t.backend = ? AND c.group_name = ?";
    let rows: Vec<(String, i32, i64, String)> = sqlx::query_as(COMMITS)
        .bind(&*core.name)
        .bind(group)
        .fetch_all(&core.database.readers)
        .await
        .map_err(|error| core.unreachable(error))?;
    let mut commits = BTreeMap::new();
    for (topic, number, offset, metadata) in rows {
        if let Some(partition) = partitions.iter().find(|partition| *partition.topic == *topic && partition.number == number) {
            let next = Position { partition: partition.clone(), offset };
            commits.insert(partition.clone(), Commit { next, metadata });
        }
    }
    Ok(commits)
}
