//! A lane: the queue of one applier. A key is first in, first out; a key that must wait is held alone, and the others go on.

use super::health::Ended;
use super::traced::Traced;
use crate::broker::Incoming;
use std::collections::{BTreeSet, HashMap, VecDeque, hash_map::Entry};
use std::hash::{DefaultHasher, Hash, Hasher};
use tokio::time::Instant;

/// The hash of a message's key. Two keys with one hash wait for each other, which is harmless.
pub type Key = u64;

/// A message in hand: read, and not complete yet.
#[derive(Debug)]
pub struct InHand {
    pub message: Incoming,
    /// The assignment of its partition under which it was read: what ends later than that counts for nothing.
    pub assignment: u64,
    /// How often the partition was begun anew under that assignment before.
    pub log: u32,
    pub key: Key,
    /// How often it failed by its own fault.
    pub attempts: u32,
    /// How often it waited for something else, since it was read.
    pub waits: u32,
    /// What it was to the store when it came there first. Where what follows from it has to wait, it comes there again: as a repeat, which
    /// it is not.
    pub effect: Option<Ended>,
    pub read_at: Instant,
    pub size: usize,
    /// What it takes when it is taken apart, in bytes.
    pub weight: usize,
    /// Its spans, if it is sampled.
    pub traced: Option<Box<Traced>>,
}

/// Which lane a message takes, and the key it is held under. Without a key nobody promised an order: it stays in its
/// partition's lane, so that the order is kept where nothing fails, and waits for itself only.
pub fn place(message: &Incoming, lanes: usize) -> (usize, Key) {
    let hash = |thing: &dyn Fn(&mut DefaultHasher)| {
        let mut hasher = DefaultHasher::new();
        thing(&mut hasher);
        hasher.finish()
    };
    let lane = |hash: u64| (hash % lanes as u64) as usize;
    match &message.key {
        Some(key) => {
            let key = hash(&|h| key.hash(h));
            (lane(key), key)
        }
        None => (lane(hash(&|h| message.at.partition.hash(h))), hash(&|h| message.at.hash(h))),
    }
}

#[derive(Debug, Default)]
pub struct Lane {
    queue: VecDeque<InHand>,
    held: HashMap<Key, Held>,
    /// The held keys that have an end.
    due: BTreeSet<(Instant, Key)>,
}

#[derive(Debug, Default)]
struct Held {
    /// None: somebody works on its first event.
    until: Option<Instant>,
    behind: VecDeque<InHand>,
}

impl Lane {
    pub fn push(&mut self, work: InHand) {
        self.queue.push_back(work);
    }

    /// The next batch, in the order of each key. Of a key that waited only the first event: what follows waits for its outcome.
    pub fn take(&mut self, now: Instant, most: usize, most_bytes: usize) -> Vec<InHand> {
        let mut batch = Vec::with_capacity(most.min(self.queue.len() + self.due.len()));
        let mut bytes = 0;
        while batch.len() < most && (bytes < most_bytes || batch.is_empty()) {
            let Some(work) = self.pop_due(now).or_else(|| self.pop_queued()) else { break };
            bytes += work.weight;
            batch.push(work);
        }
        batch
    }

    fn pop_due(&mut self, now: Instant) -> Option<InHand> {
        while self.due.first().is_some_and(|(until, _)| *until <= now) {
            let (_, key) = self.due.pop_first()?;
            let Entry::Occupied(mut held) = self.held.entry(key) else { continue };
            held.get_mut().until = None;
            match held.get_mut().behind.pop_front() {
                Some(first) => return Some(first),
                None => drop(held.remove()),
            }
        }
        None
    }

    fn pop_queued(&mut self) -> Option<InHand> {
        if self.held.is_empty() {
            return self.queue.pop_front();
        }
        while let Some(work) = self.queue.pop_front() {
            match self.held.get_mut(&work.key) {
                Some(held) => held.behind.push_back(work),
                None => return Some(work),
            }
        }
        None
    }

    /// When the first of the waiting keys may go on.
    pub fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(until, _)| *until)
    }

    /// Somebody works on this key outside of a batch: its further events stay behind.
    pub fn hold(&mut self, key: Key) {
        self.held.entry(key).or_default();
    }

    /// The key goes on: what stayed behind comes before whatever is queued.
    pub fn let_go(&mut self, key: Key) {
        if self.held.is_empty() {
            return;
        }
        if let Some(held) = self.held.remove(&key) {
            if let Some(until) = held.until {
                self.due.remove(&(until, key));
            }
            for work in held.behind.into_iter().rev() {
                self.queue.push_front(work);
            }
        }
    }

    /// These events of a key, in their order, wait until then; all others of the key behind them.
    pub fn park(&mut self, key: Key, first: Vec<InHand>, until: Instant) {
        let held = self.held.entry(key).or_default();
        for work in first.into_iter().rev() {
            held.behind.push_front(work);
        }
        if let Some(before) = held.until.replace(until) {
            self.due.remove(&(before, key));
        }
        self.due.insert((until, key));
    }

    /// No key waits longer than until then. True: one goes on sooner than it would have.
    pub fn hasten(&mut self, latest: Instant) -> bool {
        let late: Vec<Key> = self.due.split_off(&(latest, Key::MIN)).into_iter().map(|(_, key)| key).collect();
        for key in &late {
            if let Some(held) = self.held.get_mut(key) {
                held.until = Some(latest);
                self.due.insert((latest, *key));
            }
        }
        !late.is_empty()
    }

    /// Drops the waiting events for which `gone` holds, and hands them to `dropped`.
    pub fn purge(&mut self, gone: impl Fn(&InHand) -> bool, mut dropped: impl FnMut(InHand)) {
        let mut sift = |queue: &mut VecDeque<InHand>| {
            for work in std::mem::take(queue) {
                if gone(&work) { dropped(work) } else { queue.push_back(work) }
            }
        };
        sift(&mut self.queue);
        for held in self.held.values_mut() {
            sift(&mut held.behind);
        }
        // A key that nobody works on and nothing waits behind is free.
        let due = &mut self.due;
        self.held.retain(|key, held| match held.until {
            Some(until) if held.behind.is_empty() => {
                due.remove(&(until, *key));
                false
            }
            _ => true,
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::broker::{Partition, Position};
    use std::time::Duration;

    fn work(key: Key, offset: i64) -> InHand {
        let partition = Partition { topic: "orders".into(), number: 0 };
        let message = Incoming { at: Position { partition, offset }, key: None, headers: vec![], payload: None, timestamp_ms: 0 };
        let read_at = Instant::now();
        InHand { message, assignment: 1, log: 0, key, attempts: 0, waits: 0, effect: None, read_at, size: 100, weight: 100, traced: None }
    }

    fn taken(lane: &mut Lane, now: Instant) -> Vec<(Key, i64)> {
        lane.take(now, 100, usize::MAX).iter().map(|w| (w.key, w.message.at.offset)).collect()
    }

    #[test]
    fn a_key_that_waits_lets_the_others_by_and_keeps_its_own_order() {
        let (now, mut lane) = (Instant::now(), Lane::default());
        let later = now + Duration::from_secs(1);
        for (key, offset) in [(1, 0), (2, 1), (1, 2), (2, 3), (1, 4)] {
            lane.push(work(key, offset));
        }
        let mut batch = lane.take(now, 1, usize::MAX);
        lane.park(1, vec![batch.remove(0)], later);
        assert_eq!(taken(&mut lane, now), [(2, 1), (2, 3)]);
        lane.push(work(1, 5));
        assert_eq!(lane.next_due(), Some(later));
        assert_eq!(taken(&mut lane, later), [(1, 0)], "the first alone: what follows waits for its outcome");
        assert_eq!(taken(&mut lane, later), []);
        lane.push(work(1, 6));
        lane.let_go(1);
        assert_eq!(taken(&mut lane, later), [(1, 2), (1, 4), (1, 5), (1, 6)]);
    }

    #[test]
    fn a_key_in_somebodys_hands_is_not_taken_until_it_is_let_go() {
        let (now, mut lane) = (Instant::now(), Lane::default());
        lane.hold(1);
        lane.push(work(1, 0));
        lane.push(work(2, 1));
        assert_eq!(taken(&mut lane, now), [(2, 1)]);
        assert_eq!(lane.next_due(), None);
        lane.let_go(1);
        assert_eq!(taken(&mut lane, now), [(1, 0)]);
    }

    #[test]
    fn a_batch_is_bounded_by_count_and_by_bytes_but_never_empty() {
        let (now, mut lane) = (Instant::now(), Lane::default());
        for offset in 0..10 {
            lane.push(work(offset as Key, offset));
        }
        assert_eq!(lane.take(now, 3, usize::MAX).len(), 3);
        assert_eq!(lane.take(now, 100, 200).len(), 2);
        assert_eq!(lane.take(now, 100, 1).len(), 1);
    }

    #[test]
    fn a_key_that_is_hastened_goes_on_then_and_no_other_goes_on_sooner() {
        let (now, mut lane) = (Instant::now(), Lane::default());
        let in_seconds = |seconds| now + Duration::from_secs(seconds);
        lane.park(1, vec![work(1, 0)], in_seconds(300));
        lane.park(2, vec![work(2, 1)], in_seconds(1));
        assert!(lane.hasten(in_seconds(2)));
        assert_eq!(taken(&mut lane, in_seconds(1)), [(2, 1)]);
        assert_eq!(taken(&mut lane, in_seconds(2)), [(1, 0)]);
        assert!(!lane.hasten(in_seconds(2)), "nothing waits");
    }

    #[test]
    fn what_is_purged_leaves_no_key_held_behind() {
        let (now, mut lane) = (Instant::now(), Lane::default());
        lane.push(work(2, 1));
        lane.park(1, vec![work(1, 0)], now + Duration::from_secs(1));
        let mut dropped = 0;
        lane.purge(|_| true, |_| dropped += 1);
        assert_eq!(dropped, 2);
        assert_eq!(lane.next_due(), None);
        lane.push(work(1, 2));
        assert_eq!(taken(&mut lane, now), [(1, 2)]);
    }
}
