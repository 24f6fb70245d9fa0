//! What a plan depends on, read when the orders are held.

use super::super::check::Checked;
use super::super::failure::failed;
use super::super::plan::Known;
use super::super::{Change, StoreError, readable};
use super::lock::{Existing, Missing};
use crds::pipeline::Effect;
use sqlx::postgres::PgConnection;
use std::collections::HashMap;

/// Also the updates that wait for orders which are new, in order of arrival.
pub async fn read(
    connection: &mut PgConnection,
    batch: &[Result<Checked<'_>, String>],
    missing: &Missing<'_>,
    existing: Existing,
) -> Result<(Known, Vec<Change>), StoreError> {
    let mut known = Known { orders: existing, ..Known::default() };
    let mut events: Vec<&str> =
        batch.iter().flatten().filter(|c| c.change.effect != Effect::Create).map(|c| c.change.event_id.as_str()).collect();
    let early = if missing.is_empty() && events.is_empty() { Vec::new() } else { waiting(connection, &events, missing).await? };
    let mut changes = Vec::new();
    for (event_id, order_id, change, dead) in &early {
        if missing.contains_key(order_id.as_str()) && !dead {
            // One that cannot be read stays, and becomes no fault of its Create.
            changes.extend(readable(change));
            events.push(event_id);
        }
        known.waiting.insert(event_id.clone(), order_id.clone());
    }
    if !events.is_empty() {
        known.noted = noted(connection, &events).await?;
    }
    Ok((known, changes))
}

async fn waiting(
    connection: &mut PgConnection,
    events: &[&str],
    missing: &Missing<'_>,
) -> Result<Vec<(String, String, String, bool)>, StoreError> {
    let orders: Vec<&str> = missing.iter().filter(|(_, made)| made.is_some()).map(|(id, _)| *id).collect();
    // Held, so that `tidy` does not hand out what takes effect now.
    sqlx::query_as(
        "SELECT event_id, order_id, change::text, refused IS NOT NULL OR handed_at IS NOT NULL FROM early_events \
         WHERE order_id = ANY($1) OR event_id = ANY($2) ORDER BY seq FOR UPDATE",
    )
    .bind(orders)
    .bind(events)
    .fetch_all(connection)
    .await
    .map_err(|e| failed("reading the events that wait", e))
}

async fn noted(connection: &mut PgConnection, events: &[&str]) -> Result<HashMap<String, String>, StoreError> {
    let noted: Vec<(String, String)> = sqlx::query_as("SELECT event_id, order_id FROM applied_events WHERE event_id = ANY($1)")
        .bind(events)
        .fetch_all(connection)
        .await
        .map_err(|e| failed("reading the notes of applied events", e))?;
    Ok(noted.into_iter().collect())
}
