//! What is written down of a switch, and the only ways from one revision to the next.

use super::Asked;
use serde::{Deserialize, Serialize};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// The version of the protocol that this build speaks. A state of another one is obeyed by nobody.
pub const VERSION: u32 = 1;
/// Epochs from the one that is read to the one that is written.
pub const MOST_OPEN: usize = 8;
/// Characters of a message that is kept.
const LONGEST_MESSAGE: usize = 1000;
/// With every state but a Hold mirrored before the next is written, and a rebuilt Hold too, nobody can have seen more than two revisions
/// above the mirror.
const UNMIRRORED: u64 = 2;

/// One revision of the switch state. `epochs` are those from the active one, which workers read, to the newest, which is written to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct SwitchState {
    lineage: Arc<str>,
    revision: u64,
    epochs: Vec<OpenEpoch>,
    phase: Phase,
    /// The revision that began the phase: answers to it and its deadline hold although other things are written meanwhile.
    since: u64,
    asked: Asked,
    last: Option<Attempt>,
}

/// Numbers only: the model looks at millions of states, and these tell them apart.
impl Hash for SwitchState {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let (phase, restored) = (std::mem::discriminant(&self.phase), matches!(self.phase, Phase::Hold { restored: true, .. }));
        (self.revision, self.since, phase, restored, self.asked.since).hash(hasher);
        self.epochs.iter().for_each(|open| (open.epoch, open.sealed).hash(hasher));
        self.epochs.len().hash(hasher);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenEpoch {
    pub epoch: u64,
    pub backend: Arc<str>,
    /// Its seals are known to be acknowledged in every partition: workers that start later need not write them again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sealed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    Steady,
    /// Pods connect to the target; writes go on.
    Prepare {
        target: Arc<str>,
    },
    /// Nobody writes. `restored`: rebuilt from status, so the target may have been written to already.
    Hold {
        target: Arc<str>,
        restored: bool,
    },
}

/// How the last attempt to switch went, for people and for the pause before the next one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    pub from: Arc<str>,
    pub to: Arc<str>,
    pub outcome: Outcome,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// In a row, for the same request.
    #[serde(default)]
    pub failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// Writes go to the new broker; the old one drains.
    Opened,
    /// The old broker is drained.
    Completed,
    /// Workers went on before the old broker was drained; what is left there is read later.
    Abandoned,
    /// Taken back: who was missing is in the message.
    Aborted,
    /// A pod cannot use the target: why is in the message.
    Refused,
}

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("the switch state is of version {found}, this program speaks version {VERSION}: it obeys nothing until it is upgraded")]
    Version { found: u64 },
    #[error("the switch state cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
}

/// A step that the protocol does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotAllowed(pub String);

impl SwitchState {
    /// Of a pipeline that nobody serves yet.
    pub fn first(lineage: &str, backend: &str) -> SwitchState {
        let backend: Arc<str> = backend.into();
        SwitchState {
            lineage: lineage.into(),
            revision: 1,
            epochs: vec![OpenEpoch { epoch: 1, backend: backend.clone(), sealed: false }],
            phase: Phase::Steady,
            since: 1,
            asked: Asked::by_spec(backend, 1),
            last: None,
        }
    }

    /// When the state was deleted while pods run and status knows nothing of it: nobody writes until all have heard of the new lineage,
    /// and only then to `backend`. Messages of other lineages are not fenced; those on other brokers are read as stragglers.
    pub fn anew(lineage: &str, backend: &str) -> SwitchState {
        SwitchState { phase: Phase::Hold { target: backend.into(), restored: true }, ..SwitchState::first(lineage, backend) }
    }

    /// When the state was deleted, from what status mirrors of it. What was written after the mirror is at most a Hold and its end, so it is
    /// known but for one thing: whether the target was opened. It is made sure of by holding once more, without a way back.
    pub fn rebuilt(mirror: &SwitchState) -> SwitchState {
        let mut state = mirror.clone();
        state.revision = mirror.revision + UNMIRRORED + 1;
        if let Phase::Prepare { target } | Phase::Hold { target, .. } = &mirror.phase {
            state.phase = Phase::Hold { target: target.clone(), restored: true };
            state.since = state.revision;
        }
        state
    }

    /// When an older state of the same lineage was put in its place: the newest one that is known, above all revisions that anybody has
    /// seen. A pod that has joined meanwhile writes where it was told to; so if that is another epoch, nobody writes until all have heard
    /// of this.
    pub fn put_right(newest: &SwitchState, older: &SwitchState) -> SwitchState {
        let mut state = SwitchState::rebuilt(newest);
        if state.phase == Phase::Steady && older.newest() != state.newest() {
            state.phase = Phase::Hold { target: state.newest().backend.clone(), restored: true };
            state.since = state.revision;
        }
        state
    }

    pub fn parse(text: &str) -> Result<SwitchState, StateError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u64,
        }
        let Versioned { version: found } = serde_json::from_str(text)?;
        if found != u64::from(VERSION) {
            return Err(StateError::Version { found });
        }
        Ok(serde_json::from_str(text)?)
    }

    pub fn lineage(&self) -> &Arc<str> {
        &self.lineage
    }
    pub fn revision(&self) -> u64 {
        self.revision
    }
    pub fn epochs(&self) -> &[OpenEpoch] {
        &self.epochs
    }
    pub fn phase(&self) -> &Phase {
        &self.phase
    }
    pub fn since(&self) -> u64 {
        self.since
    }
    pub fn asked(&self) -> &Asked {
        &self.asked
    }
    pub fn last(&self) -> Option<&Attempt> {
        self.last.as_ref()
    }
    /// The epoch that workers read. There always is one: `epochs` is never empty.
    pub fn active(&self) -> &OpenEpoch {
        &self.epochs[0]
    }
    /// The epoch that is written to.
    pub fn newest(&self) -> &OpenEpoch {
        &self.epochs[self.epochs.len() - 1]
    }
    pub fn drains(&self) -> bool {
        self.epochs.len() > 1
    }
    pub fn same_lineage(&self, lineage: &str) -> bool {
        *self.lineage == *lineage
    }

    fn next(&self) -> SwitchState {
        SwitchState { revision: self.revision + 1, ..self.clone() }
    }

    fn enter(mut self, phase: Phase) -> SwitchState {
        self.phase = phase;
        self.since = self.revision;
        self
    }

    /// The seals of these epochs are acknowledged.
    pub fn with_sealed(mut self, sealed: impl Fn(u64) -> bool) -> SwitchState {
        let newest = self.newest().epoch;
        for open in &mut self.epochs {
            open.sealed |= open.epoch < newest && sealed(open.epoch);
        }
        self
    }

    /// Another request rules. A switch to another target than it asks for must have been taken back.
    pub fn noted(&self, asked: Asked) -> Result<SwitchState, NotAllowed> {
        match &self.phase {
            Phase::Hold { .. } => Err(NotAllowed("a request is taken up when writes are not held".into())),
            Phase::Prepare { target } if *target != asked.backend => {
                Err(NotAllowed(format!("{target} is being prepared: take that back first")))
            }
            _ => {
                let mut next = self.next();
                // Who asks anew wants it now.
                if let Some(last) = next.last.as_mut() {
                    last.failures = 0;
                }
                next.asked = asked;
                Ok(next)
            }
        }
    }

    pub fn prepared(&self) -> Result<SwitchState, NotAllowed> {
        let target = self.asked.backend.clone();
        if self.phase != Phase::Steady {
            return Err(NotAllowed("a switch is under way".into()));
        }
        if target == self.newest().backend {
            return Err(NotAllowed(format!("{target} is written to already")));
        }
        if self.epochs.len() >= MOST_OPEN {
            let active = &self.active().backend;
            return Err(NotAllowed(format!(
                "{MOST_OPEN} switches wait for {active} to be drained, and that is the most: let the workers catch up, or abandon the drain"
            )));
        }
        Ok(self.next().enter(Phase::Prepare { target }))
    }

    pub fn held(&self) -> Result<SwitchState, NotAllowed> {
        match &self.phase {
            Phase::Prepare { target } => Ok(self.next().enter(Phase::Hold { target: target.clone(), restored: false })),
            _ => Err(NotAllowed("only what is prepared is held".into())),
        }
    }

    /// One epoch more, on the target.
    pub fn opened(&self) -> Result<SwitchState, NotAllowed> {
        let Phase::Hold { target, .. } = &self.phase else { return Err(NotAllowed("only what is held is opened".into())) };
        let mut next = self.next().enter(Phase::Steady);
        let newest = self.newest();
        // Only in a state that was made anew or put right: it is the broker that is written to by who obeys it.
        if newest.backend == *target {
            return Ok(next);
        }
        next.epochs.push(OpenEpoch { epoch: newest.epoch + 1, backend: target.clone(), sealed: false });
        let (from, to) = (newest.backend.clone(), target.clone());
        next.last = Some(Attempt { from, to, outcome: Outcome::Opened, message: String::new(), failures: 0 });
        Ok(next)
    }

    /// Back to how it was. `failed`: so much the later the next attempt.
    pub fn aborted(&self, outcome: Outcome, message: &str, failed: bool) -> Result<SwitchState, NotAllowed> {
        let (Phase::Prepare { target } | Phase::Hold { target, .. }) = &self.phase else {
            return Err(NotAllowed("there is nothing to take back".into()));
        };
        let before = self.last.as_ref().filter(|last| last.to == *target).map_or(0, |last| last.failures);
        let attempt = Attempt {
            from: self.newest().backend.clone(),
            to: target.clone(),
            outcome,
            message: message.chars().take(LONGEST_MESSAGE).collect(),
            failures: if failed { before.saturating_add(1) } else { before },
        };
        let mut next = self.next().enter(Phase::Steady);
        next.last = Some(attempt);
        Ok(next)
    }

    /// Workers go on to the next epoch.
    pub fn activated(&self, outcome: Outcome) -> Result<SwitchState, NotAllowed> {
        if !self.drains() {
            return Err(NotAllowed(format!("{} is read and written: there is nothing to go on to", self.active().backend)));
        }
        let mut next = self.next();
        let left = next.epochs.remove(0);
        let done = !next.drains();
        if let Some(last) = next.last.as_mut().filter(|last| matches!(last.outcome, Outcome::Opened | Outcome::Abandoned)) {
            if outcome == Outcome::Abandoned {
                last.outcome = outcome;
                last.message = format!("workers went on before {} was drained: what is left there is read later", left.backend);
            } else if done && last.outcome == Outcome::Opened {
                last.outcome = Outcome::Completed;
            }
        }
        Ok(next)
    }
}

/// How it lies in the ConfigMap and in status: flat, and readable without knowing the types.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    version: u32,
    lineage: Arc<str>,
    revision: u64,
    epochs: Vec<OpenEpoch>,
    phase: WrittenPhase,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    restored: bool,
    since: u64,
    /// For readers that are people: it is the first of `epochs`.
    active: u64,
    asked: Asked,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<Attempt>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum WrittenPhase {
    Steady,
    Prepare,
    Hold,
}

impl From<SwitchState> for Written {
    fn from(state: SwitchState) -> Written {
        let active = state.active().epoch;
        let (phase, target, restored) = match state.phase {
            Phase::Steady => (WrittenPhase::Steady, None, false),
            Phase::Prepare { target } => (WrittenPhase::Prepare, Some(target), false),
            Phase::Hold { target, restored } => (WrittenPhase::Hold, Some(target), restored),
        };
        let SwitchState { lineage, revision, epochs, since, asked, last, .. } = state;
        Written { version: VERSION, lineage, revision, epochs, phase, target, restored, since, active, asked, last }
    }
}

impl TryFrom<Written> for SwitchState {
    type Error = String;

    fn try_from(written: Written) -> Result<SwitchState, String> {
        let Written { version, lineage, revision, epochs, phase, target, restored, since, active, asked, last } = written;
        if version != VERSION {
            return Err(format!("version {version} is not {VERSION}"));
        }
        if epochs.is_empty() || epochs.len() > MOST_OPEN {
            return Err(format!("there are {} open epochs, and may be 1 to {MOST_OPEN}", epochs.len()));
        }
        if epochs.windows(2).any(|pair| pair[1].epoch != pair[0].epoch + 1) || epochs[0].epoch != active {
            return Err("the epochs are not one after the other from the active one".into());
        }
        if lineage.is_empty() || since > revision {
            return Err(format!("a state has a lineage, and its phase begins at its revision {revision} or before, not at {since}"));
        }
        let phase = match (phase, target) {
            (WrittenPhase::Steady, None) => Phase::Steady,
            (WrittenPhase::Prepare, Some(target)) => Phase::Prepare { target },
            (WrittenPhase::Hold, Some(target)) => Phase::Hold { target, restored },
            (phase, target) => return Err(format!("phase {phase:?} does not go with target {target:?}")),
        };
        Ok(SwitchState { lineage, revision, epochs, phase, since, asked, last })
    }
}
