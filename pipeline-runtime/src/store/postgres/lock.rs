//! Takes the rows of a batch's orders, before anything about them is read.
//!
//! Also an order that is not there must be held: an Update that finds none goes to wait, and its Create, in another transaction at the
//! same time, would neither see it wait nor be seen. So each order that is not seen is inserted right away: with the content of its
//! Create, or as a placeholder that goes before the commit. Whoever comes second waits in the unique index until the first has ended.
//! Then the rows that were there are locked, and read with that. Both go in the order of the ids, and who locks has inserted all that
//! it will: so two batches cannot wait for each other.
//!
//! To insert with care, so that a row that is there already does no harm, costs a quarter more. Creates are mostly new, so they are
//! inserted plainly; one that is a repeat fails that statement, and then all is done again with care. Repeats come in swarms (a worker
//! was killed, a topic is read again), so after one the next batches take care at once.

use super::super::StoreError;
use super::super::check::{Cents, Checked};
use super::super::failure::failed;
use super::super::plan::{Current, Made};
use super::column::{Column, sent};
use super::stamp::Stamp;
use chrono::DateTime;
use crds::pipeline::Effect;
use sqlx::error::DatabaseError;
use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Connection, Postgres, Row};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

/// The orders of a batch that were not there, with what was inserted for them. None: a placeholder.
pub type Missing<'a> = BTreeMap<&'a str, Option<Made<'a>>>;
/// Those that were there, as they are now.
pub type Existing = HashMap<String, Current>;

/// How many batches take care at once after one that met a repeat.
const CAREFUL_BATCHES: u32 = 64;

/// Whether repeats are to be expected.
#[derive(Default)]
pub struct Care(AtomicU32);

impl Care {
    fn is_due(&self) -> bool {
        self.0.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    fn take(&self) {
        self.0.store(CAREFUL_BATCHES, Relaxed);
    }
}

/// Which of the rows were not there.
enum Inserted {
    All,
    Some(HashSet<String>),
}

pub async fn lock<'a>(
    connection: &mut PgConnection,
    batch: &[Result<Checked<'a>, String>],
    care: &Care,
) -> Result<(Missing<'a>, Existing), StoreError> {
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
    let inserted = inserted(connection, &orders, &there, care).await?;
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

/// Inserts the orders that are not there, in the order of their ids.
async fn inserted(
    connection: &mut PgConnection,
    orders: &Missing<'_>,
    there: &HashSet<String>,
    care: &Care,
) -> Result<Inserted, StoreError> {
    let new = || orders.iter().filter(|(id, _)| !there.contains(**id)).map(|(id, made)| (*id, made.as_ref()));
    let created = |made: Option<&Made>| made.is_some_and(|made| made.by.change.effect == Effect::Create);
    if new().next().is_none() {
        return Ok(Inserted::Some(HashSet::new()));
    }
    if new().all(|(_, made)| created(made)) && !care.is_due() {
        match Rows::of(new()).insert(connection).await {
            Ok(()) => return Ok(Inserted::All),
            Err(error) if error.as_database_error().is_some_and(DatabaseError::is_unique_violation) => care.take(),
            Err(error) => return Err(failed("inserting orders", error)),
        }
        unlocked(connection).await?;
    }
    Rows::of(new()).insert_with_care(connection).await
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

/// The arrays are unfolded side by side in one list: as functions in FROM each would be written to a buffer of its own first.
const INSERT: &str = "INSERT INTO orders (order_id, tenant_id, customer_id, items, total_amount, status, created_at, fields, field_times, \
                                    content, event_id, event, source) \
    SELECT order_id, tenant_id, customer_id, items::jsonb, total::decimal, status, created_at, COALESCE(fields::jsonb, '{}'), \
           COALESCE(times::jsonb, '{}'), content, event_id, event, source \
    FROM (SELECT UNNEST($1::text[]) AS order_id, UNNEST($2::text[]) AS tenant_id, UNNEST($3::text[]) AS customer_id, \
                 UNNEST($4::text[]) AS items, UNNEST($5::text[]) AS total, UNNEST($6::text[]) AS status, \
                 UNNEST($7::timestamptz[]) AS created_at, UNNEST($8::text[]) AS fields, UNNEST($9::text[]) AS times, \
                 UNNEST($10::bytea[]) AS content, UNNEST($11::text[]) AS event_id, UNNEST($12::text[]) AS event, \
                 UNNEST($13::text[]) AS source) AS n";

/// Rows of `orders` as columns.
#[derive(Default)]
pub struct Rows<'a> {
    order_id: Vec<&'a str>,
    tenant: Column<&'a str>,
    customer: Column<&'a str>,
    items: Column<&'a str>,
    total: Column<String>,
    status: Column<&'a str>,
    created_at: Vec<Stamp>,
    /// None: empty, as most are.
    fields: Column<&'a str>,
    times: Column<&'a str>,
    content: Column<&'a [u8]>,
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

    /// Fails if one of them is there.
    pub async fn insert(self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        self.bound(sqlx::query(INSERT)).execute(connection).await.map(drop)
    }

    /// Leaves those alone that are there.
    async fn insert_with_care(self, connection: &mut PgConnection) -> Result<Inserted, StoreError> {
        let count = self.order_id.len() as i64;
        // Mostly all are new: then their ids need not come back.
        let insert = format!(
            "WITH inserted AS ({INSERT} ON CONFLICT (order_id) DO NOTHING RETURNING order_id) \
             SELECT CASE WHEN count(*) < $14 THEN COALESCE(array_agg(order_id), '{{}}') END FROM inserted"
        );
        let inserted = self.bound(sqlx::query(AssertSqlSafe(insert))).bind(count).fetch_one(connection).await;
        let inserted: Option<Vec<String>> = inserted.and_then(|row| row.try_get(0)).map_err(|e| failed("inserting orders", e))?;
        Ok(inserted.map_or(Inserted::All, |some| Inserted::Some(some.into_iter().collect())))
    }

    fn bound(self, query: Query<'a, Postgres, PgArguments>) -> Query<'a, Postgres, PgArguments> {
        query
            .bind(self.order_id)
            .bind(sent(self.tenant))
            .bind(sent(self.customer))
            .bind(sent(self.items))
            .bind(sent(self.total))
            .bind(sent(self.status))
            .bind(self.created_at)
            .bind(sent(self.fields))
            .bind(sent(self.times))
            .bind(sent(self.content))
            .bind(self.event_id)
            .bind(self.event)
            .bind(self.source)
    }
}
