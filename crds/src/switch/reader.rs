//! In every worker: which broker is read, how far, what is sealed and what is drained.

use super::{OpenEpoch, Phase, Rule, Rules, Stamp, SwitchState};
use crate::member::Reports;
use std::collections::VecDeque;
use std::sync::Arc;

/// What a worker does by the state that its gate obeys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reader {
    rules: Rules,
    state: Arc<SwitchState>,
    /// Epochs whose seals this worker has written and seen acknowledged, while they are open.
    sealed: Vec<u64>,
    drained_through: u64,
    /// Of the pipeline's own topics those that are read here.
    topics: Vec<String>,
}

/// How a backend is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reading {
    /// It is what is read.
    Active,
    /// Nothing drains: it is looked at now and then for what has appeared behind its seals.
    Stragglers,
    Not,
}

/// What to do with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Take {
    Process,
    /// It comes behind its seal, or its epoch was left behind: process it, and count it.
    Late,
    /// All of this epoch in this partition comes before: note it once that is complete ([`Seals`]).
    Seal(u64),
    /// Its epoch is not read yet: stop here, and read it again when it is.
    NotYet(u64),
}

impl Reader {
    pub fn new(rules: Rules, state: Arc<SwitchState>) -> Reader {
        Reader { rules, state, sealed: Vec::new(), drained_through: 0, topics: Vec::new() }
    }

    /// What is sealed and drained is that of these topics.
    pub fn reads(&mut self, topics: impl IntoIterator<Item = String>) {
        self.topics = topics.into_iter().collect();
    }

    /// Only a state that the pod's gate has taken: it knows what is news.
    pub fn obey(&mut self, state: Arc<SwitchState>) {
        if !self.state.same_lineage(state.lineage()) {
            self.sealed.clear();
            self.drained_through = 0;
        }
        self.sealed.retain(|epoch| *epoch >= state.active().epoch);
        self.state = state;
    }

    pub fn state(&self) -> &Arc<SwitchState> {
        &self.state
    }

    pub fn reading(&self, backend: &str) -> Reading {
        match *self.state.active().backend == *backend {
            true => Reading::Active,
            false if !self.state.drains() && self.rules.keep(Rule::ReadStragglers) => Reading::Stragglers,
            false => Reading::Not,
        }
    }

    /// `stamp` is the header, `seal` that the message has no body, `seals` what is known of the partition.
    pub fn take(&self, stamp: Option<&[u8]>, seal: bool, seals: &Seals) -> Take {
        let Some(stamp) = stamp.and_then(Stamp::parse).filter(|stamp| self.state.same_lineage(stamp.lineage)) else { return Take::Process };
        let active = self.state.active().epoch;
        if stamp.epoch > active && self.rules.keep(Rule::EpochFence) {
            return Take::NotYet(stamp.epoch);
        }
        match seal {
            true => Take::Seal(stamp.epoch),
            false if stamp.epoch < active || seals.through() >= Some(stamp.epoch) => Take::Late,
            false => Take::Process,
        }
    }

    /// Epochs that have to be sealed: every partition of every topic of the pipeline's own, on the epoch's backend.
    /// Several workers may do the same: a repeated seal is harmless.
    pub fn to_seal(&self) -> impl Iterator<Item = &OpenEpoch> {
        let held = matches!(self.state.phase(), Phase::Hold { .. }) && !self.rules.keep(Rule::SealAfterOpen);
        let closed = self.state.epochs().len() - usize::from(!held);
        self.state.epochs()[..closed].iter().filter(|open| !open.sealed && !self.sealed.contains(&open.epoch))
    }

    /// The seals of this epoch are acknowledged in every partition.
    pub fn sealed(&mut self, epoch: u64) {
        if !self.sealed.contains(&epoch) && self.state.epochs().iter().any(|open| open.epoch == epoch) {
            self.sealed.push(epoch);
        }
    }

    /// What the group has noted in each partition of the active epoch's backend, None where nothing is. Stays as it is once it is true.
    pub fn look_at_drain<'n>(&mut self, notes: impl IntoIterator<Item = Option<&'n str>>) -> bool {
        let active = self.state.active().epoch;
        if self.drained_through < active && self.state.drains() && drained(&self.state, notes) {
            self.drained_through = active;
        }
        self.drained_through >= active
    }

    /// What this worker has to tell the coordinator. None: nothing.
    pub fn reports(&self) -> Option<Reports> {
        if self.sealed.is_empty() && self.drained_through == 0 {
            return None;
        }
        let (lineage, sealed) = (self.state.lineage().to_string(), self.sealed.clone());
        Some(Reports { lineage, sealed, drained_through: self.drained_through, topics: self.topics.clone() })
    }
}

/// Whether every partition of the active epoch's backend is read to its seal, by what is noted with the group's commits.
pub fn drained<'n>(state: &SwitchState, notes: impl IntoIterator<Item = Option<&'n str>>) -> bool {
    let active = state.active().epoch;
    let mut partitions = notes.into_iter().peekable();
    partitions.peek().is_some() && partitions.all(|note| Seals::new(state.lineage(), note).through() >= Some(active))
}

/// The seals of one partition: those that were read, and the epoch up to which everything before them is complete.
/// What is complete is noted with the commit, as a stamp.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seals {
    lineage: Arc<str>,
    through: Option<u64>,
    /// (offset, epoch), ascending; each epoch once, so at most as many as may be open.
    read: VecDeque<(i64, u64)>,
}

impl Seals {
    /// Goes on from what was noted with the commit. A note of another lineage is none.
    pub fn new(lineage: &Arc<str>, note: Option<&str>) -> Seals {
        let stamp = note.and_then(|note| Stamp::parse(note.as_bytes())).filter(|stamp| *stamp.lineage == **lineage);
        Seals { lineage: lineage.clone(), through: stamp.map(|stamp| stamp.epoch), read: VecDeque::new() }
    }

    pub fn lineage(&self) -> &Arc<str> {
        &self.lineage
    }

    /// All epochs up to this one are complete here.
    pub fn through(&self) -> Option<u64> {
        self.through
    }

    /// A seal lies at this offset. One that repeats another, or an older one, says nothing new.
    pub fn read(&mut self, offset: i64, epoch: u64) {
        if self.through < Some(epoch) && self.read.back().is_none_or(|(_, last)| *last < epoch) {
            self.read.push_back((offset, epoch));
        }
    }

    /// Everything below this position is complete, and about to be committed.
    pub fn complete(&mut self, position: i64) {
        while let Some((offset, epoch)) = self.read.front().copied().filter(|(offset, _)| *offset < position) {
            debug_assert!(offset < position);
            self.through = Some(epoch);
            self.read.pop_front();
        }
    }

    /// What to note with the commit.
    pub fn note(&self) -> Option<String> {
        self.through.map(|epoch| Stamp { lineage: &self.lineage, epoch }.to_string())
    }
}
