//! Orders as the API shows them.

use super::super::failure::failed;
use super::super::{Amount, Order, Query, RawJson, StoreError};
use super::stamp::Stamp;
use sqlx::postgres::PgConnection;

type Row = (String, Option<String>, Option<String>, Option<String>, Option<String>, Option<String>, Stamp, Stamp, String);

pub async fn order(connection: &mut PgConnection, id: &str) -> Result<Option<Order>, StoreError> {
    if id.contains('\0') {
        return Ok(None); // no order has such an id, and PostgreSQL takes no such text
    }
    let row: Option<Row> = sqlx::query_as(
        "SELECT order_id, tenant_id, customer_id, items::text, total_amount::text, status, created_at, updated_at, fields::text \
         FROM orders WHERE order_id = $1",
    )
    .bind(id)
    .fetch_optional(connection)
    .await
    .map_err(|e| failed("reading an order", e))?;
    row.map(built).transpose()
}

pub async fn recent(connection: &mut PgConnection, query: &Query) -> Result<Vec<Order>, StoreError> {
    if query.tenant.as_ref().is_some_and(|t| t.contains('\0')) {
        return Ok(Vec::new());
    }
    // two statements, so that each has the plan of its own index
    let sql = match query.tenant {
        None => {
            "SELECT order_id, tenant_id, customer_id, items::text, total_amount::text, status, created_at, updated_at, fields::text \
             FROM orders ORDER BY created_at DESC, order_id DESC LIMIT $1"
        }
        Some(_) => {
            "SELECT order_id, tenant_id, customer_id, items::text, total_amount::text, status, created_at, updated_at, fields::text \
             FROM orders WHERE tenant_id = $2 ORDER BY created_at DESC, order_id DESC LIMIT $1"
        }
    };
    let mut rows = sqlx::query_as::<_, Row>(sql).bind(i64::from(query.limit));
    if let Some(tenant) = &query.tenant {
        rows = rows.bind(tenant);
    }
    let rows = rows.fetch_all(connection).await.map_err(|e| failed("reading the recent orders", e))?;
    rows.into_iter().map(built).collect()
}

fn built(row: Row) -> Result<Order, StoreError> {
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
