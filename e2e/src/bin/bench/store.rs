//! What the store takes into PostgreSQL, as many batches at once as a worker has under way: beside a bare loop that writes the same rows
//! over arrays, and neither looks whether an event took effect before nor locks an order.

use crate::median;
use anyhow::{Context, Result, ensure};
use crds::pipeline::Batch;
use e2e::bed::Postgres;
use futures::future::try_join_all;
use pipeline_runtime::store::{Applied, Change, PostgresOptions, PostgresStore, Store};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use std::time::Instant;

pub const ROUNDS: usize = 7;
const ROWS: usize = 40_000;
const LANES: usize = 4;
const ITEMS: &str = r#"[{"sku":"SKU-1","name":"Pad Thai","quantity":2,"unitPrice":12.50}]"#;

pub async fn beside_a_bare_loop(rounds: usize) -> Result<()> {
    let postgres = Postgres::start().await?;
    let store = PostgresStore::connect(&postgres.url(), "bench", PostgresOptions::default()).await?;
    store.migrate().await?;
    let mut bare = Bare::connect(&postgres.url()).await?;
    let (mut creates, mut updates) = (Figures::default(), Figures::default());
    // The first round is not counted: connections are made and pages are grown.
    for round in 0..=rounds {
        let orders: Vec<String> = (0..ROWS).map(|number| format!("order-{round}-{number}")).collect();
        let figures = [
            ours(&store, &orders, created).await?,
            bare.all(&orders, Bare::CREATE).await?,
            ours(&store, &orders, updated).await?,
            bare.all(&orders, Bare::UPDATE).await?,
        ];
        println!(
            "store, round {round}: Create {:.0}/s, bare {:.0}/s; Update {:.0}/s, bare {:.0}/s",
            figures[0], figures[1], figures[2], figures[3]
        );
        if round > 0 {
            creates.push(figures[0], figures[1]);
            updates.push(figures[2], figures[3]);
        }
    }
    creates.print("Create");
    updates.print("Update");
    Ok(())
}

#[derive(Default)]
struct Figures {
    ours: Vec<f64>,
    ratios: Vec<f64>,
}

impl Figures {
    fn push(&mut self, ours: f64, bare: f64) {
        self.ours.push(ours);
        self.ratios.push(ours / bare);
    }

    fn print(&mut self, what: &str) {
        println!("store: median {what} {:.0}/s, {:.0}% of a bare loop", median(&mut self.ours), 100.0 * median(&mut self.ratios));
    }
}

/// Rows in a second.
async fn ours(store: &PostgresStore, orders: &[String], change: fn(&str) -> serde_json::Value) -> Result<f64> {
    let lanes =
        orders.chunks(orders.len() / LANES).map(|lane| lane.iter().map(|order| Ok(serde_json::from_value(change(order))?)).collect());
    let lanes: Vec<Vec<Change>> = lanes.collect::<Result<_>>()?;
    let begun = Instant::now();
    try_join_all(lanes.iter().map(|lane| async move {
        for batch in lane.chunks(batch_size()) {
            let outcomes = store.apply(batch).await?;
            ensure!(outcomes.iter().all(|outcome| *outcome == Applied::Done), "{outcomes:?}");
        }
        Ok(())
    }))
    .await?;
    Ok(orders.len() as f64 / begun.elapsed().as_secs_f64())
}

fn batch_size() -> usize {
    Batch::default().size as usize
}

fn created(order: &str) -> serde_json::Value {
    let fields = json!({"customer": "CUST-7", "items": ITEMS, "total": "25.00", "status": "NEW"});
    change(order, "OrderCreated", "Create", &fields)
}

fn updated(order: &str) -> serde_json::Value {
    change(order, "OrderPaid", "Update", &json!({"status": "PAID"}))
}

fn change(order: &str, event: &str, effect: &str, fields: &serde_json::Value) -> serde_json::Value {
    json!({
        "eventId": format!("{event}-{order}"), "event": event, "effect": effect, "orderId": order, "content": vec![7; 32], "fields": fields,
        "set": {}, "append": {}, "at": null, "publishedAt": "2025-01-10T12:00:00Z", "source": "orders/0/42",
    })
}

struct Bare {
    lanes: Vec<PgConnection>,
}

impl Bare {
    const CREATE: &str = "INSERT INTO bare (order_id, customer_id, items, total_amount, status, created_at, content, event_id, event, source) \
         SELECT id, 'CUST-7', items::jsonb, total::decimal, 'NEW', now(), content, 'OrderCreated-' || id, 'OrderCreated', 'orders/0/42' \
         FROM UNNEST($1::text[], $2::text[], $3::text[], $4::bytea[]) AS n(id, items, total, content)";
    /// Its row and the note that the event took effect: without one nobody can tell a repeat.
    const UPDATE: &str = "WITH noted AS (INSERT INTO bare_events (event_id, seq, order_id, event, source) \
           SELECT 'OrderPaid-' || id, nextval('bench.applied_events_seq'), id, 'OrderPaid', 'orders/0/42' FROM UNNEST($1::text[]) AS n(id)) \
         UPDATE bare o SET status = 'PAID', updated_at = clock_timestamp() \
         FROM UNNEST($1::text[], $2::text[], $3::text[], $4::bytea[]) AS n(id, items, total, content) WHERE o.order_id = n.id";

    async fn connect(url: &str) -> Result<Bare> {
        let mut lanes = Vec::new();
        for _ in 0..LANES {
            let mut lane = PgConnection::connect(url).await?;
            // The rows are found by their keys, as ours are: a planner that does not know the table yet reads all of it each time.
            let session = "SET search_path TO bench; SET enable_seqscan TO off; SET enable_hashjoin TO off; SET enable_mergejoin TO off; SET jit TO off";
            sqlx::raw_sql(session).execute(&mut lane).await?;
            lanes.push(lane);
        }
        let tables = "CREATE TABLE bare (LIKE orders INCLUDING ALL) WITH (fillfactor = 85); CREATE TABLE bare_events (LIKE applied_events INCLUDING ALL)";
        sqlx::raw_sql(tables).execute(lanes.first_mut().context("no connection")?).await?;
        Ok(Bare { lanes })
    }

    async fn all(&mut self, orders: &[String], statement: &'static str) -> Result<f64> {
        let begun = Instant::now();
        try_join_all(self.lanes.iter_mut().zip(orders.chunks(orders.len() / LANES)).map(|(lane, orders)| async move {
            for batch in orders.chunks(batch_size()) {
                let content: Vec<&[u8]> = vec![&[7; 32]; batch.len()];
                let query =
                    sqlx::query(statement).bind(batch).bind(vec![ITEMS; batch.len()]).bind(vec!["25.00"; batch.len()]).bind(content);
                let done = query.execute(&mut *lane).await?;
                ensure!(done.rows_affected() == batch.len() as u64, "{done:?}");
            }
            Ok(())
        }))
        .await?;
        Ok(orders.len() as f64 / begun.elapsed().as_secs_f64())
    }
}
