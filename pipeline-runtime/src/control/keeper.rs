use super::prepare::{Needs, usable};
use crate::publish::Publisher;
use crds::switch::{SwitchState, Verdict};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// What was given up and has not been reported yet is given up once more after this.
const PURGE_AGAIN: Duration = Duration::from_millis(100);

/// What a process does at its gate, wherever the state comes from: it prepares the target of a switch, and gives up what is still on its
/// way when the others have waited long enough. Runs until dropped; `changed` is told whenever there may be another answer.
pub async fn keep(publisher: Publisher, needs: Needs, changed: Arc<Notify>) {
    let gate = publisher.gate().clone();
    let mut preparing = JoinSet::new();
    let mut asked = None;
    let mut purged: Option<Instant> = None;
    loop {
        if let Some((by, target)) = gate.to_prepare() {
            let of = (by.lineage().clone(), by.since());
            if asked.as_ref() != Some(&of) {
                // What was begun for an earlier one is of no use any more.
                preparing.abort_all();
                preparing.spawn(prepare(publisher.clone(), needs.clone(), by, target));
                asked = Some(of);
            }
        }
        let purge_at = gate.purge_at().map(|at| purged.map_or(at, |last| at.max(last + PURGE_AGAIN)));
        tokio::select! {
            biased;
            () = gate.news() => {}
            Some(done) = preparing.join_next() => if let Ok((by, verdict)) = done {
                gate.prepared(&by, verdict);
            },
            () = sleep_until(purge_at.unwrap_or_else(Instant::now)), if purge_at.is_some() => {
                if purged.is_none_or(|last| last.elapsed() > PURGE_AGAIN * 2) {
                    tracing::warn!(in_flight = gate.in_flight(), "what is still on its way to the old backend is given up, so that writes can go on: its outcome is unknown");
                }
                purged = Some(Instant::now());
                publisher.purge();
            }
        }
        changed.notify_one();
    }
}

async fn prepare(publisher: Publisher, needs: Needs, by: Arc<SwitchState>, target: Arc<str>) -> (Arc<SwitchState>, Verdict) {
    let usable = async { usable(&*publisher.brokers().get(&target)?, &needs).await };
    let verdict = usable.await.map_or_else(Verdict::Refused, |()| Verdict::Ready);
    match &verdict {
        Verdict::Ready => tracing::info!(backend = &*target, "the backend can be used"),
        Verdict::Refused(why) => tracing::warn!(backend = &*target, why, "the backend cannot be used"),
    }
    (by, verdict)
}
