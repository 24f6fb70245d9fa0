//! Request ids that this process has seen lately (OA-8): a repeat is not published again, it gets the first one's answer.
//!
//! Bounded by count and by age. What is forgotten does no harm: a repeat then becomes a second message with the same ids,
//! and that has no second effect. An answer is not kept, since it follows from the request; a failure is not kept either,
//! so that the same id can be sent again. Only where something may have been published the body is: another one would be a
//! second order under one id.

use super::errors::Problem;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::SetOnce;
use tokio::time::Instant;
use uuid::Uuid;

/// About 10 MB.
const MOST: usize = 100_000;
const KEEP: Duration = Duration::from_secs(15 * 60);

pub(super) type Outcome = Result<(), Problem>;

/// A request under way; everyone who repeats it waits here.
pub(super) type Flight = SetOnce<Outcome>;

pub(super) struct Recent {
    seen: Mutex<Seen>,
    most: usize,
    keep: Duration,
}

#[derive(Default)]
struct Seen {
    known: HashMap<Uuid, Known>,
    /// The oldest first; what is in it may have been forgotten or replaced since.
    order: VecDeque<(Uuid, u64, Instant)>,
    turns: u64,
}

struct Known {
    body: [u8; 32],
    turn: u64,
    state: State,
}

enum State {
    UnderWay(Arc<Flight>),
    Accepted,
    /// It may lie on the broker: the same may be sent again, and nothing else.
    Unknown,
}

/// What a request with an id is to do.
pub(super) enum Turn {
    /// Nobody came before: publish, then say what became of it.
    First(Lead),
    /// Another one is at it: wait for what becomes of it.
    Wait(Arc<Flight>),
    /// It was accepted before.
    Accepted,
    /// The id belongs to a request with another body.
    OtherBody,
}

impl Recent {
    pub fn new() -> Arc<Recent> {
        Recent::bounded(MOST, KEEP)
    }

    fn bounded(most: usize, keep: Duration) -> Arc<Recent> {
        Arc::new(Recent { seen: Mutex::default(), most, keep })
    }

    pub fn enter(self: &Arc<Recent>, id: Uuid, body: [u8; 32]) -> Turn {
        self.enter_at(Instant::now(), id, body)
    }

    fn enter_at(self: &Arc<Recent>, now: Instant, id: Uuid, body: [u8; 32]) -> Turn {
        let mut seen = self.seen();
        self.forget_old(&mut seen, now);
        let flight = Arc::new(Flight::new());
        let lead = |unknown_before| Lead { recent: self.clone(), id, flight: flight.clone(), unknown_before };
        if let Some(known) = seen.known.get_mut(&id) {
            return match &known.state {
                _ if known.body != body => Turn::OtherBody,
                State::Accepted => Turn::Accepted,
                State::UnderWay(flight) => Turn::Wait(flight.clone()),
                State::Unknown => {
                    known.state = State::UnderWay(flight.clone());
                    Turn::First(lead(true))
                }
            };
        }
        let turn = seen.turns;
        seen.turns += 1;
        seen.known.insert(id, Known { body, turn, state: State::UnderWay(flight.clone()) });
        seen.order.push_back((id, turn, now));
        Turn::First(lead(false))
    }

    /// A few steps at each request: it keeps up, since each request adds at most one.
    fn forget_old(&self, seen: &mut Seen, now: Instant) {
        for _ in 0..8 {
            match seen.order.front() {
                Some((_, _, since)) if seen.order.len() >= self.most || now.duration_since(*since) > self.keep => {}
                _ => return,
            }
            let Some((id, turn, since)) = seen.order.pop_front() else { return };
            match seen.known.get(&id) {
                // Still under way: its outcome must find it. There are never more of these than requests in work.
                Some(known) if known.turn == turn && matches!(known.state, State::UnderWay(_)) => seen.order.push_back((id, turn, since)),
                Some(known) if known.turn == turn => drop(seen.known.remove(&id)),
                _ => {}
            }
        }
    }

    /// How many ids it knows.
    pub fn depth(&self) -> usize {
        self.seen().known.len()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Nothing in here panics half way; and if it did, a forgotten id would do no harm.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one that publishes for all that come with the same id. Dropped without an outcome, it lets the next one try.
pub(super) struct Lead {
    recent: Arc<Recent>,
    id: Uuid,
    flight: Arc<Flight>,
    /// What was published before under this id has an unknown outcome.
    unknown_before: bool,
}

impl Lead {
    pub fn finish(self, outcome: Outcome) {
        self.settle(outcome);
    }

    fn settle(&self, outcome: Outcome) {
        {
            let mut seen = self.recent.seen();
            let state = match &outcome {
                Ok(()) => Some(State::Accepted),
                Err(problem) if self.unknown_before || problem.is_unknown_outcome() => Some(State::Unknown),
                Err(_) => None,
            };
            match (state, seen.known.get_mut(&self.id)) {
                (Some(state), Some(known)) => known.state = state,
                _ => drop(seen.known.remove(&self.id)),
            }
        }
        let _ = self.flight.set(outcome);
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if !self.flight.initialized() {
            let message = "the same request was given up half way: send it again under the same X-Request-Id";
            self.settle(Err(Problem::unknown_outcome(message, 1)));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn id(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }
    fn lead(turn: Turn) -> Lead {
        match turn {
            Turn::First(lead) => lead,
            _ => panic!("somebody came before"),
        }
    }

    #[tokio::test]
    async fn a_repeat_waits_for_the_first_and_then_gets_its_answer() {
        let recent = Recent::new();
        let first = lead(recent.enter(id(1), [1; 32]));
        let Turn::Wait(flight) = recent.enter(id(1), [1; 32]) else { panic!("the repeat does not wait") };
        first.finish(Ok(()));
        assert_eq!(flight.wait().await, &Ok(()));
        assert!(matches!(recent.enter(id(1), [1; 32]), Turn::Accepted));
    }

    #[test]
    fn another_body_under_the_same_id_is_noticed_while_the_first_is_under_way_and_after() {
        let recent = Recent::new();
        let first = lead(recent.enter(id(1), [1; 32]));
        assert!(matches!(recent.enter(id(1), [2; 32]), Turn::OtherBody));
        first.finish(Ok(()));
        assert!(matches!(recent.enter(id(1), [2; 32]), Turn::OtherBody));
    }

    #[tokio::test]
    async fn a_failure_reaches_those_who_wait_and_is_then_forgotten() {
        let recent = Recent::new();
        let first = lead(recent.enter(id(1), [1; 32]));
        let Turn::Wait(flight) = recent.enter(id(1), [1; 32]) else { panic!("the repeat does not wait") };
        let failure = Problem::unavailable("backend_unavailable", "not now", 1);
        first.finish(Err(failure.clone()));
        assert_eq!(flight.wait().await, &Err(failure));
        lead(recent.enter(id(1), [2; 32]));
    }

    #[tokio::test]
    async fn what_may_have_been_published_is_sent_again_with_the_same_body_only() {
        let recent = Recent::new();
        lead(recent.enter(id(1), [1; 32])).finish(Err(Problem::unknown_outcome("no answer", 1)));
        assert!(matches!(recent.enter(id(1), [2; 32]), Turn::OtherBody));
        // A definite failure afterwards says nothing about the first.
        lead(recent.enter(id(1), [1; 32])).finish(Err(Problem::unavailable("backend_unavailable", "not now", 1)));
        assert!(matches!(recent.enter(id(1), [2; 32]), Turn::OtherBody));
        lead(recent.enter(id(1), [1; 32])).finish(Ok(()));
        assert!(matches!(recent.enter(id(1), [1; 32]), Turn::Accepted));
    }

    #[tokio::test]
    async fn one_that_is_dropped_half_way_leaves_nobody_waiting() {
        let recent = Recent::new();
        let first = lead(recent.enter(id(1), [1; 32]));
        let Turn::Wait(flight) = recent.enter(id(1), [1; 32]) else { panic!("the repeat does not wait") };
        drop(first);
        assert!(flight.wait().await.is_err());
        lead(recent.enter(id(1), [1; 32]));
    }

    #[test]
    fn the_oldest_are_forgotten_first_but_never_one_under_way() {
        let recent = Recent::bounded(10, KEEP);
        let under_way = lead(recent.enter(id(0), [0; 32]));
        for n in 1..1000 {
            lead(recent.enter(id(n), [0; 32])).finish(Ok(()));
        }
        assert!(recent.seen().known.len() <= 10, "{}", recent.seen().known.len());
        assert!(recent.seen().order.len() <= 10);
        assert!(matches!(recent.enter(id(0), [0; 32]), Turn::Wait(_)));
        assert!(matches!(recent.enter(id(999), [0; 32]), Turn::Accepted));
        under_way.finish(Ok(()));
    }

    #[test]
    fn an_id_is_forgotten_with_time() {
        let recent = Recent::new();
        let start = Instant::now();
        lead(recent.enter_at(start, id(1), [0; 32])).finish(Ok(()));
        assert!(matches!(recent.enter_at(start + KEEP, id(1), [0; 32]), Turn::Accepted));
        lead(recent.enter_at(start + KEEP + Duration::from_secs(1), id(1), [0; 32]));
    }
}
