//! One partition that is read: how far, what of it is in hand, and what is held back.

use super::fence::Fence;
use super::lanes::InHand;
use super::offsets::{Read, Tracker};
use crate::broker::{Commit, Incoming, Position};
use crds::switch::Take;
use std::collections::VecDeque;
use tokio::time::Instant;

#[derive(Debug)]
pub struct Reading {
    pub assignment: u64,
    pub tracker: Tracker,
    /// How often it was begun anew: the topic was made anew, or the position set back.
    pub log: u32,
    pub messages: usize,
    pub bytes: usize,
    /// Events that an applier or a follow-up works on.
    pub taken: usize,
    /// At a bound, since then.
    pub full: Option<Instant>,
    pub paused: bool,
    pub leaving: bool,
    /// What came before its epoch's turn, in its order. The tracker knows nothing of it: dropped, it was never read.
    /// No more than what was handed out before the partition was paused.
    held: VecDeque<Incoming>,
}

/// For people, when it takes long.
impl std::fmt::Display for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = self.tracker.position().map_or_else(|| "at its beginning".into(), |at| format!("at {at}"));
        let paused = if self.paused { ", paused" } else { "" };
        write!(f, "{at}, {} in hand, {} held back{paused}", self.messages, self.held.len())
    }
}

impl Reading {
    /// `fence`: if the partition is of the pipeline's own topics, and there is a switch.
    pub fn new(assignment: u64, commit: Option<&Commit>, fence: Option<&Fence>) -> Reading {
        let tracker = Tracker::new(commit, fence.map(Fence::lineage));
        let held = VecDeque::new();
        Reading { assignment, tracker, log: 0, messages: 0, bytes: 0, taken: 0, full: None, paused: false, leaving: false, held }
    }

    /// How often an event that was just read has failed before. None: it is in hand already, or was just completed.
    pub fn read(&mut self, at: &Position, timestamp_ms: i64) -> Option<u32> {
        match self.tracker.read(at.offset, timestamp_ms) {
            Read::New { attempts } => Some(attempts),
            Read::Repeat => None,
            // What is in hand is applied all the same: of a topic that was made anew nobody has it any more, and if it is read
            // again it has no second effect. It just says nothing about where we are now.
            Read::Back => {
                tracing::warn!(?at, "an offset came again: the topic was made anew or its position set back; it is read from there");
                self.tracker.begin_anew();
                self.log += 1;
                self.tracker.read(at.offset, timestamp_ms);
                Some(0)
            }
        }
    }

    pub fn tracks(&self, work: &InHand) -> bool {
        self.log == work.log
    }

    /// What to do with a message that was just handed out; where it is held back, the message has gone into `held`.
    pub fn pass(&mut self, fence: &Fence, message: Incoming) -> Option<(Incoming, Take)> {
        let Some(seals) = self.tracker.seals() else { return Some((message, Take::Process)) };
        // Behind what waits, all waits.
        match self.held.is_empty().then(|| fence.admit(&message, seals)).flatten() {
            Some(take) => Some((message, take)),
            None => {
                self.held.push_back(message);
                None
            }
        }
    }

    /// Whether the fence keeps it from being read on.
    pub fn barred(&self, fence: Option<&Fence>) -> bool {
        !self.held.is_empty() || (self.tracker.seals().is_some() && fence.is_some_and(Fence::shut))
    }

    /// A new state is obeyed: what was held back, to be passed once more.
    pub fn follow(&mut self, fence: &Fence) -> VecDeque<Incoming> {
        self.tracker.follow(fence.lineage());
        std::mem::take(&mut self.held)
    }

    /// Nothing more is taken from it, and what waits is dropped.
    pub fn leave(&mut self) {
        self.leaving = true;
        self.held.clear();
    }
}
