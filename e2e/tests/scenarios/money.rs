//! Amounts on their whole way: what was written is what is kept, digit for digit, or somebody is told.

use crate::up::Laptop;
use anyhow::{Context, ensure};
use e2e::bed::{Kafka, eventually};
use e2e::pipeline::{KEY, Pipeline, READY, dead, header};
use rdkafka::message::Message;
use rdkafka::producer::{FutureProducer, FutureRecord};
use reqwest::{Client, StatusCode};
use sqlx::postgres::PgPoolOptions;
use std::time::Duration;

/// Amounts go every way that there is: the order's own column, its items, fields that are set and appended, events that follow.
const DOCUMENT: &str = r#"
apiVersion: orderpipeline.dev/v1alpha1
kind: OrderPipeline
metadata: {name: laptop}
spec:
  backends: [{name: kafka, kafka: {bootstrapServers: "kafka:9092"}}]
  topics: [{name: money}, {name: money-told}]
  events:
  - name: OrderCreated
    topics: [money]
    schema:
      type: object
      required: [totalAmount, items]
      properties: {orderId: {type: string}, totalAmount: {type: number}, items: {type: array}, deposit: {}, rate: {type: number}}
    set: {deposit: data.deposit, sum: data.rate + 0.2, rounded: "round(data.rate + 0.2, 2)"}
    append: {deposits: data.deposit}
    emit:
    - {topic: money-told, type: order.copied}
    - {topic: money-told, type: order.told, data: "{'orderId': data.orderId, 'total': data.totalAmount, 'deposit': data.deposit}"}
  store: {postgres: {urlSecretRef: {name: db, key: url}}}
  api: {}
  worker: {}
"#;

/// (the amount as it is written, as it is kept)
const KEPT: [(&str, &str); 9] = [
    ("12.34", "12.34"),
    ("12.340000000000000000000", "12.34"),
    ("1e2", "100.00"),
    ("1.5E+1", "15.00"),
    ("-0", "0.00"),
    ("-7.05", "-7.05"),
    ("0.1", "0.10"),
    ("99999999.99", "99999999.99"),
    ("1", "1.00"),
];
/// (the amount as it is written, what is told)
const REFUSED: [(&str, &str); 5] = [
    ("12.345", "has more than 2 decimals, and is not rounded silently"),
    ("0.30000000000000004", "has more than 2 decimals"),
    ("100000000", "must be between -99999999.99 and 99999999.99"),
    ("12345678901234567890.12", "has more digits than a number keeps here"),
    ("0.30000000000000000001", "has more digits"),
];
const DEPOSITS: [&str; 4] = ["\"12345678901234567890.12\"", "9007199254740993", "18446744073709551615", "0.30000000000000004"];

fn body(id: &str, total: &str, deposit: &str) -> String {
    format!(
        r#"{{"orderId":"{id}","items":[{{"price":0.30000000000000004,"count":9007199254740993}}],"rate":0.1,"deposit":{deposit},"totalAmount":{total}}}"#
    )
}

struct Shop {
    http: Client,
    url: String,
}

impl Shop {
    fn at(url: String) -> Shop {
        Shop { http: e2e::http(Duration::from_secs(30)), url }
    }

    async fn post(&self, body: String) -> (StatusCode, String) {
        let post = self.http.post(format!("{}/orders", self.url)).header("X-API-Key", KEY).header("Content-Type", "application/json");
        let answer = post.body(body).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    /// The order as the API shows it, in the very words.
    async fn shown(&self, id: &str) -> String {
        let ask = || async {
            let answer = self.http.get(format!("{}/orders/{id}", self.url)).header("X-API-Key", KEY).send().await?;
            ensure!(answer.status() == StatusCode::OK, "{id}: {}", answer.status());
            Ok(answer.text().await?)
        };
        eventually("the order is there", READY, ask).await.unwrap()
    }

    async fn every_amount_is_kept_or_refused(&self) {
        for (n, (total, kept)) in KEPT.iter().enumerate() {
            let (status, answer) = self.post(body(&format!("k-{n}"), total, DEPOSITS[n % DEPOSITS.len()])).await;
            assert_eq!(status, StatusCode::ACCEPTED, "{total}: {answer}");
            let order = self.shown(&format!("k-{n}")).await;
            assert!(order.contains(&format!("\"totalAmount\":{kept},")), "{total}: {order}");
            let deposit = DEPOSITS[n % DEPOSITS.len()];
            for part in [format!("\"deposit\":{deposit}"), format!("\"deposits\":[{deposit}]")] {
                assert!(order.contains(&part), "{part}: {order}");
            }
            for part in ["0.30000000000000004", "9007199254740993", "\"sum\":0.30000000000000004", "\"rounded\":0.3"] {
                assert!(order.contains(part), "{part}: {order}");
            }
        }
        for (total, told) in REFUSED {
            let (status, answer) = self.post(body("r", total, "1")).await;
            assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{total}: {answer}");
            assert!(answer.contains(told) && answer.contains("\"totalAmount\""), "{total}: {answer}");
        }
        let (status, answer) = self.post(body("r", "1", "12345678901234567890.12")).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{answer}");
        assert!(answer.contains("\"deposit\""), "a field that no rule speaks of is not changed either: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn amounts_are_kept_as_they_were_written_on_a_laptop() {
    let laptop = Laptop::new(DOCUMENT);
    let _up = laptop.up().await;
    Shop::at(laptop.url.clone()).every_amount_is_kept_or_refused().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn amounts_are_kept_as_they_were_written_in_postgresql_and_in_events_that_follow() {
    let kafka = Kafka::start(1).await.unwrap();
    let pipeline = Pipeline::of(&kafka, &DOCUMENT.replace("kafka:9092", &kafka.bootstrap())).await.unwrap();
    let (_api, url) = pipeline.start("api").await.unwrap();
    let (_worker, _) = pipeline.start("worker").await.unwrap();
    Shop::at(url).every_amount_is_kept_or_refused().await;

    let pool = PgPoolOptions::new().max_connections(1).connect(&pipeline.postgres.url()).await.unwrap();
    let rows: Vec<(String, String, String, String, String)> = sqlx::query_as(
        "SELECT order_id, total_amount::text, items->0->>'price', items->0->>'count', fields->>'deposit' FROM laptop.orders ORDER BY order_id",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(rows.len(), KEPT.len());
    for (n, (row, (_, kept))) in rows.iter().zip(KEPT).enumerate() {
        let deposit = DEPOSITS[n % DEPOSITS.len()].trim_matches('"');
        assert_eq!((&*row.1, &*row.2, &*row.3, &*row.4), (kept, "0.30000000000000004", "9007199254740993", deposit), "{}", row.0);
    }
    let told = || async {
        let messages = kafka.messages("money-told").await?;
        ensure!(messages.len() >= 2 * KEPT.len(), "{}", messages.len());
        messages
            .iter()
            .map(|message| Ok(String::from_utf8(message.payload().context("a body")?.to_vec())?))
            .collect::<anyhow::Result<Vec<_>>>()
    };
    let told = eventually("what follows is on its topic", READY, told).await.unwrap();
    for deposit in DEPOSITS {
        let both = told.iter().filter(|event| event.contains(&format!("\"deposit\":{deposit}"))).count();
        assert!(both >= 2 && both % 2 == 0, "{deposit}: as it came, and by an expression: {told:#?}");
    }

    // What others write past the API becomes a dead letter with the same words.
    let producer: FutureProducer = kafka.client().create().unwrap();
    for (n, (total, _)) in REFUSED.iter().enumerate() {
        let (id, key) = (format!("w-{n}"), "w");
        let record: FutureRecord<'_, str, String> = FutureRecord::to("money").key(key);
        let body = body(&id, total, "1");
        producer.send(record.payload(&body), Duration::from_secs(10)).await.unwrap();
    }
    let letters = dead(&kafka, "money", REFUSED.len()).await;
    for (total, says) in REFUSED {
        let letter = letters
            .iter()
            .find(|letter| letter.payload().is_some_and(|body| String::from_utf8_lossy(body).ends_with(&format!(":{total}}}"))));
        let reason = header(letter.unwrap(), "dlq-reason");
        assert!(reason.contains(says), "{total}: {reason}");
    }
}
