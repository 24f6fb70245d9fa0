//! An applier: takes a lane's next batch, understands it, applies it, and settles what is not simply complete.

use super::about::{self, tell_failure};
use super::apply::{Came, Turn};
use super::failure::{Failure, Kind};
use super::health::Ended;
use super::lanes::{InHand, Key};
use super::settle::Fate;
use super::understand::{Meaning, Then, understand};
use super::{Shared, WorkerError};
use crate::store::{Applied, Change};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

/// The most that the messages of one batch may take when they are taken apart.
const BATCH_WEIGHT: usize = 8 << 20;

/// Runs until the worker stops. Ends with an error only if one of its tasks panicked.
pub(super) async fn applier(shared: Arc<Shared>, lane: usize) -> Result<(), WorkerError> {
    let mut settling = JoinSet::new();
    while let Some(mut batch) = next_batch(&shared, lane, &mut settling).await? {
        let fates = process(&shared, &mut batch).await;
        conclude(&shared, lane, batch, fates, &mut settling).await;
    }
    while let Some(ended) = settling.join_next().await {
        ended.map_err(panicked)?;
    }
    Ok(())
}

fn panicked(error: JoinError) -> WorkerError {
    WorkerError::Panicked(error.to_string())
}

/// Waits for work. None: the worker stops.
async fn next_batch(shared: &Shared, lane: usize, settling: &mut JoinSet<()>) -> Result<Option<Vec<InHand>>, WorkerError> {
    loop {
        while let Some(ended) = settling.try_join_next() {
            ended.map_err(panicked)?;
        }
        if shared.stopping() {
            return Ok(None);
        }
        let news = shared.news[lane].notified();
        let most = shared.deps.config.load().worker.as_ref().map_or(500, |worker| worker.batch_size);
        let (batch, next_due) = shared.desk().take(lane, Instant::now(), most, BATCH_WEIGHT);
        if !batch.is_empty() {
            return Ok(Some(batch));
        }
        let due = async {
            match next_due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = news => {}
            () = due => {}
            ended = settling.join_next(), if !settling.is_empty() => ended.transpose().map(|_| ()).map_err(panicked)?,
            () = shared.stopped() => return Ok(None),
        }
    }
}

/// What is to become of each event of a batch.
async fn process(shared: &Shared, batch: &mut [InHand]) -> Vec<Fate> {
    // All appliers together hold only so much.
    let _memory = shared.memory(batch.iter().map(|work| work.weight).sum()).await;
    let config = shared.deps.config.load_full();
    let contract = shared.deps.contract.load_full();
    shared.begin_attempts(&config, batch);
    let attempts = config.worker.as_ref().map_or(1, |worker| worker.retry.attempts);
    let last_attempt = |work: &InHand| work.attempts + 1 >= attempts;

    let mut fates: Vec<Fate> = Vec::with_capacity(batch.len());
    let mut changes: Vec<Change> = Vec::with_capacity(batch.len());
    let mut turns: Vec<Turn> = Vec::with_capacity(batch.len());
    let mut of_changes: Vec<(usize, Option<Then>)> = Vec::with_capacity(batch.len());
    let mut held: HashSet<Key> = HashSet::new();
    for (index, work) in batch.iter().enumerate() {
        if held.contains(&work.key) {
            fates.push(Fate::Behind);
            continue;
        }
        fates.push(match understand(&config, &contract, &shared.deps.codecs, &work.message) {
            Meaning::Nothing(why) => {
                tracing::debug!(topic = &*work.message.at.partition.topic, offset = work.message.at.offset, why, "passed over");
                shared.deps.health.counters.passed_over.add(1);
                Fate::Complete(Ended::PassedOver)
            }
            Meaning::Dropped(failure) => {
                let about = shared.about(work, &failure);
                tell_failure!(warn, work, about, failure, "invalid message dropped, as its topic says");
                shared.deps.health.counters.failed(failure.kind);
                Fate::Complete(Ended::Dropped)
            }
            Meaning::Broken(failure) => Fate::DeadLetter(failure),
            Meaning::Left => Fate::Left,
            Meaning::Waits(wanted) => {
                held.insert(work.key);
                Fate::Waits(wanted)
            }
            Meaning::Locked(failure) => {
                held.insert(work.key);
                Fate::Locked(failure)
            }
            Meaning::Retry(failure) => {
                if !last_attempt(work) {
                    held.insert(work.key);
                }
                Fate::Failed(failure)
            }
            Meaning::Event(event) => {
                changes.push(event.change);
                turns.push(Turn { key: work.key, last_attempt: last_attempt(work), suspect: work.attempts > 0 });
                of_changes.push((index, event.then));
                Fate::PutDown
            }
        });
    }
    if !changes.is_empty() {
        let began = batch.iter().any(|work| work.traced.is_some()).then(Instant::now);
        let came = shared.apply(&changes, &turns).await;
        if let Some(began) = began {
            let indices: Vec<usize> = of_changes.iter().map(|(index, _)| *index).collect();
            shared.note_store(batch, &changes, &indices, &came, began.elapsed());
        }
        for ((change, (index, then)), came) in changes.iter().zip(of_changes).zip(came) {
            fates[index] = fate(shared, &mut batch[index], change, came, then);
        }
    }
    fates
}

fn fate(shared: &Shared, work: &mut InHand, change: &Change, came: Came, then: Option<Then>) -> Fate {
    let failure = |kind, reason: String| Failure::new(kind, reason, Some(&change.event_id));
    let ended = match came {
        Came::Applied(Applied::Done) => Ended::Processed,
        Came::Applied(Applied::Repeat) => Ended::Repeated,
        // Kept in the store: it will take effect with its Create. What follows from it follows now, since nobody reads this
        // message again.
        Came::Applied(Applied::Waiting) => Ended::Waiting,
        Came::Applied(Applied::Conflict(reason)) => return Fate::DeadLetter(failure(Kind::Conflict, reason)),
        Came::Applied(Applied::Refused(reason)) | Came::Refused(reason) => return Fate::DeadLetter(failure(Kind::Refused, reason)),
        Came::Failed(reason) => return Fate::Failed(failure(Kind::Store, reason)),
        Came::Behind => return Fate::Behind,
        Came::Stopped => return Fate::PutDown,
    };
    // Told and counted once, as what it was the first time.
    if work.effect.is_none() {
        about::tell(work, change, ended);
        shared.deps.health.counters.came_to_the_store(ended);
    }
    let ended = *work.effect.get_or_insert(ended);
    then.map_or(Fate::Complete(ended), |then| Fate::Then(Box::new(then), ended))
}

/// Completes what is simply done, under one lock; the keys with more to do are held and settled beside the next batches.
async fn conclude(shared: &Arc<Shared>, lane: usize, batch: Vec<InHand>, fates: Vec<Fate>, settling: &mut JoinSet<()>) {
    let mut busy: HashMap<Key, VecDeque<(InHand, Fate)>> = HashMap::new();
    let mut order: Vec<Key> = Vec::new();
    for (work, fate) in batch.iter().zip(&fates) {
        if !matches!(fate, Fate::Complete(_)) && !busy.contains_key(&work.key) {
            busy.insert(work.key, VecDeque::new());
            order.push(work.key);
        }
    }
    {
        let mut desk = shared.desk();
        for key in &order {
            desk.hold(lane, *key);
        }
        for (mut work, fate) in batch.into_iter().zip(fates) {
            match busy.get_mut(&work.key) {
                Some(events) => events.push_back((work, fate)),
                None => {
                    desk.let_go(lane, work.key);
                    if let Fate::Complete(ended) = fate {
                        shared.note_end(&work, ended);
                        shared.end_attempt(&mut work, ended.name(), None);
                    }
                    desk.complete(work);
                }
            }
        }
    }
    shared.finished(lane);
    for key in order {
        let Some(events) = busy.remove(&key) else { continue };
        // Bounded: when so many keys are being settled, the lane waits.
        let Ok(permit) = shared.settling.clone().acquire_owned().await else { return };
        let shared = shared.clone();
        settling.spawn(async move {
            shared.settle(lane, key, events).await;
            drop(permit);
        });
    }
}
