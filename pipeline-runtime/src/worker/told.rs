//! An HTTP service that is told of something by a POST: the callback of each applied event, the alert of a dead letter.
//!
//! What it is told has an id, so that it can tell a repeat: it may be told more than once. Its circuit keeps it from being asked while it
//! is down.

use super::circuit::{Blame, Circuit};
use super::health::CircuitHealth;
use crate::http;
use crate::telemetry::{Context, End, Kind, TRACEPARENT};
use bytes::Bytes;
use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

#[derive(Debug, PartialEq)]
pub enum Answer {
    Taken,
    /// It will never take this.
    Refused(String),
    /// It failed on this: an attempt.
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

/// As it is, where a header can carry it. Others may call their events what they like.
fn in_header(id: &str) -> Cow<'_, str> {
    let carried = |byte: u8| byte >= b' ' && byte != 0x7f;
    if id.bytes().all(carried) {
        return Cow::Borrowed(id);
    }
    let escaped = |char: char| if char.is_ascii_control() || char == '%' { format!("%{:02X}", char as u32) } else { char.to_string() };
    Cow::Owned(id.chars().map(escaped).collect())
}

pub struct Told {
    /// For people: `the callback`.
    what: &'static str,
    client: reqwest::Client,
    circuit: Mutex<Circuit>,
    health: Arc<CircuitHealth>,
}

impl Told {
    pub fn new(what: &'static str, health: Arc<CircuitHealth>) -> Result<Told, String> {
        let client = http::client()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(32)
            .build()
            .map_err(|error| format!("the HTTP client for {what} cannot be made: {error}"))?;
        Ok(Told { what, client, circuit: Mutex::default(), health })
    }

    /// `shown` is the address as it may stand in logs and dead letters.
    pub async fn tell(&self, url: &str, shown: &str, timeout: Duration, id: &str, body: Bytes, trace: Option<Context>) -> Answer {
        let ticket = match self.circuit().enter(Instant::now(), timeout) {
            Ok(ticket) => ticket,
            Err(pause) => return Answer::Down(pause),
        };
        let mut request = self.client.post(url).header("content-type", "application/json").header("idempotency-key", &*in_header(id));
        if let Some(trace) = trace {
            request = request.header(TRACEPARENT, trace.to_string());
        }
        let (reason, blame) = match request.timeout(timeout).body(body).send().await {
            Ok(response) if response.status().is_success() => {
                self.answered();
                return Answer::Taken;
            }
            Ok(response) if response.status().is_client_error() && !matches!(response.status().as_u16(), 408 | 429) => {
                // An answer is an answer: the service is up.
                self.answered();
                return Answer::Refused(format!("POST {shown} answers {}", response.status()));
            }
            Ok(response) => (format!("POST {shown} answers {}", response.status()), Blame::Unclear),
            Err(error) => {
                let blame = if error.is_connect() { Blame::Service } else { Blame::Unclear };
                (format!("POST {shown}: {}", http::causes(&error.without_url())), blame)
            }
        };
        let mut circuit = self.circuit();
        let was_open = circuit.is_open();
        let pause = circuit.failed(&ticket, Instant::now(), id, blame);
        drop(circuit);
        match pause {
            Some(pause) => {
                if !was_open {
                    self.health.opened();
                    tracing::warn!(reason, "{} is taken to be down: what it is to be told waits, and loses no attempt", self.what);
                }
                Answer::Down(pause)
            }
            None => Answer::Failed(reason),
        }
    }

    fn answered(&self) {
        let mut circuit = self.circuit();
        let was_open = circuit.is_open();
        circuit.succeeded();
        drop(circuit);
        if was_open {
            self.health.closed();
            tracing::info!("{} answers again", self.what);
        }
    }

    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
