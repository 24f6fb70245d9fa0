//! What is left to do for the events of one key once the store has answered: emissions and the callback, the dead letter,
//! another try. In the order of the key, which is held meanwhile; other keys go on.

use super::Shared;
use super::about::{About, tell_failure};
use super::failure::{Failure, Kind};
use super::health::Ended;
use super::lanes::{InHand, Key};
use super::told::Answer;
use super::understand::Then;
use crate::broker::PublishError;
use crate::codec::{self, Wanted};
use crate::publish::For;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

const PUBLISH_DEADLINE: Duration = Duration::from_secs(5);
/// The longest pause for what is not the event's own fault: it goes on soon after the cause is gone.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// So often an event waits for the key that it is encrypted with, some six minutes in all: a Secret that was changed is everywhere by then.
const WAITS_FOR_A_KEY: u32 = 40;

/// What is to be done with an event.
#[derive(Debug)]
pub enum Fate {
    Complete(Ended),
    /// What follows is to be done, and then it ended so.
    Then(Box<Then>, Ended),
    DeadLetter(Failure),
    /// It failed: another attempt, or the dead letter after the last one.
    Failed(Failure),
    /// It is encrypted with a key that is not here.
    Locked(Failure),
    /// An earlier event of its key goes first.
    Behind,
    /// Somebody has to be asked before it can be read or what follows from it written.
    Waits(Wanted),
    /// We stop: whoever reads it next starts over.
    PutDown,
    /// It stays on the broker, and no commit passes it; what is behind it goes on.
    Left,
}

/// What an attempt to finish came to.
enum Outcome {
    Complete(Ended),
    PutDown,
    DeadLetter(Failure),
    Failed(Failure),
    /// Something else is down.
    Wait(Duration),
}

impl Shared {
    /// Finishes events of one key that was put on hold, and lets it go.
    pub(super) async fn settle(&self, lane: usize, key: Key, mut events: VecDeque<(InHand, Fate)>) {
        while let Some((mut work, fate)) = events.pop_front() {
            let outcome = match fate {
                Fate::Complete(ended) => Outcome::Complete(ended),
                Fate::Then(then, ended) => self.follow_up(&work, &then, ended).await,
                Fate::DeadLetter(failure) => Outcome::DeadLetter(failure),
                Fate::Failed(failure) => Outcome::Failed(failure),
                Fate::Behind => {
                    work.take_back_attempt();
                    Outcome::Wait(Duration::ZERO)
                }
                Fate::Waits(wanted) => match wanted.get().await {
                    Ok(()) => Outcome::Wait(Duration::ZERO),
                    Err(why) => self.wait(&work, Some(&codec::place(&work.message.at)), &why),
                },
                Fate::Locked(failure) if work.waits < WAITS_FOR_A_KEY => self.wait(&work, failure.event_id.as_deref(), &failure.reason),
                Fate::Locked(failure) => Outcome::Failed(failure),
                Fate::PutDown => Outcome::PutDown,
                Fate::Left => {
                    tracing::debug!(at = ?work.message.at, "left on the broker: its topic is no longer configured");
                    self.desk().put_down(work);
                    continue;
                }
            };
            let failed = match &outcome {
                Outcome::Failed(failure) | Outcome::DeadLetter(failure) if work.traced.is_some() => Some(failure.reason.clone()),
                _ => None,
            };
            let outcome = match outcome {
                Outcome::Failed(failure) => self.attempt_failed(&mut work, failure),
                Outcome::DeadLetter(failure) => {
                    work.attempts += 1;
                    Outcome::DeadLetter(failure)
                }
                other => other,
            };
            // How it ended; else how long it waits, or that it is put down.
            let ended: Result<Ended, Option<Duration>> = match outcome {
                Outcome::Complete(ended) => Ok(ended),
                Outcome::DeadLetter(failure) => self.bury(&work, &failure).await.ok_or(None),
                Outcome::Wait(wait) => {
                    work.waits += 1;
                    Err(Some(wait))
                }
                Outcome::PutDown | Outcome::Failed(_) => Err(None),
            };
            let result = match &ended {
                Ok(ended) => ended.name(),
                Err(Some(_)) => "waits",
                Err(None) => "put_down",
            };
            self.end_attempt(&mut work, result, failed);
            let wait = match ended {
                Ok(ended) => {
                    self.complete(work, ended);
                    continue;
                }
                Err(Some(wait)) => wait,
                Err(None) => {
                    let mut desk = self.desk();
                    desk.put_down(work);
                    events.into_iter().for_each(|(work, _)| desk.put_down(work));
                    desk.let_go(lane, key);
                    drop(desk);
                    self.finished(lane);
                    return;
                }
            };
            let mut waiting = vec![work];
            waiting.extend(events.into_iter().map(|(work, _)| work));
            self.desk().park(lane, key, waiting, Instant::now(), wait);
            self.finished(lane);
            return;
        }
        self.desk().let_go(lane, key);
        self.finished(lane);
    }

    /// Counts the attempt; after the last one it is a dead letter.
    fn attempt_failed(&self, work: &mut InHand, failure: Failure) -> Outcome {
        let config = self.deps.config.load();
        let Some(policy) = config.worker.as_ref().map(|worker| &worker.retry) else { return Outcome::DeadLetter(failure) };
        work.attempts += 1;
        if work.attempts >= policy.attempts {
            return Outcome::DeadLetter(failure);
        }
        let delay = policy.delay(work.attempts - 1, rand::random());
        self.deps.health.counters.retries.add(1);
        let about = self.about(work, &failure);
        tell_failure!(
            info,
            work,
            about,
            failure,
            attempt = work.attempts,
            of = policy.attempts,
            "attempt failed, the next one in {delay:?}"
        );
        Outcome::Wait(delay)
    }

    async fn follow_up(&self, work: &InHand, then: &Then, ended: Ended) -> Outcome {
        for message in &then.messages {
            match self.deps.publisher.publish_for(For { trace: work.trace(), order_id: None }, message, PUBLISH_DEADLINE).await {
                Ok(_) => self.deps.health.counters.emitted.add(1),
                Err(_) if self.stopping() || self.deps.publisher.gate().is_shut() => return Outcome::PutDown,
                Err(PublishError::Refused { reason, retriable: false } | PublishError::TooLarge { reason }) => {
                    let reason = format!("cannot be emitted to {}: {reason}", message.topic);
                    return Outcome::Failed(Failure::new(Kind::Emit, reason, Some(&then.event_id)));
                }
                // The broker is away, for all. What arrived nevertheless is a repeat next time: its id is the same.
                Err(error) => return self.wait(work, Some(&then.event_id), &format!("emitting to {}: {error}", message.topic)),
            }
        }
        let config = self.deps.config.load_full();
        let callback = config.worker.as_ref().and_then(|worker| worker.callback.as_ref());
        let (Some(body), Some(callback)) = (&then.call, callback) else { return Outcome::Complete(ended) };
        let client = match self.callback() {
            Ok(client) => client,
            Err(reason) => return Outcome::Failed(Failure::new(Kind::Callback, reason, Some(&then.event_id))),
        };
        let (tracer, trace) = (self.deps.publisher.tracer(), work.trace());
        let span = tracer.child(trace);
        let trace = span.map(|span| span.context).or(trace);
        let answer = client.tell(&callback.url, &callback.url, callback.timeout, &then.known_as, body.clone(), trace).await;
        tracer.end(span, || answer.said());
        match answer {
            Answer::Taken => {
                self.deps.health.counters.callbacks.add(1);
                Outcome::Complete(ended)
            }
            Answer::Refused(reason) => Outcome::DeadLetter(Failure::new(Kind::CallbackRefused, reason, Some(&then.event_id))),
            Answer::Failed(reason) => Outcome::Failed(Failure::new(Kind::Callback, reason, Some(&then.event_id))),
            Answer::Down(pause) => Outcome::Wait(pause),
        }
    }

    fn wait(&self, work: &InHand, event_id: Option<&str>, why: &str) -> Outcome {
        let pause = self.pause(work.waits);
        let about = About::read(work);
        tracing::warn!(
            eventId = event_id,
            requestId = about.request_id,
            traceId = about.trace_id(),
            spanId = about.span_id(),
            why,
            "an event waits {pause:?}; it loses no attempt"
        );
        Outcome::Wait(pause)
    }

    fn pause(&self, waits: u32) -> Duration {
        (Duration::from_millis(100) * 2u32.pow(waits.min(10))).min(LONGEST_WAIT)
    }
}
