//! What a worker does beside reading while its pipeline moves to another broker: it seals the epochs that are closed, and looks
//! whether the one that is read is drained. Any number of workers may do the same at once.

use super::fence::States;
use super::offsets::noted_seal;
use super::{Shared, WorkerError};
use crate::broker::{BrokerError, Commit, Partition, TopicWish};
use crate::control::Switching;
use crate::publish::{Unsealed, seal};
use crds::switch::{Reading, Stamp, SwitchState, drained};
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

const ASK_DEADLINE: Duration = Duration::from_secs(5);
const SEAL_DEADLINE: Duration = Duration::from_secs(5);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);
/// After so many tries a line in the log.
const SAY_EVERY: u32 = 15;
/// Other workers commit too, and nobody tells us of it.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A drain that lasts says so often in the log what it waits for, and seals what may have come later.
const SAY_WAITING_EVERY: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 15 });
const MOST_SAID: usize = 10;

/// Writes the seals that are missing on this engine's backend.
pub(super) async fn seal_closed(shared: Arc<Shared>, switching: Arc<Switching>) -> Result<(), WorkerError> {
    let mut states = States::of(Some(&switching));
    while !shared.stopping() {
        let closed = switching.reader(|reader| {
            let here = reader.to_seal().find(|open| *open.backend == *shared.deps.broker.name()).map(|open| open.epoch);
            here.map(|epoch| (reader.state().lineage().clone(), epoch))
        });
        match closed {
            Some((lineage, epoch)) => seal_epoch(&shared, &switching, Stamp { lineage: &lineage, epoch }).await,
            None => tokio::select! {
                biased;
                () = states.changed() => {}
                () = shared.stopped() => {}
            },
        }
    }
    Ok(())
}

/// Until it is done, or the state no longer asks for it, or the worker stops.
async fn seal_epoch(shared: &Shared, switching: &Switching, stamp: Stamp<'_>) {
    let asked =
        || switching.reader(|reader| reader.state().same_lineage(stamp.lineage) && reader.to_seal().any(|open| open.epoch == stamp.epoch));
    let (backend, epoch) = (shared.deps.broker.name(), stamp.epoch);
    let mut left = None;
    let mut tries = 0;
    while asked() {
        let reason = match seal_left(shared, stamp, &mut left).await {
            Ok(partitions) => {
                let done = switching.reader(|reader| {
                    let same = reader.state().same_lineage(stamp.lineage);
                    same.then(|| reader.sealed(epoch)).is_some()
                });
                if done {
                    tracing::info!(backend, epoch, partitions, "the epoch is sealed");
                    switching.tell();
                }
                return;
            }
            Err(reason) => reason,
        };
        if tries % SAY_EVERY == 0 {
            tracing::warn!(backend, epoch, reason, "an epoch cannot be sealed yet, and so its broker cannot be drained; trying again");
        }
        if !shared.sleep((FIRST_BACKOFF * 2u32.pow(tries.min(10))).min(LONGEST_BACKOFF)).await {
            return;
        }
        tries += 1;
    }
}

/// One try; those that it did not reach are `left` for the next. Returns how many partitions it wrote to.
async fn seal_left(shared: &Shared, stamp: Stamp<'_>, left: &mut Option<Vec<Partition>>) -> Result<usize, String> {
    let partitions = match left.take() {
        Some(left) => left,
        None => own_partitions(shared).await.map_err(|error| error.to_string())?,
    };
    match seal(&*shared.deps.broker, stamp, &partitions, SEAL_DEADLINE).await {
        Ok(()) => Ok(partitions.len()),
        Err(unsealed) => {
            let reason = unsealed.to_string();
            let Unsealed { left: again, .. } = unsealed;
            *left = Some(again);
            Err(reason)
        }
    }
}

async fn in_time<T>(backend: &str, answer: impl Future<Output = Result<T, BrokerError>>) -> Result<T, BrokerError> {
    let silent = |_| BrokerError::Unreachable { backend: backend.into(), reason: format!("no answer within {ASK_DEADLINE:?}") };
    timeout(ASK_DEADLINE, answer).await.map_err(silent)?
}

/// The partitions of the pipeline's own topics that the worker reads, as the broker has them.
async fn own_partitions(shared: &Shared) -> Result<Vec<Partition>, BrokerError> {
    let broker = &shared.deps.broker;
    let mut partitions = Vec::new();
    for name in &shared.own {
        let count = match in_time(broker.name(), broker.partitions(name)).await? {
            Some(count) => count,
            None => make_topic(shared, name).await?,
        };
        let topic: Arc<str> = name.as_str().into();
        partitions.extend((0..count).map(|number| Partition { topic: topic.clone(), number }));
    }
    Ok(partitions)
}

/// One that came into the document when orders were written elsewhere already is sealed and read here like all others.
async fn make_topic(shared: &Shared, name: &str) -> Result<i32, BrokerError> {
    let broker = &shared.deps.broker;
    let config = shared.deps.config.load_full();
    let missing = |partitions| BrokerError::NoTopic { backend: broker.name().into(), topic: name.into(), partitions };
    let wish = TopicWish::of(config.topic(name).ok_or_else(|| missing(0))?);
    let partitions = wish.partitions;
    in_time(broker.name(), broker.ensure_topics(&[wish])).await?;
    in_time(broker.name(), broker.partitions(name)).await?.ok_or_else(|| missing(partitions))
}

/// What a look at the group's commits has found.
enum Drain {
    /// It is over, and this is to be told.
    Over,
    /// In these partitions the seal is not passed, or not yet committed as passed; in some of them nothing is committed at all.
    Waits { partitions: Vec<Partition>, untouched: Vec<Partition> },
}

/// A partition that was made after its broker was sealed has no seal: it gets one. One that is only not reached yet gets a second, which
/// every reader passes over; but no third: `again` are those that have it.
async fn seal_again(
    shared: &Shared,
    switching: &Switching,
    state: &SwitchState,
    mut untouched: Vec<Partition>,
    again: &mut Vec<Partition>,
) {
    let (lineage, epoch) = (state.lineage(), state.active().epoch);
    untouched.retain(|partition| !again.contains(partition));
    if untouched.is_empty() || switching.reader(|reader| reader.to_seal().any(|open| open.epoch == epoch)) {
        return; // or whoever seals is at it
    }
    if let Err(unsealed) = seal(&*shared.deps.broker, Stamp { lineage, epoch }, &untouched, SEAL_DEADLINE).await {
        let reason = unsealed.to_string();
        tracing::warn!(backend = shared.deps.broker.name(), epoch, reason, "partitions that may have come later cannot be sealed yet");
        untouched.retain(|partition| !unsealed.left.contains(partition));
    }
    again.append(&mut untouched);
}

/// While the state drains and this engine's backend is what is read: looks whether all of the group have passed the seals.
pub(super) async fn look_at_drain(shared: Arc<Shared>, switching: Arc<Switching>) -> Result<(), WorkerError> {
    let mut states = States::of(Some(&switching));
    let mut known = None;
    let mut again = Vec::new();
    let mut say = None;
    while !shared.stopping() {
        let drains = switching.reader(|reader| {
            let here = reader.state().drains() && reader.reading(shared.deps.broker.name()) == Reading::Active;
            (here && !reader.look_at_drain([])).then(|| reader.state().clone())
        });
        let Some(state) = drains else {
            (known, say) = (None, None);
            again.clear();
            tokio::select! {
                biased;
                () = states.changed() => {}
                () = shared.stopped() => {}
            }
            continue;
        };
        let looked = look(&shared, &switching, &state, &mut known).await;
        let due = Instant::now() >= *say.get_or_insert_with(|| Instant::now() + SAY_WAITING_EVERY);
        if due {
            say = None;
        }
        let (backend, epoch) = (shared.deps.broker.name(), state.active().epoch);
        match looked {
            Ok(Drain::Over) => switching.tell(),
            Ok(Drain::Waits { partitions, untouched }) => {
                if due {
                    seal_again(&shared, &switching, &state, untouched, &mut again).await;
                    let mut ours = shared.desk().describe(&partitions);
                    let others = partitions.len() - ours.len();
                    ours.truncate(MOST_SAID);
                    tracing::info!(backend, epoch, partitions = partitions.len(), others, ?ours, "the broker is not read to its end yet");
                }
            }
            Err(error) if due => tracing::warn!(backend, epoch, %error, "cannot look whether the broker is read to its end; looking again"),
            Err(error) => tracing::debug!(backend, epoch, %error, "cannot look whether the broker is read to its end; looking again"),
        }
        tokio::select! {
            biased;
            () = states.changed() => {}
            () = shared.seal_noted.notified() => {}
            () = sleep(LOOK_EVERY) => {}
            () = shared.stopped() => {}
        }
    }
    Ok(())
}

/// `known`: the partitions, so that the broker is not asked for them at each look.
async fn look(
    shared: &Shared,
    switching: &Switching,
    state: &SwitchState,
    known: &mut Option<Vec<Partition>>,
) -> Result<Drain, BrokerError> {
    let broker = &shared.deps.broker;
    let group = shared.deps.config.load().worker.as_ref().map(|worker| worker.group.clone()).unwrap_or_default();
    let own: Vec<String> = shared.own.iter().cloned().collect();
    let commits = in_time(broker.name(), broker.committed(&group, &own)).await?;
    let commits: HashMap<Partition, Commit> = commits.into_iter().map(|commit| (commit.next.partition.clone(), commit)).collect();
    let note = |partition: &Partition| noted_seal(&commits.get(partition)?.metadata);
    let waits = |partitions: &[Partition]| -> Vec<Partition> {
        partitions.iter().filter(|partition| !drained(state, [note(partition).as_deref()])).cloned().collect()
    };
    let waiting = |partitions: Vec<Partition>| {
        let untouched = partitions.iter().filter(|partition| !commits.contains_key(partition)).cloned().collect();
        Ok(Drain::Waits { partitions, untouched })
    };
    if let Some(known) = known {
        let waits = waits(known);
        if !waits.is_empty() {
            // What we have committed there may have been set back since: a request that was long on its way can come behind a newer one.
            shared.desk().doubt(&waits, &commits);
            return waiting(waits);
        }
    }
    // Before it is told they are counted once more: a partition that was added meanwhile may hold messages.
    let partitions = known.insert(own_partitions(shared).await?);
    let notes: Vec<Option<String>> = partitions.iter().map(note).collect();
    let over = switching.reader(|reader| {
        let same = reader.state().same_lineage(state.lineage()) && reader.state().active() == state.active();
        same && reader.look_at_drain(notes.iter().map(Option::as_deref))
    });
    if over { Ok(Drain::Over) } else { waiting(waits(partitions)) }
}
