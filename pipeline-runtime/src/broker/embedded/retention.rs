//! Removes what is older than its topic keeps, in small steps between which others can write.
//!
//! Of a topic that a group reads nothing goes that the group has not committed: a laptop that was shut for a week must not come
//! back to orders that nobody has processed and nobody has any more.

use super::core::{Core, Log};
use super::tables::offset_of;
use super::writer::now_ms;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

const EVERY: Duration = Duration::from_secs(60);
/// The most messages that go in one transaction.
const STEP: i64 = 1000;

/// Goes on as long as the broker is there.
pub async fn run(core: Weak<Core>) {
    // Not at once: who comes back after a long time may read first.
    let mut every = interval_at(Instant::now() + EVERY, EVERY);
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
        let cutoff = now_ms.saturating_sub(topic.retention.as_millis() as i64);
        for (number, log) in topic.logs.iter().enumerate() {
            let committed = lowest_commit(core, log).await?;
            let mut removed_here = 0;
            loop {
                let step = remove_step(core, log, committed, cutoff).await?;
                removed_here += step;
                if step < STEP as u64 {
                    break;
                }
            }
            removed += removed_here;
            match committed {
                None if removed_here > 0 => {
                    tracing::warn!(topic = &*topic.name, number, removed_here, "removed by age messages that no group has ever read")
                }
                Some(next) if is_old(core, log, next, cutoff).await? => tracing::warn!(
                    topic = &*topic.name,
                    number,
                    next,
                    "messages are past their retention and kept, since a group has not committed them: let its worker run"
                ),
                _ => {}
            }
        }
    }
    Ok(removed)
}

/// How far all groups have come that read the topic of this partition; one that has committed in others only has not begun here.
/// None: there is no group.
async fn lowest_commit(core: &Core, log: &Log) -> Result<Option<i64>, sqlx::Error> {
    const LOWEST: &str = "SELECT min(ifnull(c.next, 0)) FROM (
          SELECT DISTINCT o.group_name FROM broker_commits o JOIN broker_partitions p ON p.id = o.partition
          WHERE p.topic = (SELECT topic FROM broker_partitions WHERE id = ?1)) g
        LEFT JOIN broker_commits c ON c.partition = ?1 AND c.group_name = g.group_name";
    sqlx::query_scalar(LOWEST).bind(log.row).fetch_one(&core.database.readers).await
}

/// Whether the first message from this offset on is older.
async fn is_old(core: &Core, log: &Log, offset: i64, cutoff: i64) -> Result<bool, sqlx::Error> {
    let ids = log.ids_from(offset);
    let first: Option<i64> = sqlx::query_scalar("SELECT timestamp_ms FROM broker_messages WHERE id >= ? AND id < ? ORDER BY id LIMIT 1")
        .bind(ids.start)
        .bind(ids.end)
        .fetch_optional(&core.database.readers)
        .await?;
    Ok(first.is_some_and(|published| published < cutoff))
}

async fn remove_step(core: &Core, log: &Log, committed: Option<i64>, cutoff: i64) -> Result<u64, sqlx::Error> {
    const LAST_OLD: &str = "SELECT max(id) FROM (SELECT id, timestamp_ms FROM broker_messages WHERE id >= ? AND id < ? ORDER BY id LIMIT ?)
        WHERE timestamp_ms < ?";
    let ids = log.ids_from(0);
    let end = committed.map_or(ids.end, |next| log.ids_from(next).start);
    let last: Option<i64> =
        sqlx::query_scalar(LAST_OLD).bind(ids.start).bind(end).bind(STEP).bind(cutoff).fetch_one(&core.database.readers).await?;
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
