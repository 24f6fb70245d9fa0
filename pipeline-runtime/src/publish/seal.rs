//! Seals: an empty message at the end of a partition, which says that everything of an epoch lies before it.
//!
//! They do not go through the gate: the epoch is closed, and its broker need not be the one that is written to.

use crate::broker::{Broker, Completion, Header, Outgoing, Partition, PublishError, Target};
use crate::codec::attribute;
use crds::switch::Stamp;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Some partitions may be without the seal: they can be sealed once more, which is harmless.
#[derive(Debug, thiserror::Error)]
#[error("{} partitions are not sealed, first {}/{}: {reason}", left.len(), left[0].topic, left[0].number)]
pub struct Unsealed {
    /// Never empty.
    pub left: Vec<Partition>,
    pub reason: String,
}

/// Writes the seal of an epoch into each of these partitions and waits for the acks, at most so long.
pub async fn seal(broker: &dyn Broker, stamp: Stamp<'_>, partitions: &[Partition], within: Duration) -> Result<(), Unsealed> {
    let deadline = Instant::now() + within;
    let value: bytes::Bytes = stamp.to_string().into();
    let sent: Vec<_> = partitions.iter().map(|partition| publish(broker, &value, partition)).collect();
    let mut left = Vec::new();
    let mut reason = String::new();
    for (partition, answer) in partitions.iter().zip(sent) {
        let why = match timeout_at(deadline, answer).await {
            Ok(Ok(Ok(_))) => continue,
            Ok(Ok(Err(PublishError::Refused { reason, .. } | PublishError::TooLarge { reason } | PublishError::Unknown { reason }))) => {
                reason
            }
            Ok(Err(_)) => "the client ended before the broker answered".into(),
            Err(_) => format!("no answer from {} within {within:?}", broker.name()),
        };
        if left.is_empty() {
            reason = why;
        }
        left.push(partition.clone());
    }
    if left.is_empty() { Ok(()) } else { Err(Unsealed { left, reason }) }
}

/// A message to ask with whether a topic may be written to. No broker is to keep it; should one do so, it is the seal of nobody's epoch, and
/// every reader passes over it.
pub fn of_nobody(topic: &str) -> Outgoing {
    let headers = vec![Header { name: attribute::STAMP.into(), value: bytes::Bytes::from_static(b"nobody") }];
    Outgoing { topic: topic.into(), target: Target::Partition(0), key: None, headers, payload: None }
}

type Answer = tokio::sync::oneshot::Receiver<crate::broker::PublishResult>;

fn publish(broker: &dyn Broker, stamp: &bytes::Bytes, partition: &Partition) -> Answer {
    let (completion, answer) = Completion::new(None);
    let headers = vec![Header { name: attribute::STAMP.into(), value: stamp.clone() }];
    let target = Target::Partition(partition.number);
    broker.publish(Outgoing { topic: partition.topic.clone(), target, key: None, headers, payload: None }, completion);
    answer
}
