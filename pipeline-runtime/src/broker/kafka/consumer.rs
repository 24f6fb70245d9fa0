//! The caller's side of a consumer.

use super::inbox::Inbox;
use super::rebalance::Membership;
use super::{KafkaSettings, error};
use crate::broker::{BrokerError, Commit, Consumer, ConsumerMode, ConsumerOptions, Happening, Partition};
use async_trait::async_trait;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// What a broker takes as the note of a commit, unless told otherwise (`offset.metadata.max.bytes`).
const LARGEST_NOTE: usize = 4096;
/// How long a commit is tried again while the group is being rearranged.
const COMMIT_WITHIN: Duration = Duration::from_secs(5);

/// What the caller's side and the reading thread share.
pub(super) struct Shared {
    pub backend: String,
    pub options: ConsumerOptions,
    pub closing: AtomicBool,
    inbox: Mutex<Inbox>,
    /// Something came into the inbox.
    news: Notify,
    /// Something was taken out of it.
    room: Condvar,
    /// Held through each commit, and to take partitions away: so none is committed after it has gone.
    owned: Mutex<HashSet<Partition>>,
    /// Held until librdkafka has answered a commit, whether or not anybody still waits for it: a newer one is sent after it.
    committing: Arc<tokio::sync::Mutex<()>>,
}

impl Shared {
    pub fn new(settings: &KafkaSettings, options: ConsumerOptions) -> Shared {
        Shared {
            backend: settings.name.clone(),
            options,
            closing: AtomicBool::new(false),
            inbox: Mutex::default(),
            news: Notify::new(),
            room: Condvar::new(),
            owned: Mutex::default(),
            committing: Arc::default(),
        }
    }

    pub fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn owned(&self) -> MutexGuard<'_, HashSet<Partition>> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn tell(&self, happening: Happening) {
        self.inbox().tell(happening);
        self.wake();
    }

    pub fn wake(&self) {
        self.news.notify_one();
    }

    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Waits until less than `limit` bytes wait for the caller. False if that takes too long.
    pub fn wait_for_room(&self, limit: usize, at_most: Duration) -> bool {
        let full = |inbox: &mut Inbox| inbox.bytes() >= limit && !self.is_closing();
        match self.room.wait_timeout_while(self.inbox(), at_most, full) {
            Ok((inbox, _)) => inbox.bytes() < limit,
            Err(_) => true,
        }
    }
}

pub(super) struct KafkaConsumer {
    pub shared: Arc<Shared>,
    /// The thread owns it, so that it leaves the group when the thread ends.
    pub member: Weak<BaseConsumer<Membership>>,
    /// Closed when the thread has ended.
    pub ended: watch::Receiver<()>,
    /// When a poll that finds nothing ends; kept when a poll is cancelled, so that the next one does not begin to wait anew.
    pub idle_at: Mutex<Option<tokio::time::Instant>>,
}

impl KafkaConsumer {
    fn idle_at(&self) -> MutexGuard<'_, Option<tokio::time::Instant>> {
        self.idle_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whatever was paused of these belonged to an assignment before this one: the caller had not heard of its end yet.
    fn unpause(&self, assigned: Vec<Partition>) {
        if let Err(why) = self.resume(&assigned) {
            tracing::warn!(backend = self.shared.backend, "partitions that were paused in an earlier assignment stay so: {why}");
        }
    }

    fn member(&self) -> Result<Arc<BaseConsumer<Membership>>, BrokerError> {
        self.member
            .upgrade()
            .ok_or_else(|| BrokerError::Other { backend: self.shared.backend.clone(), reason: "this consumer is closed".into() })
    }
}

#[async_trait]
impl Consumer for KafkaConsumer {
    async fn next(&self) -> Happening {
        let deadline = *self.idle_at().get_or_insert_with(|| tokio::time::Instant::now() + self.shared.options.poll_interval);
        loop {
            // After its end it hands out nothing: what it had is somebody else's.
            let taken = if self.shared.is_closing() { None } else { self.shared.inbox().take(self.shared.options.batch_size) };
            if let Some(happening) = taken {
                if let Happening::Assigned(partitions) = &happening {
                    self.unpause(partitions.iter().map(|(partition, _)| partition.clone()).collect());
                }
                self.shared.room.notify_one();
                self.idle_at().take();
                return happening;
            }
            if tokio::time::timeout_at(deadline, self.shared.news.notified()).await.is_err() {
                self.idle_at().take();
                return Happening::Idle;
            }
        }
    }

    fn pause(&self, partitions: &[Partition]) -> Result<(), BrokerError> {
        let member = self.member()?;
        // Under the lock, as the reading thread does it: the last word counts in both places.
        let mut inbox = self.shared.inbox();
        inbox.pause(partitions);
        member.pause(&list(partitions)).map_err(|why| error(&self.shared.backend, "pausing", &why))
    }

    fn resume(&self, partitions: &[Partition]) -> Result<(), BrokerError> {
        let member = self.member()?;
        let mut inbox = self.shared.inbox();
        let paused = inbox.resume(partitions);
        let resumed = member.resume(&list(&paused)).map_err(|why| error(&self.shared.backend, "resuming", &why));
        drop(inbox);
        self.shared.wake();
        resumed
    }

    async fn commit(&self, commits: &[Commit]) -> Result<(), BrokerError> {
        if commits.is_empty() {
            return Ok(());
        }
        let backend = &self.shared.backend;
        if matches!(self.shared.options.mode, ConsumerMode::All) {
            return Err(BrokerError::Refused { backend: backend.clone(), reason: "a consumer of all partitions commits nothing".into() });
        }
        if let Some(long) = commits.iter().find(|c| c.metadata.len() > LARGEST_NOTE) {
            let reason =
                format!("the note for {:?} has {} bytes, at most {LARGEST_NOTE} are kept", long.next.partition, long.metadata.len());
            return Err(BrokerError::Refused { backend: backend.clone(), reason });
        }
        let turn = self.shared.committing.clone().lock_owned().await;
        let (shared, member, commits) = (self.shared.clone(), self.member()?, commits.to_vec());
        let answered = tokio::task::spawn_blocking(move || {
            let answer = commit(&shared, &member, &commits);
            drop(turn);
            answer
        });
        match answered.await {
            Ok(answer) => answer,
            Err(why) => Err(BrokerError::Other { backend: backend.clone(), reason: why.to_string() }),
        }
    }

    async fn close(&self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.room.notify_all();
        let mut ended = self.ended.clone();
        // The thread's end drops the sender. It is bounded by the calls of librdkafka, which are.
        while ended.changed().await.is_ok() {}
    }
}

impl Drop for KafkaConsumer {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.room.notify_all();
    }
}

fn commit(shared: &Shared, member: &BaseConsumer<Membership>, commits: &[Commit]) -> Result<(), BrokerError> {
    let mut offsets = TopicPartitionList::with_capacity(commits.len());
    for commit in commits {
        let at = &commit.next.partition;
        let mut entry = offsets.add_partition(&at.topic, at.number);
        entry.set_offset(Offset::Offset(commit.next.offset)).map_err(|why| error(&shared.backend, "committing", &why))?;
        entry.set_metadata(&commit.metadata);
    }
    let gone = |commit: &Commit| BrokerError::NotOwned { partition: commit.next.partition.clone() };
    let deadline = Instant::now() + COMMIT_WITHIN;
    loop {
        let owned = shared.owned();
        if let Some(stranger) = commits.iter().find(|c| !owned.contains(&c.next.partition)) {
            return Err(gone(stranger));
        }
        let answer = member.commit(&offsets, CommitMode::Sync);
        drop(owned);
        let Err(why) = answer else { return Ok(()) };
        match (why.rdkafka_error_code(), commits.first()) {
            (
                Some(
                    RDKafkaErrorCode::IllegalGeneration
                    | RDKafkaErrorCode::UnknownMemberId
                    | RDKafkaErrorCode::FencedInstanceId
                    | RDKafkaErrorCode::AssignmentLost,
                ),
                Some(first),
            ) => return Err(gone(first)),
            // The group is being rearranged, and what stays ours may be committed in a moment.
            _ if passing(&why) && Instant::now() < deadline && !shared.is_closing() => std::thread::sleep(Duration::from_millis(50)),
            _ => return Err(error(&shared.backend, "committing", &why)),
        }
    }
}

fn passing(why: &KafkaError) -> bool {
    use RDKafkaErrorCode::*;
    matches!(why.rdkafka_error_code(), Some(RebalanceInProgress | WaitingForCoordinator | NotCoordinator | CoordinatorLoadInProgress))
}

pub(super) fn list(partitions: &[Partition]) -> TopicPartitionList {
    let mut all = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        all.add_partition(&partition.topic, partition.number);
    }
    all
}
