//! The worker: reads events, applies them to the store, answers for what cannot be applied.
//!
//! One loop (here) reads from the broker, commits, and obeys when partitions come and go. Messages lie in lanes by their key
//! (`lanes`, `desk`); an applier for each lane takes them apart (`understand`) and applies them in batches (`process`, `apply`);
//! what is left to do for an event, emissions, the callback, a dead letter or another attempt, is settled beside the next
//! batches (`settle`). An offset is committed when it and all before it are complete (`offsets`, `reading`).
//!
//! A pipeline with several backends has such an engine for each of them, with one store for all. What each may take in, by the
//! state of the switch, says its `fence`; it seals the epochs that are closed, and looks whether they are drained (`epochs`).
//!
//! Nothing here is left to chance, so that a simulated run can be run again: every `select!` is biased, and maps that are walked through
//! are sorted.

mod about;
mod alerts;
mod apply;
mod circuit;
mod dead_letter;
mod desk;
mod epochs;
mod failure;
mod fence;
mod health;
mod lanes;
mod offsets;
mod privacy;
mod process;
mod reading;
mod report;
mod review;
mod settle;
mod told;
mod traced;
mod understand;
mod view;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;

pub use alerts::{AlertDeps, SecretValue, alerts};
pub use dead_letter::header;
pub use desk::Limits;
pub use failure::Kind;
pub use health::{Counters, Ended, OfTopic, WorkerHealth};
pub use review::{ReviewDeps, review, review_group};
pub use view::{ViewDeps, view};

use crate::broker::{Broker, BrokerError, Commit, Consumer, ConsumerMode, ConsumerOptions, Happening, Partition, RELEASE_WITHIN};
use crate::codec::Codecs;
use crate::contract::Contract;
use crate::control::Switching;
use crate::publish::Publisher;
use crate::store::Store;
use crate::telemetry::Share;
use arc_swap::ArcSwap;
use crds::runtime_config::RuntimeConfig;
use crds::switch::Reading;
use desk::Desk;
use fence::{Fence, LONGEST_WAIT_WHILE_DRAINING, States};
use lanes::InHand;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use told::Told;
use uuid::Uuid;

/// Lanes, each with its applier: as many batches are in the database at once. More only compete for two cores and for locks.
const LANES: usize = 4;
/// The most keys that are settled at once.
const SETTLING: usize = 256;
/// What messages may take that are taken apart at once, in KiB. The heaviest that is read at all has it alone.
const TAKEN_APART_KIB: usize = crate::codec::MAX_WEIGHT >> 10;
const PREFETCH_BYTES: usize = 8 << 20;
const COMMIT_EVERY: Duration = Duration::from_millis(200);
const COMMIT_DEADLINE: Duration = Duration::from_secs(5);
/// What ending may take beyond the grace: the last commit, and leaving the group.
pub const LEAVING: Duration = Duration::from_secs(2 * COMMIT_DEADLINE.as_secs());
/// What is being applied may end before its partition goes to another worker. The rest of the time that the broker waits is for
/// the commit: one that comes later is refused, and all of it is applied again.
const REVOKE_GRACE: Duration = Duration::from_secs(3);
const _: () = assert!(REVOKE_GRACE.as_millis() + 2000 <= RELEASE_WITHIN.as_millis());
const LONGEST_CONNECT_PAUSE: Duration = Duration::from_secs(10);

pub struct WorkerDeps {
    pub config: Arc<ArcSwap<RuntimeConfig>>,
    pub contract: Arc<ArcSwap<Contract>>,
    pub codecs: Codecs,
    /// What is read.
    pub broker: Arc<dyn Broker>,
    /// For what is emitted and for dead letters: it need not write to the broker that is read.
    pub publisher: Publisher,
    /// None: the pipeline has one backend.
    pub switching: Option<Arc<Switching>>,
    pub store: Arc<dyn Store>,
    pub health: Arc<WorkerHealth>,
    pub limits: Limits,
    /// How long what is in flight may take to end when the worker stops.
    pub grace: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("the document has no worker, or no event names a topic: there is nothing to read")]
    NothingToRead,
    #[error("a task of the worker ended unexpectedly: {0}")]
    Panicked(String),
}

/// Runs until `shutdown`; then ends what is in flight, commits and leaves the group.
pub async fn run(deps: WorkerDeps, shutdown: impl Future<Output = ()> + Send) -> Result<(), WorkerError> {
    let options = options(&deps.config.load()).ok_or(WorkerError::NothingToRead)?;
    let shared = Arc::new(Shared::new(deps, &options.topics));
    tokio::pin!(shutdown);
    let consumer = tokio::select! {
        biased;
        () = &mut shutdown => return Ok(()),
        consumer = connect(&*shared.deps.broker, &options, |trouble| shared.set_connected(Some(trouble))) => consumer,
    };
    let mut tasks = JoinSet::new();
    for lane in 0..LANES {
        tasks.spawn(process::applier(shared.clone(), lane));
    }
    tasks.spawn(report::report(shared.clone()));
    tasks.spawn(report::tidy(shared.clone()));
    if let Some(switching) = &shared.deps.switching {
        tasks.spawn(epochs::seal_closed(shared.clone(), switching.clone()));
        tasks.spawn(epochs::look_at_drain(shared.clone(), switching.clone()));
    }
    let read = consume(&shared, &*consumer, &mut tasks, shutdown).await;
    let ended = end(&shared, &*consumer, tasks).await;
    read.and(ended)
}

/// In an order of their own: that of the document is of no matter.
fn topics(config: &RuntimeConfig) -> Vec<String> {
    let named: BTreeSet<&String> = config.topics_read().map(|topic| &topic.name).collect();
    named.into_iter().cloned().collect()
}

fn options(config: &RuntimeConfig) -> Option<ConsumerOptions> {
    let worker = config.worker.as_ref()?;
    let topics = topics(config);
    let mode = ConsumerMode::Group(worker.group.clone());
    let (batch_size, poll_interval) = (worker.batch_size, worker.poll_interval);
    (!topics.is_empty()).then_some(ConsumerOptions { topics, mode, batch_size, poll_interval, prefetch_bytes: PREFETCH_BYTES })
}

/// Tries for ever: a broker or a topic that is not there yet comes.
async fn connect(broker: &dyn Broker, options: &ConsumerOptions, trouble: impl Fn(String)) -> Box<dyn Consumer> {
    let mut pause = Duration::from_millis(100);
    loop {
        match broker.consumer(options.clone()).await {
            Ok(consumer) => return consumer,
            Err(error) => {
                tracing::warn!(%error, "cannot read yet, trying again in {pause:?}");
                trouble(error.to_string());
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_CONNECT_PAUSE);
    }
}

async fn consume(
    shared: &Shared,
    consumer: &dyn Consumer,
    tasks: &mut JoinSet<Result<(), WorkerError>>,
    mut shutdown: std::pin::Pin<&mut impl Future<Output = ()>>,
) -> Result<(), WorkerError> {
    let mut tick = interval(COMMIT_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut states = States::of(shared.deps.switching.as_ref());
    let mut hold = None;
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => return Ok(()),
            ended = tasks.join_next() => return Err(unexpected(ended)),
            _ = tick.tick() => shared.commit(consumer, None).await,
            () = states.changed() => shared.follow(),
            happening = next(consumer, hold) => if let Some(happening) = happening { shared.obey(consumer, happening).await },
            () = shared.room.notified() => {}
        }
        let desk::Flow { pause, resume, hold: until, sealed } = shared.flow();
        hold = until;
        of_all(&pause, "pausing", |partitions| consumer.pause(partitions));
        of_all(&resume, "resuming", |partitions| consumer.resume(partitions));
        if sealed {
            shared.commit(consumer, None).await;
            shared.seal_noted.notify_one();
        }
    }
}

/// Of all at once; else of each alone, so that one which has gone does not matter to the others.
fn of_all(partitions: &[Partition], doing: &str, what: impl Fn(&[Partition]) -> Result<(), BrokerError>) {
    if partitions.is_empty() || what(partitions).is_ok() {
        return;
    }
    for partition in partitions {
        if let Err(error) = what(std::slice::from_ref(partition)) {
            tracing::warn!(%error, topic = &*partition.topic, partition = partition.number, "{doing} failed");
        }
    }
}

/// What happens next, or nothing until `hold` is over.
async fn next(consumer: &dyn Consumer, hold: Option<Instant>) -> Option<Happening> {
    match hold {
        None => Some(consumer.next().await),
        Some(until) => {
            sleep_until(until).await;
            None
        }
    }
}

fn unexpected(ended: Option<Result<Result<(), WorkerError>, tokio::task::JoinError>>) -> WorkerError {
    match ended {
        Some(Ok(Err(error))) => error,
        Some(Err(error)) => WorkerError::Panicked(error.to_string()),
        Some(Ok(Ok(()))) | None => WorkerError::Panicked("a task returned while the worker runs".into()),
    }
}

/// What is in flight may end, within the grace; then the last commit, and the group is left.
async fn end(shared: &Shared, consumer: &dyn Consumer, mut tasks: JoinSet<Result<(), WorkerError>>) -> Result<(), WorkerError> {
    shared.stop.send_replace(true);
    shared.desk().leave_all();
    shared.leave("the worker is stopping");
    let all = async {
        let mut result = Ok(());
        while let Some(ended) = tasks.join_next().await {
            result = result.and(ended.unwrap_or_else(|error| Err(WorkerError::Panicked(error.to_string()))));
        }
        result
    };
    let result = timeout(shared.deps.grace, all).await.unwrap_or_else(|_| {
        tracing::warn!("not everything ended within {:?}: what is left is read again by the next worker", shared.deps.grace);
        Ok(())
    });
    shared.commit(consumer, None).await;
    if timeout(COMMIT_DEADLINE, consumer.close()).await.is_err() {
        tracing::warn!("the group was not left within {COMMIT_DEADLINE:?}: its partitions are free when the session ends");
    }
    shared.leave("the worker has stopped");
    shared.gauges.leave(&shared.deps.health.counters);
    result
}

/// What the loop, the appliers and their tasks share.
struct Shared {
    deps: WorkerDeps,
    /// Tells this worker's probes of the store from another's.
    id: Uuid,
    desk: Mutex<Desk>,
    /// For each lane: there is something new in it.
    news: Vec<Notify>,
    /// For the loop: there is room again, or a partition that is being left is done.
    room: Notify,
    breaker: apply::Breaker,
    settling: Arc<Semaphore>,
    memory: Semaphore,
    callback: OnceLock<Result<Told, String>>,
    /// What a broker takes in a dead-letter topic, by the names of both, and when it said so.
    letter_limits: tokio::sync::Mutex<HashMap<(String, String), Limit>>,
    /// The topics among those that are read that only the pipeline itself writes to.
    own: BTreeSet<String>,
    /// The commit says of another partition that its seal was passed.
    seal_noted: Notify,
    gauges: Gauges,
    /// What became of messages, by the topics that are read.
    of_topics: BTreeMap<String, Arc<OfTopic>>,
    stop: watch::Sender<bool>,
}

type Limit = (Option<usize>, Instant);

/// What this engine contributes to the gauges of its process.
#[derive(Default)]
struct Gauges {
    in_hand: Share,
    in_hand_bytes: Share,
    backlog: Share,
}

impl Gauges {
    fn leave(&self, counters: &Counters) {
        self.in_hand.set(&counters.in_hand, 0);
        self.in_hand_bytes.set(&counters.in_hand_bytes, 0);
        self.backlog.set(&counters.backlog, 0);
    }
}

impl Shared {
    fn new(deps: WorkerDeps, topics: &[String]) -> Shared {
        deps.health.counters.concurrency.set(LANES as u64);
        let config = deps.config.load_full();
        let own = config.own_topics();
        let group = config.worker.as_ref().map_or("", |worker| &worker.group);
        let of_topic = |topic: &String| (topic.clone(), deps.health.counters.of_topic(group, topic));
        let fenced = |switching: &Arc<Switching>| Fence::new(deps.broker.name(), own.clone(), switching, deps.health.clone());
        let fence = deps.switching.as_ref().map(fenced);
        if let Some(switching) = &deps.switching {
            switching.reader(|reader| reader.reads(own.clone()));
        }
        Shared {
            id: Uuid::new_v4(),
            desk: Mutex::new(Desk::new(LANES, deps.limits, fence)),
            own,
            seal_noted: Notify::new(),
            gauges: Gauges::default(),
            of_topics: topics.iter().map(of_topic).collect(),
            news: (0..LANES).map(|_| Notify::new()).collect(),
            room: Notify::new(),
            breaker: apply::Breaker::default(),
            settling: Arc::new(Semaphore::new(SETTLING)),
            memory: Semaphore::new(TAKEN_APART_KIB),
            callback: OnceLock::new(),
            letter_limits: tokio::sync::Mutex::default(),
            stop: watch::Sender::new(false),
            deps,
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopping(&self) -> bool {
        *self.stop.borrow()
    }

    async fn stopped(&self) {
        // The sender lives as long as self.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// False if the worker stops meanwhile.
    async fn sleep(&self, duration: Duration) -> bool {
        tokio::select! {
            biased;
            () = sleep(duration) => true,
            () = self.stopped() => false,
        }
    }

    /// While something drains nobody waits long for another try.
    fn bounded(&self, wait: Duration) -> Duration {
        let drains = self.deps.switching.as_ref().is_some_and(|switching| switching.reader(|reader| reader.state().drains()));
        if drains { wait.min(LONGEST_WAIT_WHILE_DRAINING) } else { wait }
    }

    /// The right to take so much apart; the largest message alone has it all.
    async fn memory(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        let kib = (bytes >> 10).clamp(1, TAKEN_APART_KIB);
        self.memory.acquire_many(kib as u32).await.ok()
    }

    fn callback(&self) -> Result<&Told, String> {
        let made = || Told::new("the callback", self.deps.health.counters.callback_circuit.clone());
        self.callback.get_or_init(made).as_ref().map_err(String::clone)
    }

    fn complete(&self, work: InHand, ended: Ended) {
        self.note_end(&work, ended);
        self.desk().complete(work);
    }

    fn note_end(&self, work: &InHand, ended: Ended) {
        if let Some(of_topic) = self.of_topics.get(&*work.message.at.partition.topic) {
            of_topic.ended(ended, work.read_at.elapsed());
        }
    }

    /// After events ended or a key was let go.
    fn finished(&self, lane: usize) {
        self.news[lane].notify_one();
        if self.desk().awaited() {
            self.room.notify_one();
        }
    }

    fn flow(&self) -> desk::Flow {
        let mut desk = self.desk();
        let (messages, bytes) = desk.in_hand();
        let counters = &self.deps.health.counters;
        self.gauges.in_hand.set(&counters.in_hand, messages as u64);
        self.gauges.in_hand_bytes.set(&counters.in_hand_bytes, bytes as u64);
        desk.flow(Instant::now())
    }

    async fn obey(&self, consumer: &dyn Consumer, happening: Happening) {
        match happening {
            Happening::Messages(messages) => {
                self.follow();
                let news = self.desk().intake(messages, Instant::now());
                self.wake(news);
            }
            Happening::Assigned(partitions) => {
                self.follow();
                tracing::info!(partitions = ?names(partitions.iter().map(|(partition, _)| partition)), "partitions assigned");
                let mut desk = self.desk();
                for (partition, commit) in partitions {
                    desk.assign(partition, commit.as_ref());
                }
            }
            Happening::Revoked { partitions, release } => self.give_up(consumer, &partitions, release).await,
            Happening::Lost(partitions) => {
                tracing::warn!(partitions = ?names(&partitions), "partitions lost: what was in hand is read again by their new owner");
                self.desk().remove(&partitions);
            }
            Happening::Idle => {}
            Happening::Trouble(error) => {
                tracing::warn!(%error, "reading is in trouble; the client goes on trying");
                self.set_connected(Some(error.to_string()));
            }
        }
    }

    /// Obeys the state of the switch as it is now: what was held back for it is taken in hand.
    fn follow(&self) {
        let Some(switching) = &self.deps.switching else { return };
        let reader = switching.reader(|reader| reader.clone());
        let news = self.desk().follow(reader, Instant::now());
        self.wake(news);
    }

    fn wake(&self, news: Vec<bool>) {
        self.news.iter().zip(news).filter(|(_, new)| *new).for_each(|(lane, _)| lane.notify_one());
    }

    /// Whether this engine's backend is the one that is read.
    fn active(&self) -> bool {
        let active = |switching: &Arc<Switching>| switching.reader(|r| r.reading(self.deps.broker.name()) == Reading::Active);
        self.deps.switching.as_ref().is_none_or(active)
    }

    /// The process is as ready as the engine whose backend is read: a broker that is left may be away.
    fn set_connected(&self, trouble: Option<String>) {
        if self.active() {
            self.deps.health.set_connected(trouble);
        }
    }

    fn leave(&self, why: &str) {
        if self.active() {
            self.deps.health.leave(why);
        }
    }

    /// What is being applied ends, what waits is dropped, the last commit is made, and only then the partitions go.
    async fn give_up(&self, consumer: &dyn Consumer, partitions: &[Partition], release: oneshot::Sender<()>) {
        let began = Instant::now();
        self.desk().leave(partitions);
        let left = async {
            while !self.desk().left() {
                self.room.notified().await;
            }
        };
        let all = timeout(REVOKE_GRACE, left).await.is_ok();
        self.commit(consumer, Some(partitions)).await;
        self.desk().remove(partitions);
        // The new owner may begin now.
        drop(release);
        tracing::info!(partitions = ?names(partitions), all_ended = all, ms = began.elapsed().as_millis() as u64, "partitions given up");
    }

    /// Commits what is complete. Called by the loop only, which also removes partitions: no commit is for one that has gone.
    async fn commit(&self, consumer: &dyn Consumer, only: Option<&[Partition]>) {
        let mut commits: Vec<Commit> = self.desk().commits(only);
        // Each round is shorter by a partition.
        while !commits.is_empty() {
            match timeout(COMMIT_DEADLINE, consumer.commit(&commits)).await {
                Ok(Ok(())) => return self.desk().committed(commits),
                // It has gone, and we are not told yet, or never will be: the others are committed all the same.
                Ok(Err(BrokerError::NotOwned { partition })) if commits.iter().any(|commit| commit.next.partition == partition) => {
                    tracing::info!(
                        topic = &*partition.topic,
                        partition = partition.number,
                        "nothing committed: another worker reads it now"
                    );
                    commits.retain(|commit| commit.next.partition != partition);
                }
                Ok(Err(error)) => return tracing::warn!(%error, "cannot commit; it is tried again with what follows"),
                Err(_) => return tracing::warn!("no answer to a commit within {COMMIT_DEADLINE:?}; it is tried again with what follows"),
            }
        }
    }
}

fn names<'a>(partitions: impl IntoIterator<Item = &'a Partition>) -> Vec<String> {
    partitions.into_iter().map(|partition| format!("{}/{}", partition.topic, partition.number)).collect()
}
