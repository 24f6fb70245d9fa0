//! The story of `examples/retail`: its document on a real Kafka and PostgreSQL, written to by others.

use anyhow::{Context, Result, ensure};
use e2e::bed::{Kafka, eventually};
use e2e::pipeline::{Pipeline, READY, dead, header, metric};
use rdkafka::message::{Message, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value as Json, json};
use sqlx::postgres::PgPoolOptions;
use std::collections::BTreeMap;
use std::time::Duration;

/// Another system of the company, which writes to the topics as it always did.
pub struct Others {
    producer: FutureProducer,
}

impl Others {
    pub fn new(kafka: &Kafka) -> Others {
        Others { producer: kafka.client().set("message.max.bytes", "12582912").create().unwrap() }
    }

    pub async fn send(&self, topic: &str, key: &str, id: &str, kind: &str, data: Json) {
        let attributes = json!({"source": "shop", "version": "1", "correlationId": format!("c-{id}"), "eventType": kind});
        self.send_with(topic, key, id, attributes, data).await;
    }

    pub async fn send_with(&self, topic: &str, key: &str, id: &str, attributes: Json, data: Json) {
        let envelope = json!({"messageId": id, "publishTime": "2025-01-10T12:00:00Z", "attributes": attributes, "data": data});
        self.raw(topic, key, envelope.to_string().as_bytes()).await;
    }

    pub async fn raw(&self, topic: &str, key: &str, body: &[u8]) {
        self.producer.send(FutureRecord::to(topic).key(key).payload(body), Duration::from_secs(30)).await.unwrap();
    }
}

pub fn order(id: &str, customer: &str) -> Json {
    json!({
        "orderId": id, "customerId": customer, "orderDate": "2025-01-10T12:00:00Z", "isForceAllocation": id.ends_with("forced"),
        "lineItems": [{"lineId": 1, "sku": "TEA", "quantity": 2, "unitPrice": 4.5}, {"lineId": 2, "sku": "CUP", "quantity": 1, "unitPrice": 11}],
        "totals": {"total": 20},
    })
}

fn substitution(id: &str, price: f64) -> Json {
    json!({
        "orderId": id, "lineId": 1,
        "originalItem": {"sku": "TEA", "orderedPrice": 4.5}, "substituteItem": {"sku": "TEA-BIO", "adjustedPrice": price, "adjustedWeight": 0.26},
    })
}

fn payment(id: &str, at: &str) -> Json {
    json!({"orderId": id, "paymentId": format!("p-{id}"), "amount": 20, "processedAt": at})
}

fn shipment(id: &str, serials: &[&str]) -> Json {
    json!({
        "orderId": id, "shipmentId": format!("s-{id}"), "carrier": "UPS", "trackingNumber": "1Z999", "shippedAt": "2025-01-10T15:00:00Z",
        "lines": [{"lineId": 1, "quantity": 2, "serialNumbers": serials}],
    })
}

fn short(id: &str) -> Json {
    json!({"orderId": id, "lineId": 1, "orderedQuantity": 2, "availableQuantity": 1, "shortQuantity": 1, "resolution": "BACKORDER"})
}

fn status(id: &str, status: &str, at: &str) -> Json {
    json!({"orderId": id, "status": status, "updatedAt": at})
}

type Row = (String, Option<String>, Option<String>, Option<f64>, Json);

/// What the database has of each order: its status, customer, total, and the fields that events have set.
async fn orders(pipeline: &Pipeline) -> Result<BTreeMap<String, Row>> {
    let pool = PgPoolOptions::new().max_connections(1).connect(&pipeline.postgres.url()).await?;
    let rows: Vec<Row> =
        sqlx::query_as("SELECT order_id, status, customer_id, total_amount::float8, fields FROM retail.orders").fetch_all(&pool).await?;
    Ok(rows.into_iter().map(|row| (row.0.clone(), row)).collect())
}

/// Waits until the order is like this.
async fn until(pipeline: &Pipeline, id: &str, holds: impl Fn(&Row) -> bool) -> Row {
    let found = || async {
        let row = orders(pipeline).await?.remove(id).with_context(|| format!("{id} is not there"))?;
        ensure!(holds(&row), "{row:?}");
        Ok(row)
    };
    eventually(&format!("{id} is as it should be"), READY, found).await.unwrap()
}

/// The orders that were told of, as they were told.
async fn created(kafka: &Kafka) -> Result<Vec<String>> {
    let messages = kafka.messages("order-events").await?;
    let told = messages.iter().map(|message| {
        let told: Json = serde_json::from_slice(message.payload().context("a body")?)?;
        ensure!(told["attributes"]["type"] == "order.created" && told["attributes"]["correlationId"].is_string(), "{told}");
        Ok(told["data"]["orderId"].as_str().context("an order")?.to_owned())
    });
    told.collect()
}

fn length(fields: &Json, list: &str) -> usize {
    fields[list].as_array().map_or(0, Vec::len)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_made_paid_shipped_and_told_of() {
    let kafka = Kafka::start(1).await.unwrap();
    let pipeline = Pipeline::example(&kafka, "retail", &[]).await.unwrap();
    let (_worker, worker) = pipeline.start("worker").await.unwrap();
    let others = Others::new(&kafka);
    others.send("order-create", "c-1", "m-1", "ORDER_CREATE", order("happy-forced", "c-1")).await;
    others
        .send(
            "reservation-events",
            "happy-forced",
            "m-2",
            "RESERVED",
            json!({"orderId": "happy-forced", "reservationId": "v-1", "sku": "TEA", "quantity": 2, "status": "RESERVED", "items": [], "customerId": "w-7"}),
        )
        .await;
    others.send("payment-authorized", "happy-forced", "m-3", "AUTHORIZED", payment("happy-forced", "2025-01-10T12:01:00Z")).await;
    others
        .send(
            "order-release",
            "happy-forced",
            "m-4",
            "RELEASE",
            json!({"orderId": "happy-forced", "locationId": "DC-7", "releasedAt": "2025-01-10T13:00:00Z"}),
        )
        .await;
    others.send("order-update", "happy-forced", "m-5", "SUBSTITUTION_REQUEST", substitution("happy-forced", 5.4)).await;
    others.send("fulfillment-events", "happy-forced", "m-6", "SHIP", shipment("happy-forced", &["A1", "A2"])).await;
    others.send("fulfillment-events", "happy-forced", "m-7", "PICK", json!({"of": "no interest here"})).await;
    others.send("short-events", "happy-forced", "m-8", "SHORT", short("happy-forced")).await;
    others.send("payment-captured", "happy-forced", "m-9", "CAPTURED", payment("happy-forced", "2025-01-10T15:01:00Z")).await;
    others.send("inventory-update", "TEA", "m-10", "STOCK", json!({"sku": "TEA", "locationId": "DC-7", "onHand": 118})).await;
    let all = |row: &Row| {
        let fields = &row.4;
        let lists = [("payments", 2), ("shipments", 1), ("shorts", 1), ("substitutions", 1), ("reservations", 1)];
        lists.iter().all(|(list, count)| length(fields, list) == *count) && fields["location"] == "DC-7"
    };
    let (_, status, customer, total, fields) = until(&pipeline, "happy-forced", all).await;
    assert_eq!((status.as_deref(), customer.as_deref(), total), (Some("SHIPPED"), Some("c-1"), Some(20.0)));
    assert_eq!((fields["paymentStatus"].as_str(), fields["allocation"].as_str()), (Some("CAPTURED"), Some("ALLOCATED")));
    let told = || async {
        let told = created(&kafka).await?;
        ensure!(told == ["happy-forced"], "{told:?}");
        Ok(())
    };
    eventually("it is told of, once", READY, told).await.unwrap();
    let processed = || async {
        // Which of them came before their order is chance.
        let known = metric(&worker, "orders_processed_total").await? + metric(&worker, "orders_waiting_total").await?;
        let passed = metric(&worker, "orders_passed_over_total").await?;
        ensure!(known >= 9.0 && passed == 1.0, "{known} are known, {passed} passed over");
        Ok(())
    };
    eventually("everything is read", READY, processed).await.unwrap();
    for topic in ["order-create", "order-update", "fulfillment-events", "inventory-update"] {
        dead(&kafka, topic, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_doubled_wrong_late_or_large_is_dealt_with() {
    let kafka = Kafka::start(1).await.unwrap();
    let pipeline = Pipeline::example(&kafka, "retail", &[("base: 1s", "base: 50ms")]).await.unwrap();
    let (_worker, _) = pipeline.start("worker").await.unwrap();
    let others = Others::new(&kafka);

    // The same message twice, and the same order once more under another id.
    others.send("order-create", "c-1", "d-1", "ORDER_CREATE", order("double", "c-1")).await;
    others.send("order-create", "c-1", "d-1", "ORDER_CREATE", order("double", "c-1")).await;
    others.send("order-create", "c-1", "d-2", "ORDER_CREATE", order("double", "c-1")).await;
    for id in ["d-3", "d-3", "d-4"] {
        others.send("payment-authorized", "double", id, "AUTHORIZED", payment("double", "2025-01-10T12:01:00Z")).await;
    }

    // What a schema, a rule or JSON itself forbids. A price may rise by a fifth, and not by a cent more.
    let mut none = order("none", "c-2");
    none["lineItems"][0]["quantity"] = json!(0);
    none["totals"]["total"] = json!(11);
    others.send("order-create", "c-2", "w-1", "ORDER_CREATE", none).await;
    others.raw("order-create", "c-2", b"no json").await;
    others.raw("order-create", "c-2", br#"{"messageId": "w-2", "attributes": {}}"#).await;
    let mut nameless = order("nameless", "c-2");
    nameless.as_object_mut().unwrap().remove("customerId");
    others.send("order-create", "c-2", "w-3", "ORDER_CREATE", nameless).await;
    others.send("order-update", "double", "w-4", "SUBSTITUTION_REQUEST", substitution("double", 5.401)).await;
    others.send("order-update", "double", "w-5", "SUBSTITUTION_REQUEST", substitution("double", 5.4)).await;
    others.send("ship-events", "double", "w-6", "SHIP", shipment("double", &["A1"])).await;

    // Told of by two systems, under ids of their own: one shipment. And a total with more in it than its lines.
    let mut taxed = order("taxed", "c-5");
    taxed["totals"] = json!({"total": 25.5, "tax": 1.5, "shipping": 5, "discount": 1});
    others.send("order-create", "c-5", "t-1", "ORDER_CREATE", taxed).await;
    others.send("ship-events", "taxed", "t-2", "SHIPPED", shipment("taxed", &[])).await;
    others.send("fulfillment-events", "taxed", "t-3", "SHIP", shipment("taxed", &[])).await;

    // Events that overtake their order wait for it; an older one does not overwrite what a newer one has set.
    others.send("fulfillment-events", "late", "l-1", "SHIP", shipment("late", &["A1", "A2"])).await;
    others.send("order-update", "late", "l-2", "STATUS", status("late", "PICKING", "2025-01-10T14:00:00Z")).await;
    others.send("payment-refunded", "late", "l-3", "REFUNDED", payment("late", "2025-01-10T16:00:00Z")).await;
    others.send("payment-captured", "late", "l-4", "CAPTURED", payment("late", "2025-01-10T15:00:00Z")).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!orders(&pipeline).await.unwrap().contains_key("late"));
    others.send("order-create", "c-3", "l-5", "ORDER_CREATE", order("late", "c-3")).await;

    // Nearly 10 MB.
    let mut large = order("large", "c-4");
    large["notes"] = json!("x".repeat((10 << 20) - 2000));
    others.send("order-create", "c-4", "b-1", "ORDER_CREATE", large).await;
    others.send("order-create", "c-4", "b-2", "ORDER_CREATE", order("behind", "c-4")).await;

    until(&pipeline, "behind", |_| true).await;
    // Older than the shipment, and later here; the one behind it, under the same key, shows that it was read.
    others.send("order-update", "late", "l-6", "STATUS", status("late", "PACKING", "2025-01-10T14:30:00Z")).await;
    others.send("order-update", "late", "l-7", "SUBSTITUTION_REQUEST", substitution("late", 4.5)).await;
    until(&pipeline, "large", |row| row.3 == Some(20.0)).await;
    let read = |row: &Row| length(&row.4, "payments") == 2 && length(&row.4, "shipments") == 1 && length(&row.4, "substitutions") == 1;
    let late = until(&pipeline, "late", read).await;
    assert_eq!((late.1.as_deref(), late.4["paymentStatus"].as_str()), (Some("SHIPPED"), Some("REFUNDED")));
    let double = until(&pipeline, "double", |row| length(&row.4, "substitutions") == 1 && length(&row.4, "payments") == 2).await;
    assert_eq!((double.4["allocation"].as_str(), length(&double.4, "shipments")), (Some("PENDING"), 0));
    let stored = orders(&pipeline).await.unwrap();
    assert_eq!(stored.keys().map(String::as_str).collect::<Vec<_>>(), ["behind", "double", "large", "late", "taxed"]);

    let why = |letters: &[OwnedMessage]| letters.iter().map(|letter| header(letter, "dlq-reason")).collect::<Vec<_>>().join("\n");
    let letters = dead(&kafka, "order-create", 4).await;
    let reasons = why(&letters);
    for part in ["every quantity must be above 0", "data is missing", "customerId"] {
        assert!(reasons.contains(part), "{part:?} is not among\n{reasons}");
    }
    assert!(letters.iter().all(|letter| header(letter, "dlq-topic") == "order-create" && header(letter, "dlq-attempts") == "1"));
    assert!(letters.iter().all(|letter| letter.payload() != Some(b"no json")), "it might say who somebody is");
    assert!(why(&dead(&kafka, "order-update", 1).await).contains("a substitute may cost at most 20 % more"));
    assert!(why(&dead(&kafka, "ship-events", 1).await).contains("one serial number for each piece"));
    dead(&kafka, "payment-authorized", 0).await;
    let taxed = until(&pipeline, "taxed", |row| length(&row.4, "shipments") > 0).await;
    assert_eq!((taxed.3, length(&taxed.4, "shipments")), (Some(25.5), 1));
    let told = || async {
        let mut told = created(&kafka).await?;
        told.sort();
        told.dedup(); // a repeat is told of again
        ensure!(told == ["behind", "double", "large", "late", "taxed"], "{told:?}");
        Ok(())
    };
    eventually("each order is told of, however large it is", READY, told).await.unwrap();
}

/// A processing error: the database goes away in the middle of it, three times. First in, first out for each customer all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_orders_of_5_kb_arrive_in_order_although_the_database_is_killed() {
    const ORDERS: usize = 1_000;
    const CUSTOMERS: usize = 10;
    let kafka = Kafka::start(1).await.unwrap();
    let pipeline = Pipeline::example(&kafka, "retail", &[("base: 1s", "base: 50ms")]).await.unwrap();
    let (_one, _) = pipeline.start("worker").await.unwrap();
    let (_two, _) = pipeline.start("worker").await.unwrap();
    let others = Others::new(&kafka);
    let lines: Vec<Json> = (1..=33)
        .map(|line| json!({"lineId": line, "sku": format!("SKU-{line:020}"), "quantity": 1, "unitPrice": 1, "note": "n".repeat(60)}))
        .collect();
    for number in 0..ORDERS {
        let customer = format!("c-{}", number % CUSTOMERS);
        let mut order = order(&format!("o-{number:05}"), &customer);
        (order["lineItems"], order["totals"]["total"]) = (json!(lines), json!(33));
        others.send("order-create", &customer, &format!("v-{number}"), "ORDER_CREATE", order).await;
        if number % 300 == 250 {
            pipeline.postgres.kill();
            tokio::time::sleep(Duration::from_millis(500)).await;
            pipeline.postgres.restart().await.unwrap();
        }
    }
    let all = || async {
        let has = orders(&pipeline).await?.len();
        ensure!(has == ORDERS, "{has} of {ORDERS}");
        Ok(())
    };
    eventually("all orders are stored", READY, all).await.unwrap();
    let pool = PgPoolOptions::new().max_connections(1).connect(&pipeline.postgres.url()).await.unwrap();
    // Of each customer the orders as they were processed; those of one transaction have one time.
    let query = "SELECT count(*) FROM (SELECT order_id, lag(order_id) OVER (PARTITION BY customer_id ORDER BY processed_at, order_id) AS before FROM retail.orders) AS all_orders WHERE before > order_id";
    let (overtaken,): (i64,) = sqlx::query_as(query).fetch_one(&pool).await.unwrap();
    assert_eq!(overtaken, 0, "an order was processed before an earlier one of its customer");
    dead(&kafka, "order-create", 0).await;
}
