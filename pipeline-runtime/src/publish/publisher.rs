use super::{Brokers, Counted, Gate, Pass};
use crate::broker::{Broker, Completion, Header, Outgoing, PublishError, PublishResult};
use crate::codec::attribute;
use crate::telemetry::{Context, End, Kind, TRACEPARENT, Tracer};
use arc_swap::ArcSwap;
use bytes::Bytes;
use crds::switch::Opening;
use futures::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// Attempts for a message that the broker has definitely not taken (OA-10).
const ATTEMPTS: u32 = 3;
/// Wait before the second attempt; doubled before each further one.
const BACKOFF: Duration = Duration::from_millis(50);

/// Publishes through the gate, to the broker that the gate names. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    brokers: Arc<Brokers>,
    gate: Arc<Gate>,
    writing: Arc<ArcSwap<Writing>>,
    counted: Arc<Counted>,
    tracer: Tracer,
}

/// What a message is published for.
#[derive(Clone, Copy, Debug, Default)]
pub struct For<'a> {
    /// The step of a trace that asks for it.
    pub trace: Option<Context>,
    pub order_id: Option<&'a str>,
}

/// Where messages went last: looked up anew only when the gate names another place.
struct Writing {
    opening: Option<Arc<Opening>>,
    broker: Arc<dyn Broker>,
    stamp: Option<Header>,
}

impl Writing {
    /// As it goes to the broker: with the stamp of the epoch, and with the trace that it is part of, in the place of the one that the
    /// message came from.
    fn stamped(&self, message: &Outgoing, trace: Option<Context>) -> Outgoing {
        if self.stamp.is_none() && trace.is_none() {
            return message.clone();
        }
        let Outgoing { topic, target, key, headers, payload } = message;
        let mut stamped = Vec::with_capacity(headers.len() + 2);
        stamped.extend(headers.iter().filter(|header| trace.is_none() || &*header.name != TRACEPARENT).cloned());
        stamped.extend(self.stamp.clone());
        stamped.extend(trace.map(|trace| Header { name: TRACEPARENT.into(), value: trace.to_string().into() }));
        Outgoing { topic: topic.clone(), target: *target, key: key.clone(), headers: stamped, payload: payload.clone() }
    }
}

impl Publisher {
    /// To one broker, or beginning with this one where the gate knows several.
    pub fn new(broker: Arc<dyn Broker>, gate: Arc<Gate>) -> Publisher {
        Publisher::among(Brokers::of([broker.clone()]), broker, gate)
    }

    pub fn among(brokers: Arc<Brokers>, first: Arc<dyn Broker>, gate: Arc<Gate>) -> Publisher {
        let writing = Writing { opening: None, broker: first, stamp: None };
        Publisher { brokers, gate, writing: Arc::new(ArcSwap::from_pointee(writing)), counted: Arc::default(), tracer: Tracer::default() }
    }

    /// The same, with its spans.
    pub fn traced(self, tracer: Tracer) -> Publisher {
        Publisher { tracer, ..self }
    }

    pub fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// The broker that is written to.
    pub fn broker(&self) -> Arc<dyn Broker> {
        let state = self.gate.states().map(|states| states.borrow().newest().backend.clone());
        let newest = state.and_then(|backend| self.brokers.get(&backend).ok());
        newest.unwrap_or_else(|| self.writing.load().broker.clone())
    }

    pub fn brokers(&self) -> &Arc<Brokers> {
        &self.brokers
    }

    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// What was published so far.
    pub fn counted(&self) -> &Arc<Counted> {
        &self.counted
    }

    /// Publishes and waits for the broker's ack, at most until the deadline. What failed for certain is tried again;
    /// what may have arrived is never sent twice: whoever asked decides, under the same id.
    pub async fn publish(&self, message: &Outgoing, within: Duration) -> PublishResult {
        self.publish_for(For::default(), message, within).await
    }

    /// The same as a step of a trace, which the message carries on.
    pub async fn publish_for(&self, what: For<'_>, message: &Outgoing, within: Duration) -> PublishResult {
        let began = Instant::now();
        let span = self.tracer.child(what.trace);
        // What is not sampled is carried on all the same: whoever began the trace decided for all.
        let trace = span.map(|span| span.context).or(what.trace);
        let result = self.attempt(message, trace, within, began + within).await;
        self.counted.published(&result, began.elapsed());
        self.tracer.end(span, || said(what, message, &result));
        result
    }

    async fn attempt(&self, message: &Outgoing, trace: Option<Context>, within: Duration, deadline: Instant) -> PublishResult {
        let mut attempt = 1;
        loop {
            let last = attempt == ATTEMPTS;
            // Not the message's fault: whoever can wait tries again, when the gate is open or the Secret has come.
            let refused = |reason: String| PublishError::Refused { reason, retriable: true };
            let pass = self.gate.pass(deadline).await.map_err(|why| refused(why.to_string()))?;
            let writing = self.writing_to(&pass).map_err(refused)?;
            let (completion, answer) = Completion::new(Some(pass));
            writing.broker.publish(writing.stamped(message, trace), completion);
            let result = match timeout_at(deadline, answer).await {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => unknown("the client ended before the broker answered"),
                Err(_) => unknown(&format!("no answer from {} within {within:?}", writing.broker.name())),
            };
            match result {
                Err(PublishError::Refused { retriable: true, .. })
                    if !last && Instant::now() < deadline && !writing.broker.known_down() =>
                {
                    sleep(BACKOFF * 2u32.pow(attempt - 1)).await;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    /// Where this pass leads; never where another one led meanwhile.
    fn writing_to(&self, pass: &Pass) -> Result<Arc<Writing>, String> {
        let writing = self.writing.load_full();
        let same = match (pass.opening(), &writing.opening) {
            (Some(now), Some(last)) => Arc::ptr_eq(now, last),
            (None, None) => true,
            _ => false,
        };
        let Some(opening) = pass.opening().filter(|_| !same) else { return Ok(writing) };
        let broker = self.brokers.get(&opening.backend)?;
        let stamp = Header { name: attribute::STAMP.into(), value: Bytes::copy_from_slice(opening.stamp.as_bytes()) };
        let writing = Arc::new(Writing { opening: Some(opening.clone()), broker, stamp: Some(stamp) });
        self.writing.store(writing.clone());
        Ok(writing)
    }

    /// Gives up what is in flight: each of it is reported, as unknown where it may have arrived.
    pub fn purge(&self) {
        self.brokers.all_opened().iter().for_each(|broker| broker.purge());
    }

    /// Sends what is queued anywhere, waits at most so long for the acks.
    pub async fn flush(&self, deadline: Duration) {
        let brokers = self.brokers.all_opened();
        join_all(brokers.iter().map(|broker| broker.flush(deadline))).await;
    }
}

fn said(what: For<'_>, message: &Outgoing, result: &PublishResult) -> End {
    let end = End::new(Kind::Producer, format!("publish {}", message.topic));
    let end = end.with("messaging.operation.type", "send").with("messaging.destination.name", &*message.topic);
    let end = end.with_some("orderId", what.order_id);
    match result {
        Ok(position) => {
            let end = end.with("messaging.destination.partition.id", position.partition.number.to_string());
            end.with_number("messaging.kafka.offset", position.offset)
        }
        Err(error) => end.failed(Some(error.to_string())),
    }
}

fn unknown(reason: &str) -> PublishResult {
    Err(PublishError::Unknown { reason: reason.into() })
}
