//! The story of `examples/cart`: carts become orders over HTTP, their events lie on one topic, each order's in sequence.

use crate::pipeline::{KEY, Pipeline, READY, dead, header};
use anyhow::{Result, ensure};
use e2e::bed::{Kafka, eventually};
use rdkafka::message::Message;
use rdkafka::producer::{FutureProducer, FutureRecord};
use reqwest::Method;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// A client of the cart service and the order service, as the README has one.
struct Shop {
    http: reqwest::Client,
    url: String,
}

impl Shop {
    fn at(url: &str) -> Shop {
        Shop { http: e2e::http(Duration::from_secs(30)), url: url.to_owned() }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Json>) -> Result<(u16, Json)> {
        let request = self.http.request(method, format!("{}{path}", self.url)).header("X-API-Key", KEY);
        let answer = match body {
            Some(body) => request.json(&body).send().await?,
            None => request.send().await?,
        };
        Ok((answer.status().as_u16(), answer.json().await?))
    }

    async fn create(&self, id: &str, items: u32) -> (u16, Json) {
        self.ask(Method::POST, "/create-order", Some(json!({"orderId": id, "itemsCount": items}))).await.unwrap()
    }

    async fn update(&self, id: &str, status: &str) -> (u16, Json) {
        self.ask(Method::PUT, "/update-order", Some(json!({"orderId": id, "status": status}))).await.unwrap()
    }

    async fn get(&self, path: &str) -> (u16, Json) {
        self.ask(Method::GET, path, None).await.unwrap()
    }

    /// Waits until the order has this status.
    async fn until(&self, id: &str, status: &str) -> Json {
        let path = format!("/order-details?orderId={id}");
        let found = || async {
            let (code, order) = self.ask(Method::GET, &path, None).await?;
            ensure!(code == 200 && order["status"] == status, "{code} {order}");
            Ok(order)
        };
        eventually("the order is as it should be", READY, found).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn carts_become_orders_and_the_events_of_each_take_effect_in_sequence() {
    let kafka = Kafka::start(1).await.unwrap();
    let pipeline = Pipeline::example(&kafka, "cart", &[]).await.unwrap();
    let (_api, url) = pipeline.start("api").await.unwrap();
    let (_one, _) = pipeline.start("worker").await.unwrap();
    let (_two, _) = pipeline.start("worker").await.unwrap();
    let shop = Shop::at(&url);

    assert_eq!(shop.get("/health").await, (200, json!({"status": "healthy", "kafka": "connected"})));
    let (code, order) = shop.create("ORD-1001", 3).await;
    assert_eq!((code, &order["orderId"], &order["itemsCount"]), (201, &json!("ORD-1001"), &json!(3)));
    let order = shop.until("ORD-1001", "new").await;
    assert_eq!((&order["totalAmount"], &order["shippingCost"], &order["currency"]), (&json!(29.97), &json!(0.5994), &json!("USD")));
    let (code, answer) = shop.update("ORD-1001", "shipped").await;
    assert_eq!((code, answer), (200, json!({"orderId": "ORD-1001", "status": "shipped"})));
    shop.until("ORD-1001", "shipped").await;

    for (id, items, field) in [("ORD-1002", 0, "itemsCount"), ("", 3, "orderId")] {
        let (code, answer) = shop.create(id, items).await;
        assert_eq!((code, &answer["fields"][0]["field"]), (400, &json!(field)), "{answer}");
    }
    let (code, answer) = shop.update("ORD-1001", "lost").await;
    assert_eq!((code, &answer["fields"][0]["field"]), (400, &json!("status")), "{answer}");
    assert_eq!(shop.update("ORD-9999", "paid").await.0, 404);
    assert_eq!(shop.get("/order-details?orderId=ORD-9999").await.0, 404);

    // Orders that go their whole way at once, each with one event after the other: in the end each is delivered.
    let steps = ["paid", "packed", "shipped", "delivered"];
    let walks = (0..40).map(|n| {
        let (shop, id) = (&shop, format!("ORD-2{n:03}"));
        async move {
            assert_eq!(shop.create(&id, n % 5 + 1).await.0, 201);
            for step in steps {
                assert_eq!(shop.update(&id, step).await.0, 200, "{id} {step}");
            }
            shop.until(&id, "delivered").await;
        }
    });
    futures::future::join_all(walks).await;

    let (code, ids) = shop.get("/getAllOrderIdsFromTopic?topic=order-events").await;
    assert_eq!((code, &ids["topic"], &ids["count"], &ids["complete"]), (200, &json!("order-events"), &json!(41), &json!(true)), "{ids}");
    let mut partition_of: BTreeMap<Vec<u8>, i32> = BTreeMap::new();
    for message in kafka.messages("order-events").await.unwrap() {
        let key = message.key().unwrap().to_vec();
        assert_eq!(*partition_of.entry(key).or_insert(message.partition()), message.partition(), "the key is the order");
    }
    assert_eq!(partition_of.len(), 41);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_put_aside_and_the_order_service_goes_on() {
    let kafka = Kafka::start(1).await.unwrap();
    let pipeline = Pipeline::example(&kafka, "cart", &[]).await.unwrap();
    let (mut api, url) = pipeline.start("api").await.unwrap();
    let (_worker, _) = pipeline.start("worker").await.unwrap();
    let shop = Shop::at(&url);
    let producer: FutureProducer = kafka.client().create().unwrap();
    producer.send(FutureRecord::to("order-events").key("ORD-1").payload("{broken"), Duration::from_secs(10)).await.unwrap();
    assert_eq!(shop.create("ORD-1", 1).await.0, 201);
    shop.until("ORD-1", "new").await;
    let letters = dead(&kafka, "order-events", 1).await;
    assert_eq!((letters[0].payload(), &*header(&letters[0], "dlq-error-type")), (Some(&b"{broken"[..]), "undecodable"));

    kafka.kill(1).unwrap();
    let away = || async {
        let (code, health) = shop.ask(Method::GET, "/health", None).await?;
        ensure!(code == 503, "{code} {health}");
        Ok(health)
    };
    assert_eq!(eventually("health says so", READY, away).await.unwrap()["kafka"], "disconnected");
    assert_eq!(shop.create("ORD-2", 1).await.0, 503);
    kafka.restart(1).await.unwrap();
    let healed = || async {
        let (code, answer) = shop.ask(Method::POST, "/create-order", Some(json!({"orderId": "ORD-2", "itemsCount": 1}))).await?;
        ensure!(code == 201, "{code} {answer}");
        Ok(())
    };
    eventually("orders are taken again", READY, healed).await.unwrap();
    shop.until("ORD-2", "new").await;
    api.terminate(Duration::from_secs(20)).await.unwrap();
}
