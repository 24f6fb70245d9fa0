//! The HTTP service that is told of each applied event.
//!
//! Its circuit opens after several failures in a row of different events: then the service is taken to be down, nobody's
//! attempts are counted, and one event at a time tries whether it is back.

use crate::telemetry::{Context, End, Kind, TRACEPARENT};
use bytes::Bytes;
use crds::runtime_config::CallbackConfig;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Failures in a row, of different events, that open the circuit.
const OPENS_AT: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[derive(Debug, PartialEq)]
pub enum Answer {
    Taken,
    /// It will never take this event.
    Refused(String),
    /// It failed on this event: an attempt.
    Failed(String),
    /// It is down for all: no attempt, ask again then.
    Down(Duration),
}

impl Answer {
    /// The span of such a call.
    pub fn said(&self) -> End {
        let failed = match self {
            Answer::Taken => None,
            Answer::Refused(reason) | Answer::Failed(reason) => Some(reason.clone()),
            Answer::Down(_) => Some("the callback is taken to be down".to_owned()),
        };
        End::new(Kind::Client, "callback").with("http.request.method", "POST").failed(failed)
    }
}

pub struct Callback {
    client: reqwest::Client,
    circuit: Mutex<Circuit>,
}

impl Callback {
    pub fn new() -> Result<Callback, String> {
        // Ours or the one that is already installed: both do.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(32)
            .build()
            .map_err(|error| format!("the HTTP client for callbacks cannot be made: {error}"))?;
        Ok(Callback { client, circuit: Mutex::default() })
    }

    pub async fn call(&self, config: &CallbackConfig, event_id: &str, body: Bytes, trace: Option<Context>) -> Answer {
        if let Err(pause) = self.circuit().enter(Instant::now()) {
            return Answer::Down(pause);
        }
        let mut request = self.client.post(&config.url).header("content-type", "application/json").header("idempotency-key", event_id);
        if let Some(trace) = trace {
            request = request.header(TRACEPARENT, trace.to_string());
        }
        let reason = match request.timeout(config.timeout).body(body).send().await {
            Ok(response) if response.status().is_success() => {
                self.circuit().succeeded();
                return Answer::Taken;
            }
            Ok(response) if response.status().is_client_error() && !matches!(response.status().as_u16(), 408 | 429) => {
                // An answer is an answer: the service is up.
                self.circuit().succeeded();
                return Answer::Refused(format!("POST {} answers {}", config.url, response.status()));
            }
            Ok(response) => format!("POST {} answers {}", config.url, response.status()),
            Err(error) => format!("POST {}: {}", config.url, causes(&error)),
        };
        match self.circuit().failed(Instant::now(), event_id) {
            Some(pause) => {
                tracing::warn!(reason, "the callback is taken to be down: events wait for it, none loses an attempt");
                Answer::Down(pause)
            }
            None => Answer::Failed(reason),
        }
    }

    fn circuit(&self) -> std::sync::MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error with all that caused it: reqwest says only that sending failed.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[derive(Debug, Default)]
struct Circuit {
    failures: u32,
    last: String,
    pause: Duration,
    /// Open until then; afterwards one event tries.
    open: Option<Instant>,
}

impl Circuit {
    fn enter(&mut self, now: Instant) -> Result<(), Duration> {
        match self.open {
            Some(until) if until > now => Err(until - now),
            Some(_) => {
                // This one tries; the others wait for its outcome.
                self.open = Some(now + self.pause);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn succeeded(&mut self) {
        *self = Circuit::default();
    }

    /// How long to wait if the circuit is open now.
    fn failed(&mut self, now: Instant, event_id: &str) -> Option<Duration> {
        if self.open.is_none() {
            // One event that fails again and again says nothing about the others.
            if self.last != event_id {
                self.last = event_id.to_owned();
                self.failures += 1;
            }
            if self.failures < OPENS_AT {
                return None;
            }
        }
        self.pause = if self.open.is_none() { FIRST_PAUSE } else { (self.pause * 2).min(LONGEST_PAUSE) };
        self.open = Some(now + self.pause);
        Some(self.pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_that_fails_does_not_open_the_circuit_for_the_others() {
        let (mut circuit, now) = (Circuit::default(), Instant::now());
        for _ in 0..50 {
            assert_eq!(circuit.failed(now, "poison"), None);
        }
        assert_eq!(circuit.enter(now), Ok(()));
    }

    #[test]
    fn a_service_that_is_down_is_tried_by_one_event_at_a_time_and_heals() {
        let (mut circuit, now) = (Circuit::default(), Instant::now());
        let answers: Vec<_> = (0..5).map(|i| circuit.failed(now, &i.to_string())).collect();
        assert_eq!(answers, [None, None, None, None, Some(FIRST_PAUSE)]);
        assert_eq!(circuit.enter(now), Err(FIRST_PAUSE));
        let later = now + FIRST_PAUSE;
        assert_eq!(circuit.enter(later), Ok(()));
        assert_eq!(circuit.enter(later), Err(FIRST_PAUSE), "the others wait for the outcome");
        assert_eq!(circuit.failed(later, "6"), Some(FIRST_PAUSE * 2));
        circuit.succeeded();
        assert_eq!(circuit.enter(later), Ok(()));
    }
}
