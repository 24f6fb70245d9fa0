use super::{Gate, Shut};
use crate::broker::{Broker, Completion, Outgoing, PublishError, PublishResult};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// Attempts for a message that the broker has definitely not taken (OA-10).
const ATTEMPTS: u32 = 3;
/// Wait before the second attempt; doubled before each further one.
const BACKOFF: Duration = Duration::from_millis(50);

/// Publishes through the gate. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    broker: Arc<dyn Broker>,
    gate: Arc<Gate>,
}

impl Publisher {
    pub fn new(broker: Arc<dyn Broker>, gate: Arc<Gate>) -> Publisher {
        Publisher { broker, gate }
    }

    pub fn broker(&self) -> &Arc<dyn Broker> {
        &self.broker
    }

    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Publishes and waits for the broker's ack, at most until the deadline. What failed for certain is tried again;
    /// what may have arrived is never sent twice: whoever asked decides, under the same id.
    pub async fn publish(&self, message: &Outgoing, within: Duration) -> PublishResult {
        let deadline = Instant::now() + within;
        let mut attempt = 1;
        loop {
            let last = attempt == ATTEMPTS;
            let pass = self.gate.enter().map_err(|Shut| PublishError::Refused { reason: Shut.to_string(), retriable: false })?;
            let (completion, answer) = Completion::new(Some(pass));
            self.broker.publish(message.clone(), completion);
            let result = match timeout_at(deadline, answer).await {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => unknown("the client ended before the broker answered"),
                Err(_) => unknown(&format!("no answer from {} within {within:?}", self.broker.name())),
            };
            match result {
                Err(PublishError::Refused { retriable: true, .. }) if !last && Instant::now() < deadline && !self.broker.known_down() => {
                    sleep(BACKOFF * 2u32.pow(attempt - 1)).await;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }
}

fn unknown(reason: &str) -> PublishResult {
    Err(PublishError::Unknown { reason: reason.into() })
}
