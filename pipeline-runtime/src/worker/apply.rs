//! Changes into the store: whole batches while all is well; the one that cannot be applied is found by halving.
//!
//! A store that is down costs no event an attempt: the breaker opens, everything waits, and goes on when the store takes a
//! write again. Only an event that fails while the store demonstrably takes other writes counts attempts (FP-3): otherwise
//! a minute without a database would turn every order in flight into a dead letter.

use super::Shared;
use super::health::CircuitHealth;
use super::lanes::Key;
use crate::store::{Applied, Change, StoreError};
use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// A batch that fails while the store works is tried so often before it is halved: deadlocks pass.
const TRIES_BEFORE_HALVING: u32 = 3;
/// A connection that breaks says nothing about what was on it, so that this costs no attempt; but so often in a row, with a store that
/// works in between, it must be that. Takes about a minute.
const MOST_LOST: u32 = 20;
const LONGEST_BACKOFF: Duration = Duration::from_millis(3200);
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const PROBE_DEADLINE: Duration = Duration::from_secs(5);
const LONGEST_PROBE_PAUSE: Duration = Duration::from_secs(5);

/// What became of one change.
#[derive(Clone, Debug, PartialEq)]
pub enum Came {
    Applied(Applied),
    /// The store will never take it.
    Refused(String),
    /// It fails alone, while the store works.
    Failed(String),
    /// An earlier event of its key has to be tried again first.
    Behind,
    /// The worker stops; nothing is known.
    Stopped,
}

/// What else matters of a change: its key has to wait for it if it fails now, unless it was its last attempt.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    pub key: Key,
    pub last_attempt: bool,
    /// It failed before: it is applied alone, so that it does not take others down with it again.
    pub suspect: bool,
}

impl Shared {
    /// Applies changes in their order and says for each what became of it.
    pub(super) async fn apply(&self, changes: &[Change], turns: &[Turn]) -> Vec<Came> {
        let mut came = vec![Came::Stopped; changes.len()];
        let mut held: HashSet<Key> = HashSet::new();
        let mut parts: Vec<(Range<usize>, bool)> = parts(turns).into_iter().map(|part| (part, true)).collect();
        while let Some((Range { start: from, end: to }, whole)) = parts.pop() {
            let open: Vec<usize> = (from..to).filter(|index| !held.contains(&turns[*index].key)).collect();
            for index in from..to {
                if held.contains(&turns[index].key) {
                    came[index] = Came::Behind;
                }
            }
            if open.is_empty() {
                continue;
            }
            let part = if open.len() == to - from {
                self.apply_part(&changes[from..to], whole).await
            } else {
                let picked: Vec<Change> = open.iter().map(|index| changes[*index].clone()).collect();
                self.apply_part(&picked, whole).await
            };
            match part {
                Part::Applied(applied) => open.iter().zip(applied).for_each(|(index, applied)| came[*index] = Came::Applied(applied)),
                Part::Stopped => return came,
                Part::Failed(error) if open.len() == 1 => {
                    let turn = &turns[open[0]];
                    came[open[0]] = match error {
                        StoreError::Refused(reason) => Came::Refused(reason),
                        StoreError::Transient(reason) | StoreError::Away(reason) => {
                            if !turn.last_attempt {
                                held.insert(turn.key);
                            }
                            Came::Failed(reason)
                        }
                    };
                }
                Part::Failed(error) => {
                    tracing::debug!(%error, changes = open.len(), "a batch fails while the store works: looking for the change that does it");
                    let middle = open[open.len() / 2];
                    parts.extend([(middle..to, false), (from..middle, false)]);
                }
            }
        }
        came
    }

    async fn apply_part(&self, changes: &[Change], whole: bool) -> Part {
        let deadline = self.deps.config.load().worker.as_ref().map_or(Duration::from_secs(60), |worker| worker.deadline);
        let allowed = if whole && changes.len() > 1 { TRIES_BEFORE_HALVING } else { 1 };
        let (mut tries, mut lost) = (0, 0);
        loop {
            // Known to be down: somebody asks already.
            self.breaker.closed().await;
            let seen = self.breaker.healed();
            let error = match timeout(deadline, self.deps.store.apply(changes)).await {
                Ok(Ok(applied)) if applied.len() == changes.len() => return Part::Applied(applied),
                Ok(Ok(applied)) => {
                    StoreError::Refused(format!("{} answers for {} changes: a mistake of the store", applied.len(), changes.len()))
                }
                Ok(Err(error)) => error,
                Err(_) => StoreError::Transient(format!("no answer within {deadline:?}")),
            };
            if matches!(error, StoreError::Refused(_)) {
                return Part::Failed(error);
            }
            match self.store_works(seen, &error).await {
                Works::Yes if matches!(error, StoreError::Away(_)) && lost < MOST_LOST => lost += 1,
                Works::Yes => tries += 1,
                // It was down: these changes are not to blame.
                Works::Again => (tries, lost) = (0, 0),
                Works::Stopped => return Part::Stopped,
            }
            if tries >= allowed {
                return Part::Failed(error);
            }
            if !self.sleep((FIRST_BACKOFF * 2u32.pow((tries + lost).min(10))).min(LONGEST_BACKOFF)).await {
                return Part::Stopped;
            }
        }
    }

    /// After a transient failure: does the store take a write? If not, waits until it does. One asks for all.
    async fn store_works(&self, seen: u64, error: &StoreError) -> Works {
        let _turn = self.breaker.turn.lock().await;
        if self.breaker.healed() != seen {
            return Works::Again;
        }
        let mut pause = FIRST_BACKOFF;
        let mut open: Option<Open<'_>> = None;
        loop {
            match timeout(PROBE_DEADLINE, self.probe()).await {
                Ok(Ok(())) => break,
                answer => {
                    let reason = answer.map_or_else(
                        |_| format!("no answer within {PROBE_DEADLINE:?}"),
                        |e| e.err().map_or_else(String::new, |e| e.to_string()),
                    );
                    if open.is_none() {
                        tracing::error!(first = %error, reason, "the store takes nothing: work waits for it, no event loses an attempt");
                        open = Some(Open::new(&self.breaker, &self.deps.health.counters.store_circuit));
                    }
                    self.deps.health.set_store_trouble(Some(reason));
                }
            }
            if !self.sleep(pause).await {
                return Works::Stopped;
            }
            pause = (pause * 2).min(LONGEST_PROBE_PAUSE);
        }
        let Some(open) = open else { return Works::Yes };
        tracing::info!(seconds = open.since.elapsed().as_secs_f64(), "the store takes writes again");
        self.deps.health.set_store_trouble(None);
        self.breaker.heal();
        Works::Again
    }

    /// Asks for an answer and for a write: a full disk and a read-only replica still answer, and a table that somebody has locked
    /// takes nothing while all others do.
    async fn probe(&self) -> Result<(), StoreError> {
        let store = &self.deps.store;
        store.ready().await?;
        store.takes_changes().await?;
        let name = format!("worker-probe-{}", self.id);
        store.claim(&name, [0; 32], Duration::from_secs(1)).await?;
        store.release_claim(&name).await
    }
}

/// What is applied together, the first part last: each suspect alone, runs of the others whole. In the order of the changes.
fn parts(turns: &[Turn]) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    for (index, turn) in turns.iter().enumerate() {
        match parts.last_mut() {
            Some(last) if !turn.suspect && !turns[last.start].suspect => last.end = index + 1,
            _ => parts.push(index..index + 1),
        }
    }
    parts.reverse();
    parts
}

enum Part {
    Applied(Vec<Applied>),
    Failed(StoreError),
    Stopped,
}

enum Works {
    Yes,
    Again,
    Stopped,
}

/// The circuit breaker before the store, one for all appliers. Closed: everybody applies. Half open: something failed, and whoever has the
/// turn asks whether the store takes writes, as often as it must. Open: it does not, and nobody applies until it does.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    turn: tokio::sync::Mutex<()>,
    open: AtomicBool,
    healed: AtomicU64,
}

impl Breaker {
    fn healed(&self) -> u64 {
        self.healed.load(SeqCst)
    }
    fn heal(&self) {
        self.healed.fetch_add(1, SeqCst);
    }
    /// Waits while it is open.
    async fn closed(&self) {
        if self.open.load(SeqCst) {
            drop(self.turn.lock().await);
        }
    }
}

/// The breaker is open as long as this lives, however whoever asks ends.
struct Open<'a> {
    since: Instant,
    breaker: &'a Breaker,
    health: &'a CircuitHealth,
}

impl<'a> Open<'a> {
    fn new(breaker: &'a Breaker, health: &'a CircuitHealth) -> Open<'a> {
        breaker.open.store(true, SeqCst);
        health.opened();
        Open { since: Instant::now(), breaker, health }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.breaker.open.store(false, SeqCst);
        self.health.closed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspects_are_applied_alone_and_nothing_changes_places() {
        let turns = |suspects: &[bool]| {
            let turn = |suspect: &bool| Turn { key: 0, last_attempt: false, suspect: *suspect };
            let mut parts = parts(&suspects.iter().map(turn).collect::<Vec<_>>());
            parts.reverse();
            parts
        };
        assert_eq!(turns(&[false, false, false]), vec![Range { start: 0, end: 3 }]);
        assert_eq!(turns(&[true, true, false, false]), [0..1, 1..2, 2..4]);
        assert_eq!(turns(&[false, true, false]), [0..1, 1..2, 2..3]);
        assert!(turns(&[]).is_empty());
    }
}
