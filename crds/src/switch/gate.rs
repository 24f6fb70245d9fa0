//! In every pod: may a message be handed to a broker now, to which one, and what does the pod answer to the coordinator.
//!
//! Stands behind a mutex on the message path: [`Gate::admit`] and [`Gate::settled`] allocate nothing and look at a few words.

use super::{Phase, Rule, Rules, Stamp, SwitchState};
use crate::member::{Answer, AnswerKind};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Lineages that a pod has left and never goes back to. There is a new one only when state and status were both lost.
const MOST_LEFT: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// In a Hold: what is not settled so long after it was heard of is given up (half of the deadline of the Hold).
    pub purge_after: Duration,
    /// Without a word from the API server for so long, the pod may have been given up: it accepts nothing more until it hears again.
    pub cut_off_after: Duration,
}

/// Where a state comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Read from the API server so that it is the latest.
    Quorum,
    /// Delivered by the API server, perhaps late, but in order.
    Watch,
    /// The mounted file, or whatever else may be old: it can only bring news.
    File,
}

/// Where messages go in one epoch. Cheap to share: one for all messages of the epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Opening {
    pub epoch: u64,
    pub backend: Arc<str>,
    /// What every message carries.
    pub stamp: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admit {
    /// Hand it over to this backend, and tell [`Gate::settled`] when its outcome is known.
    Pass(Arc<Opening>),
    /// Not now: ask again when the gate has observed something.
    Wait,
    Closed(Closed),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Closed {
    Stopping,
    CutOff,
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Closed::Stopping => "this process is stopping and publishes nothing more",
            Closed::CutOff => {
                "this pod has heard nothing from the API server for too long to know where messages go; it goes on when it hears again"
            }
        })
    }
}

/// What preparing the target came to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    Ready,
    /// Why, in a sentence.
    Refused(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Door {
    Open(Arc<Opening>),
    Held,
    Closed(Closed),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gate {
    rules: Rules,
    limits: Limits,
    joined: bool,
    stopping: bool,
    state: Option<Arc<SwitchState>>,
    door: Door,
    /// From hand-over to the broker's client until the outcome is reported, for each epoch that has any.
    in_flight: Vec<(u64, u64)>,
    /// For the Prepare of this lineage and revision.
    verdict: Option<(Arc<str>, u64, Verdict)>,
    held_at: Option<Duration>,
    heard_at: Duration,
    left: Vec<Arc<str>>,
}

impl Gate {
    pub fn new(rules: Rules, limits: Limits, now: Duration) -> Gate {
        Gate {
            rules,
            limits,
            joined: false,
            stopping: false,
            state: None,
            door: Door::Held,
            in_flight: Vec::with_capacity(super::MOST_OPEN),
            verdict: None,
            held_at: None,
            heard_at: now,
            left: Vec::new(),
        }
    }

    /// The pod's member exists, without an answer of an earlier container. Only a state that is read from now on counts.
    pub fn joined(&mut self) {
        self.joined = true;
    }

    /// A state has come in. True if it is obeyed from now on: then those who wait may ask again, and there may be another answer.
    pub fn observe(&mut self, source: Source, state: &Arc<SwitchState>, now: Duration) -> bool {
        if source != Source::File {
            self.heard(now);
        }
        if !self.is_news(source, state) {
            return false;
        }
        if let Some(known) = &self.state
            && !known.same_lineage(state.lineage())
        {
            if self.left.len() == MOST_LEFT {
                self.left.remove(0);
            }
            self.left.push(known.lineage().clone());
        }
        self.heard_at = now;
        self.held_at = match state.phase() {
            Phase::Hold { .. } => Some(self.held_at.filter(|_| self.same_phase(state)).unwrap_or(now)),
            _ => None,
        };
        self.state = Some(state.clone());
        self.hang_door(now);
        true
    }

    fn is_news(&self, source: Source, state: &SwitchState) -> bool {
        if !self.joined && self.rules.keep(Rule::JoinBeforeRead) {
            return false;
        }
        let Some(known) = &self.state else {
            return source == Source::Quorum || !self.rules.keep(Rule::QuorumRead);
        };
        if known.same_lineage(state.lineage()) {
            return state.revision() > known.revision() || !self.rules.keep(Rule::OnlyNewer);
        }
        // Revisions of two lineages cannot be compared: the API server knows which one there is.
        source != Source::File && !self.left.iter().any(|left| state.same_lineage(left))
    }

    fn same_phase(&self, state: &SwitchState) -> bool {
        self.state.as_ref().is_some_and(|known| known.same_lineage(state.lineage()) && known.since() == state.since())
    }

    /// The API server has been heard of: a read, a delivery, a bookmark.
    pub fn heard(&mut self, now: Duration) {
        self.heard_at = self.heard_at.max(now);
    }

    /// Now and then: closes the gate of a pod that is cut off, opens it when it is not any more. True if it changed.
    pub fn tick(&mut self, now: Duration) -> bool {
        let cut_off = now.saturating_sub(self.heard_at) >= self.limits.cut_off_after;
        let changed = cut_off != (self.door == Door::Closed(Closed::CutOff)) && !self.stopping;
        if changed {
            self.hang_door(now);
        }
        changed
    }

    /// Shuts the gate for good.
    pub fn stop(&mut self) {
        self.stopping = true;
        self.door = Door::Closed(Closed::Stopping);
    }

    fn hang_door(&mut self, now: Duration) {
        self.door = match &self.state {
            _ if self.stopping => Door::Closed(Closed::Stopping),
            _ if now.saturating_sub(self.heard_at) >= self.limits.cut_off_after => Door::Closed(Closed::CutOff),
            Some(state) if !matches!(state.phase(), Phase::Hold { .. }) => Door::Open(Arc::new(self.opening(state))),
            _ => Door::Held,
        };
        self.in_flight.retain(|(_, count)| *count > 0);
    }

    fn opening(&self, state: &SwitchState) -> Opening {
        let newest = state.newest();
        let stamp = Stamp { lineage: state.lineage(), epoch: newest.epoch }.to_string().into();
        Opening { epoch: newest.epoch, backend: newest.backend.clone(), stamp }
    }

    /// May one message be handed over? If so it is counted until [`Gate::settled`].
    pub fn admit(&mut self) -> Admit {
        match &self.door {
            Door::Open(opening) => {
                match self.in_flight.iter_mut().find(|(epoch, _)| *epoch == opening.epoch) {
                    Some((_, count)) => *count += 1,
                    None => self.in_flight.push((opening.epoch, 1)),
                }
                Admit::Pass(opening.clone())
            }
            Door::Held => Admit::Wait,
            Door::Closed(closed) => Admit::Closed(*closed),
        }
    }

    /// The outcome of one message is known, or it was given up as unknown: whatever the broker says later, it is not accepted any more.
    /// True if a Hold waited for this one: there is an answer now.
    pub fn settled(&mut self, epoch: u64) -> bool {
        if let Some((_, count)) = self.in_flight.iter_mut().find(|(of, _)| *of == epoch) {
            *count = count.saturating_sub(1);
        }
        self.held_at.is_some() && self.in_flight() == 0
    }

    pub fn in_flight(&self) -> u64 {
        self.in_flight.iter().map(|(_, count)| count).sum()
    }

    /// What is in flight has to be given up now, each of it reported as unknown, so that this pod does not end everyone's Hold.
    pub fn purge_due(&self, now: Duration) -> bool {
        self.in_flight() > 0 && self.purge_at().is_some_and(|at| now >= at)
    }

    /// When to look at [`Gate::purge_due`].
    pub fn purge_at(&self) -> Option<Duration> {
        self.held_at.map(|held| held + self.limits.purge_after)
    }

    /// The state that is obeyed.
    pub fn state(&self) -> Option<&Arc<SwitchState>> {
        self.state.as_ref()
    }

    /// The target to prepare, as long as there is no verdict on it.
    pub fn to_prepare(&self) -> Option<&Arc<str>> {
        let state = self.state.as_ref()?;
        match state.phase() {
            Phase::Prepare { target } if self.verdict_on(state).is_none() => Some(target),
            _ => None,
        }
    }

    /// What preparing came to, for the state by which it was begun.
    pub fn prepared(&mut self, begun_by: &SwitchState, verdict: Verdict) {
        self.verdict = Some((begun_by.lineage().clone(), begun_by.since(), verdict));
    }

    fn verdict_on(&self, state: &SwitchState) -> Option<&Verdict> {
        let (lineage, since, verdict) = self.verdict.as_ref()?;
        (state.same_lineage(lineage) && state.since() == *since).then_some(verdict)
    }

    /// What the pod has to say to the phase that it obeys. The same as long as nothing changes, so that it is written once.
    pub fn answer(&self) -> Option<Answer> {
        let state = self.state.as_ref()?;
        let (kind, message) = match state.phase() {
            Phase::Steady => return None,
            Phase::Prepare { .. } if self.stopping => (AnswerKind::Ready, None),
            Phase::Prepare { .. } => match self.verdict_on(state)? {
                Verdict::Ready => (AnswerKind::Ready, None),
                Verdict::Refused(why) => (AnswerKind::Refused, Some(why.chars().take(1000).collect())),
            },
            Phase::Hold { .. } if self.in_flight() > 0 && self.rules.keep(Rule::SettleBeforeAck) => return None,
            Phase::Hold { .. } => (AnswerKind::Held, None),
        };
        Some(Answer { lineage: state.lineage().to_string(), revision: state.since(), kind, message })
    }
}
