//! What a plan depends on, and orders as the API shows them.

use super::super::check::Checked;
use super::super::failure::failed;
use super::super::plan::{Current, Known};
use super::super::{Amount, Change, Order, Page, Query, RawJson, StoreError, readable};
use chrono::{DateTime, Utc};
use crds::pipeline::Effect;
use sqlx::{AssertSqlSafe, FromRow, Row, SqliteConnection, SqlitePool};
use std::collections::BTreeSet;

/// Also the updates that wait for orders of the batch, in order of arrival.
pub async fn read(connection: &mut SqliteConnection, batch: &[Result<Checked<'_>, String>]) -> Result<(Known, Vec<Change>), StoreError> {
    let mut known = Known::default();
    let touching = batch.iter().flatten().filter(|c| c.change.effect != Effect::None);
    let orders = array(touching.map(|c| c.change.order_id.as_str()).collect::<BTreeSet<_>>())?;
    type Row = (String, Option<String>, Option<Vec<u8>>, String, String);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT order_id, tenant_id, unhex(content), fields, field_times FROM orders \
         WHERE order_id IN (SELECT value FROM json_each($1))",
    )
    .bind(&orders)
    .fetch_all(&mut *connection)
    .await
    .map_err(|e| failed("reading the orders", e))?;
    for (order_id, tenant, content, fields, times) in rows {
        let content = content.and_then(|c| c.try_into().ok());
        known.orders.insert(order_id, Current::stored(tenant, content, fields, times));
    }
    let makers = batch.iter().flatten().filter(|c| matches!(c.change.effect, Effect::Create | Effect::Upsert));
    let makers = array(makers.map(|c| c.change.order_id.as_str()).collect::<BTreeSet<_>>())?;
    let others = batch.iter().flatten().filter(|c| c.change.effect != Effect::Create);
    let mut events: Vec<&str> = others.map(|c| c.change.event_id.as_str()).collect();
    let early: Vec<(String, String, String, bool)> = sqlx::query_as(
        "SELECT event_id, order_id, change, refused IS NOT NULL OR handed_at IS NOT NULL FROM early_events \
         WHERE order_id IN (SELECT value FROM json_each($1)) OR event_id IN (SELECT value FROM json_each($2)) ORDER BY seq",
    )
    .bind(makers)
    .bind(array(events.iter())?)
    .fetch_all(&mut *connection)
    .await
    .map_err(|e| failed("reading the events that wait", e))?;
    let mut changes = Vec::new();
    for (event_id, order_id, change, dead) in &early {
        if !known.orders.contains_key(order_id) && !dead {
            // One that cannot be read stays, and becomes no fault of its Create.
            changes.extend(readable(change));
            events.push(event_id);
        }
        known.waiting.insert(event_id.clone(), order_id.clone());
    }
    if !events.is_empty() {
        let noted: Vec<(String, String)> =
            sqlx::query_as("SELECT event_id, order_id FROM applied_events WHERE event_id IN (SELECT value FROM json_each($1))")
                .bind(array(events.iter())?)
                .fetch_all(connection)
                .await
                .map_err(|e| failed("reading the notes of applied events", e))?;
        known.noted = noted.into_iter().collect();
    }
    Ok((known, changes))
}

/// Many values as one.
pub fn array<T: serde::Serialize>(values: impl IntoIterator<Item = T>) -> Result<String, StoreError> {
    let values: Vec<T> = values.into_iter().collect();
    serde_json::to_string(&values).map_err(|e| StoreError::Refused(format!("a batch cannot be written as JSON: {e}")))
}

type OrderRow = (String, Option<String>, Option<String>, Option<String>, Option<String>, Option<String>, String, String, String);

pub async fn order(readers: &SqlitePool, id: &str) -> Result<Option<Order>, StoreError> {
    let row: Option<OrderRow> = sqlx::query_as(
        "SELECT order_id, tenant_id, customer_id, items, total_amount, status, created_at, updated_at, fields \
         FROM orders WHERE order_id = $1",
    )
    .bind(id)
    .fetch_optional(readers)
    .await
    .map_err(|e| failed("reading an order", e))?;
    row.map(built).transpose()
}

pub async fn recent(readers: &SqlitePool, query: &Query) -> Result<Page, StoreError> {
    let rows = page(if query.tenant.is_some() { "AND tenant_id = $5" } else { "" });
    // a text behind every time
    let after = query.after.as_ref().map_or(("~".to_owned(), ""), |mark| (super::text(mark.created_at), &mark.order_id));
    let mut rows =
        sqlx::query(AssertSqlSafe(rows)).bind(i64::from(query.limit)).bind(i64::from(query.max_bytes)).bind(after.0).bind(after.1);
    if let Some(tenant) = &query.tenant {
        rows = rows.bind(tenant);
    }
    let unread = |e| failed("reading the recent orders", e);
    let rows = rows.fetch_all(readers).await.map_err(unread)?;
    let found: i64 = rows.first().map_or(Ok(0), |row| row.try_get("found")).map_err(unread)?;
    let orders = rows.iter().map(|row| OrderRow::from_row(row).map_err(unread).and_then(built)).collect::<Result<Vec<_>, _>>()?;
    Ok(Page { more: found > orders.len() as i64, orders })
}

/// The innermost query stops at one row more than asked for: `found` then says whether there are more. How long a text is SQLite knows
/// without reading it, so that what does not fit is not touched.
fn page(filter: &str) -> String {
    format!(
        "SELECT order_id, tenant_id, customer_id, items, total_amount, status, created_at, updated_at, fields, found FROM ( \
           SELECT seq, count(*) OVER () AS found, row_number() OVER newest AS number, sum(bytes) OVER newest AS so_far FROM ( \
             SELECT seq, created_at, order_id, octet_length(order_id) + octet_length(coalesce(tenant_id, '')) \
               + octet_length(coalesce(customer_id, '')) + octet_length(coalesce(items, '')) + octet_length(coalesce(status, '')) \
               + octet_length(fields) AS bytes \
             FROM orders WHERE (created_at, order_id) < ($3, $4) {filter} ORDER BY created_at DESC, order_id DESC LIMIT $1 + 1) \
           WINDOW newest AS (ORDER BY created_at DESC, order_id DESC ROWS UNBOUNDED PRECEDING)) \
         JOIN orders USING (seq) WHERE number <= $1 AND (number = 1 OR so_far <= $2) ORDER BY number"
    )
}

fn built(row: OrderRow) -> Result<Order, StoreError> {
    let (order_id, tenant_id, customer_id, items, total, status, created_at, updated_at, fields) = row;
    let unreadable = |what: &str| StoreError::Refused(format!("the stored {what} of order {order_id} cannot be read"));
    let time = |text: &str| text.parse::<DateTime<Utc>>().map_err(|_| unreadable("times"));
    Ok(Order {
        tenant_id,
        customer_id,
        items: items.map(RawJson),
        total_amount: total.map(Amount),
        status,
        created_at: time(&created_at)?,
        updated_at: time(&updated_at)?,
        fields: serde_json::from_str(&fields).map_err(|_| unreadable("fields"))?,
        order_id,
    })
}
