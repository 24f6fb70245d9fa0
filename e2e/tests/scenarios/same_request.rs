//! One request id, many requests, several API processes.

use anyhow::Result;
use e2e::bed::{Kafka, eventually};
use e2e::pipeline::{KEY, Pipeline};
use rdkafka::consumer::{BaseConsumer, Consumer};
use reqwest::StatusCode;
use serde_json::{Value as Json, json};
use std::time::Duration;

fn order(total: f64) -> Json {
    json!({"customerId": "c1", "items": [{"sku": "a", "quantity": 1}], "totalAmount": total})
}

async fn post(http: &reqwest::Client, url: &str, id: &str, body: &Json) -> Result<(StatusCode, Json)> {
    let answer = http.post(format!("{url}/orders")).header("X-API-Key", KEY).header("X-Request-Id", id).json(body).send().await?;
    Ok((answer.status(), answer.json().await?))
}

/// How many messages a topic holds.
fn messages(kafka: &Kafka, topic: &str) -> i64 {
    let consumer: BaseConsumer = kafka.client().create().unwrap();
    (0..6).map(|p| consumer.fetch_watermarks(topic, p, Duration::from_secs(10)).unwrap()).map(|(low, high)| high - low).sum()
}

/// A hundred at once over two processes: their answers, which must be one.
async fn hundred(urls: &[String; 2], id: &str) -> Json {
    let http = e2e::http(std::time::Duration::from_secs(30));
    let (id, body) = (id.to_owned(), order(5.0));
    let posts = (0..100).map(|n| {
        let (http, url, id, body) = (http.clone(), urls[n % 2].clone(), id.clone(), body.clone());
        tokio::spawn(async move { post(&http, &url, &id, &body).await })
    });
    let mut answers = Vec::new();
    for answer in futures::future::join_all(posts).await {
        let (status, body) = answer.unwrap().unwrap();
        assert_eq!(status, StatusCode::ACCEPTED, "{body}");
        answers.push(body);
    }
    assert!(answers.iter().all(|a| *a == answers[0]), "answers differ: {answers:?}");
    answers.swap_remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_posted_a_hundred_times_over_two_processes_is_one_order() {
    let kafka = Kafka::start(1).await.unwrap();
    let pipeline = Pipeline::new(&kafka, &kafka.bootstrap(), "Derived").await.unwrap();
    let ((_a, first), (_b, second)) = (pipeline.start("api").await.unwrap(), pipeline.start("api").await.unwrap());
    let (_worker, _) = pipeline.start("worker").await.unwrap();
    let urls = [first, second];
    let answer = hundred(&urls, "same").await;
    let count = messages(&kafka, &pipeline.name);
    assert!((1..=2).contains(&count), "{count} messages: each process may write one");
    eventually("the order is stored", Duration::from_secs(30), || async {
        anyhow::ensure!(!pipeline.stored().await?.is_empty(), "not yet");
        Ok(())
    })
    .await
    .unwrap();
    let (status, other) = post(&e2e::http(std::time::Duration::from_secs(30)), &urls[0], "same", &order(6.0)).await.unwrap();
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{other}");
    assert!(other.to_string().contains("X-Request-Id"), "{other}");
    let stored = pipeline.stored().await.unwrap();
    assert_eq!((stored.len(), stored[0].order_id.as_str()), (1, answer["orderId"].as_str().unwrap()));
    assert!((stored[0].total - 5.0).abs() < 1e-9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_request_id_is_one_message_and_no_process_takes_another_body() {
    let kafka = Kafka::start(1).await.unwrap();
    let pipeline = Pipeline::new(&kafka, &kafka.bootstrap(), "Strict").await.unwrap();
    let ((_a, first), (_b, second)) = (pipeline.start("api").await.unwrap(), pipeline.start("api").await.unwrap());
    let urls = [first, second];
    hundred(&urls, "strict").await;
    assert_eq!(messages(&kafka, &pipeline.name), 1, "exactly one message on the topic");
    let (_c, third) = pipeline.start("api").await.unwrap();
    for url in urls.iter().chain([&third]) {
        let (status, body) = post(&e2e::http(std::time::Duration::from_secs(30)), url, "strict", &order(6.0)).await.unwrap();
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    }
    assert_eq!(messages(&kafka, &pipeline.name), 1);
}
