//! A read-only view of the orders for a pipeline without a database: every event, from the start of its topic, into the
//! process's own bounded store. Nothing is committed, emitted, called back or buried: the workers do that.
//!
//! Of a pipeline with several backends there is one for each of them, all into the same store, and each obeys the fence.

use super::fence::{Fence, States};
use super::understand::{Meaning, understand};
use super::{PREFETCH_BYTES, WorkerError, WorkerHealth, connect, of_all, topics};
use crate::broker::{Broker, Consumer, ConsumerMode, ConsumerOptions, Happening, Incoming, Partition};
use crate::codec::Codecs;
use crate::contract::Contract;
use crate::control::Switching;
use crate::store::{Change, Store, StoreError};
use arc_swap::ArcSwap;
use crds::runtime_config::RuntimeConfig;
use crds::switch::{Seals, Take};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const RETRY: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A Secret that was changed is in every pod by then.
const KEY_WITHIN: Duration = Duration::from_secs(300);
const KEY_RETRY: Duration = Duration::from_secs(1);

pub struct ViewDeps {
    pub config: Arc<ArcSwap<RuntimeConfig>>,
    pub contract: Arc<ArcSwap<Contract>>,
    pub codecs: Codecs,
    pub broker: Arc<dyn Broker>,
    /// None: the pipeline has one backend.
    pub switching: Option<Arc<Switching>>,
    /// In memory, bounded by `max_orders`.
    pub store: Arc<dyn Store>,
}

pub async fn view(deps: ViewDeps, shutdown: impl Future<Output = ()> + Send) -> Result<(), WorkerError> {
    let config = deps.config.load_full();
    let topics = topics(&config);
    if topics.is_empty() {
        return Err(WorkerError::NothingToRead);
    }
    let fenced = |switching: &Arc<Switching>| {
        let health = Arc::new(WorkerHealth::default());
        Fence::new(deps.broker.name(), config.own_topics(), switching, health)
    };
    let mut queue = deps.switching.as_ref().map(|switching| Queue { fence: fenced(switching), partitions: BTreeMap::new() });
    let options = ConsumerOptions {
        topics,
        mode: ConsumerMode::All,
        batch_size: 500,
        poll_interval: Duration::from_millis(500),
        prefetch_bytes: PREFETCH_BYTES,
    };
    tokio::pin!(shutdown);
    let mut states = States::of(deps.switching.as_ref());
    let read = async {
        let consumer = connect(&*deps.broker, &options, |_| ()).await;
        loop {
            let happening = tokio::select! {
                biased;
                () = states.changed() => Happening::Idle,
                happening = consumer.next() => happening,
            };
            obey(&deps, &mut queue, happening).await;
            if let Some(queue) = &mut queue {
                queue.flow(&*consumer);
            }
        }
    };
    tokio::select! {
        () = &mut shutdown => Ok(()),
        () = read => Ok(()),
    }
}

async fn obey(deps: &ViewDeps, queue: &mut Option<Queue>, happening: Happening) {
    if let (Some(queue), Some(switching)) = (&mut *queue, &deps.switching) {
        let released = queue.follow(switching);
        see(deps, &released).await;
    }
    match happening {
        Happening::Messages(messages) => {
            let messages = match queue {
                Some(queue) => queue.pass(messages),
                None => messages,
            };
            see(deps, &messages).await;
        }
        Happening::Assigned(partitions) => {
            if let Some(queue) = queue {
                queue.assign(partitions.into_iter().map(|(partition, _)| partition));
            }
        }
        Happening::Trouble(error) => tracing::warn!(%error, "the view is in trouble; the client goes on trying"),
        // It is in no group: partitions neither come nor go. What is still asked is granted.
        Happening::Revoked { release, .. } => drop(release),
        Happening::Lost(_) | Happening::Idle => {}
    }
}

/// The partitions of the pipeline's own topics, and what of them came before its turn.
struct Queue {
    fence: Fence,
    partitions: BTreeMap<Partition, Waiting>,
}

#[derive(Default)]
struct Waiting {
    paused: bool,
    /// In its order; no more than what was handed out before the partition was paused.
    held: VecDeque<Incoming>,
}

impl Queue {
    fn assign(&mut self, partitions: impl Iterator<Item = Partition>) {
        let own = partitions.filter(|partition| self.fence.owns(&partition.topic));
        self.partitions.extend(own.map(|partition| (partition, Waiting::default())));
    }

    /// Those that may be seen now; the others are held.
    fn pass(&mut self, messages: Vec<Incoming>) -> Vec<Incoming> {
        // Whether one is late is the workers' to count.
        let seals = Seals::new(self.fence.lineage(), None);
        let mut passed = Vec::with_capacity(messages.len());
        for message in messages {
            let Some(waiting) = self.partitions.get_mut(&message.at.partition) else {
                passed.push(message);
                continue;
            };
            match waiting.held.is_empty().then(|| self.fence.admit(&message, &seals)).flatten() {
                Some(Take::Seal(_)) => {}
                Some(_) => passed.push(message),
                None => waiting.held.push_back(message),
            }
        }
        passed
    }

    /// Obeys the state as it is now. Returns what was held back for it.
    fn follow(&mut self, switching: &Switching) -> Vec<Incoming> {
        if !self.fence.follow(switching.reader(|reader| reader.clone())) {
            return Vec::new();
        }
        let held = self.partitions.values_mut().flat_map(|waiting| std::mem::take(&mut waiting.held)).collect();
        self.pass(held)
    }

    fn flow(&mut self, consumer: &dyn Consumer) {
        let shut = self.fence.shut();
        let (mut pause, mut resume) = (Vec::new(), Vec::new());
        for (partition, waiting) in &mut self.partitions {
            let barred = shut || !waiting.held.is_empty();
            if std::mem::replace(&mut waiting.paused, barred) != barred {
                if barred { pause.push(partition.clone()) } else { resume.push(partition.clone()) }
            }
        }
        of_all(&pause, "pausing", |partitions| consumer.pause(partitions));
        of_all(&resume, "resuming", |partitions| consumer.resume(partitions));
    }
}

async fn see(deps: &ViewDeps, messages: &[Incoming]) {
    let mut changes: Vec<Change> = Vec::with_capacity(messages.len());
    for message in messages {
        changes.extend(meant(deps, message).await);
    }
    if changes.is_empty() || !refused(deps, &changes).await {
        return;
    }
    for change in &changes {
        if refused(deps, std::slice::from_ref(change)).await {
            tracing::debug!(eventId = change.event_id, "the view leaves an event out that its store refuses");
        }
    }
}

/// What a message does. Whoever has to be asked for that is asked as often as it takes. The key that it is encrypted with may be on its way:
/// it is waited for, and after that it is left out as the workers leave it out.
async fn meant(deps: &ViewDeps, message: &Incoming) -> Option<Change> {
    let until = Instant::now() + KEY_WITHIN;
    let mut pause = RETRY;
    loop {
        let meaning = understand(&deps.config.load(), &deps.contract.load(), &deps.codecs, message);
        match meaning {
            Meaning::Event(event) => return Some(event.change),
            Meaning::Waits(wanted) => {
                let Err(why) = wanted.get().await else { continue };
                tracing::warn!(why, "the view waits {pause:?}");
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Meaning::Locked(failure) if Instant::now() < until => {
                tracing::warn!(reason = failure.reason, "the view waits for a key");
                sleep(KEY_RETRY).await;
            }
            _ => return None,
        }
    }
}

/// Applies changes, as often as it takes; true if the store will never take them.
async fn refused(deps: &ViewDeps, changes: &[Change]) -> bool {
    loop {
        match deps.store.apply(changes).await {
            Ok(_) => return false,
            Err(StoreError::Refused(_)) => return true,
            Err(StoreError::Transient(_) | StoreError::Away(_)) => sleep(RETRY).await,
        }
    }
}
