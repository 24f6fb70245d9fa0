//! What the worker does beside its work: ask whether the broker answers, count the backlog, log what was done, tidy the store.

use super::failure::{Failure, Kind};
use super::fence::States;
use super::{Shared, WorkerError, topics};
use crate::store::{EXPIRED_AT_ONCE, Expired};
use crds::runtime_config::RuntimeConfig;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

const ASK_EVERY: Duration = Duration::from_secs(1);
const ASK_DEADLINE: Duration = Duration::from_secs(5);
/// A line of what was done, and a new backlog, after so many questions.
const REPORT_EVERY: u32 = 10;
const TIDY_EVERY: Duration = Duration::from_secs(300);
/// While there is more to tidy than one step takes.
const TIDY_ON: Duration = Duration::from_millis(500);
/// Beyond the topics' retention: a message can come again as long as its topic holds it, so its note must outlive it.
const KEEP_BEYOND: Duration = Duration::from_secs(24 * 3600);

pub(super) async fn report(shared: Arc<Shared>) -> Result<(), WorkerError> {
    let mut before = [0; 4];
    let mut round = 0;
    let mut states = States::of(shared.deps.switching.as_ref());
    loop {
        let health = &shared.deps.health;
        let answer = timeout(ASK_DEADLINE, shared.deps.broker.connected()).await;
        let trouble = match answer {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer from {} within {ASK_DEADLINE:?}", shared.deps.broker.name())),
        };
        let connected = trouble.is_none();
        shared.set_connected(trouble);
        let counters = &health.counters;
        let messages = shared.desk().in_hand().0;
        if round % REPORT_EVERY == 0 && connected {
            shared.gauges.backlog.set(&counters.backlog, backlog(&shared).await.unwrap_or(messages as u64));
        }
        if round % REPORT_EVERY == REPORT_EVERY - 1 {
            let now = [
                counters.processed.get() + counters.repeats.get(),
                counters.failed.get(),
                counters.retries.get(),
                counters.dead_letters.get(),
            ];
            // What was done is counted for all engines together: one of them says it.
            if now != before && shared.active() {
                let [processed, failed, retries, dead_letters] = std::array::from_fn(|i| now[i] - before[i]);
                let seconds = (ASK_EVERY * REPORT_EVERY).as_secs();
                tracing::info!(
                    processed,
                    failed,
                    retries,
                    dead_letters,
                    in_hand = messages,
                    backlog = counters.backlog.get(),
                    "in the last {seconds} s"
                );
            }
            before = now;
        }
        round = round.wrapping_add(1);
        let go_on = tokio::select! {
            biased;
            go_on = shared.sleep(ASK_EVERY) => go_on,
            // Another broker may be what is read now, and readiness is about that one.
            () = states.changed() => !shared.stopping(),
        };
        if !go_on {
            return Ok(());
        }
    }
}

/// What lies on the broker behind the positions of the partitions that we read.
async fn backlog(shared: &Shared) -> Option<u64> {
    let mut ends = HashMap::new();
    for topic in topics(&shared.deps.config.load()) {
        let of_topic = timeout(ASK_DEADLINE, shared.deps.broker.ends(&topic)).await.ok()?.ok()?;
        ends.extend(of_topic.into_iter().map(|end| (end.partition, end.offset)));
    }
    let positions = shared.desk().positions();
    let behind = positions.iter().filter_map(|position| Some(ends.get(&position.partition)? - position.offset));
    Some(behind.map(|behind| behind.max(0) as u64).sum())
}

/// How long the store has to know that an event took effect.
pub(super) fn notes_kept(config: &RuntimeConfig) -> Duration {
    let read = topics(config);
    let retention = config.topics.iter().filter(|topic| read.contains(&topic.name)).map(|topic| topic.retention).max();
    retention.unwrap_or_default() + KEEP_BEYOND
}

/// Forgets what the store need not remember, and buries the updates whose order never came.
pub(super) async fn tidy(shared: Arc<Shared>) -> Result<(), WorkerError> {
    // Workers that start together tidy at different times; in a simulation nothing is left to chance.
    let spread = || TIDY_EVERY.mul_f64(0.75 + 0.5 * if cfg!(test) { 0.5 } else { rand::random::<f64>() });
    let mut pause = spread();
    while shared.sleep(pause).await {
        pause = spread();
        // All engines have one store.
        if !shared.active() {
            continue;
        }
        let config = shared.deps.config.load_full();
        let keep = notes_kept(&config);
        let expired = shared.deps.store.expired(keep).await;
        let mut more = expired.as_ref().is_ok_and(|expired| expired.len() == EXPIRED_AT_ONCE);
        match expired {
            Ok(expired) => bury_all(&shared, &config, expired, keep).await,
            Err(error) => tracing::warn!(%error, "what waited too long for its order cannot be looked for now; it is tried again later"),
        }
        match shared.deps.store.tidy(keep).await {
            Ok(left) => more |= left,
            Err(error) => tracing::warn!(%error, "the store cannot be tidied now; it is tried again later"),
        }
        // What comes faster than a step each few minutes takes away would pile up for ever.
        if more {
            pause = TIDY_ON;
        }
    }
    Ok(())
}

async fn bury_all(shared: &Shared, config: &RuntimeConfig, expired: Vec<Expired>, keep: Duration) {
    let filtered = config.worker.as_ref().is_some_and(|worker| !worker.tenants.is_empty());
    let mut buried = Vec::new();
    for Expired { change, refused } in expired {
        if refused.is_none() && filtered {
            // With a tenant filter it may well be an update of an order that was passed over.
            let (event, order) = (&change.event_id, &change.order_id);
            tracing::info!(eventId = event, orderId = order, "an update without a tenant expired: its order is not one of ours");
            buried.push(change.event_id);
            continue;
        }
        let kind = if refused.is_some() { Kind::Conflict } else { Kind::Expired };
        let reason = refused.unwrap_or_else(|| format!("order {} did not come within {} s", change.order_id, keep.as_secs()));
        if !shared.bury_expired(&change, &Failure::new(kind, reason, Some(&change.event_id))).await {
            break; // the worker stops; the store hands the rest out again
        }
        buried.push(change.event_id);
    }
    if buried.is_empty() {
        return;
    }
    if let Err(error) = shared.deps.store.forget(&buried).await {
        tracing::warn!(%error, "dead letters are written, and may be written once more: the store does not answer");
    }
}
