//! A circuit breaker for a service over HTTP. Pure: no clock, no I/O.
//!
//! Closed, everybody asks. It opens after several failures in a row of different events, or at once when the service cannot be reached at
//! all: then nobody's attempts are counted, everybody waits, and after a pause one asks whether the service is back (half open). The pause
//! doubles each time that this one fails; what was on its way when the circuit opened says nothing new.

use std::time::Duration;
use tokio::time::Instant;

/// Failures in a row, of different events, that open the circuit.
const OPENS_AT: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub struct Circuit {
    state: State,
    /// How many have asked while it was open.
    tries: u64,
}

#[derive(Debug)]
enum State {
    Closed {
        failures: u32,
        last: String,
    },
    /// Until then nobody asks.
    Open {
        until: Instant,
        pause: Duration,
    },
}

impl Default for State {
    fn default() -> Self {
        State::Closed { failures: 0, last: String::new() }
    }
}

/// The right to ask once.
#[derive(Debug, PartialEq, Eq)]
pub enum Ticket {
    Usual,
    /// It asks for all, whether the service is back.
    Try(u64),
}

/// What a failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The service answered that it failed, or did not answer in time: it may be this event.
    Unclear,
    /// It cannot be reached, whatever is asked.
    Service,
}

impl Circuit {
    /// `longest`: how long the answer may take. Refused: ask again after so long.
    pub fn enter(&mut self, now: Instant, longest: Duration) -> Result<Ticket, Duration> {
        match &mut self.state {
            State::Closed { .. } => Ok(Ticket::Usual),
            State::Open { until, .. } if *until > now => Err(*until - now),
            State::Open { until, pause } => {
                // The others wait for its outcome; should that never come, for the next one's.
                *until = now + (*pause).max(longest.min(LONGEST_PAUSE));
                self.tries += 1;
                Ok(Ticket::Try(self.tries))
            }
        }
    }

    /// Any answer shows that the service is there.
    pub fn succeeded(&mut self) {
        self.state = State::default();
    }

    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// None: it is this event's own failure. Else the circuit is open, and this is how long to wait.
    pub fn failed(&mut self, ticket: &Ticket, now: Instant, event_id: &str, blame: Blame) -> Option<Duration> {
        let pause = match &mut self.state {
            State::Closed { failures, last } => {
                // One event that fails again and again says nothing about the others.
                if last != event_id {
                    event_id.clone_into(last);
                    *failures += 1;
                }
                if *failures < OPENS_AT && blame == Blame::Unclear {
                    return None;
                }
                FIRST_PAUSE
            }
            State::Open { pause, .. } if *ticket == Ticket::Try(self.tries) => (*pause * 2).min(LONGEST_PAUSE),
            State::Open { until, pause } => return Some(until.saturating_duration_since(now).max(*pause / 2)),
        };
        self.state = State::Open { until: now + pause, pause };
        Some(pause)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ANSWER: Duration = Duration::from_millis(100);

    fn fail(circuit: &mut Circuit, now: Instant, event_id: &str) -> Option<Duration> {
        let ticket = circuit.enter(now, ANSWER).unwrap();
        circuit.failed(&ticket, now, event_id, Blame::Unclear)
    }

    #[test]
    fn one_event_that_fails_does_not_open_the_circuit_for_the_others() {
        let (mut circuit, now) = (Circuit::default(), Instant::now());
        for _ in 0..50 {
            assert_eq!(fail(&mut circuit, now, "poison"), None);
        }
        assert_eq!(circuit.enter(now, ANSWER), Ok(Ticket::Usual));
    }

    #[test]
    fn a_service_that_is_down_is_tried_by_one_event_at_a_time_and_heals() {
        let (mut circuit, now) = (Circuit::default(), Instant::now());
        let answers: Vec<_> = (0..5).map(|i| fail(&mut circuit, now, &i.to_string())).collect();
        assert_eq!(answers, [None, None, None, None, Some(FIRST_PAUSE)]);
        assert!(circuit.is_open());
        assert_eq!(circuit.enter(now, ANSWER), Err(FIRST_PAUSE));
        let later = now + FIRST_PAUSE;
        let ticket = circuit.enter(later, ANSWER).unwrap();
        assert_eq!(circuit.enter(later, ANSWER), Err(FIRST_PAUSE), "the others wait for the outcome");
        assert_eq!(circuit.failed(&ticket, later, "6", Blame::Unclear), Some(FIRST_PAUSE * 2));
        assert_eq!(circuit.enter(later, ANSWER), Err(FIRST_PAUSE * 2));
        circuit.succeeded();
        assert_eq!((circuit.enter(later, ANSWER), circuit.is_open()), (Ok(Ticket::Usual), false));
    }

    #[test]
    fn a_service_that_cannot_be_reached_opens_it_at_once() {
        let (mut circuit, now) = (Circuit::default(), Instant::now());
        let ticket = circuit.enter(now, ANSWER).unwrap();
        assert_eq!(circuit.failed(&ticket, now, "1", Blame::Service), Some(FIRST_PAUSE));
        assert!(circuit.is_open());
    }

    #[test]
    fn what_was_on_its_way_when_it_opened_does_not_make_the_pause_longer() {
        let (mut circuit, now) = (Circuit::default(), Instant::now());
        for i in 0..300 {
            circuit.failed(&Ticket::Usual, now, &i.to_string(), Blame::Unclear);
        }
        assert_eq!(circuit.enter(now, ANSWER), Err(FIRST_PAUSE));
    }

    #[test]
    fn one_that_asks_and_is_never_heard_of_again_keeps_nobody_out_for_ever() {
        let (mut circuit, now) = (Circuit::default(), Instant::now());
        let ticket = circuit.enter(now, ANSWER).unwrap();
        circuit.failed(&ticket, now, "1", Blame::Service);
        let lost = circuit.enter(now + FIRST_PAUSE, Duration::from_secs(5)).unwrap();
        let later = now + FIRST_PAUSE + Duration::from_secs(5);
        let next = circuit.enter(later, ANSWER).unwrap();
        assert_eq!(circuit.failed(&lost, later, "1", Blame::Unclear), Some(FIRST_PAUSE), "it comes late and says nothing new");
        assert_eq!(circuit.failed(&next, later, "2", Blame::Unclear), Some(FIRST_PAUSE * 2));
    }
}
