//! Everything in hand: which partitions are read, how far each may be committed, what lies in which lane, and whether there
//! is room for more. No I/O and no clock of its own; one lock is taken once for a batch.

use super::fence::Fence;
use super::lanes::{InHand, Key, Lane, place};
use super::reading::Reading;
use crate::broker::{Commit, Incoming, Partition, Position};
use crate::codec::weigh;
use crds::switch::{Reader, Take};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tokio::time::Instant;

/// Bounds of what is in hand. At a bound reading pauses, below half of it reading goes on.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub messages: usize,
    pub bytes: usize,
    /// From the lowest incomplete event of a partition to the last one read.
    pub span: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { messages: 10_000, bytes: 24 << 20, span: 50_000 }
    }
}

#[derive(Debug)]
pub struct Desk {
    limits: Limits,
    /// In one order, whenever it is run again.
    reading: BTreeMap<Partition, Reading>,
    lanes: Vec<Lane>,
    /// None: the pipeline has one backend.
    fence: Option<Fence>,
    messages: usize,
    bytes: usize,
    full: bool,
    /// A seal was passed, and that is not committed yet.
    sealed: bool,
    assignments: u64,
}

/// How long reading just stops at a bound, before partitions are paused: mostly there is room again at once, and what a broker's
/// client has fetched of a paused partition it throws away.
pub const PATIENCE: Duration = Duration::from_millis(250);

/// What is to be done about reading.
#[derive(Debug, Default, PartialEq)]
pub struct Flow {
    /// Until then nothing more is read, unless there is room before.
    pub hold: Option<Instant>,
    pub pause: Vec<Partition>,
    pub resume: Vec<Partition>,
    /// A seal was passed: others wait for the commit that says so.
    pub sealed: bool,
}

impl Desk {
    pub fn new(lanes: usize, limits: Limits, fence: Option<Fence>) -> Desk {
        let lanes = (0..lanes.max(1)).map(|_| Lane::default()).collect();
        Desk { limits, reading: BTreeMap::new(), lanes, fence, messages: 0, bytes: 0, full: false, sealed: false, assignments: 0 }
    }

    /// Messages and bytes in hand.
    pub fn in_hand(&self) -> (usize, usize) {
        (self.messages, self.bytes)
    }

    pub fn assign(&mut self, partition: Partition, commit: Option<&Commit>) {
        // Assigned twice without a word in between: what was in hand is read again.
        self.remove(std::slice::from_ref(&partition));
        self.assignments += 1;
        let fence = self.fence.as_ref().filter(|fence| fence.owns(&partition.topic));
        let reading = Reading::new(self.assignments, commit, fence);
        self.reading.insert(partition, reading);
    }

    /// Takes messages in hand. Returns the lanes that have news.
    pub fn intake(&mut self, messages: Vec<Incoming>, now: Instant) -> Vec<bool> {
        let mut news = vec![false; self.lanes.len()];
        for message in messages {
            let Some(reading) = self.reading.get_mut(&message.at.partition).filter(|reading| !reading.leaving) else { continue };
            let passed = match &self.fence {
                None => Some((message, Take::Process)),
                Some(fence) => reading.pass(fence, message),
            };
            let Some((message, take)) = passed else { continue };
            let Some(attempts) = reading.read(&message.at, message.timestamp_ms) else {
                tracing::debug!(at = ?message.at, "a message came twice and is in hand");
                continue;
            };
            match (take, &mut self.fence) {
                (Take::Seal(epoch), _) => {
                    self.sealed |= reading.tracker.seal(message.at.offset, epoch);
                    continue;
                }
                (Take::Late, Some(fence)) => fence.note_late(&message.at, now),
                _ => {}
            }
            let (lane, key) = place(&message, self.lanes.len());
            let size = message.size();
            let weight = message.payload.as_deref().map_or(size, |body| weigh(body).bytes);
            reading.messages += 1;
            reading.bytes += size;
            self.messages += 1;
            self.bytes += size;
            news[lane] = true;
            let Reading { assignment, log, .. } = *reading;
            let (waits, effect, read_at, traced) = (0, None, now, None);
            self.lanes[lane].push(InHand { message, assignment, log, key, attempts, waits, effect, read_at, size, weight, traced });
        }
        news
    }

    /// Obeys the reader's state from now on: takes in hand what was held back for it. Returns the lanes that have news.
    pub fn follow(&mut self, reader: Reader, now: Instant) -> Vec<bool> {
        let Some(fence) = self.fence.as_mut() else { return Vec::new() };
        if !fence.follow(reader) {
            return Vec::new();
        }
        let mut held = Vec::new();
        for reading in self.reading.values_mut() {
            held.extend(reading.follow(fence));
        }
        let sooner = fence.longest_wait();
        let mut news = self.intake(held, now);
        if let Some(wait) = sooner {
            news.iter_mut().zip(&mut self.lanes).for_each(|(news, lane)| *news |= lane.hasten(now + wait));
        }
        news
    }

    /// The next batch of a lane, and when the next of its waiting keys may go on.
    pub fn take(&mut self, lane: usize, now: Instant, most: usize, most_bytes: usize) -> (Vec<InHand>, Option<Instant>) {
        let batch = self.lanes[lane].take(now, most, most_bytes);
        for work in &batch {
            if let Some(reading) = reading_of(&mut self.reading, work) {
                reading.taken += 1;
            }
        }
        (batch, self.lanes[lane].next_due())
    }

    /// Whether this event's partition is still read under the assignment it came with.
    pub fn wanted(&self, work: &InHand) -> bool {
        self.reading.get(&work.message.at.partition).is_some_and(|r| r.assignment == work.assignment && !r.leaving)
    }

    /// The event is complete.
    pub fn complete(&mut self, work: InHand) {
        if let Some(reading) = reading_of(&mut self.reading, &work) {
            reading.taken -= 1;
            if reading.tracks(&work) {
                self.sealed |= reading.tracker.complete(work.message.at.offset);
            }
        }
        self.forget(work);
    }

    /// The event is put down unfinished: whoever reads its partition next reads it again.
    pub fn put_down(&mut self, work: InHand) {
        if let Some(reading) = reading_of(&mut self.reading, &work) {
            reading.taken -= 1;
        }
        self.forget(work);
    }

    pub fn hold(&mut self, lane: usize, key: Key) {
        self.lanes[lane].hold(key);
    }

    pub fn let_go(&mut self, lane: usize, key: Key) {
        self.lanes[lane].let_go(key);
    }

    /// These taken events of one key wait so long, in their order.
    pub fn park(&mut self, lane: usize, key: Key, works: Vec<InHand>, now: Instant, wait: Duration) {
        let longest = self.fence.as_ref().and_then(Fence::longest_wait);
        let until = now + longest.map_or(wait, |longest| wait.min(longest));
        let (stay, gone): (Vec<_>, Vec<_>) = works.into_iter().partition(|work| self.wanted(work));
        for work in gone {
            self.put_down(work);
        }
        for work in &stay {
            if let Some(reading) = reading_of(&mut self.reading, work) {
                reading.taken -= 1;
                if reading.tracks(work) {
                    reading.tracker.failed(work.message.at.offset, work.attempts);
                }
            }
        }
        if stay.is_empty() { self.lanes[lane].let_go(key) } else { self.lanes[lane].park(key, stay, until) }
    }

    /// Nothing more is taken from these partitions; what waits is dropped, what is taken may end.
    pub fn leave(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            if let Some(reading) = self.reading.get_mut(partition) {
                reading.leave();
            }
        }
        self.purge();
    }

    pub fn leave_all(&mut self) {
        self.reading.values_mut().for_each(Reading::leave);
        self.purge();
    }

    /// Whether nothing is worked on of the partitions that are being left.
    pub fn left(&self) -> bool {
        self.reading.values().all(|reading| !reading.leaving || reading.taken == 0)
    }

    /// These partitions are no longer ours: what still ends of them counts for nothing.
    pub fn remove(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            self.reading.remove(partition);
        }
        self.purge();
    }

    /// What to commit, of all partitions or of these.
    pub fn commits(&self, only: Option<&[Partition]>) -> Vec<Commit> {
        let wanted = |partition: &Partition| only.is_none_or(|only| only.contains(partition));
        let commits = self.reading.iter().filter(|(partition, _)| wanted(partition)).filter_map(|(partition, reading)| {
            let (offset, metadata) = reading.tracker.to_commit()?;
            Some(Commit { next: Position { partition: partition.clone(), offset }, metadata })
        });
        commits.collect()
    }

    /// In these partitions the broker was seen to have these commits: where it is another one than ours, ours is made once more.
    pub fn doubt(&mut self, partitions: &[Partition], commits: &HashMap<Partition, Commit>) {
        for partition in partitions {
            if let Some(reading) = self.reading.get_mut(partition) {
                reading.tracker.doubt(commits.get(partition));
            }
        }
    }

    /// Where these partitions stand, for people; those that are not ours are left to their owner.
    pub fn describe(&self, partitions: &[Partition]) -> Vec<String> {
        let described = |partition: &Partition| Some(format!("{}/{} {}", partition.topic, partition.number, self.reading.get(partition)?));
        partitions.iter().filter_map(described).collect()
    }

    pub fn committed(&mut self, commits: Vec<Commit>) {
        for Commit { next, metadata } in commits {
            if let Some(reading) = self.reading.get_mut(&next.partition) {
                reading.tracker.committed(next.offset, metadata);
            }
        }
    }

    /// Whether somebody waits for events to end: a paused partition for room, one that is being left for its last event,
    /// all other workers for a seal.
    pub fn awaited(&self) -> bool {
        self.sealed || self.reading.values().any(|reading| reading.full.is_some() || reading.leaving)
    }

    /// The position of each partition that is read, as far as it is known.
    pub fn positions(&self) -> Vec<Position> {
        let position = |(partition, reading): (&Partition, &Reading)| {
            Some(Position { partition: partition.clone(), offset: reading.tracker.position()? })
        };
        self.reading.iter().filter_map(position).collect()
    }

    /// One partition may hold at most half of what is allowed in all, so that a key with thousands of events behind a waiting one
    /// leaves room for the other partitions.
    pub fn flow(&mut self, now: Instant) -> Flow {
        let limits = self.limits;
        let half = if self.full { 2 } else { 1 };
        self.full = self.messages >= limits.messages / half || self.bytes >= limits.bytes / half;
        let mut flow = Flow { sealed: std::mem::take(&mut self.sealed), ..Flow::default() };
        for (partition, reading) in self.reading.iter_mut().filter(|(_, reading)| !reading.leaving) {
            if reading.barred(self.fence.as_ref()) {
                // At once: what is handed out meanwhile would have to be held.
                if !std::mem::replace(&mut reading.paused, true) {
                    flow.pause.push(partition.clone());
                }
                continue;
            }
            let half = if reading.full.is_some() { 2 } else { 1 };
            let full = self.full
                || reading.messages >= (limits.messages / 2 / half).max(1)
                || reading.bytes >= limits.bytes / 2 / half
                || reading.tracker.span() >= limits.span / half;
            if !full {
                reading.full = None;
                if std::mem::take(&mut reading.paused) {
                    flow.resume.push(partition.clone());
                }
                continue;
            }
            let until = *reading.full.get_or_insert(now) + PATIENCE;
            if reading.paused {
                continue;
            }
            if now < until {
                flow.hold = flow.hold.max(Some(until));
            } else {
                reading.paused = true;
                flow.pause.push(partition.clone());
            }
        }
        flow
    }

    fn purge(&mut self) {
        let mut dropped = Vec::new();
        let reading = &self.reading;
        let gone = |work: &InHand| reading.get(&work.message.at.partition).is_none_or(|r| r.leaving || r.assignment != work.assignment);
        for lane in &mut self.lanes {
            lane.purge(gone, |work| dropped.push(work));
        }
        for work in dropped {
            self.forget(work);
        }
    }

    fn forget(&mut self, work: InHand) {
        self.messages -= 1;
        self.bytes -= work.size;
        if let Some(reading) = reading_of(&mut self.reading, &work) {
            reading.messages -= 1;
            reading.bytes -= work.size;
        }
    }
}

fn reading_of<'a>(reading: &'a mut BTreeMap<Partition, Reading>, work: &InHand) -> Option<&'a mut Reading> {
    reading.get_mut(&work.message.at.partition).filter(|reading| reading.assignment == work.assignment)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn partition(number: i32) -> Partition {
        Partition { topic: "orders".into(), number }
    }

    fn message(number: i32, offset: i64, key: &str) -> Incoming {
        let at = Position { partition: partition(number), offset };
        Incoming { at, key: Some(key.to_owned().into()), headers: vec![], payload: Some("{}".into()), timestamp_ms: 0 }
    }

    fn desk(limits: Limits) -> Desk {
        let mut desk = Desk::new(1, limits, None);
        desk.assign(partition(0), None);
        desk.assign(partition(1), None);
        desk
    }

    /// Pauses and resumes, when patience is over.
    fn flow(desk: &mut Desk) -> (Vec<Partition>, Vec<Partition>) {
        let now = Instant::now();
        let at_once = desk.flow(now).resume;
        let Flow { hold, pause, resume, .. } = desk.flow(now + PATIENCE);
        assert_eq!((hold, resume), (None, vec![]));
        (pause, at_once)
    }

    fn take(desk: &mut Desk) -> Vec<InHand> {
        desk.take(0, Instant::now(), 1000, usize::MAX).0
    }

    #[test]
    fn what_ends_after_its_partition_was_given_away_moves_no_commit() {
        let mut desk = desk(Limits::default());
        desk.intake(vec![message(0, 0, "a"), message(0, 1, "b")], Instant::now());
        let late = take(&mut desk);
        desk.remove(&[partition(0)]);
        desk.assign(partition(0), None);
        desk.intake(vec![message(0, 0, "a")], Instant::now());
        for work in late {
            assert!(!desk.wanted(&work));
            desk.complete(work);
        }
        assert_eq!(desk.positions(), [Position { partition: partition(0), offset: 0 }]);
        assert_eq!(desk.in_hand().0, 1);
    }

    #[test]
    fn leaving_drops_what_waits_and_lets_what_is_taken_end() {
        let mut desk = desk(Limits::default());
        desk.intake(vec![message(0, 0, "a")], Instant::now());
        let mut taken = take(&mut desk);
        desk.intake(vec![message(0, 1, "a"), message(1, 0, "c")], Instant::now());
        desk.leave(&[partition(0)]);
        assert!(!desk.left());
        assert_eq!(desk.in_hand().0, 2, "the waiting one is dropped");
        desk.complete(taken.remove(0));
        assert!(desk.left());
        let commits = desk.commits(Some(&[partition(0)]));
        assert_eq!(commits[0].next.offset, 1, "up to what was dropped and not further");
        assert_eq!(take(&mut desk).len(), 1, "the other partition goes on");
    }

    #[test]
    fn a_full_desk_pauses_everything_and_goes_on_at_half() {
        let mut desk = desk(Limits { messages: 4, bytes: usize::MAX, span: 100 });
        desk.intake((0..2).map(|i| message(0, i, "a")).collect(), Instant::now());
        assert_eq!(flow(&mut desk), (vec![partition(0)], vec![]), "half of what is allowed is the most for one partition");
        desk.intake((0..2).map(|i| message(1, i, "b")).collect(), Instant::now());
        assert_eq!(flow(&mut desk), (vec![partition(1)], vec![]));
        let mut taken = take(&mut desk);
        for _ in 0..2 {
            desk.complete(taken.remove(0));
        }
        assert_eq!(flow(&mut desk), (vec![], vec![]), "half is still in hand");
        desk.complete(taken.remove(0));
        assert_eq!(flow(&mut desk).1, [partition(0)], "partition 1 still holds its share");
        desk.complete(taken.remove(0));
        assert_eq!(flow(&mut desk), (vec![], vec![partition(1)]));
        assert_eq!(desk.in_hand(), (0, 0));
    }

    #[test]
    fn at_a_bound_reading_holds_before_anything_is_paused() {
        let mut desk = desk(Limits { messages: 4, bytes: usize::MAX, span: 100 });
        let now = Instant::now();
        desk.intake((0..4).map(|i| message(0, i, "a")).collect(), now);
        let holds = Flow { hold: Some(now + PATIENCE), ..Flow::default() };
        assert_eq!(desk.flow(now), holds);
        assert_eq!(desk.flow(now + PATIENCE / 2), holds, "from when it began");
        assert!(desk.awaited());
        take(&mut desk).into_iter().for_each(|work| desk.complete(work));
        assert_eq!(desk.flow(now + PATIENCE), Flow::default(), "there is room again: nothing was paused");
    }

    #[test]
    fn a_partition_whose_first_event_waits_is_read_on_only_so_far() {
        let mut desk = desk(Limits { span: 10, ..Limits::default() });
        desk.intake((0..10).map(|i| message(0, i, &i.to_string())).collect(), Instant::now());
        let mut taken = take(&mut desk);
        let first = taken.remove(0);
        taken.into_iter().for_each(|work| desk.complete(work));
        assert_eq!(flow(&mut desk).0, [partition(0)]);
        desk.complete(first);
        assert_eq!(flow(&mut desk).1, [partition(0)]);
    }

    #[test]
    fn a_message_that_comes_twice_is_taken_in_hand_once_and_no_commit_passes_what_is_incomplete() {
        let mut desk = desk(Limits::default());
        let four = || (0..4).map(|i| message(0, i, &i.to_string())).collect::<Vec<_>>();
        desk.intake(four(), Instant::now());
        let mut taken = take(&mut desk);
        assert_eq!(desk.intake(four(), Instant::now()), [false], "the first copies are being applied");
        assert_eq!(desk.in_hand().0, 4);
        desk.complete(taken.remove(2));
        desk.complete(taken.remove(0));
        desk.intake(four()[1..].to_vec(), Instant::now());
        assert_eq!(take(&mut desk).len(), 0, "in hand, or completed a moment ago");
        assert_eq!(desk.positions(), [Position { partition: partition(0), offset: 1 }]);
        taken.into_iter().for_each(|work| desk.complete(work));
        assert_eq!(desk.positions(), [Position { partition: partition(0), offset: 4 }]);
        assert_eq!(desk.in_hand(), (0, 0));
    }

    #[test]
    fn set_back_behind_its_commit_a_partition_is_read_from_there_and_what_is_in_hand_is_applied() {
        let mut desk = desk(Limits::default());
        desk.intake((0..3).map(|i| message(0, i, &i.to_string())).collect(), Instant::now());
        let mut taken = take(&mut desk);
        desk.complete(taken.remove(0));
        desk.intake(vec![message(0, 0, "0")], Instant::now());
        let again = take(&mut desk);
        assert!(taken.iter().all(|work| desk.wanted(work)));
        taken.into_iter().for_each(|work| desk.complete(work));
        assert_eq!(desk.positions(), [Position { partition: partition(0), offset: 0 }], "what was read before says nothing now");
        again.into_iter().for_each(|work| desk.complete(work));
        assert_eq!(desk.positions(), [Position { partition: partition(0), offset: 1 }]);
        assert_eq!(desk.in_hand(), (0, 0));
    }

    #[test]
    fn of_a_topic_made_anew_the_old_messages_in_hand_and_the_new_ones_are_both_applied() {
        let mut desk = desk(Limits::default());
        desk.intake((0..3).map(|i| message(0, i, "a")).collect(), Instant::now());
        desk.intake(vec![Incoming { timestamp_ms: 1, ..message(0, 0, "a") }], Instant::now());
        desk.remove(&[partition(1)]);
        let mut taken = take(&mut desk);
        assert_eq!(taken.len(), 4, "nobody else has the old ones any more");
        let new = taken.pop().unwrap();
        taken.into_iter().for_each(|work| desk.complete(work));
        assert_eq!(desk.positions(), [Position { partition: partition(0), offset: 0 }], "the new one is not complete");
        desk.complete(new);
        assert_eq!(desk.positions(), [Position { partition: partition(0), offset: 1 }]);
    }
}
