//! Brings one event to the broker: once for each request id, and with an outcome that the client is told.

use super::body::Share;
use super::call::RequestId;
use super::errors::Problem;
use super::idempotency::{Outcome, Turn};
use super::{ApiState, strict};
use crate::broker::{Outgoing, PublishError};
use crate::publish::For;
use crate::telemetry;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

/// A broker that is away is asked again every second, so that sooner makes no sense.
const RETRY_AFTER_DOWN: u32 = 5;
const RETRY_AFTER_UNKNOWN: u32 = 2;
/// A larger event is named in the log, not printed; the client, who was told 503, still has it.
const LARGEST_LETTER: usize = 1 << 20;
/// What a broker may add to a message when it measures it: a refusal this close to the limit is one for size.
const OVERHEAD: usize = 1024;

/// Made once at random. Changing it makes every request a new one.
const NAMESPACE: Uuid = Uuid::from_u128(0x6f1d_52a4_3c0b_4e57_9a86_d2e4_71b8_c903);

/// The id of the event that a request makes. It follows from the request, so that any pod makes the same: a request that is sent again
/// is the same event.
pub(super) fn event_id(principal: &str, route: &str, request: &str) -> Uuid {
    id_of("event", principal, route, request)
}

/// The id of the order, where the client gives none; likewise.
pub(super) fn order_id(principal: &str, route: &str, request: &str) -> Uuid {
    id_of("order", principal, route, request)
}

/// None of them holds a line's end: principals are file names, ids visible ASCII, and control characters in paths are refused.
fn id_of(what: &str, principal: &str, route: &str, request: &str) -> Uuid {
    Uuid::new_v5(&NAMESPACE, [what, principal, route, request].join("\n").as_bytes())
}

/// An event on its way to the broker, with all that was taken for it.
pub(super) struct Delivery {
    pub request: RequestId,
    pub event_id: Uuid,
    pub event: String,
    pub order_id: String,
    /// Of the body that came; zero where the request id was not given, since nobody can repeat it then.
    pub body_hash: [u8; 32],
    pub message: Outgoing,
    /// The step of a trace that asks for it.
    pub trace: Option<telemetry::Context>,
    pub max_message_bytes: usize,
    /// JSON text; for the claim's note.
    pub answer: String,
    /// Whether the request id is claimed in the store first.
    pub strict: bool,
    pub within: Duration,
    /// Held until the outcome is known, also when the client has gone.
    pub _held: (OwnedSemaphorePermit, Share),
}

/// Accepts an event: `Ok` once the broker has acknowledged it, now or at an earlier request with the same id.
pub(super) async fn accept(api: &Arc<ApiState>, delivery: Delivery) -> Outcome {
    if !delivery.request.given {
        // Nobody knew this id before, so that nobody can repeat it while it is under way.
        return deliver(api, &delivery).await;
    }
    match api.recent.enter(delivery.event_id, delivery.body_hash) {
        Turn::Accepted => Ok(()),
        Turn::OtherBody => Err(Problem::request_id_reused()),
        Turn::Wait(flight) => {
            // The first one is bounded itself (claim, publish, settle); this is for the case that it is not.
            let patience = delivery.within * 3 + Duration::from_secs(30);
            timeout(patience, flight.wait())
                .await
                .cloned()
                .unwrap_or_else(|_| Err(unknown(&delivery.request, "the first request with this id is still under way")))
        }
        Turn::First(lead) => {
            let api = api.clone();
            let publishing = async move {
                let outcome = deliver(&api, &delivery).await;
                lead.finish(outcome.clone());
                outcome
            };
            CarriedOn(Some(Box::pin(publishing))).await
        }
    }
}

/// Work that goes on by itself when whoever waits for it goes away: a client that hangs up and sends the same id again must meet
/// its first publish, not begin a second one. (A task for every request would do, at the price of two wakes for each.)
struct CarriedOn(Option<Pin<Box<dyn Future<Output = Outcome> + Send>>>);

impl Future for CarriedOn {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let Some(work) = &mut self.0 else { return Poll::Pending };
        let outcome = std::task::ready!(work.as_mut().poll(context));
        self.0 = None;
        Poll::Ready(outcome)
    }
}

impl Drop for CarriedOn {
    fn drop(&mut self) {
        // Work that has just panicked must not be polled again; what it led is given up by its own drop.
        if std::thread::panicking() {
            return;
        }
        if let (Some(work), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            drop(runtime.spawn(work));
        }
    }
}

async fn deliver(api: &ApiState, delivery: &Delivery) -> Outcome {
    if let Some(reason) = api.health.broker_down() {
        return Err(down(&reason));
    }
    let deadline = Instant::now() + delivery.within;
    if !delivery.strict {
        return publish(api, delivery, delivery.within).await;
    }
    let claim = delivery.event_id.to_string();
    match strict::take(&*api.store, &claim, delivery.body_hash, delivery.within).await? {
        strict::Taken::AcceptedBefore => return Ok(()),
        strict::Taken::Ours => {}
    }
    let outcome = publish(api, delivery, deadline.saturating_duration_since(Instant::now())).await;
    match &outcome {
        Ok(()) => strict::settle(&*api.store, &claim, &delivery.answer).await,
        Err(problem) if problem.is_unknown_outcome() => strict::leave(&*api.store, &claim).await,
        Err(_) => strict::release(&*api.store, &claim).await,
    }
    outcome
}

async fn publish(api: &ApiState, delivery: &Delivery, within: Duration) -> Outcome {
    let what = For { trace: delivery.trace, order_id: Some(&delivery.order_id) };
    let error = match api.publisher.publish_for(what, &delivery.message, within).await {
        Ok(position) => {
            tracing::debug!(
                requestId = delivery.request.text(),
                orderId = delivery.order_id,
                traceId = delivery.trace.map(|trace| trace.trace_id()),
                spanId = delivery.trace.map(|trace| trace.span_id()),
                ?position,
                "accepted"
            );
            return Ok(());
        }
        Err(error) => error,
    };
    let problem = match &error {
        _ if api.publisher.gate().is_shut() => {
            let message = "this process is stopping: send it again under the same X-Request-Id, another one answers";
            return Err(Problem::unavailable("stopping", message, 1));
        }
        PublishError::Refused { retriable: false, .. } | PublishError::TooLarge { .. }
            if size(&delivery.message) + OVERHEAD > delivery.max_message_bytes =>
        {
            let message =
                format!("with its attributes the message is too large for its topic, which takes {} bytes", delivery.max_message_bytes);
            return Err(Problem::too_large(message));
        }
        PublishError::Refused { reason, .. } | PublishError::TooLarge { reason } => down(reason),
        PublishError::Unknown { reason } => unknown(&delivery.request, reason),
    };
    log_dead_letter(delivery, &error);
    Err(problem)
}

fn down(reason: &str) -> Problem {
    let message = format!("the backend cannot take it now, nothing was accepted: {reason}");
    Problem::unavailable("backend_unavailable", message, RETRY_AFTER_DOWN)
}

fn unknown(request: &RequestId, reason: &str) -> Problem {
    let message = format!(
        "whether it was accepted is not known: {reason}. Send it again with X-Request-Id: {}: it takes effect once, whichever of the two arrives",
        request.text()
    );
    Problem::unknown_outcome(message, RETRY_AFTER_UNKNOWN)
}

fn size(message: &Outgoing) -> usize {
    let headers: usize = message.headers.iter().map(|h| h.name.len() + h.value.len()).sum();
    headers + message.payload.as_ref().map_or(0, |p| p.len()) + message.key.as_ref().map_or(0, |k| k.len())
}

/// OA-10: what failed for good, with all that is needed to publish it again. It keeps its ids, so that doing so is safe
/// even where the client has sent it again, or where it did arrive.
fn log_dead_letter(delivery: &Delivery, error: &PublishError) {
    let Outgoing { topic, key, headers, payload, .. } = &delivery.message;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers: serde_json::Map<_, _> = headers.iter().map(|h| (h.name.to_string(), text(&h.value).into())).collect();
    let payload = payload.as_deref().unwrap_or_default();
    let letter = serde_json::json!({
        "topic": &**topic,
        "key": key.as_deref().map(text),
        "headers": headers,
        "payload": (payload.len() <= LARGEST_LETTER).then(|| text(payload)),
    });
    tracing::error!(
        target: "dead_letter",
        event = delivery.event,
        orderId = delivery.order_id,
        requestId = delivery.request.text(),
        traceId = delivery.trace.map(|trace| trace.trace_id()),
        spanId = delivery.trace.map(|trace| trace.span_id()),
        reason = %error,
        bytes = payload.len(),
        %letter,
        "not published"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_request_has_the_same_ids_and_any_other_has_others() {
        let both = |principal, route, request| (event_id(principal, route, request), order_id(principal, route, request));
        let ids = both("web", "POST /orders", "r1");
        assert_eq!(ids, both("web", "POST /orders", "r1"));
        assert_eq!(ids.0.to_string(), "655f7adc-b08f-5e06-811f-97d4596e1c81");
        assert_ne!(ids.0, ids.1);
        for other in [both("app", "POST /orders", "r1"), both("web", "PATCH /orders/1", "r1"), both("web", "POST /orders", "r2")] {
            assert_ne!(ids.0, other.0);
            assert_ne!(ids.1, other.1);
        }
    }
}
