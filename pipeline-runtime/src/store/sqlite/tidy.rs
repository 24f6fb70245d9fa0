//! Forgets what is old, and in a bounded store what is too much.

use super::super::failure::failed;
use super::super::{EXPIRED_AT_ONCE, Expired, HANDED_OUT, StoreError, TIDY_STEP, TIDY_STEPS, handed_out};
use super::read::array;
use super::{before, now};
use sqlx::{SqliteConnection, SqlitePool};
use std::time::Duration;

/// A bounded store keeps this many notes for each order it may keep. They take as much room as the orders themselves, and the whole
/// has to fit a small pod: an order that sees more in its life is still known by the newest of them.
const NOTES_PER_ORDER: i64 = 4;

pub async fn tidy(writer: &SqlitePool, keep: Duration) -> Result<bool, StoreError> {
    let past = before(keep);
    let mut more = false;
    for statement in [
        // the lowest number that is not old ends it: no more is read than goes, but for what has a dead letter
        "DELETE FROM applied_events WHERE seq IN (SELECT seq FROM applied_events AS note WHERE seq < COALESCE(\
           (SELECT seq FROM applied_events WHERE applied_at >= $1 ORDER BY seq LIMIT 1), 9223372036854775807) \
           AND NOT EXISTS (SELECT 1 FROM failed_messages AS letter WHERE letter.event_id = note.event_id) ORDER BY seq LIMIT $2)",
        "DELETE FROM request_claims WHERE request IN \
           (SELECT request FROM request_claims WHERE claimed_at < $1 AND lease_until < $3 LIMIT $2)",
    ] {
        let mut steps = 0..TIDY_STEPS;
        more |= loop {
            if steps.next().is_none() {
                break true;
            }
            let gone = sqlx::query(statement).bind(&past).bind(TIDY_STEP).bind(now()).execute(writer).await;
            if (gone.map_err(|e| failed("forgetting old notes", e))?.rows_affected() as i64) < TIDY_STEP {
                break false;
            }
        };
    }
    Ok(more)
}

pub async fn expired(writer: &SqlitePool, keep: Duration) -> Result<Vec<Expired>, StoreError> {
    let letters: Vec<(String, Option<String>)> = sqlx::query_as(
        "UPDATE early_events SET handed_at = $1 WHERE seq IN (SELECT seq FROM early_events \
           WHERE (refused IS NOT NULL OR arrived_at < $2) AND (handed_at IS NULL OR handed_at < $3) ORDER BY seq LIMIT $4) \
         RETURNING change, refused",
    )
    .bind(now())
    .bind(before(keep))
    .bind(before(HANDED_OUT))
    .bind(EXPIRED_AT_ONCE as i64)
    .fetch_all(writer)
    .await
    .map_err(|e| failed("looking for events that waited too long", e))?;
    Ok(letters.into_iter().filter_map(handed_out).collect())
}

pub async fn forget(writer: &SqlitePool, event_ids: &[String]) -> Result<(), StoreError> {
    let forgotten = sqlx::query("DELETE FROM early_events WHERE event_id IN (SELECT value FROM json_each($1)) AND handed_at IS NOT NULL");
    forgotten.bind(array(event_ids)?).execute(writer).await.map(drop).map_err(|e| failed("forgetting dead letters", e))
}

/// Orders and notes are numbered without gaps and only the lowest ever go, so that the highest number tells how many there are.
pub async fn bound(connection: &mut SqliteConnection, max_orders: u32) -> Result<(), StoreError> {
    let max = i64::from(max_orders);
    for (statement, most) in [
        ("DELETE FROM orders WHERE seq <= (SELECT max(seq) FROM orders) - $1", max),
        ("DELETE FROM applied_events WHERE seq <= (SELECT max(seq) FROM applied_events) - $1", max.saturating_mul(NOTES_PER_ORDER)),
    ] {
        sqlx::query(statement).bind(most).execute(&mut *connection).await.map_err(|e| failed("forgetting the oldest orders", e))?;
    }
    let early = sqlx::query("DELETE FROM early_events WHERE seq <= (SELECT max(seq) FROM early_events) - $1").bind(max);
    let early = early.execute(connection).await.map_err(|e| failed("forgetting the oldest events that wait", e))?;
    if early.rows_affected() > 0 {
        tracing::warn!(events = early.rows_affected(), "events that waited for their Create are gone: the store in memory is full");
    }
    Ok(())
}
