//! Tells a webhook of the dead letters that matter, and forgets those that were kept long enough. One for each process.
//!
//! Which letters are due stands in the store, with how often it was tried: so each is told of though a worker is killed, by one worker at a
//! time. The webhook may get one twice, with the same Idempotency-Key, since its answer can be lost.

use super::report::notes_kept;
use super::told::{Answer, Told};
use super::{WorkerError, WorkerHealth};
use crate::store::{Failed, FailedMessages, MOST_KEPT, StoreError};
use arc_swap::ArcSwap;
use bytes::Bytes;
use chrono::SecondsFormat;
use crds::pipeline::SecretKeyRef;
use crds::runtime_config::{AlertConfig, AlertUrl, RuntimeConfig};
use serde_json::json;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

/// With the delays of `spec.worker.retry` as they are by default: an hour.
const TRIES: u32 = 20;
/// Handed out at once: fewer than can be told within the lease, also by a webhook that takes its time.
const AT_ONCE: u32 = 10;
/// What another worker has kept is looked for so often.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const FORGET_EVERY: Duration = Duration::from_secs(300);

/// The value of a key of a Secret as it is now.
pub type SecretValue = dyn Fn(&SecretKeyRef) -> Result<String, String> + Send + Sync;

pub struct AlertDeps {
    pub config: Arc<ArcSwap<RuntimeConfig>>,
    pub letters: Arc<dyn FailedMessages>,
    pub health: Arc<WorkerHealth>,
    /// Somebody is to be told of a letter.
    pub due: Arc<Notify>,
    pub secret: Arc<SecretValue>,
}

/// Runs until `shutdown`.
pub async fn alerts(deps: AlertDeps, shutdown: impl Future<Output = ()> + Send) -> Result<(), WorkerError> {
    let work = async {
        let webhook = match Told::new("the webhook for dead letters", deps.health.counters.alert_circuit.clone()) {
            Ok(webhook) => webhook,
            Err(reason) => {
                tracing::error!(reason, "nobody is told of dead letters");
                return std::future::pending().await;
            }
        };
        let mut forget = Instant::now() + FORGET_EVERY;
        loop {
            let look = Instant::now() + LOOK_EVERY;
            let _ = timeout_at(look, deps.due.notified()).await;
            let config = deps.config.load_full();
            let Some(worker) = &config.worker else { continue };
            if let Some(alert) = &worker.dead_letters.alert {
                tell_all(&deps, &webhook, &config, alert).await;
            }
            if Instant::now() >= forget {
                forget = Instant::now() + FORGET_EVERY;
                forget_old(&*deps.letters, worker.dead_letters.keep, notes_kept(&config)).await;
            }
        }
    };
    tokio::select! {
        biased;
        () = shutdown => Ok(()),
        () = work => Ok(()),
    }
}

async fn forget_old(letters: &dyn FailedMessages, keep: Duration, replayed: Duration) {
    match letters.forget_letters(keep, replayed, MOST_KEPT).await {
        Ok(0) => {}
        Ok(gone) => tracing::info!(gone, "dead letters were kept for {} s, or were the oldest of too many: forgotten", keep.as_secs()),
        Err(error) => tracing::warn!(%error, "old dead letters cannot be forgotten now; it is tried again later"),
    }
}

/// All that are due, some at a time.
async fn tell_all(deps: &AlertDeps, webhook: &Told, config: &RuntimeConfig, alert: &AlertConfig) {
    loop {
        let due = match deps.letters.alerts(AT_ONCE).await {
            Ok(due) if due.is_empty() => return,
            Ok(due) => due,
            Err(error) => return tracing::warn!(%error, "cannot look whom to tell of dead letters; looking again"),
        };
        for (failed, tries) in due {
            let outcome = tell(deps, webhook, config, alert, &failed).await;
            if let Err(error) = note(deps, config, &failed, tries, outcome).await {
                tracing::warn!(%error, id = failed.facts.id, "an alert cannot be noted: it may be told once more");
                // The lease is over before it is looked at again.
                return sleep(LOOK_EVERY).await;
            }
        }
    }
}

async fn tell(deps: &AlertDeps, webhook: &Told, config: &RuntimeConfig, alert: &AlertConfig, failed: &Failed) -> Answer {
    let (url, shown) = match &alert.url {
        AlertUrl::Plain(url) => (url.clone(), url.clone()),
        // Such an address is itself the right to write there: it is not shown.
        AlertUrl::Secret(reference) => match (deps.secret)(reference) {
            Ok(url) => (url, format!("the address in secret {}/{}", reference.name, reference.key)),
            Err(reason) => return Answer::Failed(reason),
        },
    };
    webhook.tell(&url, &shown, alert.timeout, &failed.facts.id, body(config, failed), None).await
}

/// Without key and data, which may be a person's: those are for who has the right to see them.
fn body(config: &RuntimeConfig, failed: &Failed) -> Bytes {
    let Failed { facts, .. } = failed;
    let topic = facts.topic.as_deref().unwrap_or("an unknown topic");
    let time = |time: chrono::DateTime<chrono::Utc>| time.to_rfc3339_opts(SecondsFormat::Millis, true);
    let body = json!({
        "id": facts.id, "pipeline": config.pipeline, "namespace": config.namespace,
        "text": format!("{}/{}: a message of {topic} became a dead letter after {} attempts: {}", config.namespace, config.pipeline, facts.attempts, facts.reason),
        "topic": facts.topic, "partition": facts.partition, "offset": facts.offset, "eventId": facts.event_id,
        "errorType": facts.error_type, "reason": facts.reason, "attempts": facts.attempts,
        "publishTime": time(facts.published_at), "failedAt": time(facts.failed_at), "deadLetter": facts.letter,
    });
    Bytes::from(body.to_string())
}

async fn note(deps: &AlertDeps, config: &RuntimeConfig, failed: &Failed, tries: u32, outcome: Answer) -> Result<(), StoreError> {
    let (id, counters) = (&*failed.facts.id, &deps.health.counters);
    let reason = match outcome {
        Answer::Taken => {
            counters.alerts.add(1);
            return deps.letters.note_alert(id).await;
        }
        Answer::Down(pause) => {
            return deps.letters.note_alert_failure(id, "the webhook is taken to be down", false, Some(pause)).await;
        }
        // Also what it refuses: an address that is mended, or a key, makes it take it.
        Answer::Refused(reason) | Answer::Failed(reason) => reason,
    };
    let again = config.worker.as_ref().filter(|_| tries + 1 < TRIES).map(|worker| worker.retry.delay(tries, rand::random()));
    match again {
        Some(pause) => tracing::warn!(id, reason, "nobody could be told of a dead letter, trying again in {pause:?}"),
        None => {
            counters.alerts_given_up.add(1);
            tracing::error!(id, reason, "nobody could be told of a dead letter in {TRIES} tries: it is kept, see pipeline-runtime dlq");
        }
    }
    deps.letters.note_alert_failure(id, &reason, true, again).await
}
