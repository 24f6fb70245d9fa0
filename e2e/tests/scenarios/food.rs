//! The story of `examples/food`: a generator, a topic, two consumers of one group, a table.

use anyhow::{Result, ensure};
use e2e::bed::{Kafka, eventually};
use e2e::pipeline::{Pipeline, READY, dead, header, metric};
use rdkafka::message::Message;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value as Json, json};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

async fn database(pipeline: &Pipeline) -> PgPool {
    PgPoolOptions::new().max_connections(1).connect(&pipeline.postgres.url()).await.unwrap()
}

async fn count(pool: &PgPool) -> Result<usize> {
    let (count,): (i64,) = sqlx::query_as("SELECT count(*) FROM food.orders").fetch_one(pool).await?;
    Ok(usize::try_from(count)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_orders_reach_the_table_once_each_and_consumers_share_the_work() {
    let kafka = Kafka::start(1).await.unwrap();
    let pipeline = Pipeline::example(&kafka, "food", &[("rate: 10", "rate: 100")]).await.unwrap();
    let (mut one, first) = pipeline.start("worker").await.unwrap();
    let (mut two, second) = pipeline.start("worker").await.unwrap();
    let (mut generator, _) = pipeline.start("generator").await.unwrap();
    let pool = database(&pipeline).await;
    let reached = |wanted: usize| {
        let pool = pool.clone();
        move || {
            let pool = pool.clone();
            async move {
                let has = count(&pool).await?;
                ensure!(has >= wanted, "{has} of {wanted}");
                Ok(())
            }
        }
    };
    eventually("orders are stored", READY, reached(300)).await.unwrap();
    for worker in [&first, &second] {
        let works = || async {
            ensure!(metric(worker, "orders_processed_total").await? > 0.0, "{worker} has nothing to do");
            Ok(())
        };
        eventually("both work", READY, works).await.unwrap();
    }
    one.terminate(Duration::from_secs(20)).await.unwrap(); // its offsets are committed, and its partitions go to the other one
    let has = count(&pool).await.unwrap();
    eventually("the other one goes on", READY, reached(has + 300)).await.unwrap();
    generator.terminate(Duration::from_secs(20)).await.unwrap();

    let written = kafka.messages("food-orders").await.unwrap();
    let mut orders: BTreeMap<String, Json> = BTreeMap::new();
    let mut partitions_of: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
    for message in &written {
        let order: Json = serde_json::from_slice(message.payload().unwrap()).unwrap();
        let customer = order["customer_id"].as_str().unwrap().to_owned();
        assert_eq!(message.key(), Some(customer.as_bytes()), "the key is the customer");
        partitions_of.entry(customer).or_default().insert(message.partition());
        assert!(orders.insert(order["order_id"].as_str().unwrap().to_owned(), order).is_none(), "an id repeats");
    }
    assert!(partitions_of.values().all(|partitions| partitions.len() == 1), "first in, first out for each customer");
    assert!(partitions_of.len() > 50, "of 100 customers: {}", partitions_of.len());
    eventually("all are stored", READY, reached(orders.len())).await.unwrap();
    type Row = (String, String, Json, String, String, bool);
    let query = "SELECT order_id, customer_id, items, total_amount::text, status, created_at <= processed_at FROM food.orders";
    let rows: Vec<Row> = sqlx::query_as(query).fetch_all(&pool).await.unwrap();
    assert_eq!(rows.len(), orders.len(), "each once");
    for (id, customer, items, total, status, in_time) in rows {
        let order = &orders[&id];
        assert_eq!((order["customer_id"].as_str(), &order["items"]), (Some(&*customer), &items));
        assert_eq!((format!("{:.2}", order["total_amount"].as_f64().unwrap()), &*status, in_time), (total, "pending", true));
    }
    two.terminate(Duration::from_secs(20)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_is_as_promised_and_wrong_orders_and_repeats_do_not_get_there() {
    let kafka = Kafka::start(1).await.unwrap();
    let pipeline = Pipeline::example(&kafka, "food", &[]).await.unwrap();
    let (_worker, _) = pipeline.start("worker").await.unwrap();
    let producer: FutureProducer = kafka.client().create().unwrap();
    let order = |id: &str| {
        json!({
            "order_id": id, "customer_id": "CUST-001", "items": [{"name": "Gelato", "quantity": 3, "price": 0.1}],
            "total_amount": 0.3, "created_at": "2025-01-10T12:00:00Z", "status": "pending",
        })
    };
    let with = |id: &str, field: &str, value: Json| {
        let mut order = order(id);
        order[field] = value;
        order
    };
    let wrong = [
        (with("ORD-20250110-002", "total_amount", json!(0.31)), "must be the sum of the items"),
        (with("ORD-20250110-003", "total_amount", json!(-1)), "total_amount"),
        (with("ORD-20250110-004", "items", json!([{"name": "Gelato", "quantity": 0, "price": 1}])), "quantity"),
        (with("ORD-20250110-005", "customer_id", Json::Null), "customer_id"),
        (with("ORD-20250110-006", "created_at", json!("yesterday")), "created_at"),
    ];
    let all = [order("ORD-20250110-001"), order("ORD-20250110-001")].into_iter().chain(wrong.iter().map(|(order, _)| order.clone()));
    for order in all.chain([order("ORD-20250110-007")]) {
        let body = order.to_string();
        producer.send(FutureRecord::to("food-orders").key("CUST-001").payload(&body), Duration::from_secs(10)).await.unwrap();
    }
    let pool = database(&pipeline).await;
    let stored = || async {
        let ids: Vec<(String, String)> =
            sqlx::query_as("SELECT order_id, total_amount::text FROM food.orders ORDER BY order_id").fetch_all(&pool).await?;
        ensure!(ids.len() == 2, "{ids:?}");
        Ok(ids)
    };
    let stored = eventually("the last one is stored", READY, stored).await.unwrap();
    assert_eq!(stored, [("ORD-20250110-001".into(), "0.30".into()), ("ORD-20250110-007".into(), "0.30".into())]);
    let letters = dead(&kafka, "food-orders", wrong.len()).await;
    for (order, why) in &wrong {
        let letter = letters.iter().find(|letter| letter.payload() == Some(order.to_string().as_bytes())).unwrap();
        assert!(header(letter, "dlq-reason").contains(why), "{why}: {}", header(letter, "dlq-reason"));
    }

    let columns: Vec<(String, String, Option<i32>, Option<i32>)> = sqlx::query_as(
        "SELECT column_name::text, data_type::text, numeric_precision::int, numeric_scale::int FROM information_schema.columns \
         WHERE table_schema = 'food' AND table_name = 'orders'",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    let is = |name: &str| columns.iter().find(|column| column.0 == name).map(|column| (column.1.as_str(), column.2, column.3)).unwrap();
    assert_eq!(is("total_amount"), ("numeric", Some(10), Some(2)));
    let kinds = [("order_id", "text"), ("customer_id", "text"), ("items", "jsonb"), ("status", "text")];
    for (name, kind) in kinds.into_iter().chain(["created_at", "processed_at"].map(|name| (name, "timestamp with time zone"))) {
        assert_eq!(is(name).0, kind, "{name}");
    }
    let indexes: Vec<(String,)> = sqlx::query_as("SELECT indexdef FROM pg_indexes WHERE schemaname = 'food' AND tablename = 'orders'")
        .fetch_all(&pool)
        .await
        .unwrap();
    for columns in ["(order_id)", "(created_at)", "(customer_id)"] {
        assert!(indexes.iter().any(|(index,)| index.ends_with(columns)), "{columns}: {indexes:?}");
    }
}
