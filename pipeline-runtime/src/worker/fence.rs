//! The fence: which messages of the pipeline's own topics may be taken in now, by the state of the switch. No I/O.
//!
//! Topics that others write to as well are never fenced: nobody else obeys the switch. A pipeline with one backend has no fence.

use super::WorkerHealth;
use crate::broker::{Incoming, Position};
use crate::codec::attribute;
use crate::control::Switching;
use crate::publish;
use crds::switch::{Reader, Reading, Seals, Take};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// While something drains, nothing waits longer for its next attempt: all wait for the slowest event.
pub const LONGEST_WAIT_WHILE_DRAINING: Duration = Duration::from_secs(2);
/// Late messages are worth a line in the log so often.
const SAY_LATE_EVERY: Duration = Duration::from_secs(10);

/// What may be taken in from one backend.
#[derive(Debug)]
pub struct Fence {
    backend: Arc<str>,
    own: BTreeSet<String>,
    reader: Reader,
    health: Arc<WorkerHealth>,
    late: Late,
}

#[derive(Debug, Default)]
struct Late {
    said: Option<Instant>,
    unsaid: u64,
}

impl Fence {
    pub fn new(backend: &str, own: BTreeSet<String>, switching: &Switching, health: Arc<WorkerHealth>) -> Fence {
        Fence { backend: backend.into(), own, reader: switching.reader(|reader| reader.clone()), health, late: Late::default() }
    }

    pub fn owns(&self, topic: &str) -> bool {
        self.own.contains(topic)
    }

    pub fn lineage(&self) -> &Arc<str> {
        self.reader.state().lineage()
    }

    /// How long an event may wait for its next attempt at the most, where there is a bound.
    pub fn longest_wait(&self) -> Option<Duration> {
        self.reader.state().drains().then_some(LONGEST_WAIT_WHILE_DRAINING)
    }

    /// Obeys the reader's state from now on. False: it is the one that is obeyed already.
    pub fn follow(&mut self, reader: Reader) -> bool {
        let news = !Arc::ptr_eq(self.reader.state(), reader.state());
        self.reader = reader;
        news
    }

    /// Nothing of the pipeline's own is read from this backend now.
    pub fn shut(&self) -> bool {
        self.reader.reading(&self.backend) == Reading::Not
    }

    /// What to do with a message of one of the own topics. None: it is held back, until the state moves.
    pub fn admit(&self, message: &Incoming, seals: &Seals) -> Option<Take> {
        if self.shut() {
            return None;
        }
        // No message of an event is empty, and not every broker tells an empty body from none.
        let seal = message.payload.as_ref().is_none_or(|body| body.is_empty());
        match self.reader.take(message.header(attribute::STAMP), seal, seals) {
            Take::NotYet(_) => None,
            take => Some(take),
        }
    }

    /// A message was taken in that came behind its seal.
    pub fn note_late(&mut self, at: &Position, now: Instant) {
        self.health.counters.late.add(1);
        self.late.unsaid += 1;
        if self.late.said.is_none_or(|said| now >= said + SAY_LATE_EVERY) {
            let Position { partition, offset } = at;
            tracing::warn!(
                backend = &*self.backend,
                topic = &*partition.topic,
                partition = partition.number,
                offset,
                messages = self.late.unsaid,
                "late: on this broker behind its seal, or the drain was abandoned; it is applied all the same"
            );
            self.late = Late { said: Some(now), unsaid: 0 };
        }
    }
}

/// The states of the switch as they come. Where there is no switch none ever comes.
pub struct States(Option<publish::States>);

impl States {
    pub fn of(switching: Option<&Arc<Switching>>) -> States {
        States(switching.map(|switching| switching.states()))
    }

    /// A state that was not there at the last call, or at the beginning. Cancel-safe.
    pub async fn changed(&mut self) {
        match &mut self.0 {
            Some(states) => states.changed().await,
            None => std::future::pending().await,
        }
    }
}
