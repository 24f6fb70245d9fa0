//! Spans: what was done for a request or a message, as steps of its trace.
//!
//! What is not sampled is not done: no span, no allocation, no clock is read. A span is written down when it ends, as a whole, and handed
//! to a bounded queue; if that is full it is dropped and counted. Nobody ever waits.

use super::otlp::Queue;
use super::trace::Context;
use arc_swap::ArcSwap;
use crds::runtime_config::RuntimeConfig;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Makes spans, if there is somewhere to send them. Cheap to clone.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Tracing>>);

struct Tracing {
    /// Asked for the share that is sampled, whenever a trace begins: it may change.
    config: Arc<ArcSwap<RuntimeConfig>>,
    spans: Queue<Span>,
}

/// A span that has begun.
#[derive(Clone, Copy, Debug)]
pub struct Open {
    pub context: Context,
    parent: Option<u64>,
    began: SystemTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Internal,
    /// Answers a request.
    Server,
    /// Asks another service.
    Client,
    /// Writes a message.
    Producer,
    /// Reads one.
    Consumer,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    Text(String),
    Number(i64),
}

pub type Attributes = Vec<(&'static str, Said)>;

/// One that has ended.
#[derive(Clone, Debug)]
pub struct Span {
    pub context: Context,
    pub parent: Option<u64>,
    pub name: Cow<'static, str>,
    pub kind: Kind,
    pub began: SystemTime,
    pub ended: SystemTime,
    pub attributes: Attributes,
    /// Why what it stands for went wrong.
    pub failed: Option<String>,
}

/// What a span says when it ends.
pub struct End {
    pub name: Cow<'static, str>,
    pub kind: Kind,
    pub attributes: Attributes,
    pub failed: Option<String>,
}

impl Tracer {
    pub fn new(config: Arc<ArcSwap<RuntimeConfig>>, spans: Queue<Span>) -> Tracer {
        Tracer(Some(Arc::new(Tracing { config, spans })))
    }

    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Something comes in from outside, with the trace that it is part of, if any. That decides whether it is sampled (parent based);
    /// without one a trace begins here, if the share of the document says so.
    pub fn enter(&self, parent: Option<Context>) -> Option<Open> {
        let tracing = self.0.as_deref()?;
        match parent {
            Some(parent) => self.child(Some(parent)),
            None => {
                let percent = tracing.config.load().telemetry.sampling_percent;
                let sampled = percent > 0 && rand::random_range(0..100) < percent;
                // Zero is no id; drawn once in 2^128, it would only end this trace.
                sampled.then(|| Open { context: Context::new(rand::random()), parent: None, began: SystemTime::now() })
            }
        }
    }

    /// A step of a trace that was entered before.
    pub fn child(&self, parent: Option<Context>) -> Option<Open> {
        let parent = parent.filter(|parent| parent.sampled && self.is_on())?;
        Some(Open { context: Context { span: rand::random(), ..parent }, parent: Some(parent.span), began: SystemTime::now() })
    }

    pub fn end(&self, open: Option<Open>, end: impl FnOnce() -> End) {
        self.end_at(open, SystemTime::now, end);
    }

    pub fn end_at(&self, open: Option<Open>, at: impl FnOnce() -> SystemTime, end: impl FnOnce() -> End) {
        let (Some(tracing), Some(Open { context, parent, began })) = (&self.0, open) else { return };
        let End { name, kind, attributes, failed } = end();
        // The clock may have been set back meanwhile.
        let ended = at().max(began);
        tracing.spans.put(Span { context, parent, name, kind, began, ended, attributes, failed });
    }
}

impl Open {
    /// The same, begun so long before.
    pub fn since(self, before: Duration) -> Open {
        Open { began: self.began.checked_sub(before).unwrap_or(self.began), ..self }
    }
}

impl End {
    pub fn new(kind: Kind, name: impl Into<Cow<'static, str>>) -> End {
        End { name: name.into(), kind, attributes: Attributes::new(), failed: None }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> End {
        self.attributes.push((name, Said::Text(value.into())));
        self
    }

    pub fn with_some(self, name: &'static str, value: Option<impl Into<String>>) -> End {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    pub fn with_number(mut self, name: &'static str, value: i64) -> End {
        self.attributes.push((name, Said::Number(value)));
        self
    }

    pub fn failed(self, why: Option<String>) -> End {
        End { failed: why, ..self }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tokio::sync::mpsc::Receiver;

    fn tracer(percent: u32) -> (Tracer, Arc<ArcSwap<RuntimeConfig>>, Receiver<Span>) {
        let document = "
apiVersion: orderpipeline.dev/v1alpha1
kind: OrderPipeline
metadata: {name: shop}
spec:
  backends: [{name: kafka, kafka: {bootstrapServers: 'kafka:9092'}}]
  topics: [{name: orders}]
  events: [{name: OrderCreated}]
";
        let mut config = crds::resolve(&crds::document::read(document).unwrap());
        config.telemetry.sampling_percent = percent;
        let config = Arc::new(ArcSwap::from_pointee(config));
        let (queue, spans) = Queue::new(3, Arc::default());
        (Tracer::new(config.clone(), queue), config, spans)
    }

    fn sample(config: &ArcSwap<RuntimeConfig>, percent: u32) {
        let mut new = (**config.load()).clone();
        new.telemetry.sampling_percent = percent;
        config.store(Arc::new(new));
    }

    const PARENT: Context = Context { trace: 7, span: 9, sampled: true };

    #[test]
    fn who_began_the_trace_decides_and_else_the_share_that_the_document_says_now() {
        let (tracer, config, _) = tracer(0);
        assert!(tracer.enter(None).is_none());
        assert!(tracer.enter(Some(Context { sampled: false, ..PARENT })).is_none());
        let open = tracer.enter(Some(PARENT)).unwrap();
        assert_eq!((open.context.trace, open.parent, open.context.sampled), (7, Some(9), true));
        sample(&config, 100);
        let open = tracer.enter(None).unwrap();
        assert_eq!((open.parent, open.context.sampled), (None, true));
        assert!(tracer.enter(Some(Context { sampled: false, ..PARENT })).is_none());
        assert!(tracer.child(None).is_none(), "a step of a trace that was not begun begins none");
        sample(&config, 25);
        let sampled = (0..10_000).filter(|_| tracer.enter(None).is_some()).count();
        assert!((2000..3000).contains(&sampled), "{sampled} of 10000");
    }

    #[test]
    fn a_step_is_a_child_and_what_finds_no_room_is_dropped_and_counted() {
        let (tracer, _, mut spans) = tracer(100);
        let whole = tracer.enter(None);
        let step = tracer.child(whole.map(|open| open.context));
        tracer.end(step, || End::new(Kind::Client, "step").with("orderId", "O1").failed(Some("it broke".into())));
        for _ in 0..4 {
            tracer.end(whole, || End::new(Kind::Server, "whole"));
        }
        let (step, whole) = (spans.try_recv().unwrap(), spans.try_recv().unwrap());
        assert_eq!((step.context.trace, step.parent), (whole.context.trace, Some(whole.context.span)));
        assert_ne!(step.context.span, whole.context.span);
        assert_eq!((&*step.name, step.failed.as_deref()), ("step", Some("it broke")));
        assert!(step.began <= step.ended && whole.began <= step.began);
        assert_eq!(tracer.0.unwrap().spans.dropped(), 2, "of five in a room for three");
    }

    #[test]
    fn without_somewhere_to_send_them_there_are_none() {
        let tracer = Tracer::default();
        assert!(!tracer.is_on() && tracer.enter(Some(PARENT)).is_none() && tracer.child(Some(PARENT)).is_none());
        tracer.end(None, || panic!("nobody is asked what a span would say"));
    }
}
