//! What was published, and how long it took (OA-13).

use crate::broker::{PublishError, PublishResult};
use crate::telemetry::{Durations, Instruments, Metric, Value};
use std::time::Duration;

const OUTCOMES: [&str; 3] = ["acknowledged", "refused", "unknown"];

/// How long messages took until their outcome was known, with all attempts; by outcome.
#[derive(Debug, Default)]
pub struct Counted([Durations; OUTCOMES.len()]);

impl Counted {
    pub fn published(&self, result: &PublishResult, took: Duration) {
        let outcome = match result {
            Ok(_) => 0,
            Err(PublishError::Refused { .. } | PublishError::TooLarge { .. }) => 1,
            Err(PublishError::Unknown { .. }) => 2,
        };
        self.0[outcome].took(took);
    }
}

impl Instruments for Counted {
    fn read(&self) -> Vec<Metric> {
        let read: Vec<_> = OUTCOMES.into_iter().zip(self.0.each_ref().map(Durations::read)).collect();
        let outcome = |outcome: &str| vec![("outcome", outcome.to_owned())];
        let failures = read[1..].iter().map(|(name, took)| (outcome(name), Value::Total(took.count()))).collect();
        let took = read.iter().map(|(name, took)| (outcome(name), Value::Durations(took.clone()))).collect();
        vec![
            Metric::new("publish_duration_seconds", "Until a message's outcome is known, with all attempts, in seconds.", took),
            Metric::new("publish_failures_total", "Messages that were not acknowledged: refused, or with an unknown outcome.", failures),
        ]
    }
}
