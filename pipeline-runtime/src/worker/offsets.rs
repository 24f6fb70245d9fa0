//! How far a partition may be committed: events complete out of order, the commit never passes one that is not complete.

use crate::broker::Commit;
use crds::switch::Seals;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// The most events whose attempts are noted with a commit: it has a size limit on the broker (4 KiB on Kafka).
const MOST_NOTED: usize = 64;

/// What is noted with a commit, so that it survives a crash and a rebalance. Unknown fields are left to newer versions.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Note {
    /// Offset -> attempts that failed.
    #[serde(default, rename = "a", skip_serializing_if = "BTreeMap::is_empty")]
    attempts: BTreeMap<i64, u32>,
    /// The stamp of the last seal that was passed: everything before it is complete.
    #[serde(default, rename = "s", skip_serializing_if = "Option::is_none")]
    seal: Option<String>,
}

impl Note {
    fn read(text: &str) -> Note {
        serde_json::from_str(text).unwrap_or_default()
    }
    fn write(&self) -> String {
        let nothing = self.attempts.is_empty() && self.seal.is_none();
        if nothing { String::new() } else { serde_json::to_string(self).unwrap_or_default() }
    }
}

/// The stamp of the last seal that a group has passed in a partition, as it is noted with its commit.
pub fn noted_seal(metadata: &str) -> Option<String> {
    Note::read(metadata).seal
}

/// The events of one partition that are in hand.
#[derive(Debug, Default)]
pub struct Tracker {
    /// In the order of their offsets, which may have gaps (control records, compaction).
    events: VecDeque<Event>,
    /// Behind the last one read.
    next: Option<i64>,
    attempts: BTreeMap<i64, u32>,
    /// None: there are none here. The pipeline has one backend, or others write to this topic too.
    seals: Option<Seals>,
    /// What the broker has acknowledged.
    committed: Option<(i64, String)>,
    /// It has done so in this assignment, and was not seen to have another since. What was committed before may have been set back: by a
    /// commit of ours from an assignment whose end we had not heard of yet, when the partition was ours again already.
    confirmed: bool,
}

#[derive(Debug)]
struct Event {
    offset: i64,
    /// When it was published: by it a repeat is told from a message that has only the offset of another.
    timestamp_ms: i64,
    complete: bool,
}

/// What an offset that was just read is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// Taken in hand; so often it has failed before.
    New { attempts: u32 },
    /// The same message once more, which is in hand or was just completed.
    Repeat,
    /// Not the log that it was: the topic was made anew, or the position set back. Begin anew with it.
    Back,
}

impl Tracker {
    /// Goes on where the group stopped. `lineage`: of the switch, where there may be seals.
    pub fn new(commit: Option<&Commit>, lineage: Option<&Arc<str>>) -> Tracker {
        let mut note = commit.map(|commit| Note::read(&commit.metadata)).unwrap_or_default();
        let seals = lineage.map(|lineage| Seals::new(lineage, note.seal.as_deref()));
        let Some(commit) = commit else { return Tracker { seals, ..Tracker::default() } };
        let next = commit.next.offset;
        let attempts = note.attempts.split_off(&next);
        Tracker { next: Some(next), attempts, seals, committed: Some((next, commit.metadata.clone())), ..Tracker::default() }
    }

    /// It is not the log that it was. Seals that were passed stay passed: what was before them is complete.
    pub fn begin_anew(&mut self) {
        let seals = self.seals.take().map(|seals| Seals::new(seals.lineage(), seals.note().as_deref()));
        *self = Tracker { seals, ..Tracker::default() };
    }

    /// The lineage of the switch is this one now: seals of another say nothing.
    pub fn follow(&mut self, lineage: &Arc<str>) {
        if self.seals.as_ref().is_some_and(|seals| seals.lineage() != lineage) {
            let noted = self.committed.as_ref().and_then(|(_, metadata)| noted_seal(metadata));
            self.seals = Some(Seals::new(lineage, noted.as_deref()));
        }
    }

    pub fn seals(&self) -> Option<&Seals> {
        self.seals.as_ref()
    }

    /// What was just read is the seal of an epoch: there is nothing to do for it. True as for [`Tracker::complete`].
    pub fn seal(&mut self, offset: i64, epoch: u64) -> bool {
        if let Some(seals) = &mut self.seals {
            seals.read(offset, epoch);
        }
        self.complete(offset)
    }

    /// Takes an event in hand.
    pub fn read(&mut self, offset: i64, timestamp_ms: i64) -> Read {
        if self.next.is_some_and(|next| offset < next) {
            return match self.find(offset) {
                Some(index) if self.events[index].timestamp_ms == timestamp_ms => Read::Repeat,
                _ => Read::Back,
            };
        }
        self.events.push_back(Event { offset, timestamp_ms, complete: false });
        self.next = Some(offset + 1);
        Read::New { attempts: self.attempts.get(&offset).copied().unwrap_or(0) }
    }

    /// True: all before a seal is complete now, which is to be noted with the next commit.
    pub fn complete(&mut self, offset: i64) -> bool {
        self.attempts.remove(&offset);
        if let Some(index) = self.find(offset) {
            self.events[index].complete = true;
        }
        while self.events.front().is_some_and(|event| event.complete) {
            self.events.pop_front();
        }
        if self.seals.is_none() {
            return false;
        }
        let position = self.position();
        let (Some(seals), Some(position)) = (&mut self.seals, position) else { return false };
        let before = seals.through();
        seals.complete(position);
        seals.through() != before
    }

    fn find(&self, offset: i64) -> Option<usize> {
        self.events.binary_search_by_key(&offset, |event| event.offset).ok()
    }

    /// What only waits behind another event has had no attempt: there is nothing to note.
    pub fn failed(&mut self, offset: i64, attempts: u32) {
        if attempts > 0 {
            self.attempts.insert(offset, attempts);
        }
    }

    /// Everything below is complete. None before anything was read or committed.
    pub fn position(&self) -> Option<i64> {
        self.events.front().map(|event| event.offset).or(self.next)
    }

    /// From the lowest incomplete event to the last one read: what a crash would have us read again.
    pub fn span(&self) -> usize {
        self.events.len()
    }

    /// Position and note to commit; None when the broker has them already.
    pub fn to_commit(&self) -> Option<(i64, String)> {
        let position = self.position()?;
        let attempts = self.attempts.iter().take(MOST_NOTED).map(|(offset, attempts)| (*offset, *attempts)).collect();
        let seal = self.seals.as_ref().and_then(Seals::note);
        let commit = (position, Note { attempts, seal }.write());
        (!self.confirmed || self.committed.as_ref() != Some(&commit)).then_some(commit)
    }

    /// The broker was seen to have this. Ours is made once more if that is another one, also if it was only seen before ours came there.
    pub fn doubt(&mut self, seen: Option<&Commit>) {
        let seen = seen.map(|commit| (commit.next.offset, commit.metadata.as_str()));
        if seen != self.committed.as_ref().map(|(offset, metadata)| (*offset, metadata.as_str())) {
            self.confirmed = false;
        }
    }

    pub fn committed(&mut self, position: i64, metadata: String) {
        self.committed = Some((position, metadata));
        self.confirmed = true;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::broker::{Partition, Position};
    use proptest::prelude::*;

    fn commit(next: i64, metadata: &str) -> Commit {
        let partition = Partition { topic: "orders".into(), number: 0 };
        Commit { next: Position { partition, offset: next }, metadata: metadata.into() }
    }

    #[test]
    fn a_gap_in_the_offsets_is_no_gap_in_the_work() {
        let mut tracker = Tracker::new(Some(&commit(10, "")), None);
        tracker.committed(10, String::new());
        for offset in [10, 13, 20] {
            assert_eq!(tracker.read(offset, 0), Read::New { attempts: 0 });
        }
        assert_eq!(tracker.to_commit(), None, "nothing is complete, and 10 is what the broker has");
        tracker.complete(13);
        assert_eq!(tracker.position(), Some(10));
        tracker.complete(10);
        assert_eq!(tracker.position(), Some(20));
        tracker.complete(20);
        assert_eq!(tracker.to_commit(), Some((21, String::new())));
        tracker.committed(21, String::new());
        assert_eq!(tracker.to_commit(), None);
    }

    #[test]
    fn where_the_group_stopped_is_committed_once_more_in_each_assignment() {
        let mut tracker = Tracker::new(Some(&commit(47, "")), None);
        let again = Some((47, String::new()));
        assert_eq!(tracker.to_commit(), again, "a commit that was late may have set it back");
        tracker.committed(47, String::new());
        assert_eq!(tracker.to_commit(), None);
        assert_eq!(Tracker::new(None, None).to_commit(), None, "nobody knows yet where it begins");
    }

    #[test]
    fn attempts_survive_with_the_commit_and_go_with_their_event() {
        let mut tracker = Tracker::new(None, None);
        for offset in 0..3 {
            tracker.read(offset, 0);
        }
        tracker.failed(1, 2);
        tracker.complete(0);
        let (next, note) = tracker.to_commit().unwrap();
        assert_eq!((next, note.as_str()), (1, r#"{"a":{"1":2}}"#));

        let mut after_crash = Tracker::new(Some(&commit(next, &note)), None);
        assert_eq!(after_crash.read(1, 0), Read::New { attempts: 2 });
        assert_eq!(after_crash.read(2, 0), Read::New { attempts: 0 });
        after_crash.complete(1);
        assert_eq!(after_crash.to_commit(), Some((2, String::new())));
    }

    #[test]
    fn a_note_of_another_version_or_none_at_all_is_no_obstacle() {
        for note in ["", "rubbish", r#"{"a":{"7":1},"drained":"x:3"}"#, r#"{"b":1}"#] {
            assert!(matches!(Tracker::new(Some(&commit(5, note)), None).read(7, 0), Read::New { .. }), "{note}");
        }
    }

    #[test]
    fn a_message_that_comes_again_is_a_repeat_as_long_as_the_commit_has_not_passed_it() {
        let mut tracker = Tracker::new(Some(&commit(5, "")), None);
        for offset in [5, 7, 8] {
            assert_eq!(tracker.read(offset, offset * 10), Read::New { attempts: 0 });
        }
        tracker.complete(7);
        assert_eq!([5, 7, 8].map(|offset| tracker.read(offset, offset * 10)), [Read::Repeat; 3], "in hand, or completed behind it");
        assert_eq!(tracker.position(), Some(5));
        tracker.complete(5);
        assert_eq!([4, 5, 7].map(|offset| tracker.read(offset, offset * 10)), [Read::Back; 3], "below the position");
        assert_eq!(tracker.read(8, 99), Read::Back, "another message at its place");
        let mut with_gap = Tracker::new(None, None);
        for offset in [3, 9] {
            with_gap.read(offset, 0);
        }
        assert_eq!(with_gap.read(4, 0), Read::Back, "nobody has seen it");
    }

    proptest! {
        #[test]
        fn the_commit_never_passes_an_incomplete_event_and_ends_behind_the_last(
            gaps in prop::collection::vec(1i64..4, 1..60),
            order in prop::collection::vec(any::<prop::sample::Index>(), 60),
        ) {
            let mut tracker = Tracker::new(None, None);
            let mut incomplete = Vec::new();
            let mut offset = 0;
            for gap in gaps {
                offset += gap;
                tracker.read(offset, 0);
                incomplete.push(offset);
            }
            let mut last = tracker.position().unwrap();
            for pick in order {
                if incomplete.is_empty() { break }
                let complete = incomplete.swap_remove(pick.index(incomplete.len()));
                tracker.complete(complete);
                let position = tracker.position().unwrap();
                prop_assert!(position >= last, "a commit never goes back");
                prop_assert_eq!(position, incomplete.iter().min().copied().unwrap_or(offset + 1));
                last = position;
            }
        }
    }
}
