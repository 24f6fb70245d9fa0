//! Takes the rows of a batch's orders, before anything about them is read.
//!
//! Also an order that is not there must be held: an Update that finds none goes to wait, and its Create, in another transaction at the
//! same time, would neither see it wait nor be seen. So each order that is not seen is inserted right away: with the content of its
//! Create, or as a placeholder that goes before the commit. Whoever comes second waits in the unique index until the first has ended.
//! Then the rows that were there are locked, and read with that. Both go in the order of the ids, and who locks has inserted all that
//! it will: so two batches cannot wait for each other.

use super::super::StoreError;
use super::super::check::{Cents, Checked};
use super::super::failure::failed;
use super::super::plan::{Current, Made};
use super::stamp::Stamp;
use chrono::DateTime;
use crds::pipeline::Effect;
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use std::collections::{BTreeMap, HashMap, HashSet};

/// The orders of a batch that were not there, with what was inserted for them. None: a placeholder.
pub type Missing<'a> = BTreeMap<&'a str, Option<Made<'a>>>;
/// Those that were there, as they are now.
pub type Existing = HashMap<String, Current>;

/// Which of the rows were not there.
pub enum Inserted {
    All,
    Some(HashSet<String>),
}

pub async fn lock<'a>(connection: &mut PgConnection, batch: &[Result<Checked<'a>, String>]) -> Result<(Missing<'a>, Existing), StoreError> {
    let mut orders = Missing::new();
    for checked in batch.iter().flatten().filter(|c| c.change.effect != Effect::None) {
        let made = orders.entry(&checked.change.order_id).or_default();
        if made.is_none() && matches!(checked.change.effect, Effect::Create | Effect::Upsert) {
            *made = Made::new(*checked).ok();
        }
    }
    // Mostly the order of an Update is there, and looking costs less than inserting in vain.
    let sought: Vec<&str> = orders.iter().filter(|(_, made)| made.is_none()).map(|(id, _)| *id).collect();
    let there = if sought.is_empty() {
        HashSet::new()
    } else if sought.len() < orders.len() {
        present(connection, &sought).await?
    } else {
        // Nothing but Updates: if all orders are there nothing is inserted, and to look is to lock.
        let existing = held(connection, &sought).await?;
        if existing.len() == sought.len() {
            return Ok((Missing::new(), existing));
        }
        unlocked(connection).await?;
        existing.into_keys().collect()
    };
    let rows = Rows::of(orders.iter().filter(|(id, _)| !there.contains(**id)).map(|(id, made)| (*id, made.as_ref())));
    let inserted = if rows.order_id.is_empty() { Inserted::Some(HashSet::new()) } else { rows.insert(connection).await? };
    let new = |id: &str| match &inserted {
        Inserted::All => !there.contains(id),
        Inserted::Some(inserted) => inserted.contains(id),
    };
    let old: Vec<&str> = orders.keys().filter(|id| !new(id)).copied().collect();
    let existing = if old.is_empty() { Existing::new() } else { held(connection, &old).await? };
    if existing.len() < old.len() {
        // Nothing here removes orders, but somebody may.
        return Err(StoreError::Transient("orders of this batch were removed meanwhile".into()));
    }
    orders.retain(|id, _| new(id));
    Ok((orders, existing))
}

/// Locks those of the orders that are there, in the order of their ids.
async fn held(connection: &mut PgConnection, orders: &[&str]) -> Result<Existing, StoreError> {
    type Row = (String, Option<String>, Option<Vec<u8>>, String, String);
    // The lock is taken above the sort.
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT order_id, tenant_id, content, fields::text, field_times::text FROM orders WHERE order_id = ANY($1) \
         ORDER BY order_id FOR UPDATE",
    )
    .bind(orders)
    .fetch_all(connection)
    .await
    .map_err(|e| failed("reading the orders", e))?;
    let current = |(order_id, tenant, content, fields, times): Row| {
        (order_id, Current::stored(tenant, content.and_then(|c| c.try_into().ok()), fields, times))
    };
    Ok(rows.into_iter().map(current).collect())
}

/// Gives all locks back: who is to insert an order that is not there must not hold another one. Nothing is written yet.
async fn unlocked(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::raw_sql("ROLLBACK AND CHAIN").execute(connection).await.map(drop).map_err(|e| failed("giving locks back", e))
}

/// Those of the orders that others see already. One of them that is gone when it is locked fails the batch, which is tried again.
async fn present(connection: &mut PgConnection, orders: &[&str]) -> Result<HashSet<String>, StoreError> {
    let present: Vec<String> = sqlx::query_scalar("SELECT order_id FROM orders WHERE order_id = ANY($1)")
        .bind(orders)
        .fetch_all(connection)
        .await
        .map_err(|e| failed("looking for the orders", e))?;
    Ok(present.into_iter().collect())
}

/// Whether a batch would get the locks on its tables that any write needs. Waits a moment for them, and gives them back.
pub async fn tables_are_free(connection: &mut PgConnection) -> Result<(), StoreError> {
    let asked = async {
        let mut transaction = connection.begin().await?;
        let ask = "SET LOCAL lock_timeout = '2s'; LOCK TABLE orders, applied_events, early_events IN ROW EXCLUSIVE MODE";
        sqlx::raw_sql(ask).execute(&mut *transaction).await?;
        transaction.rollback().await
    };
    asked.await.map_err(|e| failed("asking whether the tables of orders can be written", e))
}

/// Rows of `orders` as columns.
#[derive(Default)]
pub struct Rows<'a> {
    order_id: Vec<&'a str>,
    tenant: Vec<Option<&'a str>>,
    customer: Vec<Option<&'a str>>,
    items: Vec<Option<&'a str>>,
    total: Vec<Option<String>>,
    status: Vec<Option<&'a str>>,
    created_at: Vec<Stamp>,
    /// None: empty, as most are.
    fields: Vec<Option<&'a str>>,
    times: Vec<Option<&'a str>>,
    content: Vec<Option<&'a [u8]>>,
    event_id: Vec<&'a str>,
    event: Vec<&'a str>,
    source: Vec<&'a str>,
}

impl<'a> Rows<'a> {
    pub fn of(orders: impl Iterator<Item = (&'a str, Option<&'a Made<'a>>)>) -> Rows<'a> {
        let mut rows = Rows::default();
        for (order_id, made) in orders {
            let change = made.map(|m| m.by.change);
            let fields = change.map(|c| &c.fields);
            rows.order_id.push(order_id);
            rows.tenant.push(fields.and_then(|f| f.tenant.as_deref()));
            rows.customer.push(fields.and_then(|f| f.customer.as_deref()));
            rows.items.push(fields.and_then(|f| f.items.as_deref()));
            rows.total.push(made.and_then(|m| m.by.total).as_ref().map(Cents::to_string));
            rows.status.push(fields.and_then(|f| f.status.as_deref()));
            rows.created_at.push(Stamp(made.map_or(DateTime::UNIX_EPOCH, Made::created_at)));
            rows.fields.push(made.map(|m| m.fields.as_str()).filter(|fields| *fields != "{}"));
            rows.times.push(made.map(|m| m.times.as_str()).filter(|times| *times != "{}"));
            rows.content.push(made.and_then(Made::content).map(|c| c.as_slice()));
            rows.event_id.push(change.map_or("", |c| &c.event_id));
            rows.event.push(change.map_or("", |c| &c.event));
            rows.source.push(change.map_or("", |c| &c.source));
        }
        rows
    }

    /// Inserts the rows that are not there.
    pub async fn insert(self, connection: &mut PgConnection) -> Result<Inserted, StoreError> {
        let count = self.order_id.len() as i64;
        // Mostly all are new: then their ids need not come back.
        let inserted: Option<Vec<String>> = sqlx::query_scalar(
            "WITH inserted AS ( \
               INSERT INTO orders (order_id, tenant_id, customer_id, items, total_amount, status, created_at, fields, field_times, \
                                   content, event_id, event, source) \
               SELECT n.order_id, n.tenant_id, n.customer_id, n.items::jsonb, n.total::decimal, n.status, n.created_at, \
                      COALESCE(n.fields::jsonb, '{}'), COALESCE(n.times::jsonb, '{}'), n.content, n.event_id, n.event, n.source \
               FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[], $8::text[], \
                           $9::text[], $10::bytea[], $11::text[], $12::text[], $13::text[]) \
                 AS n(order_id, tenant_id, customer_id, items, total, status, created_at, fields, times, content, event_id, event, source) \
               ON CONFLICT (order_id) DO NOTHING RETURNING order_id) \
             SELECT CASE WHEN count(*) < $14 THEN COALESCE(array_agg(order_id), '{}') END FROM inserted",
        )
        .bind(self.order_id)
        .bind(self.tenant)
        .bind(self.customer)
        .bind(self.items)
        .bind(self.total)
        .bind(self.status)
        .bind(self.created_at)
        .bind(self.fields)
        .bind(self.times)
        .bind(self.content)
        .bind(self.event_id)
        .bind(self.event)
        .bind(self.source)
        .bind(count)
        .fetch_one(connection)
        .await
        .map_err(|e| failed("inserting orders", e))?;
        Ok(inserted.map_or(Inserted::All, |some| Inserted::Some(some.into_iter().collect())))
    }
}
