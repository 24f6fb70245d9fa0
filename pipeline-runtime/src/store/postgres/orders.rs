//! Orders as the API shows them.

use super::super::failure::failed;
use super::super::{Amount, Order, Page, Query, RawJson, StoreError};
use super::stamp::Stamp;
use chrono::{DateTime, Utc};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, FromRow, Row};

type OrderRow = (String, Option<String>, Option<String>, Option<String>, Option<String>, Option<String>, Stamp, Stamp, String);

pub async fn order(connection: &mut PgConnection, id: &str) -> Result<Option<Order>, StoreError> {
    if id.contains('\0') {
        return Ok(None); // no order has such an id, and PostgreSQL takes no such text
    }
    let row: Option<OrderRow> = sqlx::query_as(
        "SELECT order_id, tenant_id, customer_id, items::text, total_amount::text, status, created_at, updated_at, fields::text \
         FROM orders WHERE order_id = $1",
    )
    .bind(id)
    .fetch_optional(connection)
    .await
    .map_err(|e| failed("reading an order", e))?;
    row.map(built).transpose()
}

pub async fn recent(connection: &mut PgConnection, query: &Query) -> Result<Page, StoreError> {
    let texts = [query.tenant.as_ref(), query.after.as_ref().map(|mark| &mark.order_id)];
    if texts.into_iter().flatten().any(|text| text.contains('\0')) {
        return Ok(Page { orders: Vec::new(), more: false });
    }
    // two statements, so that each has the plan of its own index
    let rows = page(if query.tenant.is_some() { "AND tenant_id = $5" } else { "" });
    let after = query.after.as_ref().map_or((DateTime::<Utc>::MAX_UTC, ""), |mark| (mark.created_at, &mark.order_id));
    let rows = sqlx::query(AssertSqlSafe(rows)).bind(i64::from(query.limit)).bind(i64::from(query.max_bytes));
    let mut rows = rows.bind(Stamp(after.0)).bind(after.1);
    if let Some(tenant) = &query.tenant {
        rows = rows.bind(tenant);
    }
    let unread = |e| failed("reading the recent orders", e);
    let rows = rows.fetch_all(connection).await.map_err(unread)?;
    let found: i64 = rows.first().map_or(Ok(0), |row| row.try_get("found")).map_err(unread)?;
    let orders = rows.iter().map(|row| OrderRow::from_row(row).map_err(unread).and_then(built)).collect::<Result<Vec<_>, _>>()?;
    Ok(Page { more: found > orders.len() as i64, orders })
}

/// The innermost query stops at one row more than asked for: `found` then says whether there are more. The next one goes by what the
/// rows take on the disk, which is known without reading them, so that the outer one writes no hundreds of large orders as text only to
/// see that they do not fit.
fn page(filter: &str) -> String {
    format!(
        "SELECT order_id, tenant_id, customer_id, items::text, total_amount::text, status, created_at, updated_at, fields::text, found FROM ( \
           SELECT *, sum(octet_length(concat(order_id, tenant_id, customer_id, status)) + coalesce(octet_length(items::text), 0) \
             + octet_length(fields::text)) OVER newest AS so_far FROM ( \
               SELECT *, count(*) OVER () AS found, row_number() OVER newest AS number, \
                 sum(coalesce(pg_column_size(items), 0) + pg_column_size(fields)) OVER newest AS on_disk FROM ( \
                   SELECT * FROM orders WHERE (created_at, order_id) < ($3, $4) {filter} \
                   ORDER BY created_at DESC, order_id DESC LIMIT $1 + 1) asked \
               WINDOW newest AS (ORDER BY created_at DESC, order_id DESC ROWS UNBOUNDED PRECEDING)) counted \
           WHERE number <= $1 AND (number = 1 OR on_disk <= $2) \
           WINDOW newest AS (ORDER BY number ROWS UNBOUNDED PRECEDING)) weighed \
         WHERE number = 1 OR so_far <= $2 ORDER BY number"
    )
}

fn built(row: OrderRow) -> Result<Order, StoreError> {
    let (order_id, tenant_id, customer_id, items, total, status, created_at, updated_at, fields) = row;
    let fields = serde_json::from_str(&fields)
        .map_err(|e| StoreError::Refused(format!("the stored fields of order {order_id} cannot be read: {e}")))?;
    Ok(Order {
        order_id,
        tenant_id,
        customer_id,
        items: items.map(RawJson),
        total_amount: total.map(Amount),
        status,
        created_at: created_at.0,
        updated_at: updated_at.0,
        fields,
    })
}
