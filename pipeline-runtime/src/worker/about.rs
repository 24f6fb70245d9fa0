//! What the lines of the log say of the order that a message is about, so that all lines about one order are found.

use super::Shared;
use super::failure::Failure;
use super::health::Ended;
use super::lanes::InHand;
use super::privacy;
use crate::codec::attribute;
use crate::contract::Message;
use crate::store::Change;
use crate::telemetry::Context;

/// A larger message is not taken apart once more only to be told of.
const MOST_WEIGHT: usize = 1 << 20;

/// What is not known is left out.
#[derive(Debug, Default, PartialEq)]
pub struct About {
    pub order_id: Option<String>,
    pub tenant_id: Option<String>,
    pub request_id: Option<String>,
    pub event_id: Option<String>,
    pub trace: Option<Context>,
}

impl About {
    /// What the headers say, which costs nothing.
    pub fn read(work: &InHand) -> About {
        let request = work.message.header(attribute::REQUEST_ID).and_then(|id| std::str::from_utf8(id).ok());
        About { request_id: request.map(str::to_owned), trace: work.trace(), ..About::default() }
    }

    pub fn trace_id(&self) -> Option<String> {
        self.trace.map(|trace| trace.trace_id())
    }

    pub fn span_id(&self) -> Option<String> {
        self.trace.map(|trace| trace.span_id())
    }
}

/// A line about a message that failed: which one, of what order, why; then what else there is to say.
macro_rules! tell_failure {
    ($level:ident, $work:expr, $about:expr, $failure:expr, $($more:tt)+) => {{
        let (at, about, failure) = (&$work.message.at, &$about, &$failure);
        tracing::$level!(
            topic = &*at.partition.topic,
            partition = at.partition.number,
            offset = at.offset,
            orderId = about.order_id,
            tenantId = about.tenant_id,
            requestId = about.request_id,
            eventId = about.event_id,
            traceId = about.trace_id(),
            spanId = about.span_id(),
            errorType = failure.kind.name(),
            reason = failure.reason,
            $($more)+
        )
    }};
}
pub(super) use tell_failure;

impl Shared {
    /// For a line about a failure: these are few, so that the message is simply taken apart once more.
    pub(super) fn about(&self, work: &InHand, failure: &Failure) -> About {
        let mut about = About { event_id: failure.event_id.clone(), ..About::read(work) };
        let (config, contract) = (self.deps.config.load(), self.deps.contract.load());
        let Some(topic) = config.topic(&work.message.at.partition.topic).filter(|_| work.weight <= MOST_WEIGHT) else { return about };
        // Logs are read by many: an order that is known by an encrypted field is told of as that.
        let Ok(message) = privacy::discreet(&config, &contract, &self.deps.codecs, &work.message) else { return about };
        let Ok(decoded) = self.deps.codecs.decode(topic, &message) else { return about };
        let attribute = |name: &str| decoded.attributes.get(name)?.as_str().map(str::to_owned);
        about.request_id = about.request_id.or_else(|| attribute(attribute::REQUEST_ID));
        let key = work.message.key.as_deref().and_then(|key| std::str::from_utf8(key).ok());
        let view = Message { topic: &topic.name, key, decoded: &decoded };
        if let Ok(Some(event)) = contract.recognise(&view) {
            about.order_id = event.order_id(&view).ok();
            about.tenant_id = event.tenant(&view).ok().flatten();
        }
        about
    }
}

/// The line about each event, for whoever asks for that much (`logLevel: debug`).
pub fn tell(work: &InHand, change: &Change, ended: Ended) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let what = match ended {
        Ended::Processed => "took effect",
        Ended::Repeated => "had taken effect before",
        Ended::Waiting => "waits for its order",
        Ended::PassedOver | Ended::Dropped | Ended::DeadLetter => return, // said where that is known
    };
    let about = About::read(work);
    tracing::debug!(
        orderId = change.order_id,
        tenantId = change.fields.tenant,
        requestId = about.request_id,
        eventId = change.event_id,
        event = change.event,
        traceId = about.trace_id(),
        spanId = about.span_id(),
        "{what}"
    );
}
