//! Carries a plan out.

use super::super::check::Cents;
use super::super::failure::failed;
use super::super::plan::{Patch, Plan};
use super::super::{Applied, Change, StoreError};
use super::column::{Column, sent};
use super::lock::{Missing, Rows};
use super::stamp::Stamp;
use crds::pipeline::Effect;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use std::collections::HashSet;

pub async fn write(connection: &mut PgConnection, missing: &Missing<'_>, plan: &Plan<'_>) -> Result<(), StoreError> {
    new_orders(connection, missing, plan).await?;
    if !plan.patches.is_empty() {
        patches(connection, &plan.patches).await?;
    }
    if !plan.waits.is_empty() {
        waits(connection, &plan.waits).await?;
    }
    if !plan.waited.is_empty() {
        sqlx::query("DELETE FROM early_events WHERE event_id = ANY($1)")
            .bind(&plan.waited)
            .execute(&mut *connection)
            .await
            .map_err(|e| failed("ending the wait of events", e))?;
    }
    if !plan.refused.is_empty() {
        let (events, why): (Vec<&str>, Vec<&str>) = plan.refused.iter().map(|(event, why)| (*event, why.as_str())).unzip();
        sqlx::query(
            "UPDATE early_events e SET refused = n.refused FROM UNNEST($1::text[], $2::text[]) AS n(event_id, refused) \
             WHERE e.event_id = n.event_id",
        )
        .bind(events)
        .bind(why)
        .execute(connection)
        .await
        .map_err(|e| failed("refusing events that waited", e))?;
    }
    Ok(())
}

/// Most new orders lie there since they were locked. What is left are placeholders that nobody filled, and orders that another event
/// made than the one expected.
async fn new_orders(connection: &mut PgConnection, missing: &Missing<'_>, plan: &Plan<'_>) -> Result<(), StoreError> {
    let stays =
        |id: &str, event_id: &str| missing.get(id).and_then(Option::as_ref).is_some_and(|expected| expected.by.change.event_id == event_id);
    let (right, other): (Vec<_>, Vec<_>) = plan.made.iter().partition(|made| stays(&made.by.change.order_id, &made.by.change.event_id));
    let right: HashSet<&str> = right.iter().map(|made| made.by.change.order_id.as_str()).collect();
    let placeholders: Vec<&str> = missing.keys().filter(|id| !right.contains(**id)).copied().collect();
    if !placeholders.is_empty() {
        sqlx::query("DELETE FROM orders WHERE order_id = ANY($1)")
            .bind(placeholders)
            .execute(&mut *connection)
            .await
            .map_err(|e| failed("removing placeholders", e))?;
    }
    if !other.is_empty() {
        let rows = Rows::of(other.iter().map(|made| (made.by.change.order_id.as_str(), Some(*made))));
        rows.insert(connection).await.map_err(|e| failed("inserting orders", e))?;
    }
    Ok(())
}

async fn patches(connection: &mut PgConnection, patches: &[(&str, Patch<'_>)]) -> Result<(), StoreError> {
    fn column<'p, T>(patches: &'p [(&str, Patch)], of: impl Fn(&'p Patch) -> Option<T>) -> Option<Column<T>> {
        sent(patches.iter().map(|(_, patch)| of(patch)).collect())
    }
    sqlx::query(
        "UPDATE orders o SET tenant_id = COALESCE(n.tenant_id, o.tenant_id), customer_id = COALESCE(n.customer_id, o.customer_id), \
                items = COALESCE(n.items::jsonb, o.items), total_amount = COALESCE(n.total::decimal, o.total_amount), \
                status = COALESCE(n.status, o.status), created_at = COALESCE(n.created_at, o.created_at), \
                fields = COALESCE(n.fields::jsonb, o.fields), field_times = COALESCE(n.times::jsonb, o.field_times), \
                updated_at = clock_timestamp() \
         FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[], $8::text[], $9::text[]) \
           AS n(order_id, tenant_id, customer_id, items, total, status, created_at, fields, times) \
         WHERE o.order_id = n.order_id",
    )
    .bind(patches.iter().map(|(order_id, _)| *order_id).collect::<Vec<_>>())
    .bind(column(patches, |p| p.tenant))
    .bind(column(patches, |p| p.customer))
    .bind(column(patches, |p| p.items))
    .bind(column(patches, |p| p.total.as_ref().map(Cents::to_string)))
    .bind(column(patches, |p| p.status))
    .bind(column(patches, |p| p.created_at.map(Stamp)))
    .bind(column(patches, |p| p.fields.as_deref()))
    .bind(column(patches, |p| p.times.as_deref()))
    .execute(connection)
    .await
    .map(drop)
    .map_err(|e| failed("changing orders", e))
}

async fn waits(connection: &mut PgConnection, waits: &[&Change]) -> Result<(), StoreError> {
    let changes = waits.iter().map(serde_json::to_string).collect::<Result<Vec<String>, _>>();
    let changes = changes.map_err(|e| StoreError::Refused(format!("an event that has to wait cannot be written as JSON: {e}")))?;
    sqlx::query(
        "INSERT INTO early_events (event_id, order_id, change) \
         SELECT n.event_id, n.order_id, n.change::json FROM UNNEST($1::text[], $2::text[], $3::text[]) AS n(event_id, order_id, change) \
         ON CONFLICT (event_id) DO NOTHING",
    )
    .bind(waits.iter().map(|c| c.event_id.as_str()).collect::<Vec<_>>())
    .bind(waits.iter().map(|c| c.order_id.as_str()).collect::<Vec<_>>())
    .bind(changes)
    .execute(connection)
    .await
    .map(drop)
    .map_err(|e| failed("keeping events that wait", e))
}

pub async fn notes(connection: &mut PgConnection, batch: &[Change], plan: &mut Plan<'_>) -> Result<(), StoreError> {
    if plan.notes.is_empty() {
        return Ok(());
    }
    // An event with an effect was looked for while its order was held. Was it noted since, then for another order: that fails the batch,
    // and the next try sees it. To insert with care costs half as much again, and is only for those that no order holds apart.
    if plan.notes.iter().all(|change| change.effect != Effect::None) {
        return note(connection, &plan.notes, "").await.map(drop);
    }
    let new = note(connection, &plan.notes, "ON CONFLICT (event_id) DO NOTHING RETURNING event_id").await?;
    if new.len() == plan.notes.len() {
        return Ok(());
    }
    // Somebody noted some of them after we had looked. Without an effect that only makes them repeats; else we must look again.
    let new: HashSet<&str> = new.iter().map(String::as_str).collect();
    let lost = |change: &Change| !new.contains(change.event_id.as_str());
    if let Some(change) = plan.notes.iter().find(|c| c.effect != Effect::None && lost(c)) {
        return Err(StoreError::Transient(format!("the event {} took effect for another order at the same time", change.event_id)));
    }
    for (change, outcome) in batch.iter().zip(&mut plan.outcomes) {
        if *outcome == Applied::Done && change.effect == Effect::None && lost(change) {
            *outcome = Applied::Repeat;
        }
    }
    Ok(())
}

/// Numbered in the order in which the events took effect, inserted in the order of their ids: two batches with the same events, which
/// no order's row need hold apart (effect None), cannot wait for each other.
async fn note(connection: &mut PgConnection, notes: &[&Change], noted_already: &str) -> Result<Vec<String>, StoreError> {
    let insert = format!(
        "WITH n AS MATERIALIZED (SELECT nextval('applied_events_seq') AS seq, u.* \
                                 FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[]) AS u(event_id, order_id, event, source)) \
         INSERT INTO applied_events (seq, event_id, order_id, event, source) \
         SELECT seq, event_id, order_id, event, source FROM n ORDER BY event_id COLLATE \"C\" {noted_already}"
    );
    sqlx::query_scalar(AssertSqlSafe(insert))
        .bind(notes.iter().map(|c| c.event_id.as_str()).collect::<Vec<_>>())
        .bind(notes.iter().map(|c| c.order_id.as_str()).collect::<Vec<_>>())
        .bind(notes.iter().map(|c| c.event.as_str()).collect::<Vec<_>>())
        .bind(notes.iter().map(|c| c.source.as_str()).collect::<Vec<_>>())
        .fetch_all(connection)
        .await
        .map_err(|e| failed("noting events", e))
}
