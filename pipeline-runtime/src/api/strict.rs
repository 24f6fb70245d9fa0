//! `idempotency: Strict`: a request id is claimed in the store before anything is published, so that one message is written
//! whichever pods are met.
//!
//! The limit of that promise: after a publish whose outcome stays unknown the same request may be published again, and is then a
//! second message (with the same ids: no second effect).

use super::errors::Problem;
use crate::store::{Claim, Store, StoreError};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// One question to the store.
const ASK_WITHIN: Duration = Duration::from_secs(3);
/// What may pass between the end of a publish and the claim's settlement before another pod takes the claim over.
const SETTLE_WITHIN: Duration = Duration::from_secs(10);
const FIRST_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_millis(200);
const SETTLE_ATTEMPTS: u32 = 3;

pub(super) enum Taken {
    Ours,
    AcceptedBefore,
}

/// Claims a request id; while another pod is at the same request, waits for what becomes of it.
pub(super) async fn take(store: &dyn Store, request: &str, body: [u8; 32], publish: Duration) -> Result<Taken, Problem> {
    let deadline = Instant::now() + publish;
    let mut wait = FIRST_WAIT;
    loop {
        match ask(store.claim(request, body, publish + SETTLE_WITHIN)).await {
            Ok(Claim::Ours) => return Ok(Taken::Ours),
            Ok(Claim::Answered { body_hash, .. }) if body_hash == body => return Ok(Taken::AcceptedBefore),
            Ok(Claim::Answered { .. } | Claim::OtherBody) => return Err(Problem::request_id_reused()),
            Ok(Claim::Pending) if Instant::now() >= deadline => {
                let message = "another request with the same X-Request-Id is still being published: ask again under the same id";
                return Err(Problem::unavailable("in_progress", message, 1));
            }
            Ok(Claim::Pending) => {
                sleep(wait).await;
                wait = (wait * 2).min(LONGEST_WAIT);
            }
            Err(e) => return Err(away(&e)),
        }
    }
}

/// Notes the answer. The order is accepted by now, so that a failure here is no reason to refuse it.
pub(super) async fn settle(store: &dyn Store, request: &str, answer: &str) {
    for attempt in 1..=SETTLE_ATTEMPTS {
        match ask(store.settle_claim(request, answer)).await {
            Ok(()) => return,
            Err(e) if attempt == SETTLE_ATTEMPTS => {
                tracing::warn!(
                    "the answer to an accepted request cannot be noted: {e}; a repeat may become a second message with the same ids"
                );
            }
            Err(_) => sleep(LONGEST_WAIT).await,
        }
    }
}

/// Nothing was published: whoever repeats the request may try at once.
pub(super) async fn release(store: &dyn Store, request: &str) {
    if let Err(e) = ask(store.release_claim(request)).await {
        tracing::warn!("a claim cannot be given back: {e}; a repeat has to wait until it runs out");
    }
}

/// Something may have been published: the same request may be sent again at once, and no other one under its id.
pub(super) async fn leave(store: &dyn Store, request: &str) {
    if let Err(e) = ask(store.leave_claim(request)).await {
        tracing::warn!("a claim cannot be left: {e}; a repeat has to wait until it runs out");
    }
}

/// A question to the store, bounded in time.
pub(super) async fn ask<T>(question: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    timeout(ASK_WITHIN, question).await.unwrap_or_else(|_| Err(StoreError::Transient(format!("no answer within {ASK_WITHIN:?}"))))
}

pub(super) fn away(error: &StoreError) -> Problem {
    match error {
        StoreError::Transient(_) | StoreError::Away(_) => {
            Problem::unavailable("store_unavailable", format!("{error}: send it again a little later"), 2)
        }
        StoreError::Refused(_) => Problem::new(axum::http::StatusCode::UNPROCESSABLE_ENTITY, "refused_by_store", error.to_string()),
    }
}
