//! Forgets what is old, a few thousand rows at a time, so that no lock is held for long.

use super::super::failure::failed;
use super::super::{EXPIRED_AT_ONCE, Expired, HANDED_OUT, StoreError, TIDY_STEP, TIDY_STEPS, handed_out};
use sqlx::postgres::PgConnection;
use std::time::Duration;

pub async fn tidy(connection: &mut PgConnection, keep: Duration) -> Result<bool, StoreError> {
    let keep = keep.as_secs_f64();
    let mut more = false;
    for statement in [
        "DELETE FROM applied_events WHERE ctid = ANY(ARRAY(\
           SELECT ctid FROM applied_events AS note WHERE applied_at < now() - $1 * interval '1 second' \
             AND NOT EXISTS (SELECT FROM failed_messages AS letter WHERE letter.event_id = note.event_id) LIMIT $2 FOR UPDATE SKIP LOCKED))",
        "DELETE FROM request_claims WHERE ctid = ANY(ARRAY(\
           SELECT ctid FROM request_claims WHERE claimed_at < now() - $1 * interval '1 second' AND lease_until < now() \
           LIMIT $2 FOR UPDATE SKIP LOCKED))",
    ] {
        let mut steps = 0..TIDY_STEPS;
        more |= loop {
            if steps.next().is_none() {
                break true;
            }
            let gone = sqlx::query(statement).bind(keep).bind(TIDY_STEP).execute(&mut *connection).await;
            if (gone.map_err(|e| failed("forgetting old notes", e))?.rows_affected() as i64) < TIDY_STEP {
                break false;
            }
        };
    }
    Ok(more)
}

pub async fn expired(connection: &mut PgConnection, keep: Duration) -> Result<Vec<Expired>, StoreError> {
    // SKIP LOCKED: a Create that is applying the event now has it
    let letters: Vec<(String, Option<String>)> = sqlx::query_as(
        "UPDATE early_events SET handed_at = now() WHERE event_id = ANY(ARRAY(\
           SELECT event_id FROM early_events \
           WHERE (refused IS NOT NULL OR arrived_at < now() - $1 * interval '1 second') \
             AND (handed_at IS NULL OR handed_at < now() - $2 * interval '1 second') \
           ORDER BY seq LIMIT $3 FOR UPDATE SKIP LOCKED)) \
         RETURNING change::text, refused",
    )
    .bind(keep.as_secs_f64())
    .bind(HANDED_OUT.as_secs_f64())
    .bind(EXPIRED_AT_ONCE as i64)
    .fetch_all(connection)
    .await
    .map_err(|e| failed("looking for events that waited too long", e))?;
    Ok(letters.into_iter().filter_map(handed_out).collect())
}

pub async fn forget(connection: &mut PgConnection, event_ids: &[String]) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM early_events WHERE event_id = ANY($1) AND handed_at IS NOT NULL")
        .bind(event_ids)
        .execute(connection)
        .await
        .map(drop)
        .map_err(|e| failed("forgetting dead letters", e))
}
