//! The spans of a message that is sampled: that it was read and waited for its turn (consume), each attempt at it (process), and below
//! that the store, the callback and what is published for it. For all others nothing is done.

use super::Shared;
use super::apply::Came;
use super::lanes::InHand;
use crate::store::Change;
use crate::telemetry::{Context, End, Kind, Open, TRACEPARENT};
use crds::pipeline::Producers;
use crds::runtime_config::RuntimeConfig;
use std::time::{Duration, SystemTime};

#[derive(Debug)]
pub struct Traced {
    consume: Open,
    /// When its first attempt began. None: the span of that is written down.
    taken: Option<SystemTime>,
    process: Option<Open>,
    attempt: u32,
    order_id: Option<String>,
}

impl InHand {
    /// What is done for this message is a step of that.
    pub fn trace(&self) -> Option<Context> {
        let process = self.traced.as_ref().and_then(|traced| traced.process).map(|open| open.context);
        process.or_else(|| self.message.header(TRACEPARENT).and_then(Context::read))
    }

    /// An earlier event of its key goes first: this was no attempt.
    pub fn take_back_attempt(&mut self) {
        if let Some(traced) = &mut self.traced {
            traced.process = None;
        }
    }
}

impl Shared {
    pub(super) fn begin_attempts(&self, config: &RuntimeConfig, batch: &mut [InHand]) {
        let tracer = self.deps.publisher.tracer();
        if !tracer.is_on() {
            return;
        }
        for work in batch {
            if work.traced.is_none() {
                work.traced = self.consumed(config, work);
            }
            if let Some(traced) = &mut work.traced {
                traced.attempt = work.attempts + 1;
                traced.process = tracer.child(Some(traced.consume.context));
            }
        }
    }

    fn consumed(&self, config: &RuntimeConfig, work: &InHand) -> Option<Box<Traced>> {
        let parent = work.message.header(TRACEPARENT).and_then(Context::read);
        // Of what the pipeline itself writes, whoever wrote it has decided; where others write, a trace may begin here.
        let others = || config.topic(&work.message.at.partition.topic).is_some_and(|topic| topic.producers == Producers::External);
        if parent.is_none() && !others() {
            return None;
        }
        let open = self.deps.publisher.tracer().enter(parent)?;
        let consume = open.since(work.read_at.elapsed());
        Some(Box::new(Traced { consume, taken: Some(SystemTime::now()), process: None, attempt: 1, order_id: None }))
    }

    /// The store took these changes together, so long.
    pub(super) fn note_store(&self, batch: &mut [InHand], changes: &[Change], indices: &[usize], came: &[Came], took: Duration) {
        let tracer = self.deps.publisher.tracer();
        for ((index, change), came) in indices.iter().zip(changes).zip(came) {
            let Some(traced) = &mut batch[*index].traced else { continue };
            traced.order_id = Some(change.order_id.clone());
            let span = tracer.child(traced.process.map(|open| open.context)).map(|open| open.since(took));
            tracer.end(span, || {
                let end = End::new(Kind::Client, "store apply").with("orderId", &change.order_id);
                let end = end.with_number("db.operation.batch.size", i64::try_from(changes.len()).unwrap_or(i64::MAX));
                match came {
                    Came::Applied(_) => end,
                    Came::Refused(why) | Came::Failed(why) => end.failed(Some(why.clone())),
                    Came::Behind | Came::Stopped => end.failed(Some("not applied".into())),
                }
            });
        }
    }

    /// An attempt has ended so.
    pub(super) fn end_attempt(&self, work: &mut InHand, result: &'static str, failed: Option<String>) {
        let Some(traced) = &mut work.traced else { return };
        let tracer = self.deps.publisher.tracer();
        let at = &work.message.at;
        let of_message = |end: End, order_id: Option<&String>| {
            let end = end.with("messaging.destination.name", &*at.partition.topic);
            let end = end.with("messaging.destination.partition.id", at.partition.number.to_string());
            end.with_number("messaging.kafka.offset", at.offset).with_some("orderId", order_id.cloned())
        };
        if let Some(taken) = traced.taken.take() {
            let consume = || {
                let end = End::new(Kind::Consumer, format!("consume {}", at.partition.topic)).with("messaging.operation.type", "receive");
                of_message(end, traced.order_id.as_ref())
            };
            tracer.end_at(Some(traced.consume), || taken, consume);
        }
        tracer.end(traced.process.take(), || {
            let end = End::new(Kind::Internal, format!("process {}", at.partition.topic)).with("messaging.operation.type", "process");
            let end = of_message(end, traced.order_id.as_ref()).with("result", result);
            end.with_number("attempt", traced.attempt.into()).failed(failed)
        });
    }
}
