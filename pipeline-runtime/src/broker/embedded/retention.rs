//! Removes what is older than its topic keeps, in small steps between which others can write.

use super::core::{Core, Log, Topic};
use super::tables::offset_of;
use super::writer::now_ms;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

const EVERY: Duration = Duration::from_secs(60);
/// The most messages that go in one transaction.
const STEP: i64 = 1000;

/// Goes on as long as the broker is there.
pub async fn run(core: Weak<Core>) {
    let mut every = interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let Some(core) = core.upgrade() else { return };
        match remove_old(&core, now_ms()).await {
            Ok(0) => {}
            Ok(count) => tracing::debug!(backend = &*core.name, count, "removed messages past their retention"),
            Err(error) => tracing::warn!(backend = &*core.name, "cannot remove messages past their retention, will try again: {error}"),
        }
    }
}

/// Returns how many messages went.
pub async fn remove_old(core: &Arc<Core>, now_ms: i64) -> Result<u64, sqlx::Error> {
    let mut removed = 0;
    for topic in core.topics() {
        for log in &topic.logs {
            loop {
                let step = remove_step(core, &topic, log, now_ms).await?;
                removed += step;
                if step < STEP as u64 {
                    break;
                }
            }
        }
    }
    Ok(removed)
}

async fn remove_step(core: &Core, topic: &Topic, log: &Log, now_ms: i64) -> Result<u64, sqlx::Error> {
    const LAST_OLD: &str = "SELECT max(id) FROM (SELECT id, timestamp_ms FROM broker_messages WHERE id >= ? AND id < ? ORDER BY id LIMIT ?)
        WHERE timestamp_ms < ?";
    let ids = log.ids_from(0);
    let last: Option<i64> = sqlx::query_scalar(LAST_OLD)
        .bind(ids.start)
        .bind(ids.end)
        .bind(STEP)
        .bind(now_ms.saturating_sub(topic.retention.as_millis() as i64))
        .fetch_one(&core.database.readers)
        .await?;
    let Some(last) = last else { return Ok(0) };
    let mut transaction = core.database.writer.begin_with("BEGIN IMMEDIATE").await?;
    let removed = sqlx::query("DELETE FROM broker_messages WHERE id >= ? AND id <= ?").bind(ids.start).bind(last);
    let removed = removed.execute(&mut *transaction).await?.rows_affected();
    // An empty partition must not begin at 0 again: offsets are never given twice.
    let next = sqlx::query("UPDATE broker_partitions SET next = max(next, ?) WHERE id = ?").bind(offset_of(last) + 1).bind(log.row);
    next.execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(removed)
}
